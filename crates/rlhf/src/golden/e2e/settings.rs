//! The numbers of a run. A setting that nothing here knows is refused: it could change the result.

use std::collections::BTreeMap;

use rlhf_core::host::schedule::LrSchedule;
use rlhf_policy::optim::AdamWConfig;
use serde_json::{Value, json};

use super::super::case::Case;

/// What all trainers share, and the settings that are still to be taken.
pub(super) struct Settings {
    pub(super) micro_batch: usize,
    pub(super) accumulation: usize,
    pub(super) n_steps: u64,
    pub(super) lr: f64,
    pub(super) warmup: u64,
    pub(super) optim: AdamWConfig,
    left: BTreeMap<String, Value>,
}

impl Settings {
    pub(super) fn read(case: &Case<'_>) -> Result<Self, String> {
        let given = case.raw("hyperparameters")?.as_object().ok_or("hyperparameters: expected names")?;
        let mut left: BTreeMap<String, Value> = given.clone().into_iter().collect();
        // The trainer's own values, defaults included, stand over what it was asked for.
        if let Some(Value::Object(resolved)) = left.remove("trl_resolved") {
            left.extend(resolved);
        }
        let mut settings = Self {
            micro_batch: 0,
            accumulation: 1,
            n_steps: 0,
            lr: 0.0,
            warmup: 0,
            optim: AdamWConfig::torch(),
            left,
        };
        settings.micro_batch = settings.count("per_device_train_batch_size")?;
        if settings.left.contains_key("gradient_accumulation_steps") {
            settings.accumulation = settings.count("gradient_accumulation_steps")?.max(1);
        }
        settings.n_steps = settings.count("max_steps")? as u64;
        settings.lr = settings.number("learning_rate")?;
        settings.warmup = settings.count("warmup_steps")? as u64;
        settings.optim = AdamWConfig {
            adam_beta1: settings.number("adam_beta1")?,
            adam_beta2: settings.number("adam_beta2")?,
            adam_epsilon: settings.number("adam_epsilon")?,
            weight_decay: settings.number("weight_decay")?,
            max_grad_norm: settings.number("max_grad_norm")?,
        };
        settings.fixed(&[
            ("lr_scheduler_type", json!("linear")),
            ("optim", json!("adamw_torch")),
            ("logging_steps", json!(1)),
            ("bf16", json!(false)),
        ])?;
        // Where it ran, what it kept, and the order of its data, which the file has.
        settings.ignored(&["use_cpu", "save_strategy", "seed", "gradient_checkpointing", "shuffle_dataset"]);
        Ok(settings)
    }

    pub(super) fn take(&mut self, name: &str) -> Result<Value, String> {
        self.left.remove(name).ok_or_else(|| format!("hyperparameters.{name}: expected a value, found none"))
    }

    pub(super) fn number(&mut self, name: &str) -> Result<f64, String> {
        let value = self.take(name)?;
        value.as_f64().ok_or_else(|| format!("hyperparameters.{name}: expected a number, found {value}"))
    }

    pub(super) fn count(&mut self, name: &str) -> Result<usize, String> {
        let value = self.take(name)?;
        let whole = value.as_u64().and_then(|n| usize::try_from(n).ok());
        whole.ok_or_else(|| format!("hyperparameters.{name}: expected a count, found {value}"))
    }

    /// A number through the checks of its type.
    pub(super) fn checked<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        check: impl Fn(f64) -> Result<T, E>,
    ) -> Result<T, String> {
        check(self.number(name)?).map_err(|e| format!("hyperparameters.{name}: {e}"))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Settings that have one value in all files, where they are there.
    pub(super) fn fixed(&mut self, settings: &[(&str, Value)]) -> Result<(), String> {
        for (name, expected) in settings {
            if let Some(found) = self.left.remove(*name).filter(|found| found != expected) {
                return Err(format!("hyperparameters.{name}: expected {expected}, found {found}"));
            }
        }
        Ok(())
    }

    /// Settings that say nothing about the numbers, or something about a feature that is off.
    pub(super) fn ignored(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(*name);
        }
    }

    /// The learning rate of a step, from 0.
    pub(super) fn rate(&self, step: usize) -> f64 {
        LrSchedule::Linear.lr(self.lr, step as u64, self.warmup, self.n_steps)
    }

    /// Refuses what nobody took.
    pub(super) fn done(&self) -> Result<(), String> {
        match self.left.iter().next() {
            Some((name, value)) => {
                Err(format!("hyperparameters: expected nothing more, found {name} = {value}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(more: &Value) -> Result<Settings, String> {
        let mut given = json!({
            "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 0.5, "warmup_steps": 2,
            "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.1,
            "max_grad_norm": 1.0, "lr_scheduler_type": "linear", "optim": "adamw_torch", "beta": 0.1,
        });
        let more = more.as_object().cloned().unwrap_or_default();
        given.as_object_mut().expect("an object").extend(more);
        let inputs = json!({"hyperparameters": given});
        Settings::read(&Case::new(Path::new(""), &inputs, &json!({})))
    }

    #[test]
    fn the_trainers_own_values_stand_over_the_given_ones() {
        let mut settings = read(&json!({"trl_resolved": {"beta": 0.25}})).expect("settings");
        assert!((settings.number("beta").expect("a number") - 0.25).abs() <= 0.0);
        assert_eq!(settings.done(), Ok(()));
        let rates = [0, 1, 2, 3].map(|step| settings.rate(step).to_bits());
        assert_eq!(rates, [0.0, 0.25, 0.5, 0.25].map(f64::to_bits));
    }

    #[test]
    fn what_nobody_knows_or_does_is_refused() {
        let settings = read(&json!({"packing": true})).expect("settings");
        assert_eq!(settings.done().unwrap_err(), "hyperparameters: expected nothing more, found beta = 0.1");
        let mut settings = settings;
        let off = settings.fixed(&[("packing", json!(false))]);
        assert_eq!(off.unwrap_err(), "hyperparameters.packing: expected false, found true");
        let other = read(&json!({"optim": "sgd"})).err();
        assert_eq!(other.as_deref(), Some("hyperparameters.optim: expected \"adamw_torch\", found \"sgd\""));
        assert!(read(&json!({"max_steps": 1.5})).is_err());
    }
}
