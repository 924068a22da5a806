//! The alignment of two texts with the fewest chunks.
//!
//! The numbers of matches of each stage follow from counting; which tokens are matched is searched for.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::Vocabulary;

/// States visited in the search for the fewest chunks. Finding them is NP-hard in general, but ordinary texts
/// need a few hundred states; where the limit is reached, the best alignment found so far counts.
const SEARCH_LIMIT: usize = 50_000;

/// Tokens looked at to rank the places where a chunk may begin.
const LOOK_AHEAD: usize = 32;

/// What is still to be placed of one word or of one stem class.
#[derive(Debug, Default, Clone, Copy)]
struct Quota {
    /// Words: hypothesis copies not yet passed.
    left: usize,
    /// Words: equal matches still due. Stems: stem matches still due.
    due: usize,
    /// Words: reference copies that a stem match may use. Stems: hypothesis tokens that stay unmatched.
    spare: usize,
}

/// How far a partial alignment has come.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Hypothesis token to place next.
    i: usize,
    /// Reference place of token `i - 1`, if matched.
    last: Option<usize>,
    /// Chunks begun so far.
    chunks: usize,
}

/// What becomes of one hypothesis token.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// Matched with this reference place.
    Match(usize),
    /// Left unmatched.
    Skip,
}

/// Which choices of a frame are still to come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Continue,
    Open,
    Start,
    Done,
}

/// A state on the search's stack.
#[derive(Debug)]
struct Frame {
    state: State,
    stage: Stage,
    /// Places where a chunk may begin, the best one last.
    starts: Vec<usize>,
    /// The choice that the frames above stand on.
    applied: Option<Choice>,
}

/// Branch and bound over the hypothesis from left to right. The quotas make every partial alignment one that
/// can be completed with the most matches of each stage, so only the chunks are left to minimise.
#[derive(Debug)]
pub(super) struct Search<'a> {
    hypothesis: &'a [u32],
    reference: &'a [u32],
    stem_of: &'a [u32],
    words: HashMap<u32, Quota>,
    stems: HashMap<u32, Quota>,
    /// Reference positions of each stem, in order.
    places: HashMap<u32, Vec<usize>>,
    /// Lower bound on the chunks that begin at this hypothesis position or later, given a match just before it.
    bound: Vec<usize>,
    used: Vec<bool>,
    /// Matches of both stages together.
    pub(super) n_matches: usize,
    fewest: usize,
    visited: usize,
}

impl<'a> Search<'a> {
    pub(super) fn new(vocabulary: &'a Vocabulary, reference: &'a [u32], hypothesis: &'a [u32]) -> Self {
        let stem_of = &vocabulary.stem_of[..];
        let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
        for (j, &word) in reference.iter().enumerate() {
            places.entry(stem_of[word as usize]).or_default().push(j);
        }
        let (words, stems) = quotas(stem_of, reference, hypothesis);
        let equal: usize = words.values().map(|quota| quota.due).sum();
        let stemmed: usize = stems.values().map(|quota| quota.due).sum();
        let mut search = Self {
            hypothesis,
            reference,
            stem_of,
            words,
            stems,
            places,
            bound: Vec::new(),
            used: vec![false; reference.len()],
            n_matches: equal + stemmed,
            fewest: usize::MAX,
            visited: 0,
        };
        search.bound = search.forced_chunks();
        search
    }

    /// Chunks of the best alignment. To be asked once: the search leaves its marks.
    pub(super) fn fewest_chunks(&mut self) -> usize {
        // A stack of our own: the depth is the length of a text, which is data.
        let mut stack = Vec::new();
        self.visit(&mut stack, State { i: 0, last: None, chunks: 0 });
        while let Some(frame) = stack.last_mut() {
            if let Some(choice) = frame.applied.take() {
                self.undo(frame.state.i, choice);
            }
            if self.visited >= SEARCH_LIMIT && self.fewest < usize::MAX {
                break;
            }
            let Some(choice) = self.next_choice(frame) else {
                stack.pop();
                continue;
            };
            let next = self.apply(frame.state, choice);
            frame.applied = Some(choice);
            self.visit(&mut stack, next);
        }
        self.fewest
    }

    /// Opens `state` for search unless it ends the text or cannot beat the best alignment found.
    fn visit(&mut self, stack: &mut Vec<Frame>, state: State) {
        if state.chunks + self.bound[state.i] >= self.fewest {
            return;
        }
        if state.i == self.hypothesis.len() {
            self.fewest = state.chunks;
            return;
        }
        self.visited += 1;
        stack.push(Frame { state, stage: Stage::Continue, starts: Vec::new(), applied: None });
    }

