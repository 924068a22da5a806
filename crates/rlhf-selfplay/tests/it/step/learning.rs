//! A few steps of each method raise the win rate of what is preferred.

use burn::module::Module;
use burn::tensor::Device;
use rlhf_core::host::pairwise::Scoring;
use rlhf_core::host::stable::log_softmax;
use rlhf_core::loss::dno::DnoConfig;
use rlhf_core::loss::dpo::DpoConfig;
use rlhf_core::loss::inpo::InpoConfig;
use rlhf_core::loss::ipo::IpoConfig;
use rlhf_core::loss::nash_md::NashMdConfig;
use rlhf_core::loss::rspo::RspoRegularizer::{ForwardImportance, ReverseKl};
use rlhf_core::loss::spin::SpinConfig;
use rlhf_core::loss::sppo::SppoConfig;
use rlhf_core::number::Prob;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::logps;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::{AdamW, AdamWConfig};
use rlhf_selfplay::judged::{Example, Judged, against, data_pair, examples, refer, refer_as};
use rlhf_selfplay::method::{Anchor, Method, Rows};

use super::support::{beta, bound, cut, decoder, rspo, sequences, step, term, weight};

/// P(0 ≻ 1), P(0 ≻ 2), P(1 ≻ 2).
const PROBS: [f64; 3] = [0.9, 0.8, 0.7];
const TABLE: [[f64; 3]; 3] = [[0.5, 0.9, 0.8], [0.1, 0.5, 0.7], [0.2, 0.3, 0.5]];

/// Three answers to each of four prompts.
fn answers() -> Vec<Vec<Sequence>> {
    (0..4).map(|prompt| sequences(100 + prompt, &[3, 4, 3])).collect()
}

/// How probable each of a prompt's answers is beside the others.
fn shares(policy: &Decoder, answers: &[Sequence]) -> Vec<f64> {
    let rows: Vec<&Sequence> = answers.iter().collect();
    let sums: Vec<f64> = logps(policy, &rows, 1.0, &cut(3)).iter().map(|row| row.iter().sum()).collect();
    log_softmax(&sums).into_iter().map(f64::exp).collect()
}

/// P(policy ≻ start), the mean over the prompts.
fn win_rate(policy: &Decoder, start: &Decoder) -> f64 {
    let one = |answers: &Vec<Sequence>| {
        let (p, q) = (shares(policy, answers), shares(start, answers));
        (0..9).map(|i| p[i / 3] * TABLE[i / 3][i % 3] * q[i % 3]).sum::<f64>()
    };
    answers().iter().map(one).sum::<f64>() / 4.0
}

fn window(method: &Method, rows: Rows) -> Vec<Example> {
    let prompts = answers().into_iter().enumerate();
    match method {
        Method::Spin { .. } => prompts
            .flat_map(|(i, all)| [1, 2].map(|other| data_pair(i, all[0].clone(), all[other].clone())))
            .collect(),
        Method::NashMd { .. } => {
            let table = TABLE.map(|row| row.to_vec());
            prompts.flat_map(|(i, all)| against(i, all, &table).expect("probabilities")).collect()
        }
        _ => {
            let judged = |(i, all)| Judged::new(i, all, &PROBS).expect("probabilities");
            examples(&prompts.map(judged).collect::<Vec<_>>(), rows, Scoring::Raw)
        }
    }
}

fn after_steps(method: &Method, rows: Rows) -> f64 {
    let start = decoder(5, &Device::flex());
    let mut policy = decoder(5, &Device::flex().autodiff());
    let mut window = window(method, rows);
    refer(&mut window, Anchor::Previous, &start, &cut(4)).expect("finite");
    refer_as(&mut window, Anchor::Original, Anchor::Previous);
    let mut optim = AdamW::new(AdamWConfig::torch());
    for _ in 0..8 {
        let (grads, _) = step(&policy, &window, method, &cut(6));
        policy = optim.step(0.005, policy, grads).0;
    }
    win_rate(&policy.valid(), &start)
}

#[test]
fn a_few_steps_of_each_method_win_against_the_start() {
    let both = [term(ForwardImportance(bound(10.0)), 0.1), term(ReverseKl, 0.5)];
    let sppo = Method::Sppo { loss: SppoConfig::new(beta(0.1)) };
    let dpo = Method::Dpo { loss: DpoConfig::new(beta(0.1)), reference: Anchor::Previous };
    let nash = NashMdConfig::new(beta(0.1));
    let cases = [
        (rspo(0.1, &both), Rows::BestWorst),
        (rspo(0.1, &both), Rows::All),
        (sppo.clone(), Rows::BestWorst),
        (sppo, Rows::All),
        (dpo, Rows::BestWorst),
        (Method::Ipo { loss: IpoConfig::new(beta(0.1)) }, Rows::BestWorst),
        (Method::Inpo { loss: InpoConfig { eta: beta(0.1), tau: weight(0.03) } }, Rows::BestWorst),
        (Method::NashMd { loss: nash, mixture_coef: Prob::new(0.25).expect("a share") }, Rows::All),
        (Method::Spin { loss: SpinConfig { lambda: beta(0.1) } }, Rows::BestWorst),
        (Method::Dno { loss: DnoConfig { eta: beta(0.1) } }, Rows::BestWorst),
    ];
    let start = decoder(5, &Device::flex());
    let before = win_rate(&start, &start);
    assert!((before - 0.5).abs() < 1e-9, "against itself: {before}");
    for (method, rows) in cases {
        let after = after_steps(&method, rows);
        assert!(after > 0.55, "{} on {rows:?}: a win rate of {after}", method.name());
    }
}
