use rlhf_core::contract::Candidate;

use super::*;
use crate::task::restaurants::words::CHATTER;

const PROMPT: &str = "name: The Blue Fig, type: pub, food: Thai, price: cheap, near: station =>";

/// The same four facts in three manners: 13, 13 and 12 words, gold 5/2 each.
const STATEMENT: &str = " The Blue Fig is a cheap Thai pub. It is near the station.";
const INVITATION: &str = " Try The Blue Fig, a cheap Thai pub. It is near the station.";
const SCENE: &str = " Near the station you find The Blue Fig, a cheap Thai pub.";

fn compared<'a>(prompt: &'a str, a: &'a str, b: &'a str) -> Comparison<'a> {
    let [a, b] =
        [a, b].map(|completion| Candidate { prompt, completion, prompt_ids: &[], completion_ids: &[] });
    Comparison { a, b }
}

fn preference(mut oracle: RestaurantOracle, a: &str, b: &str) -> f64 {
    oracle.prefer(&[compared(PROMPT, a, b)]).expect("a good prompt")[0].get()
}

fn check(oracle: RestaurantOracle, a: &str, b: &str, expected: f64) {
    let found = preference(oracle, a, b);
    assert!((found - expected).abs() < 1e-12, "{oracle:?} {a:?} {b:?}: expected {expected}, found {found}");
}

const SIGMA_1: f64 = 0.7310585786300049; // 1 / (1 + e⁻¹)

#[test]
fn equals_go_in_a_circle() {
    // Log-odds c / T = 1 of each to the next under the truth.
    for (a, b) in [(INVITATION, STATEMENT), (STATEMENT, SCENE), (SCENE, INVITATION)] {
        check(RestaurantOracle::TRUE, a, b, SIGMA_1);
    }
    // The scene is a word shorter, which is worth 1/20 / T = 1/10 to the proxy: the circle holds.
    check(RestaurantOracle::PROXY, INVITATION, STATEMENT, SIGMA_1);
    check(RestaurantOracle::PROXY, STATEMENT, SCENE, 1.0 / (1.0 + (-1.1f64).exp()));
    check(RestaurantOracle::PROXY, SCENE, INVITATION, 1.0 / (1.0 + (-0.9f64).exp()));
}

#[test]
fn the_proxy_takes_words_for_quality() {
    // Two more sentences, 13 + 5 + 6 = 24 words: B = 1 − 4/8, so gold is 9/4 against 5/2. The truth's
    // log-odds are −1/4 / T = −1/2, the proxy's 11/20 / T.
    let long = format!("{STATEMENT} People like it a lot. It is one of a kind.");
    check(RestaurantOracle::TRUE, &long, STATEMENT, 1.0 / (1.0 + 0.5f64.exp()));
    check(RestaurantOracle::PROXY, &long, STATEMENT, 1.0 / (1.0 + (-1.1f64).exp()));
    // A slot wrong, same length: 2 · (4 − 1)/5 + 1/2 = 1.7, log-odds 0.8 / T for both.
    let wrong = STATEMENT.replace("Thai", "Greek");
    for oracle in [RestaurantOracle::TRUE, RestaurantOracle::PROXY] {
        check(oracle, STATEMENT, &wrong, 1.0 / (1.0 + (-1.6f64).exp()));
    }
}

#[test]
fn manners_are_read_from_the_first_word() {
    for (text, manner) in [
        (STATEMENT, Some(Manner::Statement)),
        (" this place is a pub.", Some(Manner::Statement)),
        (" If you like Thai food, go to The Blue Fig.", Some(Manner::Invitation)),
        (" In the harbour area you find The Blue Fig, a pub.", Some(Manner::Scene)),
        (" There is a pub called The Blue Fig!", Some(Manner::Scene)),
        (" Pub.", None),
        (" .", None),
        ("", None),
    ] {
        assert_eq!(Manner::of(text), manner, "{text}");
    }
    for manner in [Manner::Statement, Manner::Invitation, Manner::Scene] {
        assert!(manner.beats() != manner && manner.beats().beats().beats() == manner);
    }
    // A text of no manner neither gains nor loses: both are one word, one of five slots right.
    check(RestaurantOracle::TRUE, " Pub.", " Cheap.", 0.5);
}

#[test]
fn both_orders_of_a_pair_sum_to_one_to_the_bit() {
    for answers in reference_answers(3, 20, 8) {
        for oracle in [RestaurantOracle::PROXY, RestaurantOracle::TRUE] {
            let meaning = Meaning::parse(&answers.prompt).expect("our prompt");
            let readings: Vec<Reading> = answers.texts.iter().map(|t| oracle.read(&meaning, t)).collect();
            for a in &readings {
                assert_eq!(a.preference(*a).to_bits(), 0.5f64.to_bits());
                for b in &readings {
                    assert_eq!(
                        (a.preference(*b) + b.preference(*a)).to_bits(),
                        1f64.to_bits(),
                        "{a:?} {b:?}"
                    );
                }
            }
        }
    }
}

