//! A pairwise cross-encoder: one model reads both answers at once and says which one wins.
//!
//! ```text
//! row(x, a, b) = [x, a, sep, b, end]
//! f(x, a, b) = r(x, a) − r(x, a, b)                          logit that the left answer wins
//! ℓ = −½ [log σ(f(x, y⁺, y⁻)) + log σ(−f(x, y⁻, y⁺))]
//! log-odds(a ≻ b) = ½ [f(x, a, b) − f(x, b, a)]              P(a ≻ b) = σ(log-odds)
//! ```
//!
//! Where: x is the prompt, y⁺ the chosen and y⁻ the rejected answer; r(x, a) is the score that the trunk
//! gives at `sep` and r(x, a, b) the one at `end`, where it has read both: each answer is scored at the mark
//! behind it, the right one in the light of the left. Asked in either order, the two answers get
//! preferences that sum to 1, whatever r says, and an answer against itself gets ½: what f thinks of the
//! left place as such cancels. No reward stands behind P, so that it may be cyclic.
//! Paper: Jiang et al., *LLM-Blender: Ensembling Large Language Models with Pairwise Ranking and
//! Generative Fusion*, arXiv:2306.02561, section 3 (PairRanker): a score of each answer from its own place
//! in the joint row, the difference as logit, both orders averaged.
//! Departures: the trunk is a decoder, so that the left answer is scored before the right one is read
//! (at `sep` a causal trunk gives what it gives for `[x, a, sep]` alone, and is asked for just that); each
//! pair trains both orders in one step, not one order drawn at random. ℓ is at least the loss of the
//! averaged log-odds (it is convex in f), so that it also asks each order alone to be right.

use burn::tensor::Tensor;
use rlhf_core::elementwise::softplus;
use rlhf_core::host::stable;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::pairwise::PairwiseLoss;

/// How a comparison is written as one row of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct JointLayout {
    separator: u32,
    end: u32,
    max_length: usize,
}

/// The layout as a file says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    separator: u32,
    end: u32,
    max_length: usize,
}

impl TryFrom<Fields> for JointLayout {
    type Error = Error;

    fn try_from(f: Fields) -> Result<Self, Error> {
        Self::new(f.separator, f.end, f.max_length)
    }
}

/// Prompt and two answers as tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Triple<'a> {
    /// What both answer; may be empty.
    pub prompt: &'a [u32],
    /// The left answer.
    pub a: &'a [u32],
    /// The right answer.
    pub b: &'a [u32],
}

/// A comparison in both orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BothOrders {
    /// `[prompt, a, sep, b, end]`.
    pub forward: Vec<u32>,
    /// `[prompt, b, sep, a, end]`.
    pub backward: Vec<u32>,
    /// Tokens of `[prompt, a, sep]`, with which `forward` begins.
    pub n_forward_left: usize,
    /// Tokens of `[prompt, b, sep]`, with which `backward` begins.
    pub n_backward_left: usize,
    /// Tokens of prompt and answers that found no room, in each of the two.
    pub n_cut: usize,
}

impl JointLayout {
    /// Rows of `max_length` tokens at most, with `separator` between the answers and `end` behind them.
    ///
    /// # Errors
    /// Less room than both marks and one token of either answer need.
    pub fn new(separator: u32, end: u32, max_length: usize) -> Result<Self, Error> {
        if max_length < 4 {
            return Err(Error::Room { expected: 4, found: max_length });
        }
        Ok(Self { separator, end, max_length })
    }

