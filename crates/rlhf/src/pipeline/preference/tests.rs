use super::*;
use crate::pipeline::models;
use burn::tensor::Device;
use rlhf_policy::tokenizer::Tokenizer;

const TEXTS: [&str; 4] = ["the cat sat", "a dog ran in the park", "yes", "no, never"];

fn tokenizer() -> Tokenizer {
    models::train_tokenizer(&TEXTS.map(str::to_owned), 300).expect("trained")
}

fn config(tokenizer: &Tokenizer, room: usize) -> DecoderConfig {
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": tokenizer.vocab_size(), "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": room, "initializer_range": 0.4,
        "eos_token_id": tokenizer.eos(), "pad_token_id": tokenizer.pad(),
    });
    DecoderConfig::parse(&json.to_string()).expect("a config")
}

fn tau() -> GpmConfig {
    GpmConfig { tau: Positive::new(0.5).expect("positive") }
}

fn judge(kind: JudgeKind, tokenizer: &Tokenizer, room: usize) -> Judge {
    let config = config(tokenizer, room);
    let model = models::scratch_classifier(&config, kind.labels(), 3, &Device::flex()).expect("built");
    let (eos, pad) = (tokenizer.eos(), tokenizer.pad());
    match kind {
        JudgeKind::BradleyTerry => {
            let (model, config) = (Box::new(model), Box::new(config));
            let scorer = Scorer::Transformer { model, config, eos, pad };
            Judge::bradley_terry(scorer, Positive::new(2.0).expect("positive"))
        }
        JudgeKind::Pairwise => {
            let layout = JointLayout::new(eos, eos, room).expect("room");
            Judge::Pairwise(Box::new(Pairwise { model, config, layout, pad, n_cut: 0 }))
        }
        JudgeKind::Gpm { config: gpm, .. } => Judge::Gpm(Box::new(Gpm { model, config, gpm, eos, pad })),
    }
}

/// Every text against every other, and against itself, for one prompt.
fn asked(judge: &mut Judge, tokenizer: &Tokenizer) -> Vec<f64> {
    let prompt_ids = tokenizer.encode("why?");
    let ids: Vec<Vec<u32>> = TEXTS.iter().map(|t| tokenizer.encode(t)).collect();
    let of = |i: usize| Candidate {
        prompt: "why?",
        completion: TEXTS[i],
        prompt_ids: &prompt_ids,
        completion_ids: &ids[i],
    };
    let pairs: Vec<Comparison<'_>> = (0..16).map(|i| Comparison { a: of(i / 4), b: of(i % 4) }).collect();
    judge.prefer(&pairs).expect("finite").into_iter().map(Prob::get).collect()
}

fn kinds() -> [JudgeKind; 3] {
    [JudgeKind::BradleyTerry, JudgeKind::Pairwise, JudgeKind::Gpm { width: 4, config: tau() }]
}

#[test]
fn the_two_orders_sum_to_one_and_a_text_is_even_with_itself() {
    let tokenizer = tokenizer();
    for kind in kinds() {
        let p = asked(&mut judge(kind, &tokenizer, 64), &tokenizer);
        for i in 0..4 {
            assert!((p[5 * i] - 0.5).abs() < 1e-12, "{kind:?}: {p:?}");
            for j in 0..4 {
                assert!((p[4 * i + j] + p[4 * j + i] - 1.0).abs() < 1e-12, "{kind:?}: {p:?}");
            }
        }
        assert!((0..4).any(|i| (p[i] - 0.5).abs() > 0.01), "{kind:?} says something: {p:?}");
    }
}

#[test]
fn a_pairwise_preference_is_half_the_difference_of_both_orders() {
    let tokenizer = tokenizer();
    let mut oracle = judge(JudgeKind::Pairwise, &tokenizer, 64);
    let found = asked(&mut oracle, &tokenizer);
    let Judge::Pairwise(pairwise) = &oracle else { panic!("made as pairwise") };
    assert_eq!(pairwise.n_cut, 0);
    let eos = tokenizer.eos();
    let logit = |a: &str, b: &str| {
        let [x, a, b] = ["why?", a, b].map(|t| tokenizer.encode(t));
        let left = [&x[..], &a, &[eos]].concat();
        let whole = [&left[..], &b, &[eos]].concat();
        let scores = pairwise.model.score_rows(&[left, whole], pairwise.pad, 2);
        scores[0] - scores[1]
    };
    let odds = 0.5 * (logit(TEXTS[0], TEXTS[1]) - logit(TEXTS[1], TEXTS[0]));
    assert!((found[1] - 1.0 / (1.0 + (-odds).exp())).abs() < 1e-12, "{} {odds}", found[1]);
}