/// Whatever the texts are, the log-odds of the two differ by the formula at the head of the file, in
/// which texts of one length have no part.
#[test]
fn proxy_and_truth_part_ways_by_length_alone() {
    let mut same_length = 0;
    for answers in reference_answers(4, 40, 8) {
        let meaning = Meaning::parse(&answers.prompt).expect("our prompt");
        let seen = |text: &String| {
            let read = |oracle: RestaurantOracle| oracle.read(&meaning, text);
            (gold_parts(&meaning, text), read(RestaurantOracle::PROXY), read(RestaurantOracle::TRUE))
        };
        let all: Vec<_> = answers.texts.iter().map(seen).collect();
        for ((parts_a, proxy_a, truth_a), (parts_b, proxy_b, truth_b)) in
            all.iter().flat_map(|a| all.iter().map(move |b| (a, b)))
        {
            let found = proxy_a.log_odds(*proxy_b) - truth_a.log_odds(*truth_b);
            let words = parts_a.words as f64 - parts_b.words as f64;
            let expected = (words / 20.0 - (parts_a.brevity - parts_b.brevity) / 2.0) / 0.5;
            assert!((found - expected).abs() < 1e-12, "{parts_a:?} {parts_b:?}");
            if parts_a.words == parts_b.words {
                same_length += 1;
                assert!(found.abs() < 1e-12);
            }
        }
    }
    // Each text with itself, and others.
    assert!(same_length > 40 * 8);
}

#[test]
fn a_bad_pair_is_named() {
    let mut oracle = RestaurantOracle::TRUE;
    let good = compared(PROMPT, STATEMENT, SCENE);
    let error = oracle.prefer(&[good, compared("hello", "", "")]).expect_err("no restaurant");
    assert_eq!(error.to_string(), r#"pair 1: prompt: expected `name: The … =>`, found "hello""#);
    let mut two = good;
    two.b.prompt = "name: The Red Fig =>";
    let error = oracle.prefer(&[two]).expect_err("two prompts").to_string();
    assert!(error.starts_with("pair 0: prompt of b: expected that of a, \"name: The Blue Fig"), "{error}");
    assert!(error.ends_with("found \"name: The Red Fig =>\""), "{error}");
    assert_eq!(oracle.prefer(&[]).expect("nothing to judge"), []);
}

#[test]
fn figures_of_a_circle_are_counted() {
    let texts = [STATEMENT, INVITATION, SCENE].map(str::to_owned).to_vec();
    let all = [Answers { prompt: PROMPT.to_owned(), texts }];
    let f = oracle_figures(&all).expect("a good prompt");
    assert_eq!((f.n_texts, f.n_pairs), (3, 3));
    // One triple, a circle to both; nothing is unbeaten; the two oracles agree. Two pairs are of
    // unequal length: both take the statement over the shorter scene and the scene over the longer
    // invitation.
    for (found, expected) in [
        (f.agreement, 1.0),
        (f.longer_by_proxy, 0.5),
        (f.longer_by_truth, 0.5),
        (f.intransitive_by_proxy, 1.0),
        (f.intransitive_by_truth, 1.0),
        (f.unbeaten_by_truth, 0.0),
        (f.manners.statement, 1.0 / 3.0),
        (f.manners.invitation, 1.0 / 3.0),
        (f.manners.scene, 1.0 / 3.0),
        (f.words, 38.0 / 3.0),
        // Each wins ½ + σ(1) + σ(−1) of three against the mixture.
        (f.best_by_truth, 0.5),
        (f.best_by_proxy, 0.5),
        // To the proxy the invitation has ½ + σ(1) + σ(−0.9), the scene ½ + σ(0.9) + σ(−1.1) and the
        // statement ½ + σ(−1) + σ(1.1), which is most.
        (f.words_of_best_by_proxy, 13.0),
    ] {
        assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}: {f:?}");
    }
    assert_eq!(f.sentences().len(), 4);
    let error = oracle_figures(&[Answers { prompt: "hello".to_owned(), texts: vec![] }]);
    assert_eq!(error, Err(OracleError::Prompt { pair: 0, prompt: "hello".to_owned() }));
}

