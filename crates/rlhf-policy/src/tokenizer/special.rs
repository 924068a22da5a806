//! Special tokens in texts: where they are spelled, and how one spelling can be a token and the next
//! one text.

use std::ops::Range;

use tokenizers::AddedToken;

use super::{Encoding, Ends, TAKES_ANY_TEXT};

/// U+FDD0 to U+FDEF are characters for a program's own use, which texts do not have. What users
/// write is rid of them before any is put in: [`super::super::chat`] does so.
pub(crate) const ANCHOR_OPEN: char = '\u{fdd0}';
const ANCHOR_CLOSE: char = '\u{fdd1}';

/// An anchor that stands for nothing: it parts the text, and is dropped.
const BREAK: &str = "\u{fdd0}|\u{fdd1}";

/// One special token.
#[derive(Debug, Clone)]
struct Special {
    id: u32,
    token: AddedToken,
}

/// The special tokens of a vocabulary.
#[derive(Debug, Clone)]
pub(super) struct SpecialTokens {
    /// Longest first: at one place the longest spelling wins.
    tokens: Vec<Special>,
    /// Which bytes begin one.
    first: [bool; 256],
    /// Some are looked for in the text as normalised, which we do not have.
    normalized: bool,
}

/// A special token that a text spells.
#[derive(Debug)]
pub(super) struct Found {
    /// Its bytes.
    pub(super) range: Range<usize>,
    index: usize,
}

impl SpecialTokens {
    pub(super) fn of(inner: &tokenizers::Tokenizer) -> Self {
        let added = inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, t)| t.special && !t.content.is_empty());
        let mut tokens: Vec<Special> = special.map(|(id, token)| Special { id, token }).collect();
        tokens.sort_by_key(|s| (std::cmp::Reverse(s.token.content.len()), s.id));
        let mut first = [false; 256];
        for special in &tokens {
            first[usize::from(special.token.content.as_bytes()[0])] = true;
        }
        let normalized = inner.get_normalizer().is_some() && tokens.iter().any(|s| s.token.normalized);
        Self { tokens, first, normalized }
    }

    /// Whether no special token can be read in `text`.
    pub(super) fn surely_absent(&self, text: &str) -> bool {
        !self.normalized && self.find(text, 0).is_none()
    }

    /// The first one that is spelled at or behind byte `from`.
    fn find(&self, text: &str, from: usize) -> Option<Found> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|at| self.first[usize::from(bytes[*at])]).find_map(|at| {
            let here = |s: &Special| bytes[at..].starts_with(s.token.content.as_bytes());
            let index = self.tokens.iter().position(here)?;
            Some(Found { range: at..at + self.tokens[index].token.content.len(), index })
        })
    }

    /// All that are spelled, from left to right, none within another.
    pub(super) fn find_all(&self, text: &str) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        while let Some(found) = self.find(text, all.last().map_or(0, |last| last.range.end)) {
            all.push(found);
        }
        all
    }

    /// Those that overlap none of the ranges `literal`, which are in order.
    fn find_outside(&self, text: &str, literal: &[Range<usize>]) -> Vec<Found> {
        let mut all = Vec::new();
        let mut at = 0;
        while let Some(found) = self.find(text, at) {
            let over = literal.iter().find(|l| l.start < found.range.end && found.range.start < l.end);
            // One byte on: another may begin within the one that is refused.
            at = if over.is_some() { found.range.start + 1 } else { found.range.end };
            if over.is_none() && self.stands_alone(text, &found) {
                all.push(found);
            }
        }
        all
    }

    /// Whether a text within the ranges became the special token that it spells: the model has it
    /// among its own pieces.
    pub(super) fn forged(&self, text: &str, encoding: &Encoding, literal: &[Range<usize>]) -> bool {
        let over = |span: &Range<usize>| literal.iter().any(|l| l.start < span.end && span.start < l.end);
        let same = |id: u32, span: &Range<usize>| {
            let spelled = text.get(span.clone());
            self.tokens.iter().any(|s| s.id == id && spelled == Some(s.token.content.as_str()))
        };
        encoding.ids.iter().zip(&encoding.spans).any(|(id, span)| over(span) && same(*id, span))
    }

    /// Some tokens count only as a word of their own.
    fn stands_alone(&self, text: &str, found: &Found) -> bool {
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let (before, after) = (&text[..found.range.start], &text[found.range.end..]);
        !self.tokens[found.index].token.single_word
            || !(word(before.chars().next_back()) || word(after.chars().next()))
    }
}

/// A copy of a tokenizer in which the spelling of a special token is text, and special tokens are
/// written as anchors: added tokens that are not special, so that they are found where special
/// tokens would be, and split the text as those do.
#[derive(Debug)]
pub(super) struct Anchored {
    inner: tokenizers::Tokenizer,
}

