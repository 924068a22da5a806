//! What stands in the files: fences, lengths, white space, and words that a library must not use.

use crate::scan;
use crate::workspace::{Finding, Workspace};

/// The longest file of a crate.
const MAX_LINES: usize = 500;

/// Words that a library does not use outside tests, and why.
const NOT_IN_LIBRARIES: &[(&str, &str)] = &[
    ("println!", "a library prints nothing: return it"),
    ("print!", "a library prints nothing: return it"),
    ("eprintln!", "a library prints nothing: return an error or log with tracing"),
    ("eprint!", "a library prints nothing: return an error or log with tracing"),
    ("std::env", "a library reads no environment: take an argument"),
    ("env::", "a library reads no environment: take an argument"),
    ("Tensor::random(", "random choice comes from the caller's stream on the host"),
];

/// Every finding, file by file.
pub(super) fn findings(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in workspace.files("", &["rs", "md"]) {
        match workspace.read(&file) {
            Ok(text) => findings.extend(in_file(&file, &text)),
            Err(unreadable) => findings.push(unreadable),
        }
    }
    findings
}

/// All that is wrong in one file; its path decides which rules hold.
fn in_file(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line: usize, message: String| {
        findings.push(Finding { file: file.to_owned(), line, message });
    };
    let rust = file.ends_with(".rs");
    for (index, line) in text.lines().enumerate() {
        if is_ignored_fence(line) {
            report(index + 1, "fence: expected an example that compiles, found `ignore`".to_owned());
        }
        if rust && line.ends_with(char::is_whitespace) {
            report(index + 1, "expected no white space at the end of a line, found some".to_owned());
        }
        if rust && line.contains('\t') {
            report(index + 1, "expected spaces, found a tab".to_owned());
        }
    }
    let Some((name, inside)) = file.strip_prefix("crates/").and_then(|rest| rest.split_once('/')) else {
        return findings;
    };
    if rust && inside.starts_with("src/") && text.lines().count() > MAX_LINES {
        let count = text.lines().count();
        report(MAX_LINES + 1, format!("length: expected at most {MAX_LINES} lines, found {count}"));
    }
    if rust && name != "rlhf" {
        for (line, message) in words(inside, text) {
            report(line, message);
        }
    }
    findings
}

/// Words that a library must not use; `inside` is the path below the crate's folder.
fn words(inside: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = scan::code_lines(text);
    for (index, line) in lines.iter().enumerate() {
        if scan::has_word(line, "Device::default()") {
            let message = "device: expected it as an argument or from a tensor, found `Device::default()`";
            found.push((index + 1, message.to_owned()));
        }
    }
    // Integration tests and files that are test modules may print what helps them.
    if !inside.starts_with("src/") || inside.ends_with("/tests.rs") {
        return found;
    }
    scan::blank_tests(&mut lines);
    for (index, line) in lines.iter().enumerate() {
        let word = NOT_IN_LIBRARIES.iter().find(|(word, _)| scan::has_word(line, word));
        if let Some((word, reason)) = word {
            found.push((index + 1, format!("library: expected no `{word}` ({reason}), found it")));
        }
    }
    found
}

/// Whether a line, in Markdown or in a doc comment, opens a fence that is not compiled by its own wish.
fn is_ignored_fence(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches(['/', '!']).trim_start();
    let Some(info) = line.strip_prefix("```") else { return false };
    info.trim_start_matches('`').split([',', ' ', '{', '}']).any(|word| word.trim() == "ignore")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(file: &str, text: &str) -> Vec<String> {
        in_file(file, text).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn an_ignored_fence_is_found_in_docs_and_in_markdown() {
        let fence = "`".repeat(3);
        for (file, line) in
            [("a.md", format!("{fence}ignore")), ("a.rs", format!("    /// {fence}rust,ignore"))]
        {
            assert_eq!(
                messages(file, &format!("x\n{line}\n")),
                [format!("{file}:2: fence: expected an example that compiles, found `ignore`")]
            );
        }
        assert_eq!(messages("a.rs", &format!("//! {fence}text\n//! ignore\n")), Vec::<String>::new());
    }

    #[test]
    fn white_space_tabs_and_length() {
        assert_eq!(messages("tests/a.rs", "a \n\tb\n").len(), 2);
        let long = "x\n".repeat(501);
        assert_eq!(
            messages("crates/rlhf/src/a.rs", &long),
            ["crates/rlhf/src/a.rs:501: length: expected at most 500 lines, found 501"]
        );
        assert_eq!(messages("crates/rlhf/src/a.rs", &long[2..]), Vec::<String>::new());
        assert_eq!(messages("crates/rlhf/tests/a.rs", &long), Vec::<String>::new());
    }

    #[test]
    fn words_are_found_in_code_of_libraries_only() {
        let text = "// println!(1)\nfn f() { println!(\"std::env\"); let x = env::var(y); }\n\
                    #[cfg(test)]\nmod tests {\n fn g() { println!(); }\n}\n";
        let library = messages("crates/rlhf-core/src/a.rs", text);
        assert_eq!(library.len(), 1, "{library:?}");
        assert!(library[0].starts_with("crates/rlhf-core/src/a.rs:2: library: expected no `println!`"));
        assert_eq!(messages("crates/rlhf/src/a.rs", text), Vec::<String>::new());
        assert_eq!(messages("crates/rlhf-core/tests/a.rs", text), Vec::<String>::new());
    }

    #[test]
    fn the_default_device_is_found_even_in_tests() {
        let text = "#[cfg(test)]\nmod tests {\n fn g() { Device::default() }\n}\n";
        assert_eq!(messages("crates/rlhf-core/src/a.rs", text).len(), 1);
        assert_eq!(messages("crates/rlhf/src/a.rs", text), Vec::<String>::new());
    }
}
