//! What a policy answers, and how far it is from the start.

use rlhf_core::host::sampling::Sampling;
use rlhf_core::loss::superhf::forward_kl;
use rlhf_core::rng::stream;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Finish, Generation, Rollout, generate};
use rlhf_policy::sft::token_losses;
use rlhf_policy::trim::{Trim, trim};

use super::Ground;
use crate::config::{Common, SamplingSection};
use crate::error::Error;
use crate::pipeline::session::Session;

/// Rows of a forward pass over `[rows, V]` logits of two models.
const KL_ROWS: usize = 32;

/// A completion ready to be judged: trimmed text that begins with one space, and its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Index of the prompt.
    pub prompt: usize,
    /// `" " + trimmed text`, or nothing.
    pub text: String,
    /// Its tokens, without the end token.
    pub ids: Vec<u32>,
    /// How many were drawn before anything was trimmed, without the end token.
    pub n_drawn: usize,
    /// Whether the model stopped by itself or was cut at a turn: the end token belongs there.
    pub ended: bool,
}

impl Answer {
    /// Its tokens, with the end token where it belongs.
    pub fn with_end(&self, eos: u32) -> Vec<u32> {
        self.ids.iter().copied().chain(self.ended.then_some(eos)).collect()
    }
}

/// Trims a rollout; the drawn tokens are kept where the text was not changed.
pub fn answer(how: Trim, ground: &Ground, rollout: &Rollout) -> Answer {
    let eos = rollout.finish == Finish::Eos;
    let drawn = if eos { &rollout.tokens[..rollout.tokens.len() - 1] } else { &rollout.tokens[..] };
    let raw = ground.tokenizer.decode(drawn);
    let trimmed = trim(how, &raw);
    let text =
        if trimmed.text.is_empty() { String::new() } else { format!(" {}", trimmed.text.trim_start()) };
    let ids = if text == raw { drawn.to_vec() } else { ground.tokenizer.encode(&text) };
    Answer { prompt: rollout.prompt, text, ids, n_drawn: drawn.len(), ended: eos || trimmed.cut }
}

/// How `n` samples a prompt are drawn.
pub fn generation(
    config: &Common<'_>,
    ground: &Ground,
    session: &Session,
    sampling: Sampling,
    n: usize,
) -> Generation {
    Generation {
        sampling,
        max_completion_length: config.sampling.max_completion_length.get(),
        num_generations: n,
        eos_token_ids: vec![ground.tokenizer.eos()],
        pad_token_id: ground.tokenizer.pad(),
        context_length: ground.decoder.max_position_embeddings(),
        max_rows: config.sampling.max_rows.get(),
        stop: None,
        layers: None,
        decoding: Decoding::for_device(&session.plain),
    }
}

/// The distribution that rollouts are drawn from.
pub fn sampled(s: &SamplingSection) -> Sampling {
    Sampling { temperature: s.temperature.get(), top_p: s.top_p.get(), top_k: s.top_k, ..Sampling::plain() }
}

/// `exp` of the mean cross-entropy of the answers' tokens under the start policy; the answers are to the
/// evaluation prompts.
pub fn perplexity(ground: &Ground, answers: &[Answer]) -> f64 {
    let all: Vec<Sequence> = answers
        .iter()
        .filter(|a| !a.ids.is_empty())
        .map(|a| Sequence::new(&ground.eval_prompts[a.prompt], &a.ids))
        .collect();
    let (mut sum, mut n) = (0.0, 0usize);
    for rows in all.chunks(KL_ROWS) {
        let rows: Vec<&Sequence> = rows.iter().collect();
        let batch = Batch::new(&rows, ground.tokenizer.pad(), 1, &ground.prior.device());
        n += batch.n_targets();
        let losses = token_losses(&ground.prior, &batch).into_data().convert::<f64>();
        sum += losses.iter::<f64>().sum::<f64>();
    }
    // No answer has a token: 1, the perplexity of nothing, rather than NaN.
    if n == 0 { 1.0 } else { (sum / n as f64).exp() }
}

/// Exact divergences of two policies over the full vocabulary, summed along sequences that one drew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequenceKl {
    /// `Σ_t KL(sampler ‖ other)` of a sequence, mean over the prompts, nats.
    pub to_other: f64,
    /// Mean over tokens of `KL(other ‖ sampler)`, nats.
    pub from_other_per_token: f64,
}

/// One sample an evaluation prompt from `sampler` itself (temperature 1), and at each of its tokens the exact
/// divergence from `other`. `purpose` names the random stream.
///
/// # Errors
/// Logits that are not finite.
pub fn sequence_kl(
    config: &Common<'_>,
    ground: &Ground,
    session: &Session,
    models: [&Decoder; 2],
    seed: u64,
    purpose: &str,
) -> Result<SequenceKl, Error> {
    let [sampler, other] = models;
    let how = generation(config, ground, session, Sampling::plain(), 1);
    let random = |p: usize, s: usize| stream(seed, purpose, p as u64, s as u64);
    let rollouts = generate(sampler, &ground.eval_prompts, &how, &random, &session.plain)?;
    let (mut to_other, mut from_other, mut n) = (0.0, 0.0, 0usize);
    for rows in rollouts.chunks(KL_ROWS) {
        let rows: Vec<Sequence> =
            rows.iter().map(|r| Sequence::new(&ground.eval_prompts[r.prompt], &r.tokens)).collect();
        let batch = Batch::new(&rows.iter().collect::<Vec<_>>(), ground.tokenizer.pad(), 1, &session.plain);
        let p = sampler.logits_at(batch.tokens.clone(), batch.positions.clone());
        let q = other.logits_at(batch.tokens.clone(), batch.positions.clone());
        let sum = |x: burn::tensor::Tensor<1>| x.into_data().convert::<f64>().iter::<f64>().sum::<f64>();
        to_other += sum(forward_kl(q.clone(), p.clone()));
        from_other += sum(forward_kl(p, q));
        n += batch.n_targets();
    }
    // Neither is below 0 but for rounding.
    Ok(SequenceKl {
        to_other: (to_other / rollouts.len() as f64).max(0.0),
        from_other_per_token: (from_other / n as f64).max(0.0),
    })
}
