//! What a step refuses, and how it says so.

use burn::tensor::Device;
use rlhf_core::loss::dpo::DpoConfig;
use rlhf_core::loss::rspo::RspoRegularizer::ReverseKl;
use rlhf_policy::weights::{parameters, replaced};
use rlhf_selfplay::error::StepError;
use rlhf_selfplay::gradients::gradients;
use rlhf_selfplay::judged::{Example, refer};
use rlhf_selfplay::method::{Anchor, Method};

use super::support::{beta, cut, decoder, on_singles, pairs, policy, rspo, singles, term};

fn refusal(window: &[Example], method: &Method) -> String {
    let window: Vec<&Example> = window.iter().collect();
    gradients(&policy(), &window, method, &cut(2)).expect_err("refused").to_string()
}

fn dpo() -> Method {
    Method::Dpo { loss: DpoConfig::new(beta(0.1)), reference: Anchor::Previous }
}

#[test]
fn rows_that_do_not_fit() {
    assert_eq!(refusal(&singles(), &dpo()), "dpo: expected pairs, found single answers");
    assert_eq!(refusal(&pairs(), &on_singles()[2]), "nash_md: expected single answers, found pairs");
    let both = [pairs(), singles()].concat();
    assert_eq!(
        refusal(&both, &rspo(0.1, &[])),
        "rspo: expected either pairs or single answers, found 3 pairs and 4 single answers"
    );
}

#[test]
fn an_answer_that_no_frozen_model_was_asked_about() {
    let mut window = pairs();
    window[1].prompt = 6;
    if let rlhf_selfplay::judged::Shown::Pair { rejected, .. } = &mut window[1].shown {
        rejected.original = None;
    }
    let said = "rspo: prompt 6: expected log-probabilities of the original model, found none";
    assert_eq!(refusal(&window, &rspo(0.1, &[term(ReverseKl, 0.5)])), said);
    // Methods that do not ask for it go on.
    let all: Vec<&Example> = window.iter().collect();
    for method in [dpo(), rspo(0.1, &[]), rspo(0.1, &[term(ReverseKl, 0.0)])] {
        assert!(gradients(&policy(), &all, &method, &cut(2)).is_ok(), "{}", method.name());
    }
}

#[test]
fn a_frozen_model_that_holds_an_answer_for_impossible() {
    let device = Device::flex();
    let model = decoder(2, &device);
    let mut found = Vec::new();
    // Logits of one token beyond f32 on either side: −∞ where they are small, NaN where they are large.
    for sign in [1.0, -1.0] {
        let mut all = parameters(&model);
        let head = all.get_mut("lm_head.weight").expect("an untied head");
        let mut window = singles();
        let token = window[1].responses()[0].sequence.tokens[3] as usize;
        head.data[token * 16..][..16].fill(sign * 3e38);
        let broken = replaced(decoder(2, &device), &all).expect("same shapes");
        window.iter_mut().enumerate().for_each(|(i, e)| e.prompt = 10 + i);
        let alone = &mut window[1..2];
        match refer(alone, Anchor::Original, &broken, &cut(2)).expect_err("refused") {
            StepError::Logp { anchor, prompt, answer, token, found: x } => {
                assert_eq!((anchor, prompt, answer, token), (Anchor::Original, 11, 0, 0));
                found.push(x);
            }
            other => panic!("{other}"),
        }
    }
    assert!(found.iter().all(|x| !x.is_finite()) && found.contains(&f64::NEG_INFINITY), "{found:?}");
}

#[test]
#[should_panic(expected = "gradients: window: expected at least one example, found none")]
fn an_empty_window() {
    let _ = gradients(&policy(), &[], &dpo(), &cut(1));
}
