//! The same inputs under every name.

use super::*;

const REWARDS: [f64; 3] = [1.0, 2.0, 3.0];
const OLD: [&[f64]; 3] = [&[-1.0, -0.5], &[-2.0], &[-0.7, -0.2, -0.4]];
const REFERENCE: [&[f64]; 3] = [&[-1.2, -0.4], &[-1.5], &[-0.7, -0.6, -0.1]];

fn all() -> Vec<(&'static str, GrpoRecipe)> {
    vec![
        ("trl", trl::grpo()),
        ("trl grpo", trl::grpo_sequence_mean()),
        ("trl bnpo", trl::bnpo()),
        ("trl dr_grpo", trl::dr_grpo()),
        ("verl", verl::grpo()),
        ("openrlhf", openrlhf::grpo()),
        ("openrlhf rloo", openrlhf::rloo()),
        ("open-instruct", open_instruct::grpo()),
        ("open-instruct standard", open_instruct::grpo_standard()),
        ("nemo", nemo::grpo()),
    ]
}

fn step(recipe: GrpoRecipe, logp: &[&[f64]; 3]) -> f64 {
    let completion = |i: usize| Completion {
        reward: REWARDS[i],
        logp: logp[i],
        old_logp: OLD[i],
        reference_logp: REFERENCE[i],
    };
    let counts = StepCounts { n_tokens: 6, n_sequences: 3, max_completion_length: 4 };
    grpo_step_scalar(recipe, &[(0..3).map(completion).collect()], counts).expect("counts above 0")
}

#[test]
fn literals_are_in_their_ranges() {
    for (name, recipe) in all() {
        let text = serde_json::to_string(&recipe).expect("a recipe");
        let back: GrpoRecipe = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(back, recipe, "{name}");
    }
}

#[test]
fn on_policy_every_system_has_its_own_number() {
    // r = 1 everywhere: the loss is −Σ w A, with A as each system has it, plus the KL where it is in
    // the loss. k3 of the reference: Σ (e^q − 1 − q), q = ref − old.
    let k3 = |q: f64| q.exp_m1() - q;
    let kl: f64 = [-0.2, 0.1, 0.5, 0.0, -0.4, 0.3].map(k3).iter().sum();
    let a = 1.0 / (1.0 + 1e-4);
    let close = |name: &str, found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-14, "{name}: {found} {expected}");
    };
    // Tokens 2, 1, 3: −(2 (−a) + 3 a) / 6.
    close("trl", step(trl::grpo(), &OLD), -a / 6.0);
    // Sequence means: (−a + 0 + a) / 3.
    close("trl grpo", step(trl::grpo_sequence_mean(), &OLD), 0.0);
    close("trl bnpo", step(trl::bnpo(), &OLD), -a / 6.0);
    // 3 sequences of at most 4 tokens.
    close("trl dr_grpo", step(trl::dr_grpo(), &OLD), -a / 12.0);
    let a = 1.0 / (1.0 + 1e-6);
    close("verl", step(verl::grpo(), &OLD), (-a + 0.001 * kl) / 6.0);
    close("open-instruct", step(open_instruct::grpo(), &OLD), (-1.0 + 0.05 * kl) / 6.0);
    let a = 1.0 / ((2f64 / 3.0).sqrt() + 1e-8);
    close("open-instruct standard", step(open_instruct::grpo_standard(), &OLD), (-a + 0.05 * kl) / 6.0);
    // Mean of the others 2.5 and 1.5, their deviation √½.
    let a = 1.5 / (0.5f64.sqrt() + 1e-6);
    close("nemo", step(nemo::grpo(), &OLD), (-a + 0.01 * kl) / 6.0);
    // k1 = −q in the reward, to go: tokens pay (0.2 − 0.1) − 0.1, −0.5, and (0 + 0.4 − 0.3), 0.1, −0.3.
    let paid = 0.01 * (0.1 - 0.1 - 0.5 + 0.1 + 0.1 - 0.3);
    let a = 1.0 / (1.0 + 1e-9);
    close("openrlhf", step(openrlhf::grpo(), &OLD), -(a - paid) / 6.0);
    close("openrlhf rloo", step(openrlhf::rloo(), &OLD), -(1.5 - paid) / 6.0);
}

