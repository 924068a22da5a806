//! BLEU of one text, of a corpus, and of several answers among each other (self-BLEU).
//!
//! ```text
//! pₙ = Σ_g min(c(g), max_r c_r(g)) / Σ_g c(g)                  g: the runs of n words of the text
//! BP = 1 where the text has c > r words, e^(1 − r/c) otherwise            r: the closest reference
//! BLEU-N = BP · exp( (1/N) Σₙ log pₙ ),  n = 1 … N
//! self-BLEU-N = mean over a prompt's texts of BLEU-N with all the others as references
//! ```
//!
//! Where: c(g) counts a run in the text, c_r(g) in reference r; of two references equally close in length the
//! shorter counts.
//! Paper: Papineni et al., *BLEU: a Method for Automatic Evaluation of Machine Translation*, ACL 2002, section 2;
//! Chen and Cherry, *A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU*, WMT 2014, section 3,
//! for what stands in for pₙ = 0; Zhu et al., *Texygen*, arXiv:1802.01886, section 3, for self-BLEU.
//! Departures: none from nltk's `sentence_bleu` with `method1` and from sacrebleu's `corpus_bleu`, but that all
//! scores are shares: times 100 they are what sacrebleu prints.
//!
//! Words are what white space separates unless [`Tokens`] says otherwise. RSPO's authors cut words with nltk's
//! `word_tokenize`, which also parts punctuation and contractions: [`Tokens::Wmt13a`] is nearer to it. Figures of
//! different rules cannot be compared.

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::text::{Spread, spread};

/// What [`sentence_bleu`] puts for a count of 0: ε of Chen and Cherry's first method.
pub const EPSILON: f64 = 0.1;

/// How a text is cut into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokens {
    /// At white space, as everywhere in this crate.
    WhiteSpace,
    /// As WMT's `mteval-v13a`: punctuation and symbols stand by themselves, but for `.` and `,` between digits.
    Wmt13a,
}

impl Tokens {
    /// The words of a text, in order.
    ///
    /// ```
    /// use rlhf_eval::bleu::Tokens;
    /// assert_eq!(Tokens::WhiteSpace.cut("Wait, it's 1,000."), ["Wait,", "it's", "1,000."]);
    /// assert_eq!(Tokens::Wmt13a.cut("Wait, it's 1,000."), ["Wait", ",", "it's", "1,000", "."]);
    /// ```
    pub fn cut(self, text: &str) -> Vec<String> {
        let parted = match self {
            Self::WhiteSpace => text.to_owned(),
            Self::Wmt13a => part_13a(text),
        };
        parted.split_whitespace().map(str::to_owned).collect()
    }
}

/// The four replacements of `mteval-v13a`, one after the other as there: each sees the spaces of those before it.
fn part_13a(text: &str) -> String {
    let text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let mut parted = vec![' '];
    for c in text.chars() {
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            parted.extend([' ', c, ' ']);
        } else {
            parted.push(c);
        }
    }
    parted.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let stop = |c: char| matches!(c, '.' | ',');
    let parted = replace_pairs(&parted, |a, b| !digit(a) && stop(b), |a, b| [a, ' ', b, ' ']);
    let parted = replace_pairs(&parted, |a, b| stop(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let parted = replace_pairs(&parted, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    parted.into_iter().collect()
}

/// Replaces neighbours from the left; none is part of two pairs, as with a regular expression.
fn replace_pairs(
    text: &[char],
    fits: impl Fn(char, char) -> bool,
    with: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut replaced = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match tail {
            [second, after @ ..] if fits(*first, *second) => {
                replaced.extend(with(*first, *second));
                rest = after;
            }
            _ => {
                replaced.push(*first);
                rest = tail;
            }
        }
    }
    replaced
}

/// How often each run of one length occurs in a text.
type Counts<'a, T> = HashMap<&'a [T], usize>;

/// A text and its runs: entry n − 1 counts those of n tokens.
struct Counted<'a, T> {
    length: usize,
    runs: Vec<Counts<'a, T>>,
}

impl<'a, T: Eq + Hash> Counted<'a, T> {
    fn new(text: &'a [T], max_n: usize) -> Self {
        let count = |n: usize| {
            let mut counts = Counts::new();
            for run in text.windows(n) {
                *counts.entry(run).or_default() += 1;
            }
            counts
        };
        Self { length: text.len(), runs: (1..=max_n).map(count).collect() }
    }
}

/// What a score is made of, summed over texts.
#[derive(Debug, Clone, PartialEq)]
struct Matches {
    /// Runs of n that a reference has too, none more often than there.
    hits: Vec<usize>,
    /// Runs of n.
    totals: Vec<usize>,
    length: usize,
    reference_length: usize,
}

