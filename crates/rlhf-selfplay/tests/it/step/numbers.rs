//! Numbers by hand reach the step unchanged: the frozen models are put where the log-ratios are known.

use burn::module::Module;
use rlhf_core::loss::dpo::DpoConfig;
use rlhf_core::loss::inpo::InpoConfig;
use rlhf_core::loss::ipo::IpoConfig;
use rlhf_core::loss::nash_md::{NashMdConfig, NashMdKl};
use rlhf_core::loss::rspo::RspoRegularizer::{Chi2, ForwardImportance, ReverseKl};
use rlhf_core::loss::sppo::SppoConfig;
use rlhf_core::number::Prob;
use rlhf_policy::completion::logps;
use rlhf_selfplay::gradients::Record;
use rlhf_selfplay::judged::{Example, Response, Shown};
use rlhf_selfplay::method::{Anchor, Method};

use super::support::{beta, bound, close, cut, policy, rspo, sequences, step, term, weight};

/// log π − log π_t and log π − log μ of (chosen, rejected) in each of two pairs.
const Z: [[f64; 2]; 2] = [[0.5, -1.0], [-2.0, 0.5]];
const D: [[f64; 2]; 2] = [[2.0, -1.5], [-1.0, -0.5]];
const WIN_RATES: [[f64; 2]; 2] = [[0.80, 0.25], [0.65, 0.40]];

/// Four answers, those of a pair after each other, whose first token makes the log-ratios.
fn answers() -> Vec<Response> {
    let all = sequences(23, &[2, 3, 1, 4]);
    let now = logps(&policy().valid(), &all.iter().collect::<Vec<_>>(), 1.0, &cut(4));
    let shifted = |row: &[f64], by: f64| {
        let mut row = row.to_vec();
        row[0] -= by;
        row
    };
    let answer = |(i, (sequence, now)): (usize, (_, &Vec<f64>))| Response {
        previous: Some(shifted(now, Z[i / 2][i % 2])),
        original: Some(shifted(now, D[i / 2][i % 2])),
        ..Response::new(sequence, WIN_RATES[i / 2][i % 2])
    };
    all.into_iter().zip(&now).enumerate().map(answer).collect()
}

fn two_pairs() -> Vec<Example> {
    let pair = |pair: &[Response]| Example {
        prompt: 0,
        shown: Shown::Pair { chosen: pair[0].clone(), rejected: pair[1].clone(), prob: 0.75 },
    };
    answers().chunks(2).map(pair).collect()
}

fn four_singles() -> Vec<Example> {
    let single = |response| Example { prompt: 0, shown: Shown::Single(response) };
    answers().into_iter().map(single).collect()
}

/// Loss, square and regulariser of a step.
fn parts(window: &[Example], method: &Method) -> [f64; 3] {
    let (square, regularizer, loss) = match step(&policy(), window, method, &cut(1)).1 {
        Record::Pairs(step) => (step.square, step.regularizer, step.record.loss),
        Record::Responses(step) => (step.square, step.regularizer, step.loss),
    };
    [loss, square.expect("a square"), regularizer.expect("regularisers")]
}

#[test]
fn losses_of_two_pairs() {
    let forward = |r| ForwardImportance(bound(r));
    let cases = [
        (vec![], 0.1, 5.75, 0.0),
        (vec![], 0.001, 46226.375, 0.0),
        (vec![term(ReverseKl, 0.5)], 0.1, 5.75, 0.5 * 3.75),
        (vec![term(forward(10.0), 0.1)], 0.1, 5.75, 0.1 * 4.492_013_726_4),
        (vec![term(forward(1.0), 0.1)], 0.1, 5.75, 0.1 * 3.610_310_105_4),
        (vec![term(Chi2(bound(10.0)), 0.1)], 0.1, 5.75, 0.1 * 4.293_298_18),
        (vec![term(forward(10.0), 0.1), term(ReverseKl, 0.5)], 0.1, 5.75, 0.1 * 23.242_013_726_4),
        (vec![term(ReverseKl, 0.5)], 0.001, 46226.375, 0.5 * 3.75),
    ];
    for (terms, b, square, regularizer) in cases {
        // Of single answers the mean is over twice as many, each with half of a pair's loss.
        for (window, share) in [(two_pairs(), 1.0), (four_singles(), 0.5)] {
            let found = parts(&window, &rspo(b, &terms));
            let expected = [square + regularizer, square, regularizer].map(|x| x * share);
            for (name, i) in [("loss", 0), ("square", 1), ("regularizer", 2)] {
                close(name, found[i], expected[i], 3e-6);
            }
        }
    }
    let sppo = parts(&two_pairs(), &Method::Sppo { loss: SppoConfig::new(beta(0.1)) });
    close("sppo", sppo[0], 5.75, 3e-6);
}

