//! Choosing the next token on the host: `transformers`' logits processors in its order, then one
//! uniform number.
//!
//! Order: repetition penalty, repeated n-grams, minimal length, temperature, top-k, top-p, min-p,
//! typical-p, epsilon. The first three also hold for greedy decoding, the rest do not.
//! What is removed becomes −∞. Ties are treated as there: top-k keeps all tokens that equal the
//! k-th, top-p keeps the later of two equal tokens first.

use rand::{Rng, RngExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::NumError;
use crate::number::{Beta, Prob, Weight};

use weights::{largest, sum_of_weights, weight};

mod weights;

/// How the next token is chosen. A key that is left out is off, as in [`Sampling::plain`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default = "Sampling::plain", deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the first of the largest logits.
    pub temperature: f64,
    /// Keeps the k largest logits; 0 is off.
    pub top_k: usize,
    /// Keeps the fewest tokens that reach this mass; 1 is off.
    pub top_p: f64,
    /// Keeps tokens with at least this fraction of the largest probability; 0 is off.
    pub min_p: f64,
    /// Keeps the tokens whose surprise is nearest the entropy, up to this mass; 1 is off.
    pub typical_p: f64,
    /// Keeps tokens of at least this probability; 0 is off.
    pub epsilon_cutoff: f64,
    /// Divides positive and multiplies negative logits of tokens seen before; 1 is off.
    pub repetition_penalty: f64,
    /// Forbids an n-gram of this size to occur twice; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Forbids the end tokens before so many new tokens; 0 is off.
    pub min_new_tokens: usize,
}

impl Sampling {
    /// The model's own distribution: temperature 1, everything else off.
    pub fn plain() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            min_new_tokens: 0,
        }
    }

    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::plain() }
    }

    /// Whether the token is the most likely one and no random number is read.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// Whether [`Sampling::process`] may rewrite a row; when it may not, a token is drawn from the
    /// model's own distribution, or is the most likely one.
    pub fn changes_logits(&self) -> bool {
        let own = if self.is_greedy() {
            Self {
                repetition_penalty: self.repetition_penalty,
                no_repeat_ngram_size: self.no_repeat_ngram_size,
                min_new_tokens: self.min_new_tokens,
                ..Self::plain()
            }
        } else {
            *self
        };
        own != Self::plain()
    }

    /// Checks every number's range; what was read from a file has passed already.
    ///
    /// # Errors
    /// The first field outside its range.
    pub fn validate(&self) -> Result<(), NumError> {
        let named = |what: &'static str| move |e: NumError| NumError { what, ..e };
        Weight::new(self.temperature).map_err(named("temperature"))?;
        Prob::new(self.top_p).map_err(named("top_p"))?;
        Prob::new(self.min_p).map_err(named("min_p"))?;
        Prob::new(self.typical_p).map_err(named("typical_p"))?;
        Prob::new(self.epsilon_cutoff).map_err(named("epsilon_cutoff"))?;
        Beta::new(self.repetition_penalty).map_err(named("repetition_penalty"))?;
        Ok(())
    }

    /// Rewrites one row of logits, `[V]`. `history` is every token so far, the prompt included,
    /// `n_new` how many of them were generated, `eos` the tokens that end a completion.
    ///
    /// ```
    /// use rlhf_core::host::sampling::Sampling;
    ///
    /// let mut logits = [1.0, 3.0, 2.0];
    /// Sampling { top_k: 2, ..Sampling::plain() }.process(&mut logits, &[], &[], 0);
    /// assert_eq!(logits, [f32::NEG_INFINITY, 3.0, 2.0]);
    /// ```
    pub fn process(&self, logits: &mut [f32], history: &[u32], eos: &[u32], n_new: usize) {
        repetition(logits, history, self.repetition_penalty);
        no_repeat(logits, history, self.no_repeat_ngram_size);
        if n_new < self.min_new_tokens {
            ban(logits, eos.iter().copied());
        }
        if self.is_greedy() {
            return;
        }
        let temperature = self.temperature as f32;
        // Dividing by exactly 1 changes no bit.
        logits.iter_mut().for_each(|z| *z /= temperature);
        if self.top_k > 0 {
            top_k(logits, self.top_k);
        }
        if self.top_p < 1.0 {
            top_p(logits, self.top_p);
        }
        if self.min_p > 0.0 {
            let floor = f64::from(largest(logits)) + self.min_p.ln();
            retain(logits, |z| f64::from(z) >= floor);
        }
        if self.typical_p < 1.0 {
            typical(logits, self.typical_p);
        }
        if self.epsilon_cutoff > 0.0 {
            let max = largest(logits);
            let floor = logsumexp(logits) + self.epsilon_cutoff.ln();
            // When no token reaches the cut-off the most likely stay.
            retain(logits, |z| f64::from(z) >= floor || z >= max);
        }
    }

    /// Processes `logits` in place, then picks: greedy at temperature 0, else [`draw`].
    pub fn choose(
        &self,
        logits: &mut [f32],
        history: &[u32],
        eos: &[u32],
        n_new: usize,
        rng: &mut impl Rng,
    ) -> Draw {
        self.process(logits, history, eos, n_new);
        if self.is_greedy() { greedy(logits) } else { draw(logits, rng) }
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sampling = Self::deserialize(deserializer)?;
        sampling.validate().map_err(serde::de::Error::custom)?;
        Ok(sampling)
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Its index.
    pub token: u32,
    /// Its log-probability under the row it was chosen from, in nats. NaN when the row has a NaN
    /// or only −∞: then `token` means nothing and the caller stops.
    pub logp: f64,
}

/// The first of the largest logits, with its log-probability in this row.
pub fn greedy(logits: &[f32]) -> Draw {
    let mut best = 0;
    for (i, z) in logits.iter().enumerate() {
        if *z > logits[best] {
            best = i;
        }
    }
    Draw { token: best as u32, logp: logp_of(logits, best as u32) }
}

