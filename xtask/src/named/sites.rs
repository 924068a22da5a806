//! Where a detached part, a mask or a sign stands in the sources of `rlhf-core`, and what it is changed to.

use std::ops::Range;

use crate::scan;
use crate::workspace::Workspace;

/// Where sites are looked for.
const CORE: &str = "crates/rlhf-core/src";

/// Where signs are changed as well: in the losses. Elsewhere that is cargo-mutants' work.
const LOSSES: &str = "crates/rlhf-core/src/loss/";

/// Calls without arguments that are removed.
const CALLS: &[&str] = &[".detach()", ".detached()", ".neg()"];

/// Calls that put something in the place of what is masked, removed with their arguments.
const FILLS: &[&str] = &[".mask_fill(", ".mask_where("];

/// Words that stand for a sign, and those of the other one.
const WORDS: &[(&str, &str)] = &[(".add_scalar(", ".sub_scalar("), (".sub_scalar(", ".add_scalar(")];

/// Changes that make no difference, by file and by what the line becomes, and why they make none.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    ("logp.rs", "let shift = logits.clone().max_dim(1);", SHIFT),
    ("loss/generalized_jsd.rs", "let shift = larger(a.clone(), b.clone().detach());", SHIFT),
    ("loss/generalized_jsd.rs", "let shift = larger(a.clone().detach(), b.clone());", SHIFT),
    (
        "loss/kl_penalty.rs",
        "KlGradient::StraightThrough => return (d - d.detached()) * d + k.detached(),",
        FACTOR,
    ),
    ("loss/kl_penalty.rs", "return (d.clone() - d.clone().detach()) * d + k.detach();", FACTOR),
    ("loss/ld_dpo.rs", "let beyond = place.clone().greater(per_token(partner, t));", COMPARISON),
    (
        "loss/ppo_value.rs",
        "return ValueLoss { clipped: free.zeros_like(), loss: free.mul_scalar(0.5) };",
        "zeros have no gradient",
    ),
    ("loss/ppo_value.rs", "let clipped = bound.clone().greater(free.clone()).float();", COMPARISON),
];

const SHIFT: &str = "what is added and subtracted again has no gradient in sum";
const FACTOR: &str = "its gradient is multiplied by a difference that is 0";
const COMPARISON: &str = "a comparison has no gradient";

/// One change of one place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Site {
    /// Path below the root.
    pub(super) file: String,
    /// Line and column, from 1.
    place: (usize, usize),
    /// What is changed, for people.
    what: String,
    /// Why it makes no difference, where that is known.
    pub(super) equivalent: Option<&'static str>,
    /// The characters that are replaced, and what replaces them.
    at: Range<usize>,
    by: String,
}

impl Site {
    /// The source with the change made.
    pub(super) fn applied(&self, source: &str) -> String {
        let chars: Vec<char> = source.chars().collect();
        let (before, after) = (&chars[..self.at.start], &chars[self.at.end..]);
        before.iter().copied().chain(self.by.chars()).chain(after.iter().copied()).collect()
    }

    /// Place and change, on one line.
    pub(super) fn show(&self) -> String {
        format!("{}:{}:{}: {}", self.file, self.place.0, self.place.1, self.what)
    }
}

/// Every site, by file and place.
pub(super) fn sites(workspace: &Workspace) -> Result<Vec<Site>, String> {
    let mut sites = Vec::new();
    for file in workspace.files(CORE, &["rs"]).into_iter().filter(|file| !file.ends_with("/tests.rs")) {
        let source = workspace.read(&file).map_err(|unreadable| unreadable.to_string())?;
        sites.extend(in_file(&file, &source));
    }
    Ok(sites)
}

/// The sites of one file, in order.
fn in_file(file: &str, source: &str) -> Vec<Site> {
    let chars: Vec<char> = source.chars().collect();
    let code = code(source);
    let mut found = removed_calls(&code);
    found.extend(dropped_masks(&chars, &code));
    if file.starts_with(LOSSES) {
        found.extend(flipped_signs(&chars, &code));
    }
    found.sort_by_key(|(at, ..)| at.start);
    let place = |at: usize| {
        let before = &chars[..at];
        let line = before.iter().filter(|c| **c == '\n').count();
        (1 + line, before.iter().rev().take_while(|c| **c != '\n').count() + 1)
    };
    let site = |(at, by, what): Change| {
        let place = place(at.start);
        let mut site = Site { file: file.to_owned(), place, what, equivalent: None, at, by };
        let applied = site.applied(source);
        site.equivalent = equivalent(file, applied.lines().nth(place.0 - 1).unwrap_or_default());
        site
    };
    found.into_iter().map(site).collect()
}