    /// The choice to try next: continue the chunk, then begin one at each open place, then leave unmatched.
    fn next_choice(&self, frame: &mut Frame) -> Option<Choice> {
        let State { i, last, chunks } = frame.state;
        let word = self.hypothesis[i];
        let continued = last.map(|j| j + 1).filter(|&j| self.is_open(word, j));
        if frame.stage == Stage::Continue {
            frame.stage = Stage::Open;
            if continued.is_some() {
                return continued.map(Choice::Match);
            }
        }
        if frame.stage == Stage::Open {
            frame.stage = Stage::Start;
            if chunks + 1 + self.bound[i + 1] < self.fewest {
                frame.starts = self.starts(i, continued);
            }
        }
        if frame.stage == Stage::Start {
            if let Some(j) = frame.starts.pop() {
                return Some(Choice::Match(j));
            }
            frame.stage = Stage::Done;
            if self.may_skip(word) {
                return Some(Choice::Skip);
            }
        }
        None
    }

    /// `bound[i]`: positions k ≥ i that must be matched and can never continue the match at k - 1.
    fn forced_chunks(&self) -> Vec<usize> {
        let n = self.hypothesis.len();
        let stem = |word: u32| self.stem_of[word as usize];
        let neighbours: HashSet<(u32, u32)> =
            self.reference.windows(2).map(|pair| (stem(pair[0]), stem(pair[1]))).collect();
        let mut bound = vec![0; n + 1];
        for i in (1..n).rev() {
            let here = self.stem_at(i);
            let adjacent = neighbours.contains(&(self.stem_at(i - 1), here));
            let always_matched = self.stems[&here].spare == 0;
            bound[i] = bound[i + 1] + usize::from(always_matched && !adjacent);
        }
        bound
    }

    fn stem_at(&self, i: usize) -> u32 {
        self.stem_of[self.hypothesis[i] as usize]
    }

    /// Open places for token `i` apart from `continued`, those that begin the longest run last.
    fn starts(&self, i: usize, continued: Option<usize>) -> Vec<usize> {
        let word = self.hypothesis[i];
        let mut open: Vec<(usize, usize)> = self
            .places
            .get(&self.stem_at(i))
            .into_iter()
            .flatten()
            .filter(|&&j| Some(j) != continued && self.is_open(word, j))
            .map(|&j| (self.run_from(i, j), j))
            .collect();
        open.sort_by_key(|&(run, j)| (run, Reverse(j)));
        open.into_iter().map(|(_, j)| j).collect()
    }

    /// Length of the run that begins here, as far as it helps to rank the places.
    fn run_from(&self, i: usize, j: usize) -> usize {
        self.hypothesis[i..]
            .iter()
            .take(LOOK_AHEAD)
            .zip(&self.reference[j..])
            .zip(&self.used[j..])
            .take_while(|&((h, r), used)| !used && self.stem_of[*h as usize] == self.stem_of[*r as usize])
            .count()
    }

    /// Whether `word` may be matched with reference place `j` without losing a match of either stage.
    fn is_open(&self, word: u32, j: usize) -> bool {
        let Some(&there) = self.reference.get(j) else {
            return false;
        };
        if self.used[j] {
            return false;
        }
        let quota = self.words[&word];
        if there == word {
            return quota.due > 0;
        }
        let stem = self.stem_of[word as usize];
        self.stem_of[there as usize] == stem
            && quota.left > quota.due
            && self.stems[&stem].due > 0
            && self.words[&there].spare > 0
    }

    fn may_skip(&self, word: u32) -> bool {
        let quota = self.words[&word];
        quota.left > quota.due && self.stems[&self.stem_of[word as usize]].spare > 0
    }

    /// Takes what `choice` uses from the quotas.
    fn apply(&mut self, state: State, choice: Choice) -> State {
        self.change(state.i, choice, |n| *n -= 1);
        let i = state.i + 1;
        match choice {
            Choice::Skip => State { i, last: None, chunks: state.chunks },
            Choice::Match(j) => {
                self.used[j] = true;
                // A chunk that is continued was counted where it began.
                let begins = state.last.is_none_or(|last| last + 1 != j);
                State { i, last: Some(j), chunks: state.chunks + usize::from(begins) }
            }
        }
    }

    /// Gives back what [`Search::apply`] took.
    fn undo(&mut self, i: usize, choice: Choice) {
        if let Choice::Match(j) = choice {
            self.used[j] = false;
        }
        self.change(i, choice, |n| *n += 1);
    }