impl Matches {
    fn none(max_n: usize) -> Self {
        Self { hits: vec![0; max_n], totals: vec![0; max_n], length: 0, reference_length: 0 }
    }

    /// Counts one text in. There is at least one reference.
    fn add<T: Eq + Hash>(&mut self, text: &Counted<'_, T>, references: &[&Counted<'_, T>]) {
        for (n, runs) in text.runs.iter().enumerate() {
            for (run, count) in runs {
                let allowed = references.iter().filter_map(|r| r.runs[n].get(run)).max();
                self.hits[n] += allowed.map_or(0, |allowed| *count.min(allowed));
                self.totals[n] += count;
            }
        }
        self.length += text.length;
        let closest = references.iter().map(|r| r.length).min_by_key(|r| (r.abs_diff(text.length), *r));
        self.reference_length += closest.unwrap_or(0);
    }

    fn brevity_penalty(&self) -> f64 {
        match (self.length, self.reference_length) {
            (0, 0) => 1.0,
            (0, _) => 0.0,
            (c, r) if c >= r => 1.0,
            (c, r) => (1.0 - r as f64 / c as f64).exp(),
        }
    }

    /// Chen and Cherry's first method; a text without any word in common scores 0.
    fn smoothed(&self) -> f64 {
        if self.hits[0] == 0 {
            return 0.0;
        }
        // A text shorter than n has no run of n: nltk counts one that misses.
        let log = |(hits, total): (&usize, &usize)| {
            let hits = if *hits == 0 { EPSILON } else { *hits as f64 };
            (hits / (*total).max(1) as f64).ln()
        };
        let sum: f64 = self.hits.iter().zip(&self.totals).map(log).sum();
        self.brevity_penalty() * (sum / self.hits.len() as f64).exp()
    }
}

/// BLEU-n of one text against at least one reference, in [0, 1]; a count of 0 becomes [`EPSILON`]. Tokens may be
/// words, characters or token ids. A text without a token in common with any reference scores 0, an empty one too.
///
/// Equal to nltk's `sentence_bleu` with n equal weights and `SmoothingFunction().method1`.
///
/// ```
/// use rlhf_eval::bleu::sentence_bleu;
/// let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
/// let (a, b) = (words("the cat sat on a mat"), words("the cat sat on the mat"));
/// // 5 of 6 words and 3 of 5 pairs are there: √(5/6 · 3/5).
/// assert!((sentence_bleu(&a, &[&b], 2)? - 0.5f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// No reference, or an `n` of 0.
pub fn sentence_bleu<T: Eq + Hash>(text: &[T], references: &[&[T]], n: usize) -> Result<f64, EvalError> {
    check_n(n)?;
    check_enough("BLEU, references", references.len(), 1)?;
    let references: Vec<Counted<'_, T>> = references.iter().map(|r| Counted::new(r, n)).collect();
    let mut matches = Matches::none(n);
    matches.add(&Counted::new(text, n), &references.iter().collect::<Vec<_>>());
    Ok(matches.smoothed())
}

/// How much the answers to one prompt resemble each other; lower is more diverse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfBleu {
    /// Each text's BLEU with all others as references, in order.
    pub scores: Vec<f64>,
    /// Their mean.
    pub mean: f64,
}

/// Self-BLEU-n of at least two texts of one prompt, cut at white space: [`self_bleu_tokens`] of their words.
///
/// ```
/// use rlhf_eval::bleu::self_bleu;
/// assert_eq!(self_bleu(&["all the same", "all the same"], 3)?.mean, 1.0);
/// assert_eq!(self_bleu(&["one thing", "quite another"], 3)?.mean, 0.0);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// Fewer than two texts, or an `n` of 0.
pub fn self_bleu<S: AsRef<str>>(texts: &[S], n: usize) -> Result<SelfBleu, EvalError> {
    let words: Vec<Vec<&str>> = texts.iter().map(|text| text.as_ref().split_whitespace().collect()).collect();
    self_bleu_tokens(&words, n)
}

/// Self-BLEU-n of at least two texts of one prompt: the [`sentence_bleu`] of each with all others as references,
/// and the mean. n = 3 is what RSPO's authors report, with 16 texts a prompt.
///
/// # Errors
/// Fewer than two texts, or an `n` of 0.
pub fn self_bleu_tokens<T: Eq + Hash>(texts: &[Vec<T>], n: usize) -> Result<SelfBleu, EvalError> {
    check_n(n)?;
    check_enough("self-BLEU, texts of one prompt", texts.len(), 2)?;
    let counted: Vec<Counted<'_, T>> = texts.iter().map(|text| Counted::new(text, n)).collect();
    let score = |i: usize| {
        let others: Vec<_> = (0..counted.len()).filter(|j| *j != i).map(|j| &counted[j]).collect();
        let mut matches = Matches::none(n);
        matches.add(&counted[i], &others);
        matches.smoothed()
    };
    let scores: Vec<f64> = (0..counted.len()).map(score).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    Ok(SelfBleu { scores, mean })
}