#[test]
fn losses_of_the_relatives() {
    let loss = |method: &Method| step(&policy(), &two_pairs(), method, &cut(2)).1.loss();
    let dpo = Method::Dpo { loss: DpoConfig::new(beta(0.1)), reference: Anchor::Original };
    close("dpo", loss(&dpo), f64::midpoint(0.533_382_16, 0.718_459_65), 3e-6);
    close("ipo", loss(&Method::Ipo { loss: IpoConfig::new(beta(0.1)) }), f64::midpoint(2.25, 30.25), 3e-6);
    let inpo = InpoConfig { eta: beta(0.1), tau: weight(0.1 / 3.0) };
    let expected = f64::midpoint(8.027_777_8, 46.694_444_4);
    close("inpo", loss(&Method::Inpo { loss: inpo }), expected, 3e-6);
}

#[test]
fn the_record_of_nash_md() {
    let loss = NashMdConfig { kl: NashMdKl::Sequence, ..NashMdConfig::new(beta(0.1)) };
    let method = Method::NashMd { loss, mixture_coef: Prob::ZERO };
    let window = four_singles();
    let rows: Vec<_> = window.iter().map(|e| &e.responses()[0].sequence).collect();
    let now: Vec<f64> =
        logps(&policy().valid(), &rows, 1.0, &cut(4)).iter().map(|row| row.iter().sum()).collect();
    let (d, rates) = (D.concat(), WIN_RATES.concat());
    let mean = |of: &dyn Fn(usize) -> f64| (0..4).map(of).sum::<f64>() / 4.0;
    let Record::Responses(seen) = step(&policy(), &window, &method, &cut(3)).1 else { panic!("singles") };
    close("kl", seen.kl.expect("a KL"), mean(&|i| d[i]), 1e-5);
    close("score", seen.score.expect("a score"), mean(&|i| (rates[i] - 0.5) * now[i]), 1e-5);
    close("loss", seen.loss, mean(&|i| (0.1 * d[i] - rates[i] + 0.5) * now[i]), 1e-5);
    close("logp", seen.logp, mean(&|i| now[i]), 1e-5);
    close("win rate", seen.win_rate, mean(&|i| rates[i]), 1e-12);
    assert_eq!((seen.square, seen.reward), (None, None));
}

#[test]
fn records_have_trls_names() {
    let of = |window: &[Example]| super::support::shown(&step(&policy(), window, &rspo(0.1, &[]), &cut(2)).1);
    for name in
        ["loss", "rewards/chosen", "rewards/margins", "logps/chosen", "loss/square", "loss/regularizer"]
    {
        assert!(of(&two_pairs()).contains_key(name), "{name}");
    }
    for name in ["loss", "logps/mean", "rewards/mean", "rewards/probabilities", "loss/square", "entropy"] {
        assert!(of(&four_singles()).contains_key(name), "{name}");
    }
    let Record::Pairs(seen) = step(&policy(), &two_pairs(), &rspo(0.1, &[]), &cut(2)).1 else {
        panic!("pairs")
    };
    close("chosen reward", seen.record.chosen_reward, 0.1 * f64::midpoint(Z[0][0], Z[1][0]), 1e-5);
}
