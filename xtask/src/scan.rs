//! A Rust source without its comments and strings, line by line, for checks that look for words.

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// The source with comments, strings and characters blanked; lines keep their number and width.
pub(crate) fn code_lines(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let (next, width) = step(state, &chars, at);
        for &c in &chars[at..(at + width).min(chars.len())] {
            let kept = c == '\n' || (state == State::Code && next == State::Code && width == 1);
            out.push(if kept { c } else { ' ' });
        }
        state = next;
        at += width;
    }
    out.lines().map(str::to_owned).collect()
}

/// The state after the character at `at`, and how many characters that took.
fn step(state: State, chars: &[char], at: usize) -> (State, usize) {
    let two = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
    match (state, two) {
        (State::Code, ('/', '/')) => (State::LineComment, 2),
        (State::Code, ('/', '*')) => (State::BlockComment(1), 2),
        (State::Code, ('"', _)) => (State::Text, 1),
        (State::Code, ('r', '"' | '#')) if !follows_word(chars, at) => match raw_start(chars, at) {
            Some((hashes, width)) => (State::RawText(hashes), width),
            None => (State::Code, 1),
        },
        (State::Code, ('\'', _)) => (State::Code, character_width(chars, at)),
        (State::LineComment, ('\n', _)) => (State::Code, 1),
        (State::BlockComment(depth), ('/', '*')) => (State::BlockComment(depth + 1), 2),
        (State::BlockComment(1), ('*', '/')) => (State::Code, 2),
        (State::BlockComment(depth), ('*', '/')) => (State::BlockComment(depth - 1), 2),
        (State::Text, ('\\', _)) => (State::Text, 2),
        (State::Text, ('"', _)) => (State::Code, 1),
        (State::RawText(hashes), ('"', _)) if hashes_after(chars, at + 1) >= hashes => {
            (State::Code, 1 + hashes)
        }
        (same, _) => (same, 1),
    }
}

/// Whether the character before `at` belongs to a word (`for"…"` is no raw string, `br"…"` is).
fn follows_word(chars: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|i| chars[i]) else { return false };
    let byte = before == 'b' && at.checked_sub(2).is_none_or(|i| !is_word(chars[i]));
    is_word(before) && !byte
}

/// Letters, digits and `_`.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Hashes of a raw string that starts at `at`, and the width of its opening.
fn raw_start(chars: &[char], at: usize) -> Option<(usize, usize)> {
    let hashes = hashes_after(chars, at + 1);
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some((hashes, hashes + 2))
}

/// How many `#` stand from `at` on.
fn hashes_after(chars: &[char], at: usize) -> usize {
    chars[at.min(chars.len())..].iter().take_while(|&&c| c == '#').count()
}

/// Width of a character literal at `at`; 1 for a lifetime.
fn character_width(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = &chars[(at + 3).min(chars.len())..];
            rest.iter().position(|&c| c == '\'').map_or(1, |offset| offset + 4)
        }
        (Some(_), Some('\'')) => 3,
        _ => 1,
    }
}

/// Blanks every item under `#[cfg(test)]` in lines made by [`code_lines`].
pub(crate) fn blank_tests(lines: &mut [String]) {
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim() == "#[cfg(test)]" {
            let end = item_end(lines, at + 1);
            for line in &mut lines[at..end] {
                line.clear();
            }
            at = end;
        } else {
            at += 1;
        }
    }
}

/// The line after the item that starts at `from`: its braces closed, or its `;` outside all brackets.
fn item_end(lines: &[String], from: usize) -> usize {
    let mut depth = 0_usize;
    for (index, line) in lines.iter().enumerate().skip(from) {
        for c in line.chars() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && c == '}' {
                        return index + 1;
                    }
                }
                ';' if depth == 0 => return index + 1,
                _ => {}
            }
        }
    }
    lines.len()
}

/// Whether `pattern` stands in the line and does not continue a word to its left.
pub(crate) fn has_word(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| line[..at].chars().next_back().is_none_or(|c| !is_word(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blank() {
        let source = "let a = \"x // y\"; // z\nlet b = '\"'; /* q /* r */ s */ let c = r#\"t\"u\"#;\nfn f<'a>(x: &'a str) {}\nlet d = '\\''; e\n";
        let lines: Vec<String> =
            code_lines(source).iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["let a = ;", "let b = ; let c = ;", "fn f<'a>(x: &'a str) {}", "let d = ; e"]);
    }

    #[test]
    fn test_modules_are_blank_and_what_follows_is_not() {
        let source =
            "a\n#[cfg(test)]\nmod tests {\n  fn f(x: [f64; 2]) { b }\n}\nc\n#[cfg(test)]\nuse d;\ne\n";
        let mut lines = code_lines(source);
        blank_tests(&mut lines);
        assert_eq!(lines, ["a", "", "", "", "", "c", "", "", "e"]);
    }

    #[test]
    fn a_word_is_not_found_at_the_end_of_another() {
        assert!(has_word("x = print!(1)", "print!"));
        assert!(!has_word("x = eprint!(1)", "print!"));
    }
}
