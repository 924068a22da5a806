//! The methods of self-play by name, and what each learns from.
//!
//! | method | examples | frozen models that it is compared with |
//! | --- | --- | --- |
//! | `rspo` | pairs or single answers | the previous iterate, and the original where a term reads it |
//! | `sppo` | pairs or single answers | the previous iterate |
//! | `dpo` | pairs | the previous iterate or the original, by name |
//! | `ipo` | pairs | the original |
//! | `inpo` | pairs | both |
//! | `nash_md` | single answers | the original |
//! | `spin` | pairs of data and sample | the previous iterate |
//! | `dno` | pairs | the previous iterate |
//!
//! SPPO is RSPO without terms, to the bit.

use std::fmt;

use rlhf_core::loss::dno::DnoConfig;
use rlhf_core::loss::dpo::DpoConfig;
use rlhf_core::loss::inpo::InpoConfig;
use rlhf_core::loss::ipo::IpoConfig;
use rlhf_core::loss::nash_md::NashMdConfig;
use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer};
use rlhf_core::loss::spin::SpinConfig;
use rlhf_core::loss::sppo::SppoConfig;
use rlhf_core::number::Prob;
use serde::{Deserialize, Serialize};

use crate::error::StepError;

/// A method and its numbers. In a config `kind` names it and `loss` holds the numbers of its loss.
///
/// ```
/// use rlhf_selfplay::method::Method;
///
/// let text = r#"{"kind": "rspo", "loss": {"beta": 0.05, "terms": [
///     {"regularizer": {"forward_importance": 10.0}, "weight": 0.1},
///     {"regularizer": "reverse_kl", "weight": 0.5}]}}"#;
/// let method: Method = serde_json::from_str(text).unwrap();
/// assert_eq!(method.name(), "rspo");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// [`rspo`](rlhf_core::loss::rspo): SPPO's square beside any mixture of regularisers.
    Rspo {
        /// Numbers of the loss.
        loss: RspoConfig,
    },
    /// [`sppo`](rlhf_core::loss::sppo).
    Sppo {
        /// Numbers of the loss.
        loss: SppoConfig,
    },
    /// Iterative DPO: [`dpo`](rlhf_core::loss::dpo) on pairs of the policy's own answers.
    Dpo {
        /// Numbers of the loss.
        loss: DpoConfig,
        /// The model that holds the policy.
        reference: Anchor,
    },
    /// Online IPO: [`ipo`](rlhf_core::loss::ipo) on pairs of the policy's own answers.
    Ipo {
        /// Numbers of the loss.
        loss: IpoConfig,
    },
    /// [`inpo`](rlhf_core::loss::inpo).
    Inpo {
        /// Numbers of the loss.
        loss: InpoConfig,
    },
    /// [`nash_md`](rlhf_core::loss::nash_md), the policy gradient.
    NashMd {
        /// Numbers of the loss.
        loss: NashMdConfig,
        /// α: the weight of the original in the mixture that the opponent is drawn from; 0.5 is TRL's,
        /// 0.125 to 0.375 the paper's best.
        mixture_coef: Prob,
    },
    /// [`spin`](rlhf_core::loss::spin): data against the policy's own answers, without an oracle.
    Spin {
        /// Numbers of the loss.
        loss: SpinConfig,
    },
    /// [`dno`](rlhf_core::loss::dno).
    Dno {
        /// Numbers of the loss.
        loss: DnoConfig,
    },
}

/// A frozen model that the policy is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// π_t: the iterate that the answers were drawn from.
    Previous,
    /// μ: the model that self-play began with; never updated.
    Original,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => "previous",
            Self::Original => "original",
        })
    }
}

/// What the answers to a prompt become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// One pair, as in the authors' code. Best and worst of K are no draws from the policy.
    BestWorst,
    /// Every answer by itself: what the expectation over the policy asks for.
    All,
}

impl Rows {
    /// What an example is, in words.
    fn what(self) -> &'static str {
        match self {
            Self::BestWorst => "pairs",
            Self::All => "single answers",
        }
    }
}

