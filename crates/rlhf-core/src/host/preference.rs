//! Preference records before they are tokens: a prompt that both answers repeat, pairs as single
//! ratings.

use super::collate::PromptCompletion;

/// How many entries two sequences have in common at their beginnings.
///
/// ```
/// assert_eq!(rlhf_core::host::preference::common_prefix(&[1, 2, 3, 4], &[1, 2, 5]), 2);
/// ```
pub fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A prompt, and what follows it in either answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPrompt<'a, T: ?Sized> {
    /// What both begin with.
    pub prompt: &'a T,
    /// The rest of the better one.
    pub chosen: &'a T,
    /// The rest of the other.
    pub rejected: &'a T,
}

/// Parts two conversations, or other sequences, where they begin to differ. Where one is the
/// beginning of the other, its last entry is not part of the prompt, so that no answer is empty.
/// TRL's `extract_prompt`.
///
/// ```
/// use rlhf_core::host::preference::shared_prompt;
/// let parts = shared_prompt(&["hi", "yes"], &["hi", "no", "sorry"]);
/// assert_eq!((parts.prompt, parts.chosen, parts.rejected), (&["hi"][..], &["yes"][..], &["no", "sorry"][..]));
/// ```
pub fn shared_prompt<'a, T: PartialEq>(chosen: &'a [T], rejected: &'a [T]) -> SharedPrompt<'a, [T]> {
    let shorter = chosen.len().min(rejected.len());
    let n = common_prefix(chosen, rejected).min(shorter.saturating_sub(1));
    SharedPrompt { prompt: &chosen[..n], chosen: &chosen[n..], rejected: &rejected[n..] }
}

/// Parts two texts where they begin to differ, a character at a time. A space there goes to the
/// answers: tokenizers put it before a word. As [`shared_prompt`] otherwise.
///
/// ```
/// use rlhf_core::host::preference::shared_prompt_text;
/// let parts = shared_prompt_text("The sky is blue.", "The sky is green.");
/// assert_eq!((parts.prompt, parts.chosen, parts.rejected), ("The sky is", " blue.", " green."));
/// ```
pub fn shared_prompt_text<'a>(chosen: &'a str, rejected: &'a str) -> SharedPrompt<'a, str> {
    let pairs = chosen.char_indices().zip(rejected.chars());
    let differs = pairs.clone().find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    let n = match differs {
        Some(at) => chosen[..at].strip_suffix(' ').map_or(at, str::len),
        // One is the beginning of the other: before its last character.
        None => pairs.last().map_or(0, |((at, _), _)| at),
    };
    SharedPrompt { prompt: &chosen[..n], chosen: &chosen[n..], rejected: &rejected[n..] }
}

/// One answer with its rating: what KTO learns from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated<P, C> {
    /// What is answered.
    pub prompt: P,
    /// The answer.
    pub completion: C,
    /// Whether it is wanted.
    pub desirable: bool,
}

/// A pair of answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference<P, C> {
    /// What is answered.
    pub prompt: P,
    /// The better answer.
    pub chosen: C,
    /// The other.
    pub rejected: C,
}

/// Every answer of the pairs by itself: first all that were chosen, then all that were rejected, each
/// in order. TRL's `unpair_preference_dataset`.
///
/// ```
/// use rlhf_core::host::preference::{Preference, unpair};
/// let pairs = [Preference { prompt: "p0", chosen: "c0", rejected: "r0" }];
/// let rated: Vec<(&str, bool)> = unpair(&pairs).into_iter().map(|r| (r.completion, r.desirable)).collect();
/// assert_eq!(rated, [("c0", true), ("r0", false)]);
/// ```
pub fn unpair<P: Clone, C: Clone>(pairs: &[Preference<P, C>]) -> Vec<Rated<P, C>> {
    let rated = |pair: &Preference<P, C>, completion: &C, desirable| Rated {
        prompt: pair.prompt.clone(),
        completion: completion.clone(),
        desirable,
    };
    let chosen = pairs.iter().map(|pair| rated(pair, &pair.chosen, true));
    let rejected = pairs.iter().map(|pair| rated(pair, &pair.rejected, false));
    chosen.chain(rejected).collect()
}

/// Each prompt of a batch with the completion of the one before it, the first with the last's: the
/// mismatched pairs whose log-ratio is KTO's estimate of KL. A batch of one has none that is
/// mismatched and keeps its own. As TRL's `KTOTrainer`.
///
/// ```
/// use rlhf_core::host::collate::PromptCompletion;
/// use rlhf_core::host::preference::mismatched;
/// let row = |p, c| PromptCompletion { prompt: vec![p], completion: vec![c] };
/// assert_eq!(mismatched(&[row(1, 10), row(2, 20), row(3, 30)]), [row(1, 30), row(2, 10), row(3, 20)]);
/// ```
pub fn mismatched(batch: &[PromptCompletion]) -> Vec<PromptCompletion> {
    let n = batch.len();
    let other = |i: usize| batch[(i + n - 1) % n].completion.clone();
    (0..n).map(|i| PromptCompletion { prompt: batch[i].prompt.clone(), completion: other(i) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(chosen: &'a str, rejected: &'a str) -> [&'a str; 3] {
        let parts = shared_prompt_text(chosen, rejected);
        [parts.prompt, parts.chosen, parts.rejected]
    }

    #[test]
    fn texts_are_parted_between_characters() {
        // é and è begin with the same byte.
        assert_eq!(texts("né", "nè"), ["n", "é", "è"]);
        assert_eq!(texts("", ""), ["", "", ""]);
        assert_eq!(texts(" a", " b"), ["", " a", " b"]);
        assert_eq!(texts("a", "b"), ["", "a", "b"]);
    }

    #[test]
    fn no_answer_is_empty_where_one_begins_the_other() {
        assert_eq!(texts("yes", "yes, sir"), ["ye", "s", "s, sir"]);
        assert_eq!(texts("né", "né"), ["n", "é", "é"]);
        let parts = shared_prompt(&[1, 2], &[1, 2, 3]);
        assert_eq!((parts.prompt, parts.chosen, parts.rejected), (&[1][..], &[2][..], &[2, 3][..]));
        assert_eq!(shared_prompt::<u8>(&[], &[1]).rejected, [1]);
    }

    #[test]
    fn a_batch_of_one_keeps_its_own_completion() {
        let row = PromptCompletion { prompt: vec![1], completion: vec![2] };
        assert_eq!(mismatched(std::slice::from_ref(&row)), [row]);
        assert!(mismatched(&[]).is_empty());
    }
}