    /// Most tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Both rows of a comparison.
    ///
    /// What does not fit is cut and counted. The prompt may have three fifths of the room and each
    /// answer a fifth (PairRM's 1224, 412 and 412 of 2048); what one of them leaves goes to the others,
    /// first to the answers, in equal halves where both want more. A prompt loses its beginning, an
    /// answer its end. Both orders keep the same tokens.
    pub fn rows(&self, given: Triple<'_>) -> BothOrders {
        let Triple { prompt, a, b } = given;
        let room = self.max_length - 2;
        // Either answer keeps a token where there is one.
        let answers = room - prompt.len().min((room * 3 / 5).min(room - 2));
        let kept = |one: usize, other: usize| one.min((answers / 2).max(answers.saturating_sub(other)));
        let (n_a, n_b) = (kept(a.len(), b.len()), kept(b.len(), a.len()));
        let n_prompt = prompt.len().min(room - n_a - n_b);
        let (prompt, a_kept, b_kept) = (&prompt[prompt.len() - n_prompt..], &a[..n_a], &b[..n_b]);
        let row =
            |left: &[u32], right: &[u32]| [prompt, left, &[self.separator], right, &[self.end]].concat();
        BothOrders {
            forward: row(a_kept, b_kept),
            backward: row(b_kept, a_kept),
            n_forward_left: n_prompt + n_a + 1,
            n_backward_left: n_prompt + n_b + 1,
            n_cut: given.prompt.len() - n_prompt + a.len() - n_a + b.len() - n_b,
        }
    }
}

/// One pair's loss from the logit f of the order (y⁺, y⁻) and that of (y⁻, y⁺): the definition of
/// [`cross_encoder_loss`].
///
/// ```
/// use rlhf_reward::cross_encoder::cross_encoder_scalar;
///
/// // Both orders say y⁺ with log-odds 1: log(1 + e⁻¹). A mere liking for the left place costs more.
/// assert!((cross_encoder_scalar([1.0, -1.0]) - 0.31326168751822286).abs() < 1e-15);
/// assert!((cross_encoder_scalar([1.0, 1.0]) - 0.81326168751822286).abs() < 1e-15);
/// ```
pub fn cross_encoder_scalar(logits: [f64; 2]) -> f64 {
    0.5 * (stable::softplus(-logits[0]) + stable::softplus(logits[1]))
}

/// Reads both orders of each pair and sums the losses; `forward` has y⁺ on the left. The margins of the
/// result are log-odds(y⁺ ≻ y⁻).
///
/// `scores` maps token rows to `[rows]` scores of their last tokens, with gradient. It is asked twice: for
/// the whole rows and for their beginnings up to the separator; forward rows stand first, then backward
/// ones.
///
/// # Panics
/// On an empty batch.
#[track_caller]
pub fn cross_encoder_loss(scores: &dyn Fn(&[&[u32]]) -> Tensor<1>, pairs: &[&BothOrders]) -> PairwiseLoss {
    assert!(!pairs.is_empty(), "cross_encoder_loss: no pair");
    let n = pairs.len();
    let logits = scores(&beginnings(pairs)) - scores(&wholes(pairs));
    let forward = logits.clone().narrow(0, 0, n);
    let backward = logits.narrow(0, n, n);
    let gap = (forward.clone() - backward.clone()).mul_scalar(0.5);
    let margins = gap.into_data().convert::<f64>().try_into_vec().unwrap_or_default();
    let sum = (softplus(forward.neg()) + softplus(backward)).mul_scalar(0.5).sum();
    PairwiseLoss { sum, margins }
}

/// log-odds(a ≻ b) of each pair, in order, without gradient; `forward` has a on the left. `scores` is
/// asked once, for beginnings and whole rows; many are equal where answers are compared with each other,
/// so that it pays to read each once. A score that is no number stays one.
///
/// # Panics
/// If `scores` answers with another number of scores than rows.
#[track_caller]
pub fn log_odds(scores: &mut dyn FnMut(&[&[u32]]) -> Vec<f64>, pairs: &[&BothOrders]) -> Vec<f64> {
    if pairs.is_empty() {
        return Vec::new();
    }
    let n = pairs.len();
    let rows = [beginnings(pairs), wholes(pairs)].concat();
    let all = scores(&rows);
    assert!(all.len() == rows.len(), "log_odds: expected {} scores, found {}", rows.len(), all.len());
    let logit = |i: usize| all[i] - all[2 * n + i];
    (0..n).map(|i| 0.5 * (logit(i) - logit(n + i))).collect()
}