#[test]
fn what_one_step_does_not_show_is_each_systems_own() {
    let bounds = |recipe: GrpoRecipe| {
        let GrpoConfig { clip, kl, .. } = recipe.loss;
        [clip.delta, kl.input_clamp, kl.output_clamp].map(Bound::get)
    };
    let none = f64::INFINITY;
    for (recipe, expected) in [
        (trl::grpo(), [none; 3]),
        (verl::grpo(), [3.0, 20.0, 10.0]),
        (open_instruct::grpo(), [none, 40.0, none]),
        (nemo::grpo(), [none, 20.0, 10.0]),
    ] {
        // As bits: two infinite bounds have no difference.
        assert_eq!(bounds(recipe).map(f64::to_bits), expected.map(f64::to_bits), "{recipe:?}");
    }
    // One micro-batch is the whole step above: the same number, and another one once it is cut.
    assert_eq!(trl::grpo().normaliser, Normaliser::StepTokens);
    assert_eq!([trl::bnpo().normaliser, verl::grpo().normaliser], [Normaliser::BatchTokens; 2]);
}

#[test]
fn a_step_cut_in_two_is_the_step_where_the_normaliser_knows_the_step() {
    let logp: [&[f64]; 3] = [&[-0.8, -0.9], &[-1.0], &[-0.9, -0.1, -0.4]];
    let completion = |i: usize, reward: f64| Completion {
        reward,
        logp: logp[i],
        old_logp: OLD[i],
        reference_logp: REFERENCE[i],
    };
    // Two groups of two; the second has other lengths, so means of means would differ.
    let first = vec![completion(0, 1.0), completion(1, 0.0)];
    let second = vec![completion(2, 0.0), completion(0, 2.0)];
    let counts = StepCounts { n_tokens: 8, n_sequences: 4, max_completion_length: 4 };
    for (name, recipe) in all() {
        let loss = |groups: &[Vec<Completion<'_, f64>>]| {
            grpo_step_scalar(recipe, groups, counts).expect("counts above 0")
        };
        let whole = loss(&[first.clone(), second.clone()]);
        let cut = loss(std::slice::from_ref(&first)) + loss(std::slice::from_ref(&second));
        let knows = !matches!(recipe.normaliser, Normaliser::BatchTokens | Normaliser::SequenceMean);
        assert_eq!((whole - cut).abs() < 1e-14, knows, "{name}: {whole} {cut}");
    }
}

#[test]
fn a_reference_is_asked_for_where_it_counts() {
    assert!(!trl::grpo().needs_reference() && openrlhf::grpo().needs_reference());
    let alone = vec![Completion { reward: 1.0, logp: &[-1.0], old_logp: &[-1.0], reference_logp: &[] }];
    let counts = StepCounts { n_tokens: 1, n_sequences: 1, max_completion_length: 1 };
    assert!(grpo_step_scalar(trl::grpo(), &[alone], counts).is_ok_and(|loss: f64| loss.abs() <= 0.0));
    assert!(Normaliser::StepTokens.of_step(StepCounts { n_tokens: 0, ..counts }).is_err());
}

#[test]
#[should_panic(expected = "grpo_step: reference_logp: expected 1 numbers, one a token of logp, found 0")]
fn a_missing_reference_is_named() {
    let alone = vec![Completion { reward: 1.0, logp: &[-1.0], old_logp: &[-1.0], reference_logp: &[] }];
    let counts = StepCounts { n_tokens: 1, n_sequences: 1, max_completion_length: 1 };
    let _ = grpo_step_scalar(verl::grpo(), &[alone], counts);
}

#[test]
fn a_price_of_nothing_needs_no_reference() {
    let free = RewardKl { beta: Weight::ZERO, ..openrlhf::grpo().reward_kl.expect("in the reward") };
    let recipe = GrpoRecipe { reward_kl: Some(free), ..openrlhf::grpo() };
    assert!(!recipe.needs_reference());
    assert_eq!(recipe.kl_to_go(&[-1.0, -2.0], &[]), [0.0, 0.0]);
}
