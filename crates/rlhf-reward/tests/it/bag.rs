//! The bag of words on synthetic texts whose rule is known, held out by folds.

use rand::RngExt;
use rlhf_core::contract::{Candidate, RewardModel};
use rlhf_core::rng::stream;
use rlhf_reward::bag::{BagConfig, BagOfWords};
use rlhf_reward::folds::folds;

const WORDS: [&str; 12] =
    ["lovely", "bright", "warm", "plain", "film", "plot", "scene", "actor", "slow", "dull", "cold", "awful"];

/// What a word adds to a text's rating.
fn weight(word: usize) -> f64 {
    [2.0, 1.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.5, -1.0, -1.5, -2.0][word]
}

/// A text of six words with its rating.
fn text(seed: u64, index: u64) -> (String, f64) {
    let mut rng = stream(seed, "texts", 0, index);
    let words: Vec<usize> = (0..6).map(|_| rng.random_range(0..WORDS.len())).collect();
    let mut distinct = words.clone();
    distinct.sort_unstable();
    distinct.dedup();
    // A bag counts a word once, and so does the rule.
    let rating = distinct.iter().map(|w| weight(*w)).sum();
    (words.iter().map(|w| WORDS[*w]).collect::<Vec<_>>().join(" "), rating)
}

fn texts(seed: u64, n: u64) -> Vec<(String, f64)> {
    (0..n).map(|i| text(seed, i)).collect()
}

/// `(chosen, rejected)` by rating; ties are left out.
fn pairs(seed: u64, n: u64) -> Vec<(String, String)> {
    let all = texts(seed, 2 * n);
    let decided = all.chunks(2).filter(|two| (two[0].1 - two[1].1).abs() > 1e-9);
    decided
        .map(|two| {
            let (a, b) = (&two[0], &two[1]);
            if a.1 > b.1 { (a.0.clone(), b.0.clone()) } else { (b.0.clone(), a.0.clone()) }
        })
        .collect()
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

fn accuracy(model: &BagOfWords, pairs: &[(&str, &str)]) -> f64 {
    let right = pairs.iter().filter(|(a, b)| model.reward(a) > model.reward(b)).count();
    right as f64 / pairs.len() as f64
}

#[test]
fn pairs_of_a_linear_rule_are_told_apart_on_unseen_texts() {
    let train = pairs(1, 2000);
    let model = BagOfWords::fit_pairs(&borrowed(&train), BagConfig::default()).expect("many pairs");
    let unseen = pairs(2, 1000);
    // The rule sums over words, the model divides by √n: close texts may change places.
    let found = accuracy(&model, &borrowed(&unseen));
    assert!(found >= 0.95, "{found}");
    let flipped: Vec<(&str, &str)> = borrowed(&unseen).into_iter().map(|(a, b)| (b, a)).collect();
    assert!(accuracy(&model, &flipped) <= 0.05);
    // Words in the order of their weights.
    let reward = |w: usize| model.reward(WORDS[w]);
    assert!(
        reward(0) > reward(2) && reward(2) > reward(4) && reward(4) > reward(9) && reward(9) > reward(11)
    );
}

#[test]
fn ratings_of_a_linear_rule_are_predicted_on_unseen_texts() {
    let train = texts(3, 2000);
    let rated: Vec<(&str, f64)> = train.iter().map(|(t, y)| (t.as_str(), *y)).collect();
    let model = BagOfWords::fit_ratings(&rated, BagConfig::default()).expect("many texts");
    let unseen = texts(4, 1000);
    let mean = unseen.iter().map(|(_, y)| y).sum::<f64>() / 1000.0;
    let spread: f64 = unseen.iter().map(|(_, y)| (y - mean).powi(2)).sum();
    let error: f64 = unseen.iter().map(|(t, y)| (y - model.reward(t)).powi(2)).sum();
    assert!(error < 0.1 * spread, "unexplained: {}", error / spread);
    // A text of unknown words has the mean rating.
    let base = rated.iter().map(|(_, y)| y).sum::<f64>() / 2000.0;
    assert!((model.reward("zebra quagga") - base).abs() < 1e-12);
    assert!((model.reward("") - base).abs() < 1e-12);
}

#[test]
fn folds_give_an_honest_accuracy_and_noise_gives_one_half() {
    let train = pairs(5, 1000);
    let all = borrowed(&train);
    // The same pairs with sides that a coin decides.
    let mut rng = stream(6, "coin", 0, 0);
    let noise: Vec<(&str, &str)> =
        all.iter().map(|(a, b)| if rng.random::<bool>() { (*a, *b) } else { (*b, *a) }).collect();
    let held_out = |pairs: &[(&str, &str)]| {
        let split = folds(pairs.len(), 5, &mut stream(7, "folds", 0, 0)).expect("splits");
        let one = |test: &Vec<usize>| {
            let inside: Vec<(&str, &str)> =
                (0..pairs.len()).filter(|i| !test.contains(i)).map(|i| pairs[i]).collect();
            let outside: Vec<(&str, &str)> = test.iter().map(|i| pairs[*i]).collect();
            let model = BagOfWords::fit_pairs(&inside, BagConfig::default()).expect("many pairs");
            accuracy(&model, &outside)
        };
        split.iter().map(one).sum::<f64>() / 5.0
    };
    assert!(held_out(&all) >= 0.93, "{}", held_out(&all));
    // Standard error ½ / √1000 = 0.016; four of them.
    assert!((held_out(&noise) - 0.5).abs() < 0.064, "{}", held_out(&noise));
}

#[test]
fn folds_are_disjoint_cover_all_and_follow_their_stream() {
    let split = |seed| folds(23, 5, &mut stream(seed, "folds", 0, 0)).expect("splits");
    let mut all = split(1).concat();
    all.sort_unstable();
    assert_eq!(all, (0..23).collect::<Vec<_>>());
    assert_eq!(split(1).iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5, 4, 4]);
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
    assert_ne!(split(1)[0], [0, 5, 10, 15, 20], "shuffled");
}

