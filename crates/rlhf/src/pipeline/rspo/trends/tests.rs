use std::collections::BTreeMap;

use super::super::measure::{Evaluation, Figures};
use super::*;

/// What a made-up variant does after an iteration, apart from the noise of its seed.
#[derive(Clone, Copy)]
struct At {
    proxy: f64,
    truth: f64,
    tokens: f64,
    bleu: f64,
}

const START: At = At { proxy: 0.5, truth: 0.5, tokens: 20.0, bleu: 0.3 };

/// A variant with as many seeds; each shifts all its figures by a hundredth, and each iteration by a
/// thousandth more or less.
fn seen(name: &str, held: Held, seeds: u64, course: &[At]) -> Seen {
    let runs = (0..seeds).map(|seed| {
        let steps = std::iter::once(&START).chain(course).enumerate().map(|(t, at)| {
            let noise = seed as f64 / 100.0 + ((seed + t as u64) % 3) as f64 / 1000.0;
            let values = [(PROXY, at.proxy), (TRUE, at.truth), (LENGTH, at.tokens), (SELF_BLEU, at.bleu)];
            let values: BTreeMap<String, f64> =
                values.into_iter().map(|(key, value)| (key.to_owned(), value + noise)).collect();
            Evaluation { iteration: t as u64, figures: Figures { values }, samples: Vec::new() }
        });
        (seed, steps.collect())
    });
    Seen { name: name.to_owned(), held, beta: Some(0.1), runs: runs.collect() }
}

fn at(proxy: f64, truth: f64, tokens: f64, bleu: f64) -> At {
    At { proxy, truth, tokens, bleu }
}

/// What theory expects: four iterations.
fn expected(seeds: u64) -> Measured {
    let free = [
        at(0.6, 0.58, 24.0, 0.32),
        at(0.7, 0.60, 30.0, 0.36),
        at(0.8, 0.52, 40.0, 0.45),
        at(0.9, 0.4, 50.0, 0.6),
    ];
    let slow = |tokens: f64, truth: f64, proxy: f64| {
        [0.5, 0.8, 1.0, 1.0].map(|x| {
            at(0.5 + x * (proxy - 0.5), 0.5 + x * (truth - 0.5), 20.0 + x * (tokens - 20.0), 0.3 + 0.05 * x)
        })
    };
    let variants = vec![
        seen("sppo", Held::Free, seeds, &free),
        // Out of order: a sweep is sorted by λ.
        seen("forward 0.5", Held::Forward(0.5), seeds, &slow(28.0, 0.55, 0.7)),
        seen("forward 0.1", Held::Forward(0.1), seeds, &slow(38.0, 0.5, 0.85)),
        seen("reverse 0.5", Held::Reverse(0.5), seeds, &slow(30.0, 0.6, 0.85)),
        seen("both", Held::Both, seeds, &slow(26.0, 0.62, 0.7)),
    ];
    Measured { variants }
}

/// Name and verdict of each.
fn verdicts(m: &Measured) -> Vec<(&'static str, &'static str)> {
    all(m, "true").iter().map(|t| (t.id, t.verdict)).collect()
}

fn verdict_of(m: &Measured, id: &str) -> &'static str {
    verdicts(m).into_iter().find(|(name, _)| *name == id).map(|(_, verdict)| verdict).expect("a trend")
}

#[test]
fn what_theory_expects_is_shown() {
    let found = verdicts(&expected(5));
    let ids: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
    // One R5 of each of four regularised variants.
    assert_eq!(ids, ["R1", "R2a", "R2b", "R2c", "R2d", "R3", "R4", "R5", "R5", "R5", "R5"]);
    assert!(found.iter().all(|(_, verdict)| *verdict == "shown"), "{found:?}");
}

#[test]
fn the_figures_are_those_of_the_differences() {
    let all = all(&expected(5), "true");
    // 50 − 38 and 38 − 28 tokens; the noise of a seed cancels.
    let tokens = "tokens fewer from one λ to the next: 0 to 0.1: 12.000 [12.000, 12.000]; 0.1 to 0.5: 10.000 [10.000, 10.000]";
    assert_eq!(all[0].figures, tokens);
    assert_eq!(all[0].statement, "forward KL shortens answers, the more the larger λ (λ = 0, 0.1, 0.5)");
    assert!(all[5].statement.contains("(the mean curve's is after 2)"), "{}", all[5].statement);
    // 0.60 − 0.5, 0.60 − 0.4 and 0.9 − 0.7, each but for a thousandth of noise.
    for figure in ["to the peak: 0.100 [", "to the end: 0.200 [", "meanwhile: 0.200 ["] {
        assert!(all[5].figures.contains(figure), "{}", all[5].figures);
    }
    assert!(all[6].figures.starts_with("best: 0.6"), "{}", all[6].figures);
    assert!(all[6].figures.contains("the best other one, reverse 0.5: 0.6"), "{}", all[6].figures);
}