#[test]
fn what_is_cut_is_counted() {
    let tokenizer = tokenizer();
    let mut oracle = judge(JudgeKind::Pairwise, &tokenizer, 6);
    asked(&mut oracle, &tokenizer);
    assert!(oracle.n_cut() > 0 && oracle.n_cut() <= 16, "{}", oracle.n_cut());
}

#[test]
fn a_saved_oracle_answers_the_same_to_the_bit() {
    let tokenizer = tokenizer();
    for kind in kinds() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut before = judge(kind, &tokenizer, 64);
        before.save(dir.path(), &tokenizer).expect("saved");
        let LoadedJudge { judge: mut after, tokenizer: read } =
            Judge::load(dir.path(), &Device::flex()).expect("read");
        let read = read.expect("a tokenizer");
        assert_eq!(asked(&mut after, &read), asked(&mut before, &tokenizer), "{kind:?}");
        assert_eq!(refuse_as_reward(dir.path()).is_ok(), kind == JudgeKind::BradleyTerry);
    }
}

#[test]
fn a_folder_that_does_not_fit_its_kind_is_refused() {
    let tokenizer = tokenizer();
    let dir = tempfile::tempdir().expect("temporary folder");
    judge(kinds()[2], &tokenizer, 64).save(dir.path(), &tokenizer).expect("saved");
    let file = dir.path().join("preference.json");
    let refused = |text: &str| {
        std::fs::write(&file, text).expect("written");
        Judge::load(dir.path(), &Device::flex()).expect_err("refused").to_string()
    };
    let layout = r#"{"kind":"pairwise","layout":{"separator":0,"end":0,"max_length":64}}"#;
    assert!(refused(layout).contains("kind: expected a head with one label"), "{}", refused(layout));
    let tau = refused(r#"{"kind":"gpm","tau":0}"#);
    assert!(tau.contains("Positive: expected a positive finite number, found 0"), "{tau}");
    let error = refuse_as_reward(dir.path()).expect_err("spoilt").to_string();
    assert!(error.contains("(file): expected a preference oracle, found Positive: "), "{error}");
}

#[test]
fn a_weight_that_is_no_number_names_prompt_and_pair() {
    let tokenizer = tokenizer();
    let [prompt_ids, a, b] = ["why?", TEXTS[0], TEXTS[1]].map(|t| tokenizer.encode(t));
    let side = |completion, completion_ids| Candidate {
        prompt: "why?",
        completion,
        prompt_ids: &prompt_ids,
        completion_ids,
    };
    let pair = Comparison { a: side(TEXTS[0], &a), b: side(TEXTS[1], &b) };
    for kind in kinds() {
        let mut oracle = judge(kind, &tokenizer, 64);
        let model = match &mut oracle {
            Judge::Pairwise(p) => &mut p.model,
            Judge::Gpm(g) => &mut g.model,
            Judge::BradleyTerry(o) => match &mut o.model {
                Scorer::Transformer { model, .. } => model.as_mut(),
                other => panic!("made as a transformer, found {other:?}"),
            },
            Judge::Rule(_) => panic!("made as a model"),
        };
        let weight = model.score.weight.val();
        model.score.weight = burn::module::Param::from_tensor(weight.mul_scalar(f32::NAN));
        let error = oracle.prefer(&[pair]).expect_err("NaN").to_string();
        let said =
            "preference of \"the cat sat\" over \"a dog ran in the park\" for the prompt \"why?\": expected ";
        assert!(error.starts_with(said) && error.ends_with("found NaN"), "{kind:?}: {error}");
    }
    let error = Judge::rule(|_| f64::NAN).prefer(&[pair]).expect_err("NaN").to_string();
    assert!(error.ends_with("expected a number from 0 to 1, found NaN"), "{error}");
    let odds = Judge::rule(|_| 0.75).log_odds(&[pair]).expect("in range");
    assert!((odds[0] - 3f64.ln()).abs() < 1e-15);
}
