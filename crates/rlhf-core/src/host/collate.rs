//! Token rows of different lengths to the rectangles of a batch, with their masks.
//!
//! As TRL's collators (1.16): rows are cut first, then filled up at their ends. A batch of pairs has
//! all chosen rows, then all rejected ones. What TRL writes as labels with −100 is a mask here:
//! labels are always the row's own tokens.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::ragged::{Side, pad};

/// Which end of a row stays when it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first tokens: a long prompt may leave nothing to learn, see [`PromptCompletion::learns`].
    Start,
    /// The last tokens: the prompt loses its beginning.
    End,
}

/// The shape of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The token that fills rows.
    pub pad: u32,
    /// Most tokens of a row; `None` cuts nothing.
    pub max_length: Option<NonZeroUsize>,
    /// Which end stays of a longer row.
    pub keep: Keep,
    /// Rows are filled up to a multiple of this.
    pub multiple_of: NonZeroUsize,
}

impl Layout {
    /// Rows as long as the longest, none cut.
    pub fn uncut(pad: u32) -> Self {
        Self { pad, max_length: None, keep: Keep::Start, multiple_of: NonZeroUsize::MIN }
    }

    fn cut<T: Clone>(&self, mut row: Vec<T>) -> Vec<T> {
        let n = self.max_length.map_or(row.len(), |most| row.len().min(most.get()));
        match self.keep {
            Keep::Start => row.truncate(n),
            Keep::End => drop(row.drain(..row.len() - n)),
        }
        row
    }

    fn filled<T: Clone>(&self, rows: &[Vec<T>], fill: T) -> Vec<Vec<T>> {
        let rows: Vec<&[T]> = rows.iter().map(Vec::as_slice).collect();
        pad(&rows, fill, Side::Right, self.multiple_of.get())
    }
}

/// A tokenised prompt with its completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptCompletion {
    /// What is answered.
    pub prompt: Vec<u32>,
    /// The answer, with its end token where it has one.
    pub completion: Vec<u32>,
}

impl PromptCompletion {
    /// Whether a token of the completion is left when the row is cut. TRL leaves out examples of
    /// which none is.
    pub fn learns(&self, layout: Layout) -> bool {
        let room = layout.max_length.map_or(usize::MAX, NonZeroUsize::get);
        !self.completion.is_empty() && (layout.keep == Keep::End || self.prompt.len() < room)
    }
}

/// A tokenised prompt with two answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTokens {
    /// What is answered.
    pub prompt: Vec<u32>,
    /// The better answer.
    pub chosen: Vec<u32>,
    /// The other.
    pub rejected: Vec<u32>,
}

/// Rows of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// `[B, T]`, padding behind the tokens.
    pub tokens: Vec<Vec<u32>>,
    /// `[B, T]`: tokens of a row, not its padding.
    pub attention: Vec<Vec<bool>>,
    /// `[B, T]`: tokens that are learnt. The token at `t` is predicted from those before it.
    pub learnt: Vec<Vec<bool>>,
}

/// Rows with their masks, cut and filled up.
///
/// # Panics
/// On a mask of another length than its row.
#[track_caller]
pub fn rows(tokens: Vec<Vec<u32>>, learnt: Vec<Vec<bool>>, layout: Layout) -> Rows {
    assert_eq!(tokens.len(), learnt.len(), "rows: tokens and masks differ in number");
    let same = tokens.iter().zip(&learnt).all(|(row, mask)| row.len() == mask.len());
    assert!(same, "rows: a row and its mask differ in length");
    let tokens: Vec<Vec<u32>> = tokens.into_iter().map(|row| layout.cut(row)).collect();
    let learnt: Vec<Vec<bool>> = learnt.into_iter().map(|mask| layout.cut(mask)).collect();
    let attention: Vec<Vec<bool>> = tokens.iter().map(|row| vec![true; row.len()]).collect();
    Rows {
        tokens: layout.filled(&tokens, layout.pad),
        attention: layout.filled(&attention, false),
        learnt: layout.filled(&learnt, false),
    }
}

/// Prompts with their completions, of which the completions are learnt: SFT and KTO.
///
/// ```
/// use rlhf_core::host::collate::{Layout, PromptCompletion, completions};
/// let batch = [PromptCompletion { prompt: vec![5, 6], completion: vec![7] }];
/// let rows = completions(&batch, Layout::uncut(0));
/// assert_eq!((rows.tokens, rows.learnt), (vec![vec![5, 6, 7]], vec![vec![false, false, true]]));
/// ```
pub fn completions(batch: &[PromptCompletion], layout: Layout) -> Rows {
    joined(batch.iter().map(|one| [one.prompt.as_slice(), &one.completion]), layout)
}

/// Pairs: all prompts with the chosen answer, then all with the rejected one.
pub fn pairs(batch: &[PairTokens], layout: Layout) -> Rows {
    let chosen = batch.iter().map(|pair| [pair.prompt.as_slice(), &pair.chosen]);
    let rejected = batch.iter().map(|pair| [pair.prompt.as_slice(), &pair.rejected]);
    joined(chosen.chain(rejected), layout)
}

/// Whole rows without a prompt, of which every token counts: what a reward model reads. Of pairs,
/// give the chosen rows first.
pub fn whole(batch: &[&[u32]], layout: Layout) -> Rows {
    joined(batch.iter().map(|row| [&[], *row]), layout)
}