#[test]
fn a_score_does_not_depend_on_its_neighbours() {
    let train = pairs(8, 200);
    let mut model = BagOfWords::fit_pairs(&borrowed(&train), BagConfig::default()).expect("many pairs");
    let texts = texts(9, 20);
    let items: Vec<Candidate<'_>> = texts
        .iter()
        .map(|(t, _)| Candidate { prompt: "p", completion: t, prompt_ids: &[], completion_ids: &[] })
        .collect();
    let together = model.score(&items).expect("no error is possible");
    for (item, score) in items.iter().zip(&together) {
        assert_eq!(model.score(std::slice::from_ref(item)).expect("scores")[0].to_bits(), score.to_bits());
    }
    let turned: Vec<Candidate<'_>> = items.iter().rev().copied().collect();
    let mut back = model.score(&turned).expect("scores");
    back.reverse();
    assert_eq!(back, together);
    assert!(model.score(&[]).expect("nothing to score").is_empty());
}

#[test]
fn the_order_of_the_pairs_and_the_strength_of_the_ridge() {
    let train = pairs(10, 300);
    let forward = BagOfWords::fit_pairs(&borrowed(&train), BagConfig::default()).expect("many pairs");
    let turned: Vec<(&str, &str)> = borrowed(&train).into_iter().rev().collect();
    let backward = BagOfWords::fit_pairs(&turned, BagConfig::default()).expect("many pairs");
    for word in WORDS {
        assert!((forward.reward(word) - backward.reward(word)).abs() < 1e-6, "{word}");
    }
    let strong = BagConfig { l2: 1e6, ..BagConfig::default() };
    let flat = BagOfWords::fit_pairs(&borrowed(&train), strong).expect("many pairs");
    assert!(WORDS.iter().all(|w| flat.reward(w).abs() < 1e-3));
}

#[test]
fn too_few_examples_are_named() {
    let error = BagOfWords::fit_pairs(&[("a", "b")], BagConfig::default()).expect_err("one");
    assert_eq!(error.to_string(), "bag of words on pairs: expected at least 2 examples, found 1");
    let error = BagOfWords::fit_ratings(&[], BagConfig::default()).expect_err("none");
    assert_eq!(error.to_string(), "bag of words on ratings: expected at least 2 examples, found 0");
    let error = folds(3, 5, &mut stream(1, "folds", 0, 0)).expect_err("three for five");
    assert_eq!(error.to_string(), "k-fold split: expected at least 5 examples, found 3");
}