    fn change(&mut self, i: usize, choice: Choice, by: fn(&mut usize)) {
        let word = self.hypothesis[i];
        let stem = self.stem_at(i);
        by(&mut self.word_mut(word).left);
        match choice {
            Choice::Skip => by(&mut self.stem_mut(stem).spare),
            Choice::Match(j) if self.reference[j] == word => by(&mut self.word_mut(word).due),
            Choice::Match(j) => {
                by(&mut self.stem_mut(stem).due);
                by(&mut self.word_mut(self.reference[j]).spare);
            }
        }
    }

    fn word_mut(&mut self, word: u32) -> &mut Quota {
        self.words.get_mut(&word).expect("every word of both texts has a quota")
    }

    fn stem_mut(&mut self, stem: u32) -> &mut Quota {
        self.stems.get_mut(&stem).expect("every stem of both texts has a quota")
    }
}

/// The quotas of every word and every stem of the two texts before anything is placed.
fn quotas(
    stem_of: &[u32],
    reference: &[u32],
    hypothesis: &[u32],
) -> (HashMap<u32, Quota>, HashMap<u32, Quota>) {
    let mut counts: HashMap<u32, [usize; 2]> = HashMap::new();
    for &word in hypothesis {
        counts.entry(word).or_default()[0] += 1;
    }
    for &word in reference {
        counts.entry(word).or_default()[1] += 1;
    }
    let mut words = HashMap::new();
    let mut surplus: HashMap<u32, [usize; 2]> = HashMap::new();
    for (&word, &[ours, theirs]) in &counts {
        let due = ours.min(theirs);
        words.insert(word, Quota { left: ours, due, spare: theirs - due });
        let of_stem = surplus.entry(stem_of[word as usize]).or_default();
        of_stem[0] += ours - due;
        of_stem[1] += theirs - due;
    }
    let stems = surplus
        .into_iter()
        .map(|(stem, [ours, theirs])| {
            let due = ours.min(theirs);
            let quota = Quota { left: 0, due, spare: ours - due };
            (stem, quota)
        })
        .collect();
    (words, stems)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    use super::*;

    /// Every alignment, judged by its equal matches, then its stem matches, then its chunks.
    fn brute(words: &Vocabulary, reference: &[u32], hypothesis: &[u32]) -> (usize, usize, usize) {
        fn go(
            words: &Vocabulary,
            sides: (&[u32], &[u32]),
            places: &mut Vec<Option<usize>>,
            best: &mut (usize, usize, usize),
        ) {
            let (reference, hypothesis) = sides;
            let i = places.len();
            if i == hypothesis.len() {
                let pairs = || places.iter().enumerate().filter_map(|(i, j)| j.map(|j| (i, j)));
                let equal = pairs().filter(|&(i, j)| hypothesis[i] == reference[j]).count();
                let chunks =
                    pairs().filter(|&(i, j)| i == 0 || j == 0 || places[i - 1] != Some(j - 1)).count();
                let found = (equal, pairs().count() - equal, chunks);
                let better = (found.0, found.1, usize::MAX - found.2) > (best.0, best.1, usize::MAX - best.2);
                if better {
                    *best = found;
                }
                return;
            }
            places.push(None);
            go(words, sides, places, best);
            for (j, &there) in reference.iter().enumerate() {
                let same = words.stem_of[hypothesis[i] as usize] == words.stem_of[there as usize];
                places.pop();
                if same && !places.contains(&Some(j)) {
                    places.push(Some(j));
                    go(words, sides, places, best);
                } else {
                    places.push(None);
                }
            }
            places.pop();
        }
        let mut best = (0, 0, 0);
        go(words, (reference, hypothesis), &mut Vec::new(), &mut best);
        best
    }

    #[test]
    fn agrees_with_every_alignment_tried() {
        let forms = ["cat", "cats", "run", "running", "runs", "x"];
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        for _ in 0..1500 {
            let mut text = |most: u32| -> String {
                let n = rng.random_range(1..=most);
                let token = |_| forms[rng.random_range(0..6_u32) as usize];
                (0..n).map(token).collect::<Vec<_>>().join(" ")
            };
            let (reference, hypothesis) = (text(6), text(6));
            let mut words = Vocabulary::default();
            let (r, h) = (words.encode(&reference), words.encode(&hypothesis));
            let (equal, stemmed, chunks) = brute(&words, &r, &h);
            let mut search = Search::new(&words, &r, &h);
            assert_eq!(search.n_matches, equal + stemmed, "{reference} | {hypothesis}");
            if search.n_matches > 0 {
                assert_eq!(search.fewest_chunks(), chunks, "{reference} | {hypothesis}");
            }
        }
    }
}