/// All forward rows, then all backward ones.
fn wholes<'a>(pairs: &[&'a BothOrders]) -> Vec<&'a [u32]> {
    let forward = pairs.iter().map(|p| p.forward.as_slice());
    forward.chain(pairs.iter().map(|p| p.backward.as_slice())).collect()
}

/// The same up to the separator.
fn beginnings<'a>(pairs: &[&'a BothOrders]) -> Vec<&'a [u32]> {
    let forward = pairs.iter().map(|p| &p.forward[..p.n_forward_left]);
    forward.chain(pairs.iter().map(|p| &p.backward[..p.n_backward_left])).collect()
}

/// Scores of K answers from all their comparisons: `s_i = (1/K) Σ_j (M_ij − M_ji)`, where `M_ij` is
/// `left_wins[i][j]`, the logit that i beats j with i on the left. PairRM's own scoring; `σ(s_i − s_j)`
/// is then a preference without cycles. For K = 2, `s_a − s_b` is twice the log-odds of the pair.
///
/// # Panics
/// On a matrix that is not square.
#[track_caller]
pub fn scores_of_all(left_wins: &[Vec<f64>]) -> Vec<f64> {
    let k = left_wins.len();
    if let Some(row) = left_wins.iter().find(|row| row.len() != k) {
        panic!("scores_of_all: expected {k} columns, found {}", row.len());
    }
    let mean = |i: usize| (0..k).map(|j| left_wins[i][j] - left_wins[j][i]).sum::<f64>() / k as f64;
    (0..k).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(max_length: usize) -> JointLayout {
        JointLayout::new(90, 91, max_length).expect("room")
    }

    fn kept(max_length: usize, prompt: usize, a: usize, b: usize) -> ([usize; 3], usize) {
        let ids = |from: u32, n: usize| (from..from + n as u32).collect::<Vec<u32>>();
        let (prompt, a, b) = (ids(100, prompt), ids(200, a), ids(300, b));
        let rows = layout(max_length).rows(Triple { prompt: &prompt, a: &a, b: &b });
        let count = |from: u32| rows.forward.iter().filter(|t| (from..from + 100).contains(*t)).count();
        assert!(rows.forward.len() <= max_length && rows.forward.len() == rows.backward.len());
        let sorted = |row: &[u32]| {
            let mut row = row.to_vec();
            row.sort_unstable();
            row
        };
        assert_eq!(sorted(&rows.forward), sorted(&rows.backward), "both orders keep the same tokens");
        ([count(100), count(200), count(300)], rows.n_cut)
    }

    #[test]
    fn a_row_is_prompt_left_mark_right_end() {
        let rows = layout(16).rows(Triple { prompt: &[1, 2], a: &[3], b: &[4, 5] });
        assert_eq!(rows.forward, [1, 2, 3, 90, 4, 5, 91]);
        assert_eq!(rows.backward, [1, 2, 4, 5, 90, 3, 91]);
        assert_eq!((rows.n_forward_left, rows.n_backward_left), (4, 5));
        assert_eq!(rows.n_cut, 0);
    }

    #[test]
    fn what_is_too_long_gets_its_share() {
        // Room for 20: 12, 4 and 4 where all want more.
        assert_eq!(kept(22, 50, 50, 50), ([12, 4, 4], 130));
        assert_eq!(kept(22, 50, 50, 1), ([12, 7, 1], 81));
        assert_eq!(kept(22, 2, 50, 50), ([2, 9, 9], 82));
        assert_eq!(kept(22, 0, 15, 5), ([0, 15, 5], 0));
        assert_eq!(kept(22, 0, 15, 6), ([0, 14, 6], 1));
        assert_eq!(kept(22, 50, 1, 1), ([18, 1, 1], 32));
        assert_eq!(kept(4, 9, 9, 9), ([0, 1, 1], 25));
    }

    #[test]
    fn a_prompt_keeps_its_end_and_an_answer_its_beginning() {
        let (prompt, a): (Vec<u32>, Vec<u32>) = ((0..9).collect(), (10..19).collect());
        let rows = layout(12).rows(Triple { prompt: &prompt, a: &a, b: &[40] });
        assert_eq!(rows.forward, [3, 4, 5, 6, 7, 8, 10, 11, 12, 90, 40, 91]);
        assert_eq!(rows.n_cut, 3 + 6);
    }

    #[test]
    fn a_layout_without_room_is_refused() {
        let error = JointLayout::new(1, 2, 3).expect_err("no room");
        assert_eq!(error.to_string(), "joint row: expected room for at least 4 tokens, found 3");
        let read = serde_json::from_str::<JointLayout>(r#"{"separator":1,"end":2,"max_length":0}"#);
        assert!(read.expect_err("no room").to_string().contains("at least 4 tokens, found 0"));
        let text = serde_json::to_string(&layout(7)).expect("plain data");
        assert_eq!(serde_json::from_str::<JointLayout>(&text).expect("reads"), layout(7));
    }

    #[test]
    fn both_orders_are_asked_and_a_liking_for_one_place_cancels() {
        // A whole row is worth its last answer less twice its first, a beginning its answer and 7 for the
        // place: f(a, b) = a + 7 − (b − 2a), so that log-odds = ½ (3a − b − (3b − a)) = 2 (a − b).
        let mut r = |rows: &[&[u32]]| -> Vec<f64> {
            let of = |row: &&[u32]| match **row {
                [a, 90] => f64::from(a) + 7.0,
                [a, 90, b, 91] => f64::from(b) - 2.0 * f64::from(a),
                ref other => panic!("neither beginning nor whole: {other:?}"),
            };
            rows.iter().map(of).collect()
        };
        let pair = |a: u32, b: u32| layout(9).rows(Triple { prompt: &[], a: &[a], b: &[b] });
        let pairs = [pair(5, 3), pair(3, 5), pair(4, 4)];
        let odds = log_odds(&mut r, &pairs.iter().collect::<Vec<_>>());
        assert!(odds.iter().zip([4.0, -4.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-14), "{odds:?}");
        assert!(log_odds(&mut r, &[]).is_empty());
    }

    #[test]
    fn pairrm_scores_three_answers() {
        let m = [vec![0.0, 1.2, -0.3], vec![-1.0, 0.0, -2.1], vec![0.5, 1.9, 0.0]];
        let s = scores_of_all(&m);
        for (found, expected) in s.iter().zip([1.4 / 3.0, -6.2 / 3.0, 1.6]) {
            assert!((found - expected).abs() < 1e-15, "{s:?}");
        }
        let rate = |i: usize| s.iter().map(|x| stable::sigmoid(s[i] - x)).sum::<f64>() / 3.0;
        for (i, expected) in [0.556_664_1, 0.199_492_9, 0.743_843_0].into_iter().enumerate() {
            assert!((rate(i) - expected).abs() < 5e-8, "{i}: {}", rate(i));
        }
        // The best against the worst: the third against the second.
        assert!((stable::sigmoid(s[2] - s[1]) - 0.975_075_6).abs() < 5e-8);
    }

    #[test]
    fn aggregated_scores_of_two_are_twice_the_log_odds() {
        let s = scores_of_all(&[vec![0.0, 1.7], vec![0.4, 0.0]]);
        assert!((s[0] - s[1] - 2.0 * 0.5 * (1.7 - 0.4)).abs() < 1e-15);
    }

    #[test]
    #[should_panic(expected = "scores_of_all: expected 2 columns, found 1")]
    fn a_ragged_matrix() {
        scores_of_all(&[vec![0.0, 1.0], vec![0.0]]);
    }
}