fn joined<'a>(parts: impl Iterator<Item = [&'a [u32]; 2]> + Clone, layout: Layout) -> Rows {
    let mask = |[prompt, completion]: [&[u32]; 2]| [vec![false; prompt.len()], vec![true; completion.len()]];
    let tokens = parts.clone().map(|parts| parts.concat()).collect();
    rows(tokens, parts.map(|parts| mask(parts).concat()).collect(), layout)
}

/// One row that several texts share, after [`super::packing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRow {
    /// The tokens of all texts.
    pub tokens: Vec<u32>,
    /// Those that are learnt.
    pub learnt: Vec<bool>,
    /// Tokens of each text; together they are the row.
    pub lengths: Vec<usize>,
}

/// A batch as one line of tokens, without padding, for attention that knows where texts end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flat {
    /// `[N]`: all tokens.
    pub tokens: Vec<u32>,
    /// `[N]`: those that are learnt; never a text's first, which nothing predicts.
    pub learnt: Vec<bool>,
    /// `[N]`: each token's place in its own text, from 0.
    pub positions: Vec<usize>,
    /// `[N]`: which text each token belongs to, from 0.
    pub text: Vec<usize>,
    /// Where each text begins, and the number of all tokens behind.
    pub boundaries: Vec<usize>,
    /// Tokens of the longest text.
    pub longest: usize,
}

/// All texts of all rows in one line. Texts without a token are left out.
///
/// # Panics
/// On a row whose lengths or mask do not fit its tokens.
#[track_caller]
pub fn flat(batch: &[PackedRow]) -> Flat {
    for row in batch {
        let n = row.tokens.len();
        assert_eq!(row.lengths.iter().sum::<usize>(), n, "flat: lengths and tokens of a row differ");
        assert_eq!(row.learnt.len(), n, "flat: mask and tokens of a row differ in length");
    }
    let lengths: Vec<usize> =
        batch.iter().flat_map(|row| row.lengths.iter().copied()).filter(|n| *n > 0).collect();
    let positions: Vec<usize> = lengths.iter().flat_map(|n| 0..*n).collect();
    let learnt = batch.iter().flat_map(|row| row.learnt.iter().copied()).zip(&positions);
    let ends = lengths.iter().scan(0, |end, n| {
        *end += n;
        Some(*end)
    });
    Flat {
        tokens: batch.iter().flat_map(|row| row.tokens.iter().copied()).collect(),
        learnt: learnt.map(|(learnt, position)| learnt && *position > 0).collect(),
        text: lengths.iter().enumerate().flat_map(|(i, n)| std::iter::repeat_n(i, *n)).collect(),
        boundaries: std::iter::once(0).chain(ends).collect(),
        longest: lengths.iter().copied().max().unwrap_or(0),
        positions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(most: usize, keep: Keep) -> Layout {
        Layout { max_length: NonZeroUsize::new(most), keep, ..Layout::uncut(0) }
    }

    #[test]
    fn masks_are_cut_and_filled_with_their_rows() {
        let batch = [PairTokens { prompt: vec![5, 6, 7], chosen: vec![8, 9], rejected: vec![10] }];
        let cut = pairs(&batch, layout(4, Keep::End));
        assert_eq!(cut.tokens, [[6, 7, 8, 9], [5, 6, 7, 10]]);
        assert_eq!(cut.learnt, [[false, false, true, true], [false, false, false, true]]);
        let wide = Layout { multiple_of: NonZeroUsize::new(4).expect("not zero"), ..Layout::uncut(1) };
        let wide = pairs(&batch, wide);
        assert_eq!(wide.tokens[1], [5, 6, 7, 10, 1, 1, 1, 1]);
        assert_eq!(wide.attention[0].iter().filter(|on| **on).count(), 5);
    }

    #[test]
    fn an_example_without_a_learnt_token_is_known() {
        let one = PromptCompletion { prompt: vec![1, 2, 3], completion: vec![4] };
        for (most, keep, learns) in [(3, Keep::Start, false), (4, Keep::Start, true), (1, Keep::End, true)] {
            let layout = layout(most, keep);
            let any = completions(std::slice::from_ref(&one), layout).learnt[0].contains(&true);
            assert_eq!((one.learns(layout), any), (learns, learns), "{most} {keep:?}");
        }
        let empty = PromptCompletion { prompt: vec![1], completion: vec![] };
        assert!(!empty.learns(Layout::uncut(0)));
    }

    #[test]
    fn texts_in_one_line_know_their_ends() {
        let row = |lengths: &[usize]| {
            let n = lengths.iter().sum();
            PackedRow { tokens: vec![7; n], learnt: vec![true; n], lengths: lengths.to_vec() }
        };
        let line = flat(&[row(&[2, 0, 1]), row(&[3])]);
        assert_eq!(line.boundaries, [0, 2, 3, 6]);
        assert_eq!(line.positions, [0, 1, 0, 0, 1, 2]);
        assert_eq!(line.text, [0, 0, 1, 2, 2, 2]);
        assert_eq!(line.learnt, [false, true, false, false, true, true]);
        assert_eq!((flat(&[]).boundaries, flat(&[]).longest), (vec![0], 0));
    }

    #[test]
    #[should_panic(expected = "flat: lengths and tokens of a row differ")]
    fn lengths_that_do_not_fit_are_a_mistake() {
        flat(&[PackedRow { tokens: vec![1, 2], learnt: vec![true; 2], lengths: vec![1] }]);
    }
}