impl Method {
    /// The name that a config gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rspo { .. } => "rspo",
            Self::Sppo { .. } => "sppo",
            Self::Dpo { .. } => "dpo",
            Self::Ipo { .. } => "ipo",
            Self::Inpo { .. } => "inpo",
            Self::NashMd { .. } => "nash_md",
            Self::Spin { .. } => "spin",
            Self::Dno { .. } => "dno",
        }
    }

    /// The models whose log-probabilities its examples must hold: see [`refer`](crate::judged::refer).
    pub fn anchors(&self) -> Vec<Anchor> {
        let (previous, original) = (Anchor::Previous, Anchor::Original);
        match self {
            Self::Rspo { loss } if reads_original(loss) => vec![previous, original],
            Self::Rspo { .. } | Self::Sppo { .. } | Self::Spin { .. } | Self::Dno { .. } => vec![previous],
            Self::Dpo { reference, .. } => vec![*reference],
            Self::Ipo { .. } | Self::NashMd { .. } => vec![original],
            Self::Inpo { .. } => vec![previous, original],
        }
    }

    /// Whether it has a loss for such examples.
    pub fn takes(&self, rows: Rows) -> bool {
        match self {
            Self::Rspo { .. } | Self::Sppo { .. } => true,
            Self::NashMd { .. } => rows == Rows::All,
            Self::Dpo { .. }
            | Self::Ipo { .. }
            | Self::Inpo { .. }
            | Self::Spin { .. }
            | Self::Dno { .. } => rows == Rows::BestWorst,
        }
    }

    /// Refuses rows that the method has no loss for.
    ///
    /// # Errors
    /// Such rows, by name.
    pub fn check(&self, rows: Rows) -> Result<(), StepError> {
        if self.takes(rows) {
            return Ok(());
        }
        let expected = if rows == Rows::All { Rows::BestWorst } else { Rows::All };
        let found = rows.what().to_owned();
        Err(StepError::Rows { method: self.name(), expected: expected.what(), found })
    }
}

/// Whether a term that is not switched off compares with the original.
fn reads_original(loss: &RspoConfig) -> bool {
    let reads = |r: RspoRegularizer| r != RspoRegularizer::Entropy;
    loss.terms.iter().any(|term| term.weight.get() > 0.0 && reads(term.regularizer))
}

#[cfg(test)]
mod tests {
    use rlhf_core::loss::rspo::RspoTerm;
    use rlhf_core::number::Weight;

    use super::*;

    const ALL: [(&str, &str, usize, [bool; 2]); 8] = [
        ("rspo", r#""loss": {"beta": 1, "terms": []}"#, 1, [true, true]),
        ("sppo", r#""loss": {"beta": 0.1}"#, 1, [true, true]),
        (
            "dpo",
            r#""loss": {"beta": 0.1, "label_smoothing": 0, "f_divergence": "reverse_kl"}, "reference": "original""#,
            1,
            [true, false],
        ),
        ("ipo", r#""loss": {"beta": 0.1, "f_divergence": "reverse_kl"}"#, 1, [true, false]),
        ("inpo", r#""loss": {"eta": 0.1, "tau": 0.03}"#, 2, [true, false]),
        ("nash_md", r#""loss": {"beta": 0.1, "kl": "sequence"}, "mixture_coef": 0.25"#, 1, [false, true]),
        ("spin", r#""loss": {"lambda": 0.1}"#, 1, [true, false]),
        ("dno", r#""loss": {"eta": 0.1}"#, 1, [true, false]),
    ];

    fn read(kind: &str, rest: &str) -> serde_json::Result<Method> {
        serde_json::from_str(&format!(r#"{{"kind": "{kind}", {rest}}}"#))
    }

    #[test]
    fn every_method_is_read_by_its_name_and_says_what_it_takes() {
        for (name, rest, n_anchors, takes) in ALL {
            let method = read(name, rest).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((method.name(), method.anchors().len()), (name, n_anchors));
            assert_eq!([Rows::BestWorst, Rows::All].map(|rows| method.takes(rows)), takes, "{name}");
            let written = serde_json::to_string(&method).expect("numbers");
            assert_eq!(serde_json::from_str::<Method>(&written).expect("its own words"), method);
            assert!(read(name, &format!(r#"{rest}, "lambda": 1"#)).is_err(), "{name}: an unknown key");
        }
        let error = read("sppo", r#""loss": {"beta": 0}"#).expect_err("no pull").to_string();
        assert!(error.contains("Beta: expected a positive finite number"), "{error}");
    }

    #[test]
    fn rows_without_a_loss_are_refused_by_name() {
        let dpo = read(ALL[2].0, ALL[2].1).expect("valid");
        let nash = read(ALL[5].0, ALL[5].1).expect("valid");
        let said = |method: &Method, rows| method.check(rows).expect_err("refused").to_string();
        assert_eq!(said(&dpo, Rows::All), "dpo: expected pairs, found single answers");
        assert_eq!(said(&nash, Rows::BestWorst), "nash_md: expected single answers, found pairs");
        assert!(dpo.check(Rows::BestWorst).is_ok() && nash.check(Rows::All).is_ok());
    }

    #[test]
    fn the_original_is_asked_only_where_a_term_reads_it() {
        let with = |regularizer, weight| {
            let weight = Weight::new(weight).expect("a weight");
            let terms = vec![RspoTerm { regularizer, weight }];
            let beta = rlhf_core::number::Beta::new(0.1).expect("positive");
            Method::Rspo { loss: RspoConfig { beta, terms } }.anchors().len()
        };
        assert_eq!(with(RspoRegularizer::ReverseKl, 0.5), 2);
        assert_eq!(with(RspoRegularizer::ReverseKl, 0.0), 1);
        assert_eq!(with(RspoRegularizer::Entropy, 0.5), 1);
    }
}