/// Self-BLEU-n of several prompts, each with at least two texts cut at white space: the spread of
/// [`SelfBleu::mean`] over the prompts, whose mean is the figure usually reported.
///
/// # Errors
/// No prompt, one with fewer than two texts, or an `n` of 0.
pub fn self_bleu_by_prompt<S: AsRef<str>>(prompts: &[Vec<S>], n: usize) -> Result<Spread, EvalError> {
    let means: Result<Vec<f64>, EvalError> =
        prompts.iter().map(|texts| self_bleu(texts, n).map(|found| found.mean)).collect();
    spread(&means?)
}

/// BLEU of a corpus, and its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusBleu {
    /// BLEU-4, in [0, 1].
    pub bleu: f64,
    /// p₁ … p₄, those without a match as they were smoothed.
    pub precisions: [f64; 4],
    /// In (0, 1], or 0 where no text has a word and a reference has.
    pub brevity_penalty: f64,
    /// Words of the texts.
    pub length: usize,
    /// Words of the references closest in length.
    pub reference_length: usize,
}

/// A text that is scored, and what it should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation<S> {
    /// The text.
    pub text: S,
    /// At least one way of saying it.
    pub references: Vec<S>,
}

/// BLEU-4 of all texts together: runs and lengths are summed before they are divided. The k-th order in a row
/// that has runs but no match counts as 1 / 2ᵏ of a match; an order without any run makes the score 0.
///
/// Equal to sacrebleu's `corpus_bleu` with `tokenize` `none` (of texts whose words are parted by white space) or
/// `13a`, and its default smoothing. Texts are compared as they stand: lower their case for a lower-cased score.
///
/// # Errors
/// No text, or one without a reference.
pub fn corpus_bleu<S: AsRef<str>>(
    corpus: &[Translation<S>],
    tokens: Tokens,
) -> Result<CorpusBleu, EvalError> {
    const ORDER: usize = 4;
    check_enough("corpus BLEU, texts", corpus.len(), 1)?;
    let mut matches = Matches::none(ORDER);
    for (index, entry) in corpus.iter().enumerate() {
        if entry.references.is_empty() {
            let (what, expected) = ("corpus BLEU, references of a text", "at least one");
            return Err(EvalError::Value { what, index, expected, found: 0.0 });
        }
        let text = tokens.cut(entry.text.as_ref());
        let references: Vec<Vec<String>> = entry.references.iter().map(|r| tokens.cut(r.as_ref())).collect();
        let counted: Vec<Counted<'_, String>> = references.iter().map(|r| Counted::new(r, ORDER)).collect();
        matches.add(&Counted::new(&text, ORDER), &counted.iter().collect::<Vec<_>>());
    }
    Ok(halved(&matches))
}

/// NIST's smoothing: Chen and Cherry's third method.
fn halved(matches: &Matches) -> CorpusBleu {
    let mut precisions = [0.0; 4];
    let mut share = 1.0;
    if matches.hits.iter().any(|hits| *hits > 0) {
        for (n, precision) in precisions.iter_mut().enumerate().take_while(|(n, _)| matches.totals[*n] > 0) {
            if matches.hits[n] == 0 {
                share /= 2.0;
            }
            let hits = if matches.hits[n] == 0 { share } else { matches.hits[n] as f64 };
            *precision = hits / matches.totals[n] as f64;
        }
    }
    let brevity_penalty = matches.brevity_penalty();
    // A precision of 0 has the logarithm −∞, and the score is 0.
    let log_mean = precisions.iter().map(|p| p.ln()).sum::<f64>() / precisions.len() as f64;
    CorpusBleu {
        bleu: brevity_penalty * log_mean.exp(),
        precisions,
        brevity_penalty,
        length: matches.length,
        reference_length: matches.reference_length,
    }
}

fn check_n(n: usize) -> Result<(), EvalError> {
    if n == 0 {
        return Err(EvalError::Range { what: "n of the runs of words", expected: "at least 1", found: 0.0 });
    }
    Ok(())
}

fn check_enough(what: &'static str, found: usize, expected: usize) -> Result<(), EvalError> {
    if found < expected { Err(EvalError::TooFew { what, expected, found }) } else { Ok(()) }
}