/// Why this line in place of the one that is there makes no difference.
fn equivalent(file: &str, line: &str) -> Option<&'static str> {
    let within = file.strip_prefix(CORE)?.strip_prefix('/')?;
    let known = EQUIVALENT.iter().find(|(file, changed, _)| *file == within && *changed == line.trim());
    known.map(|(_, _, why)| *why)
}

/// The characters that are replaced, what replaces them, and what that is for people.
type Change = (Range<usize>, String, String);

/// Calls that stop a gradient or change a sign, taken away.
fn removed_calls(code: &[char]) -> Vec<Change> {
    let of = |call: &&str| {
        let what = format!("without `{call}`");
        let width = call.len();
        let changes: Vec<Change> =
            places(code, call).into_iter().map(|at| (at..at + width, String::new(), what.clone())).collect();
        changes
    };
    CALLS.iter().flat_map(of).collect()
}

/// Masked values as they are.
fn dropped_masks(chars: &[char], code: &[char]) -> Vec<Change> {
    let mut found = Vec::new();
    for fill in FILLS {
        for start in places(code, fill) {
            let arguments = arguments(code, start + fill.len() - 1);
            let Some(last) = arguments.last() else { continue };
            found.push((start..last.end + 1, String::new(), format!("without `{fill}…)`")));
        }
    }
    for start in places(code, "masked(") {
        let before: String = code[start.saturating_sub(3)..start].iter().collect();
        if before == "fn " || before.ends_with(scan::is_word) {
            continue;
        }
        // The name of who asks, the values, the mask; a function of that name on the host has no mask.
        if let [_, values, mask] = arguments(code, start + "masked".len()).as_slice() {
            let kept: String = chars[values.clone()].iter().collect();
            let shown = kept.split_whitespace().collect::<Vec<_>>().join(" ");
            let what = format!("without the mask of `{shown}`");
            found.push((start..mask.end + 1, format!("({})", kept.trim()), what));
        }
    }
    found
}

/// Signs of arithmetic that are the other one, or none where there is one operand. `rustfmt` puts a space after
/// a sign between two operands, and none after that of one.
fn flipped_signs(chars: &[char], code: &[char]) -> Vec<Change> {
    let mut found = Vec::new();
    for (from, to) in WORDS {
        for at in places(code, from) {
            found.push((at..at + from.len(), (*to).to_owned(), format!("`{to}…)` for `{from}…)`")));
        }
    }
    for (at, sign) in code.iter().enumerate() {
        let rest: String = chars[at + 1..].iter().take_while(|c| **c != '\n').collect();
        let by = match (sign, code.get(at + 1)) {
            ('-', Some(' ' | '=')) => "+",
            ('+', Some(' ' | '=')) => "-",
            ('-', Some(after)) if *after != '>' && !is_exponent(code, at) => "",
            _ => continue,
        };
        let what = if by.is_empty() {
            format!("`{rest}` for `-{rest}`")
        } else {
            format!("`{by}` for `{sign}{rest}`")
        };
        found.push((at..at + 1, by.to_owned(), what));
    }
    found
}

/// The source's characters with comments, texts and tests blank: each keeps its place.
fn code(source: &str) -> Vec<char> {
    let mut lines = scan::code_lines(source);
    scan::blank_tests(&mut lines);
    let mut code = Vec::new();
    for (index, line) in source.split('\n').enumerate() {
        let (kept, width) = (lines.get(index).map_or("", String::as_str), line.chars().count());
        code.extend(kept.chars().chain(std::iter::repeat(' ')).take(width));
        code.push('\n');
    }
    code.pop();
    code
}

/// Where `word` begins.
fn places(code: &[char], word: &str) -> Vec<usize> {
    let word: Vec<char> = word.chars().collect();
    code.windows(word.len()).enumerate().filter(|(_, found)| *found == word).map(|(at, _)| at).collect()
}

/// What stands between the commas of the bracket that opens at `open`, nothing after a last comma; no arguments
/// where it is never closed.
fn arguments(code: &[char], open: usize) -> Vec<Range<usize>> {
    let (mut depth, mut start, mut found) = (0_usize, open + 1, Vec::<Range<usize>>::new());
    for (at, c) in code.iter().enumerate().skip(open) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            match found.last_mut() {
                Some(last) if code[start..at].iter().all(|c| c.is_whitespace()) => last.end = at,
                _ => found.push(start..at),
            }
            return found;
        }
        if depth == 1 && *c == ',' {
            found.push(start..at);
            start = at + 1;
        }
    }
    Vec::new()
}

