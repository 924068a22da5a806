use std::collections::HashSet;

use super::*;

const SIZES: Sizes = Sizes { n_sft: 400, n_preferences: 200, n_prompts: 64, n_eval_prompts: 16 };

fn digest(seed: u64) -> String {
    let task = restaurants(seed, &SIZES).expect("sizes in range");
    blake3::hash(&serde_json::to_vec(&task).expect("plain data")).to_hex()[..16].to_owned()
}

#[test]
fn a_seed_is_a_task_to_the_byte() {
    assert_eq!(digest(7), "b8db9995c8396aeb");
    assert_ne!(digest(8), digest(7));
}

#[test]
fn no_prompt_is_in_two_splits_and_no_text_in_two_pairs() {
    let task = restaurants(1, &SIZES).expect("sizes in range");
    let examples = task.sft.iter().chain(&task.sft_heldout).map(|e| &e.prompt);
    let pairs =
        || task.train_preferences.iter().chain(&task.judge_preferences).chain(&task.heldout_preferences);
    let prompts =
        examples.chain(pairs().map(|p| &p.prompt)).chain(&task.train_prompts).chain(&task.eval_prompts);
    // 400 + 40 examples, 200 + 200 + 50 pairs, 64 + 16 prompts.
    let n = 970;
    assert_eq!(prompts.clone().count(), n);
    assert_eq!(prompts.collect::<HashSet<_>>().len(), n);
    assert_eq!(pairs().flat_map(|p| [&p.chosen, &p.rejected]).collect::<HashSet<_>>().len(), 900);
    let texts = task.sft.iter().map(|e| &e.completion).chain(pairs().map(|p| &p.chosen));
    assert!(texts.into_iter().all(|t| t.starts_with(" ") && !t.starts_with("  ")));
}

#[test]
fn held_out_pairs_follow_the_gold_reward() {
    let task = restaurants(2, &SIZES).expect("sizes in range");
    for pair in &task.heldout_preferences {
        let gold = |text| GoldReward.parts(&pair.prompt, text).expect("our prompt").total();
        assert!(gold(&pair.chosen) >= gold(&pair.rejected) + MIN_GAP, "{pair:?}");
    }
}

/// Each pair's better text by utility is chosen with a known probability q, so the count of them has
/// mean Σ q and variance Σ q (1 − q); five standard deviations are the bound.
#[test]
fn raters_err_as_often_as_their_noise_says() {
    let task = restaurants(3, &Sizes { n_preferences: 1000, ..SIZES }).expect("sizes in range");
    for (pairs, raters) in
        [(&task.train_preferences, Raters::TRAIN), (&task.judge_preferences, Raters::JUDGE)]
    {
        let (mut right, mut mean, mut variance) = (0.0, 0.0, 0.0);
        for pair in pairs {
            let meaning = Meaning::parse(&pair.prompt).expect("our prompt");
            let gap = raters.utility(&meaning, &pair.chosen) - raters.utility(&meaning, &pair.rejected);
            let q = 1.0 / (1.0 + (-gap.abs() / 0.5f64).exp());
            right += f64::from(u8::from(gap > 0.0));
            mean += q;
            variance += q * (1.0 - q);
        }
        assert!((right - mean).abs() < 5.0 * variance.sqrt(), "{right} of {mean} ± {}", variance.sqrt());
    }
}

/// The share of references without their name is 0.03 + 0.97 · 0.02 = 0.0494; five standard errors
/// at n = 4,000 are 5 √(p (1 − p) / n) = 0.0172. Those with every slot right were 45 % when the rates
/// were chosen: they stay between the 30 and 50 % that the task promises.
#[test]
fn references_have_the_faults_they_promise() {
    let n = 4000;
    let task = restaurants(4, &Sizes { n_sft: n, ..SIZES }).expect("sizes in range");
    let share = |holds: &dyn Fn(&Meaning, &str) -> bool| {
        let holds = |e: &&Example| holds(&Meaning::parse(&e.prompt).expect("our prompt"), &e.completion);
        task.sft.iter().filter(holds).count() as f64 / n as f64
    };
    let nameless = share(&|m, text| !text.contains(&m.name.to_string()));
    assert!((nameless - 0.0494).abs() < 0.0172, "{nameless}");
    let right = share(&|m, text| gold_parts(m, text).all_right());
    assert!((0.30..=0.50).contains(&right), "{right}");
}

#[test]
fn a_size_out_of_range_is_named() {
    let error = restaurants(0, &Sizes { n_prompts: 0, ..SIZES }).expect_err("none");
    assert_eq!(error.to_string(), "task restaurants: task.n_prompts: expected 1 to 50000, found 0");
    assert!(restaurants(0, &Sizes { n_sft: 50_001, ..SIZES }).is_err());
}
