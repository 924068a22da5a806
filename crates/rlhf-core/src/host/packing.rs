//! Several short sequences in one row, so that a batch holds tokens instead of padding.
//!
//! A plan says which pieces of which sequences share a row; whoever has the columns (ids, labels,
//! masks) cuts them by it. Rows of a plan are independent texts: attention must not cross a piece's
//! end and positions start anew at each.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A stretch of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the sequence.
    pub source: usize,
    /// Its positions.
    pub positions: Range<usize>,
}

impl Piece {
    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.positions.len()
    }
}

/// What becomes of a sequence that is longer than a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// What does not fit is dropped.
    Truncate,
    /// It is cut into pieces of a row's length, the last one shorter.
    Split,
}

/// Best fit decreasing: the longest piece first, into the row whose room is tightest. Ties go to the
/// earlier sequence and to the row that has had its room for longest, as in TRL's `bfd`.
///
/// ```
/// use std::num::NonZeroUsize;
/// use rlhf_core::host::packing::{Overlong, best_fit_decreasing};
///
/// let rows = best_fit_decreasing(&[3, 4, 1], NonZeroUsize::new(4).unwrap(), Overlong::Truncate);
/// let sources: Vec<Vec<usize>> = rows.iter().map(|r| r.iter().map(|p| p.source).collect()).collect();
/// assert_eq!(sources, [vec![1], vec![0, 2]]); // 4 alone; 3 and 1 together
/// ```
pub fn best_fit_decreasing(lengths: &[usize], capacity: NonZeroUsize, overlong: Overlong) -> Vec<Vec<Piece>> {
    let capacity = capacity.get();
    let mut pieces: Vec<Piece> = lengths
        .iter()
        .enumerate()
        .flat_map(|(source, &n)| {
            let kept = if overlong == Overlong::Split { n } else { n.min(capacity) };
            let end = move |start: usize| (start + capacity).min(kept);
            (0..kept).step_by(capacity).map(move |start| Piece { source, positions: start..end(start) })
        })
        .collect();
    // Stable: equal lengths stay in order.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.n_tokens()));

    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut by_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let n = piece.n_tokens();
        let tightest = by_room.range_mut(n..).find_map(|(room, waiting)| Some((*room, waiting.pop_front()?)));
        let (room, row) = tightest.unwrap_or_else(|| {
            rows.push(Vec::new());
            (capacity, rows.len() - 1)
        });
        rows[row].push(piece);
        by_room.entry(room - n).or_default().push_back(row);
    }
    rows
}

/// Everything in one long line, cut every `capacity` tokens: no room is lost, but a sequence may go on
/// in the next row. TRL's `wrapped`.
pub fn wrapped(lengths: &[usize], capacity: NonZeroUsize) -> Vec<Vec<Piece>> {
    let capacity = capacity.get();
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (source, &n) in lengths.iter().enumerate() {
        let mut start = 0;
        while start < n {
            if room == 0 {
                rows.push(Vec::new());
                room = capacity;
            }
            let end = n.min(start + room);
            if let Some(row) = rows.last_mut() {
                row.push(Piece { source, positions: start..end });
            }
            room -= end - start;
            start = end;
        }
    }
    rows
}

/// A column cut by a plan.
///
/// # Panics
/// On a plan made for other lengths.
pub fn pack<T: Clone>(column: &[Vec<T>], plan: &[Vec<Piece>]) -> Vec<Vec<T>> {
    let cut = |piece: &Piece| column[piece.source][piece.positions.clone()].to_vec();
    plan.iter().map(|row| row.iter().flat_map(cut).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).expect("not zero")
    }

    fn columns(lengths: &[usize]) -> Vec<Vec<usize>> {
        let mut next = 0;
        let mut column = |n: &usize| -> Vec<usize> {
            (0..*n)
                .map(|_| {
                    next += 1;
                    next
                })
                .collect()
        };
        lengths.iter().map(&mut column).collect()
    }

    #[test]
    fn split_keeps_every_token_once_and_truncate_the_first_of_each() {
        let lengths = [7, 2, 0, 3, 1, 4, 3, 2, 1];
        let column = columns(&lengths);
        for n in 1..9 {
            let rows = pack(&column, &best_fit_decreasing(&lengths, capacity(n), Overlong::Split));
            assert!(rows.iter().all(|row| !row.is_empty() && row.len() <= n));
            let mut all = rows.concat();
            all.sort_unstable();
            assert_eq!(all, (1..=23).collect::<Vec<_>>());
            let cut = best_fit_decreasing(&lengths, capacity(n), Overlong::Truncate);
            let kept: usize = cut.iter().flatten().map(Piece::n_tokens).sum();
            assert_eq!(kept, lengths.iter().map(|l| l.min(&n)).sum::<usize>());
        }
    }

    #[test]
    fn the_tightest_room_is_taken() {
        // Rows of 6 hold 4 and 5; a 1 goes to the room of 1, a 2 to the room of 2.
        let rows = best_fit_decreasing(&[4, 5, 1, 2], capacity(6), Overlong::Truncate);
        let sources: Vec<Vec<usize>> = rows.iter().map(|r| r.iter().map(|p| p.source).collect()).collect();
        assert_eq!(sources, [vec![1, 2], vec![0, 3]]);
    }

    #[test]
    fn wrapped_is_the_line_cut_in_rows() {
        let lengths = [3, 4, 0, 1];
        let rows = pack(&columns(&lengths), &wrapped(&lengths, capacity(3)));
        assert_eq!(rows, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8]]);
        assert!(wrapped(&[], capacity(3)).is_empty());
    }
}
