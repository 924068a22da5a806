//! `RewardTrainer`: Bradley–Terry with rewards drawn to a sum of zero.

use std::collections::BTreeMap;

use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::number::Weight;
use rlhf_policy::reward_model::{RewardPair, gradients};

use super::super::compare::Computed;
use super::settings::Settings;
use super::text::{Side, numbers, ones, padded, place, recorded};
use super::{Micro, Run, Shown, fields, text_of, train};
use crate::pipeline::models::load_classifier;

pub(super) fn check(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let most = settings.count("max_length")?;
    let center_rewards_coefficient = settings.checked("center_rewards_coefficient", Weight::new)?;
    settings.ignored(&["disable_dropout"]);
    settings.done()?;
    // A text that is too long is dropped with its pair, not cut.
    let pairs = run.rows(|row| {
        let text = |field| Ok::<_, String>(run.sequence(row, field, None, usize::MAX)?.tokens);
        Ok(RewardPair { chosen: text("chosen")?, rejected: text("rejected")?, margin: 0.0 })
    })?;
    let fits = |p: &RewardPair| p.chosen.len().max(p.rejected.len()) <= most;
    let pairs: Vec<RewardPair> = pairs.into_iter().filter(fits).collect();
    let model = load_classifier(&run.dir, &run.config, &run.device.clone().autodiff()).map_err(text_of)?;
    let cut = run.cut(&settings);
    train(run, &settings, model, &mut |model, window| {
        let mut chosen = recorded(window.inputs[0], "input_ids", "attention_mask")?;
        let rejected = chosen.split_off(chosen.len() / 2);
        let drawn = chosen.iter().zip(&rejected).map(|(chosen, rejected)| {
            Ok(&pairs[place(&pairs, |p| p.chosen == *chosen && p.rejected == *rejected)?])
        });
        let batch = drawn.collect::<Result<Vec<&RewardPair>, String>>()?;
        let (grads, record) =
            gradients(model, &batch, BradleyTerryConfig { center_rewards_coefficient }, &cut);
        let rows: Vec<&Vec<u32>> =
            batch.iter().map(|p| &p.chosen).chain(batch.iter().map(|p| &p.rejected)).collect();
        let ids: Vec<Vec<f64>> = rows.iter().map(|row| numbers(row)).collect();
        let attention: Vec<Vec<f64>> = rows.iter().map(|row| ones(row.len())).collect();
        let inputs = BTreeMap::from([
            ("input_ids", padded(&ids, f64::from(cut.pad), Side::Right)),
            ("attention_mask", padded(&attention, 0.0, Side::Right)),
        ]);
        let micro = vec![Micro::new(record.loss, inputs)];
        Ok(Shown { grads, loss: record.loss, metrics: fields(&record), micro })
    })
}