/// Whether the sign belongs to a number such as `1e-3`.
fn is_exponent(code: &[char], at: usize) -> bool {
    at >= 2 && matches!(code[at - 1], 'e' | 'E') && (code[at - 2].is_ascii_digit() || code[at - 2] == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each change of a loss makes of its source, without the lines that stay.
    fn changed(source: &str) -> Vec<String> {
        let of = |site: Site| {
            let applied = site.applied(source);
            let differs = applied.lines().zip(source.lines()).find(|(a, b)| a != b);
            differs.map_or_else(String::new, |(line, _)| line.trim().to_owned())
        };
        in_file("crates/rlhf-core/src/loss/a.rs", source).into_iter().map(of).collect()
    }

    #[test]
    fn stopped_gradients_and_signs_by_name_are_removed_one_at_a_time() {
        let source = "let a = x.detach() * y.detached();\nx.clone()\n    .neg()\n    .exp()\n";
        assert_eq!(changed(source), ["let a = x * y.detached();", "let a = x.detach() * y;", ""]);
        assert_eq!(changed("x.detached_parts() + 1"), ["x.detached_parts() - 1"]);
    }

    #[test]
    fn masks_are_dropped_and_what_they_cover_stays() {
        let source = "masked(\"a, b\", logp - f(old, 1), mask) * x.mask_fill(m.not(), 0.0).sum()";
        let values = "(logp - f(old, 1)) * x.mask_fill(m.not(), 0.0).sum()";
        let sign = source.replace("logp -", "logp +");
        let fill = source.replace(".mask_fill(m.not(), 0.0)", "");
        assert_eq!(changed(source), [values, &sign, &fill]);
        // Over several lines, with a comma after the last argument.
        let long = in_file("b.rs", "masked(\n    name,\n    x,\n    mask,\n)\n");
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].applied("masked(\n    name,\n    x,\n    mask,\n)\n"), "(x)\n");
        // Its definition, functions of another name and of other arguments are none of ours.
        assert_eq!(changed("fn masked(name: &str, x: T, mask: M)"), Vec::<String>::new());
        assert_eq!(changed("unmasked(name, x, mask) * masked(within, ratio)"), Vec::<String>::new());
    }

    #[test]
    fn signs_are_the_other_one_or_none() {
        let source = "let x = -a.exp() - b * (-c + 1e-3);";
        let expected = [
            "let x = a.exp() - b * (-c + 1e-3);",
            "let x = -a.exp() + b * (-c + 1e-3);",
            "let x = -a.exp() - b * (c + 1e-3);",
            "let x = -a.exp() - b * (-c - 1e-3);",
        ];
        assert_eq!(changed(source), expected);
        assert_eq!(changed("fn f() -> X { x.add_scalar(1.0) }"), ["fn f() -> X { x.sub_scalar(1.0) }"]);
        assert_eq!(changed("sum += x"), ["sum -= x"]);
        // Outside the losses, signs are left to cargo-mutants.
        assert_eq!(in_file("crates/rlhf-core/src/host/a.rs", source), []);
    }

    #[test]
    fn comments_texts_and_tests_are_left_alone_and_places_are_right_after_them() {
        let source = "// β − x.neg()\n/// a - b\nlet t = \"x.neg() − π\"; x.neg()\n#[cfg(test)]\nmod tests {\n    x.neg()\n}\n";
        let found = in_file("crates/rlhf-core/src/loss/a.rs", source);
        let shown: Vec<String> = found.iter().map(Site::show).collect();
        assert_eq!(shown, ["crates/rlhf-core/src/loss/a.rs:3:25: without `.neg()`"]);
        assert_eq!(found[0].applied(source), source.replace("; x.neg()", "; x"));
    }

    #[test]
    fn what_makes_no_difference_is_in_the_sources() {
        // One that is gone would hide another change some day.
        let found = sites(&Workspace::here()).expect("readable sources");
        assert_eq!(found.iter().filter(|site| site.equivalent.is_some()).count(), EQUIVALENT.len());
    }

    #[test]
    fn the_losses_have_sites_of_every_kind() {
        let found = sites(&Workspace::here()).expect("readable sources");
        for what in [
            "without `.detach()`",
            "without `.detached()`",
            "without `.neg()`",
            "without the mask of",
            "` for `",
        ] {
            assert!(found.iter().any(|site| site.what.contains(what)), "{what}");
        }
    }
}