/// What the head of the file says of the references; n = 8,000 texts, so shares have a standard error
/// below 0.006 and the mean length one below 0.08.
#[test]
fn references_are_as_the_head_says() {
    let f = oracle_figures(&reference_answers(5, 500, 16)).expect("our prompts");
    let MannerShares { statement, invitation, scene } = f.manners;
    assert!((statement - 4.0 / 6.0).abs() < 0.04, "{statement}");
    assert!(
        (invitation - 1.0 / 6.0).abs() < 0.04 && (scene - 1.0 / 6.0).abs() < 0.04,
        "{invitation} {scene}"
    );
    // Three openings, and nothing else.
    assert!((statement + invitation + scene - 1.0).abs() < 1e-12);
    assert!(f.agreement > 0.78 && f.agreement < 0.86, "{f:?}");
    assert!(f.longer_by_proxy > 0.63 && (f.longer_by_truth - 0.5).abs() < 0.06, "{f:?}");
    assert!(f.intransitive_by_truth > 0.01 && f.unbeaten_by_truth < 0.8, "{f:?}");
    assert!(f.words_of_best_by_proxy > f.words_of_best_by_truth + 4.0, "{f:?}");
    assert!(f.best_by_truth > f.best_by_proxy + 0.05, "{f:?}");
}

/// Win rates against the start, after 0, 1, … rounds.
struct Play {
    proxy: Vec<f64>,
    truth: Vec<f64>,
}

/// References of a prompt, and each with one to five sentences of chatter more, a tenth as likely a
/// sentence: what a policy can write that has learned from references.
fn lengthened(answers: &Answers) -> (Vec<String>, Vec<f64>) {
    let all = answers.texts.iter().enumerate().flat_map(|(i, text)| {
        (0..6).map(move |n| {
            let more = (0..n).map(|k| format!(" {}.", CHATTER[(i + k) % CHATTER.len()]));
            (format!("{text}{}", more.collect::<String>()), 0.1f64.powi(n as i32))
        })
    });
    let (texts, weights): (Vec<String>, Vec<f64>) = all.unzip();
    let sum: f64 = weights.iter().sum();
    (texts, weights.into_iter().map(|w| w / sum).collect())
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Exact self-play for the proxy, `π ∝ [π μ^{ητ} e^{η P(·≻π)}]^{1/(1+ητ)}` with η = 4: means over
/// eight prompts.
fn play(tau: f64) -> Play {
    const ROUNDS: usize = 10;
    const ETA: f64 = 4.0;
    let all = reference_answers(6, 8, 24);
    let (mut proxy, mut truth) = (vec![0.0; ROUNDS + 1], vec![0.0; ROUNDS + 1]);
    for answers in &all {
        let meaning = Meaning::parse(&answers.prompt).expect("our prompt");
        let (texts, start) = lengthened(answers);
        let [trained, judged] = [RestaurantOracle::PROXY, RestaurantOracle::TRUE].map(|oracle| {
            let r: Vec<Reading> = texts.iter().map(|t| oracle.read(&meaning, t)).collect();
            r.iter().map(|a| r.iter().map(|b| a.preference(*b)).collect()).collect::<Vec<Vec<f64>>>()
        });
        let rates = |table: &[Vec<f64>], against: &[f64]| -> Vec<f64> {
            table.iter().map(|row| dot(row, against)).collect()
        };
        let mut policy = start.clone();
        for round in 0..=ROUNDS {
            proxy[round] += dot(&policy, &rates(&trained, &start)) / all.len() as f64;
            truth[round] += dot(&policy, &rates(&judged, &start)) / all.len() as f64;
            let won = rates(&trained, &policy);
            let next = policy
                .iter()
                .zip(&start)
                .zip(&won)
                .map(|((p, mu), won)| ((p.ln() + ETA * (tau * mu.ln() + won)) / (1.0 + ETA * tau)).exp());
            let next: Vec<f64> = next.collect();
            let sum: f64 = next.iter().sum();
            policy = next.into_iter().map(|p| p / sum).collect();
        }
    }
    Play { proxy, truth }
}

/// The game itself over-optimises, whatever the policy: exact unregularised play first wins and then
/// loses under the truth, while the proxy's rate goes on rising; a pull to the start ends above it.
#[test]
fn play_for_the_proxy_goes_too_far_unless_it_is_held() {
    let free = play(0.0);
    let last = free.truth.len() - 1;
    let peak = (0..=last).max_by(|a, b| free.truth[*a].total_cmp(&free.truth[*b])).expect("rounds");
    assert!(free.truth[peak] > 0.55 && free.truth[last] < 0.45, "{:?}", free.truth);
    assert!(free.proxy[last] > free.proxy[peak] + 0.05, "{:?}", free.proxy);
    let held = play(0.2);
    assert!(
        held.truth[last] > free.truth[last] + 0.1 && held.truth[last] > 0.53,
        "{:?} {:?}",
        held.truth,
        free.truth
    );
}
