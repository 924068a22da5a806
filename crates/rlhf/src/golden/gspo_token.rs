//! `gspo_token.json`: the clipped loss with token, sequence and sequence-token ratios, under TRL's
//! `grpo` reduction: the mean of each sequence, then over the sequences.

use burn::tensor::{Bool, Device, Tensor};
use rlhf_core::loss::gspo::{gspo, gspo_scalar, gspo_token, gspo_token_scalar};
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip, ppo_clip_scalar};
use rlhf_core::mask::{Normalise, normalise, normalise_scalar};
use rlhf_core::number::{Bound, Weight};
use rlhf_core::real::{self, Dual};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, leaf, mask, plain};

/// What the ratio is of.
#[derive(Debug, Clone, Copy)]
enum Level {
    Token,
    Sequence,
    SequenceToken,
}

/// A batch of completions, `[B, T]` each.
struct Batch {
    logp: Array,
    old_logp: Array,
    /// A number each token.
    advantage: Array,
    mask: Array,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["importance_sampling_level", "advantages", "epsilon_low", "epsilon_high"])?;
    let (level, name) = match case.text("importance_sampling_level")? {
        "token" => (Level::Token, "gspo_token/token"),
        "sequence" => (Level::Sequence, "gspo_token/sequence"),
        "sequence_token" => (Level::SequenceToken, "gspo_token/sequence_token"),
        _ => return Err(case.unknown()),
    };
    if case.name() != name {
        return Err(case.unknown());
    }
    let weight = |name| Weight::new(case.number(name)?).map_err(|e| e.to_string());
    let config = PpoClipConfig {
        epsilon_low: weight("epsilon_low")?,
        epsilon_high: weight("epsilon_high")?,
        delta: Bound::NONE,
    };
    let mask = case.input("completion_mask")?;
    let batch = Batch {
        logp: case.input("logps")?,
        old_logp: case.input("old_logps")?,
        advantage: spread(case.input(case.text("advantages")?)?, &mask),
        mask,
    };
    match case.dtype() {
        "f64" => Ok(twin(level, config, &batch)),
        "f32" => Ok(tensor(level, config, &batch, device)),
        _ => Err(case.unknown()),
    }
}

/// One advantage a sequence is repeated for each of its tokens.
fn spread(advantage: Array, mask: &Array) -> Array {
    if advantage.shape == mask.shape {
        return advantage;
    }
    let t = mask.shape.last().copied().unwrap_or(1);
    let values = advantage.values.iter().flat_map(|a| std::iter::repeat_n(*a, t)).collect();
    Array { values, shape: mask.shape.clone() }
}

fn twin(level: Level, config: PpoClipConfig, batch: &Batch) -> Computed {
    let (old_logp, advantage) = (batch.old_logp.rows(), batch.advantage.rows());
    let mask: Vec<Vec<bool>> =
        batch.mask.rows().iter().map(|row| row.iter().map(|x| *x > 0.0).collect()).collect();
    let t = mask.first().map_or(1, Vec::len);
    let sequence = |i: usize, x: &[Dual]| -> Vec<Dual> {
        let (old, a, on) = (&old_logp[i], &advantage[i], &mask[i]);
        match level {
            Level::Token => (0..t).map(|j| ppo_clip_scalar(config, x[j], old[j], a[j])).collect(),
            Level::Sequence => gspo_scalar(config, x, old, a, on),
            Level::SequenceToken => gspo_token_scalar(config, x, old, a, on),
        }
    };
    let (loss, into) = real::gradient(&batch.logp.values, |x| {
        let loss: Vec<Vec<Dual>> = x.chunks(t).enumerate().map(|(i, x)| sequence(i, x)).collect();
        let loss: Vec<&[Dual]> = loss.iter().map(Vec::as_slice).collect();
        let mask: Vec<&[bool]> = mask.iter().map(Vec::as_slice).collect();
        normalise_scalar(Normalise::SequenceMean, &loss, &mask)
    });
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("grads.logps", into);
    computed
}

fn tensor(level: Level, config: PpoClipConfig, batch: &Batch, device: &Device) -> Computed {
    let logp = leaf(&batch.logp, device);
    let on = logp.device();
    let (old_logp, advantage) = (plain(&batch.old_logp, &on), plain(&batch.advantage, &on));
    let mask: Tensor<2, Bool> = mask(&batch.mask, &on);
    let of = match level {
        Level::Token => ppo_clip,
        Level::Sequence => gspo,
        Level::SequenceToken => gspo_token,
    };
    let loss = of(config, logp.clone(), old_logp, advantage, &mask).loss;
    let loss = normalise(Normalise::SequenceMean, loss, &mask);
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("grads.logps", gradient(&logp, &grads));
    computed
}
