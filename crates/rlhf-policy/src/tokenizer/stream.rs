//! Text as tokens come.

use super::Tokenizer;

/// What bytes that are no UTF-8, or not yet, decode to.
const UNKNOWN: char = char::REPLACEMENT_CHARACTER;

/// A character has at most four bytes, and a token at least one: this many tokens without a whole
/// character among them are no character that is still to be completed.
const LONGEST_WAIT: usize = 4;

/// Bytes of the text that three bytes of an unfinished character decode to at most.
const MOST_PENDING: usize = 3 * UNKNOWN.len_utf8();

/// Decodes a growing list of tokens piece by piece, each character once it is whole.
///
/// The pieces, [`TextStream::finish`]'s included, are together what [`Tokenizer::decode`] gives for
/// all tokens, wherever that text's characters depend on a few neighbouring tokens only, as they do
/// in all usual decoders.
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the last whole piece, as context, and all since.
    ids: Vec<u32>,
    n_context: usize,
    /// Bytes of the text of `ids` that were given out.
    given: usize,
    /// Tokens since the last one that ended on a whole character.
    waiting: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), n_context: 0, given: 0, waiting: 0 }
    }

    /// Adds a token; gives the text that is complete by it, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids);
        let whole = text.trim_end_matches(UNKNOWN).len();
        if whole == text.len() {
            self.waiting = 0;
            let piece = self.give(&text, whole);
            self.forget();
            return piece;
        }
        self.waiting += 1;
        // What could still be completed are the last three bytes at most, each shown as one U+FFFD
        // or all of them together.
        let lost = if self.waiting < LONGEST_WAIT { 0 } else { text.len().saturating_sub(MOST_PENDING) };
        self.give(&text, whole.max(lost))
    }

    /// What is left when no token comes any more: the bytes of a character that was not completed.
    pub fn finish(mut self) -> String {
        let text = self.tokenizer.decode(&self.ids);
        self.give(&text, text.len())
    }

    /// The text from what was given up to byte `end`.
    fn give(&mut self, text: &str, end: usize) -> String {
        let piece = text.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        piece
    }

    /// Keeps only the newest tokens as context, so that a long text is not decoded over and over.
    fn forget(&mut self) {
        let rest = self.tokenizer.decode(&self.ids[self.n_context..]);
        // Special tokens leave no text, and a decoder may treat the first word in its own way.
        if !rest.is_empty() {
            self.ids.drain(..self.n_context);
            self.given = rest.len();
        }
        self.n_context = self.ids.len();
    }
}