/// A token by its probability, from one uniform number: the inverse distribution function in
/// `f64`, in index order.
pub fn draw(logits: &[f32], rng: &mut impl Rng) -> Draw {
    let u: f64 = rng.random();
    let max = f64::from(largest(logits));
    // Sums of blocks, so that the second look goes into one block only.
    let weight = |z: &f32| weight(*z, max);
    let sums: Vec<f64> = logits.chunks(BLOCK).map(|block| sum_of_weights(block, max)).collect();
    let total: f64 = sums.iter().sum();
    if !(total > 0.0 && total.is_finite()) {
        return Draw { token: 0, logp: f64::NAN };
    }
    let mut left = u * total;
    let mut chosen = None;
    for (block, sum) in sums.iter().enumerate() {
        if left >= *sum {
            left -= sum;
            continue;
        }
        for (i, z) in logits[block * BLOCK..].iter().take(BLOCK).enumerate() {
            let w = weight(z);
            if w > 0.0 {
                // Kept as the fall-back: rounding may walk past the block's end.
                chosen = Some(block * BLOCK + i);
            }
            if left < w {
                break;
            }
            left -= w;
        }
        break;
    }
    let last = || logits.iter().rposition(|z| weight(z) > 0.0).unwrap_or(0);
    let token = chosen.unwrap_or_else(last);
    Draw { token: token as u32, logp: f64::from(logits[token]) - max - total.ln() }
}

const BLOCK: usize = 256;

/// Log-probability of `token` in a row of logits, in nats, summed in `f64`; NaN if the row has one.
///
/// # Panics
/// When `token` is not below the row's length.
pub fn logp_of(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - logsumexp(logits)
}

fn logsumexp(logits: &[f32]) -> f64 {
    let max = f64::from(largest(logits));
    max + sum_of_weights(logits, max).ln()
}

fn retain(logits: &mut [f32], keep: impl Fn(f32) -> bool) {
    for z in logits {
        // A NaN stays one: hiding it would choose a token from a broken row.
        if !z.is_nan() && !keep(*z) {
            *z = f32::NEG_INFINITY;
        }
    }
}

fn ban(logits: &mut [f32], tokens: impl Iterator<Item = u32>) {
    for token in tokens {
        if let Some(z) = logits.get_mut(token as usize) {
            *z = f32::NEG_INFINITY;
        }
    }
}

fn repetition(logits: &mut [f32], history: &[u32], penalty: f64) {
    let penalty = penalty as f32;
    if (penalty - 1.0).abs() <= 0.0 {
        return;
    }
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(z) = logits.get_mut(token as usize) {
            *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
        }
    }
}

fn no_repeat(logits: &mut [f32], history: &[u32], n: usize) {
    if n == 0 || history.len() + 1 < n {
        return;
    }
    let tail = &history[history.len() + 1 - n..];
    let next = history.windows(n).filter(|gram| gram[..n - 1] == *tail).map(|gram| gram[n - 1]);
    ban(logits, next);
}

fn top_k(logits: &mut [f32], k: usize) {
    if k >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, kth, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = *kth;
    retain(logits, |z| z >= kth);
}

/// A logit and its token as one number that sorts by logit, then by token; so a falling sort has
/// the later of two equal tokens first, as a stable rising sort that is read from its end.
fn sort_key(z: f32, token: usize) -> u64 {
    // Adding 0 makes −0 the equal of +0; then bits sort like numbers once the signs are turned.
    let bits = (z + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | token as u64
}

fn top_p(logits: &mut [f32], p: f64) {
    let log_total = logsumexp(logits);
    let possible = logits.iter().enumerate().filter(|(_, z)| **z > f32::NEG_INFINITY);
    let mut keys: Vec<u64> = possible.map(|(i, z)| sort_key(*z, i)).collect();
    let token = |key: u64| (key & 0xffff_ffff) as u32;
    let (mut above, mut n_kept) = (0.0, 0);
    // Most of the mass is in few tokens: sort the front only, four times as much when it is short.
    let (mut sorted, mut front) = (0, 64);
    'grow: while sorted < keys.len() {
        front = usize::min(front, keys.len());
        if front < keys.len() {
            keys[sorted..].select_nth_unstable_by(front - sorted, |a, b| b.cmp(a));
        }
        keys[sorted..front].sort_unstable_by(|a, b| b.cmp(a));
        for key in &keys[sorted..front] {
            // The first token always stays; another while the mass above it is below p.
            if n_kept > 0 && above >= p {
                break 'grow;
            }
            above += (f64::from(logits[token(*key) as usize]) - log_total).exp();
            n_kept += 1;
        }
        sorted = front;
        front *= 4;
    }
    ban(logits, keys.into_iter().skip(n_kept).map(token));
}

fn typical(logits: &mut [f32], mass: f64) {
    let log_total = logsumexp(logits);
    let logp: Vec<f64> = logits.iter().map(|z| f64::from(*z) - log_total).collect();
    let entropy: f64 = -logp.iter().filter(|l| l.is_finite()).map(|l| l.exp() * l).sum::<f64>();
    let surprise = |i: usize| (-logp[i] - entropy).abs();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| surprise(*a).total_cmp(&surprise(*b)));
    let mut sum = 0.0;
    // The token that reaches the mass is the last; its equals stay with it.
    let reaches = |i: &&usize| {
        sum += logp[**i].exp();
        sum >= mass
    };
    let Some(limit) = order.iter().find(reaches).or(order.last()).map(|i| surprise(*i)) else { return };
    for (i, z) in logits.iter_mut().enumerate() {
        if surprise(i) > limit {
            *z = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests;