/// What is done to a spelling that is to be text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literal {
    /// Nothing: few models have a special token among the pieces that they build text from.
    Whole,
    /// It is parted into its characters, for a model that does.
    Broken,
}

fn anchor(index: usize) -> String {
    format!("{ANCHOR_OPEN}{index}{ANCHOR_CLOSE}")
}

/// The number between the two ends of an anchor; the break has none.
fn anchored(token: &str) -> Option<Option<usize>> {
    let name = token.trim().strip_prefix(ANCHOR_OPEN)?.strip_suffix(ANCHOR_CLOSE)?;
    Some(name.parse().ok())
}

impl Anchored {
    pub(super) fn new(inner: &tokenizers::Tokenizer, specials: &SpecialTokens) -> Self {
        let mut inner = inner.clone();
        inner.set_encode_special_tokens(true);
        let anchors = specials.tokens.iter().enumerate().map(|(i, special)| {
            let AddedToken { lstrip, rstrip, .. } = special.token;
            AddedToken::from(anchor(i), false).lstrip(lstrip).rstrip(rstrip).normalized(false)
        });
        let anchors = anchors.chain([AddedToken::from(BREAK, false).normalized(false)]);
        inner.add_tokens(&anchors.collect::<Vec<_>>());
        Self { inner }
    }

    /// See [`super::Tokenizer::encode_guarded`].
    pub(super) fn encode(
        &self,
        text: &str,
        literal: &[Range<usize>],
        specials: &SpecialTokens,
        ends: Ends,
    ) -> Encoding {
        let whole = self.read(text, literal, specials, (Literal::Whole, ends));
        if !specials.forged(text, &whole, literal) {
            return whole;
        }
        self.read(text, literal, specials, (Literal::Broken, ends))
    }

    fn read(
        &self,
        text: &str,
        literal: &[Range<usize>],
        specials: &SpecialTokens,
        (how, ends): (Literal, Ends),
    ) -> Encoding {
        let breaks = if how == Literal::Broken { literal } else { &[] };
        let pieces = Pieces::new(text, specials.find_outside(text, literal), breaks);
        let encoding = self.inner.encode(pieces.text.as_str(), ends == Ends::Added).expect(TAKES_ANY_TEXT);
        let mut out = Encoding::default();
        for ((id, token), (start, end)) in
            encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets())
        {
            // By their spelling: the number of an anchor could be one of a vocabulary with gaps.
            let id = match anchored(token) {
                Some(Some(index)) => specials.tokens.get(index).map_or(*id, |special| special.id),
                Some(None) => continue,
                None => *id,
            };
            out.ids.push(id);
            out.spans.push(pieces.original(*start..*end));
        }
        out
    }
}

/// A text with anchors, and where each part of it comes from.
struct Pieces {
    text: String,
    /// Ranges here and in the original, in order; those of an anchor differ in length.
    parts: Vec<(Range<usize>, Range<usize>)>,
}

impl Pieces {
    fn new(original: &str, found: Vec<Found>, breaks: &[Range<usize>]) -> Self {
        let mut pieces = Self { text: String::with_capacity(original.len()), parts: Vec::new() };
        let mut at = 0;
        for Found { range, index } in found {
            pieces.push_broken(original, at..range.start, breaks);
            at = range.end;
            pieces.push(&anchor(index), range);
        }
        pieces.push_broken(original, at..original.len(), breaks);
        pieces
    }

    /// A stretch of the original, with breaks before the characters of those ranges, and behind.
    fn push_broken(&mut self, original: &str, stretch: Range<usize>, breaks: &[Range<usize>]) {
        let mut at = stretch.start;
        for range in breaks.iter().filter(|r| stretch.start <= r.start && r.end <= stretch.end) {
            let inside = original[range.clone()].char_indices().map(|(i, _)| range.start + i);
            for place in inside.chain([range.end]) {
                self.push(&original[at..place], at..place);
                self.push(BREAK, place..place);
                at = place;
            }
        }
        self.push(&original[at..stretch.end], at..stretch.end);
    }

    fn push(&mut self, text: &str, original: Range<usize>) {
        let start = self.text.len();
        self.text.push_str(text);
        self.parts.push((start..self.text.len(), original));
    }

    /// A range of this text in the original; of an anchor it is the whole token.
    fn original(&self, range: Range<usize>) -> Range<usize> {
        let part = |at: usize| {
            let i = self.parts.partition_point(|(here, _)| here.end <= at);
            self.parts.get(i).or(self.parts.last())
        };
        let place = |at: usize, edge: fn(&Range<usize>) -> usize, probe: usize| match part(probe) {
            Some((here, there)) if here.len() == there.len() => there.start + at.saturating_sub(here.start),
            Some((_, there)) => edge(there),
            None => at,
        };
        let start = place(range.start, |there| there.start, range.start);
        if range.is_empty() {
            return start..start;
        }
        start..place(range.end, |there| there.end, range.end - 1)
    }
}