#[test]
fn what_contradicts_theory_is_not_shown() {
    // Everything the other way round: the free one stays short, wins and is diverse, the others do not.
    let free = [0.55, 0.6, 0.65, 0.7].map(|x| at(x, x, 15.0, 0.2));
    let held = |tokens: f64| [0.45, 0.44, 0.43, 0.42].map(|x| at(x, x, tokens, 0.4));
    let variants = vec![
        seen("sppo", Held::Free, 5, &free),
        seen("forward 0.1", Held::Forward(0.1), 5, &held(30.0)),
        seen("reverse 0.5", Held::Reverse(0.5), 5, &held(30.0)),
        seen("both", Held::Both, 5, &held(30.0)),
    ];
    let found = verdicts(&Measured { variants });
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|(_, verdict)| *verdict == "not shown"), "{found:?}");
}

#[test]
fn one_seed_is_no_data() {
    let found = verdicts(&expected(1));
    assert!(found.iter().all(|(_, verdict)| *verdict == "no data"), "{found:?}");
}

#[test]
fn a_missing_variant_is_no_data() {
    let without = |held: fn(Held) -> bool| {
        let mut m = expected(5);
        m.variants.retain(|v| !held(v.held));
        m
    };
    let free = without(|h| h == Held::Free);
    // Reverse KL against the start and the best at the end need no unregularised play.
    assert_eq!(verdict_of(&free, "R2a"), "shown");
    assert_eq!(verdict_of(&free, "R4"), "shown");
    for id in ["R1", "R2c", "R2d", "R3", "R5"] {
        assert_eq!(verdict_of(&free, id), "no data", "{id}");
    }
    assert_eq!(verdict_of(&without(|h| matches!(h, Held::Forward(_))), "R1"), "no data");
    let reverse = without(|h| matches!(h, Held::Reverse(_)));
    for id in ["R2a", "R2b", "R2c", "R2d"] {
        assert_eq!(verdict_of(&reverse, id), "no data", "{id}");
    }
    assert_eq!(verdict_of(&without(|h| h == Held::Both), "R4"), "no data");
    let nothing = Measured { variants: Vec::new() };
    assert!(verdicts(&nothing).iter().all(|(_, verdict)| *verdict == "no data"));
    // Two iterations: the paper's third is not there.
    let mut short = expected(5);
    for run in short.variants.iter_mut().flat_map(|v| v.runs.values_mut()) {
        run.truncate(3);
    }
    assert_eq!(verdict_of(&short, "R2c"), "no data");
    assert_eq!(verdict_of(&short, "R2a"), "shown");
}

#[test]
fn a_sweep_keeps_to_one_beta() {
    let mut m = expected(5);
    let mut other = m.variants[1].clone();
    // Longer than all, at another β: it would break R1.
    other.held = Held::Forward(0.9);
    other.beta = Some(0.2);
    for run in other.runs.values_mut() {
        for e in run {
            e.figures.values.insert(LENGTH.to_owned(), 99.0);
        }
    }
    m.variants.push(other);
    assert_eq!(verdict_of(&m, "R1"), "shown");
}

#[test]
fn together_within_its_interval_of_the_best_is_enough() {
    // Seeds spread the mean by 0.016, so that five of them give ± 0.02 about.
    let with = |truth: f64| {
        let mut m = expected(5);
        let course = [0.5, 0.55, 0.6, truth].map(|x| at(x, x, 20.0, 0.3));
        m.variants[4] = seen("both", Held::Both, 5, &course);
        m
    };
    let trend = |m: &Measured| all(m, "true")[6].clone();
    // The best other one has 0.6.
    let near = trend(&with(0.595));
    assert_eq!(near.verdict, "shown");
    assert!(near.figures.starts_with("not first: "), "{}", near.figures);
    assert_eq!(trend(&with(0.55)).verdict, "not shown");
    // Where its interval holds the worst too, it says nothing.
    let mut m = with(0.595);
    m.variants.retain(|v| matches!(v.held, Held::Both | Held::Reverse(_)));
    assert_eq!(trend(&m).verdict, "unclear");
}

/// Chosen on its own noise, the peak of a flat curve would lie above both its ends in every seed.
#[test]
fn noise_has_no_peak() {
    let mut m = expected(5);
    let flat = [START; 6];
    let mut free = seen("sppo", Held::Free, 5, &flat);
    for (seed, run) in &mut free.runs {
        for e in run.iter_mut() {
            // Each seed has its own high point.
            let bump = if e.iteration == seed + 1 { 0.1 } else { 0.0 };
            e.figures.values.insert(TRUE.to_owned(), 0.5 + bump);
            e.figures.values.insert(PROXY.to_owned(), 0.5 + e.iteration as f64 / 10.0);
        }
    }
    m.variants[0] = free;
    assert_eq!(verdict_of(&m, "R3"), "not shown");
}
