//! Cutting a completion where the model goes on to speak for the other side.

use serde::{Deserialize, Serialize};

/// The markers that open a turn in a transcript.
const TURNS: [&str; 2] = ["\n\nHuman:", "\n\nAssistant:"];

/// Where a completion is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trim {
    /// Nowhere; white space stays too.
    None,
    /// At the first `\n\nHuman:` or `\n\nAssistant:`; then white space is stripped at both ends.
    Turns,
    /// At the first match of the SuperHF authors' expression `\n\n[^:]+:|Human|Assistant`; then
    /// white space is stripped as Python's `str.strip` does. It also cuts at any paragraph with a
    /// colon and inside words such as "Humane", so it serves comparison only.
    Official,
}

/// What is left of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed<'a> {
    /// The kept text, a part of the completion.
    pub text: &'a str,
    /// Whether a marker was found; stripped white space alone is no cut.
    pub cut: bool,
}

/// The part of `completion` before the first marker of `how`.
///
/// ```
/// use rlhf_policy::trim::{Trim, trim};
/// let t = trim(Trim::Turns, " Sure, here you go.\n\nHuman: and then?");
/// assert_eq!((t.text, t.cut), ("Sure, here you go.", true));
/// ```
pub fn trim(how: Trim, completion: &str) -> Trimmed<'_> {
    let end = match how {
        Trim::None => return Trimmed { text: completion, cut: false },
        Trim::Turns => TURNS.iter().filter_map(|marker| completion.find(marker)).min(),
        Trim::Official => official(completion),
    };
    let kept = &completion[..end.unwrap_or(completion.len())];
    let text = match how {
        Trim::Official => kept.trim_matches(is_python_space),
        _ => kept.trim(),
    };
    Trimmed { text, cut: end.is_some() }
}

/// Start of the leftmost match of `\n\n[^:]+:|Human|Assistant`.
fn official(text: &str) -> Option<usize> {
    [labelled_paragraph(text), text.find("Human"), text.find("Assistant")].into_iter().flatten().min()
}

/// Start of the leftmost match of `\n\n[^:]+:`: two line feeds, at least one character that is no
/// colon (a line feed counts), a colon.
fn labelled_paragraph(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // A match needs a colon behind it, and the character after the line feeds must be another.
    let last_colon = text.rfind(':')?;
    (0..last_colon).find(|&i| bytes[i..].starts_with(b"\n\n") && bytes[i + 2] != b':')
}

/// Python's `str.isspace` also counts the four separators U+001C to U+001F.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trimmed(how: Trim, completion: &str) -> (&str, bool) {
        let t = trim(how, completion);
        (t.text, t.cut)
    }

    #[test]
    fn official_agrees_with_the_authors_expression() {
        // Expected texts: Python's re.search(r"\n\n[^:]+:|Human|Assistant"), cut there, .strip().
        let cases = [
            (" Sure, here you go.\n\nHuman: and then?", "Sure, here you go.", true),
            (" Sure.\n\nStep one: mix it", "Sure.", true),
            (" A Humane answer", "A", true),
            ("line1\n\nline2 no colon", "line1\n\nline2 no colon", false),
            (" a\n\n: b", "a\n\n: b", false),
            (" Line.\nNote: ok", "Line.\nNote: ok", false),
            ("   \n\t ", "", false),
            ("", "", false),
            // `[^:]+` takes line feeds, so the third of three is enough.
            (" a\n\n\n: b", "a", true),
            // The first pair has only a colon behind it, the second a word.
            (" a\n\n: b\n\nc: d", "a\n\n: b", true),
            // The earliest match wins, whichever branch it is.
            ("x Assistant y\n\nb: z", "x", true),
            ("é\n\nü:", "é", true),
            ("a\u{1f}", "a", false),
        ];
        for (completion, text, cut) in cases {
            assert_eq!(trimmed(Trim::Official, completion), (text, cut), "{completion:?}");
        }
    }

    #[test]
    fn turns_cut_at_exact_markers_only() {
        let cases = [
            (" Sure, here you go.\n\nHuman: and then?", "Sure, here you go.", true),
            (" Sure.\n\nStep one: mix it", "Sure.\n\nStep one: mix it", false),
            (" A Humane answer", "A Humane answer", false),
            ("one\nHuman: two", "one\nHuman: two", false),
            (" a\n\nAssistant: b\n\nHuman: c", "a", true),
            (" a\n\nHuman: b\n\nAssistant: c", "a", true),
            ("\n\nHuman: only", "", true),
            (" \n ", "", false),
        ];
        for (completion, text, cut) in cases {
            assert_eq!(trimmed(Trim::Turns, completion), (text, cut), "{completion:?}");
        }
    }

    #[test]
    fn none_keeps_every_byte() {
        assert_eq!(trimmed(Trim::None, " a\n\nHuman: b "), (" a\n\nHuman: b ", false));
    }

    #[test]
    fn names_in_a_config_are_snake_case() {
        assert_eq!(serde_json::to_string(&Trim::Official).unwrap(), "\"official\"");
        assert_eq!(serde_json::from_str::<Trim>("\"turns\"").unwrap(), Trim::Turns);
    }
}
