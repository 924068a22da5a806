//! The head of a loss file, and its public functions.
//!
//! A head says, in this order: title, equation in a `text` fence, `Where:`, `Paper:`, `Departures:`,
//! `Detached:`. Each of the last four may run over several lines, to the next one or to an empty line.

use crate::scan;
use crate::workspace::{Finding, Workspace};

/// Folder of the loss files.
pub(crate) const LOSS_FOLDER: &str = "crates/rlhf-core/src/loss";

/// The labelled paragraphs, in order.
const LABELS: [&str; 4] = ["Where:", "Paper:", "Departures:", "Detached:"];

/// What the README's table needs of a loss file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LossFile {
    /// Path below the root.
    pub(crate) file: String,
    /// The `Paper:` paragraph on one line, without the label.
    pub(crate) paper: String,
    /// Public functions that stand on their own (methods are left out), in order.
    pub(crate) functions: Vec<Function>,
}

/// A public function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// Line of its `pub fn`, from 1.
    pub(crate) line: usize,
    /// What it takes and gives: tensors or plain numbers.
    pub(crate) kind: Kind,
}

/// Tensor code or host arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The signature names a tensor.
    Tensor,
    /// It does not.
    Host,
}

/// Every loss file, read, and what its head or its twins lack.
pub(crate) fn loss_files(workspace: &Workspace) -> (Vec<LossFile>, Vec<Finding>) {
    let mut files = Vec::new();
    let mut findings = Vec::new();
    for file in workspace.files(LOSS_FOLDER, &["rs"]) {
        if file.ends_with("/mod.rs") || file.ends_with("/tests.rs") {
            continue;
        }
        match workspace.read(&file) {
            Ok(text) => {
                let (loss, lacking) = read(&file, &text);
                findings.extend(lacking);
                files.push(loss);
            }
            Err(finding) => findings.push(finding),
        }
    }
    if files.is_empty() {
        findings.push(Finding {
            file: LOSS_FOLDER.to_owned(),
            line: 0,
            message: "expected at least one loss file, found none".to_owned(),
        });
    }
    (files, findings)
}

/// One loss file, and what it lacks.
pub(crate) fn read(file: &str, text: &str) -> (LossFile, Vec<Finding>) {
    let head: Vec<&str> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim())
        .collect();
    let functions = functions(text);
    let mut findings = head_findings(file, &head);
    findings.extend(twin_findings(file, &functions));
    let paper = paragraph(&head, "Paper:").unwrap_or_default();
    (LossFile { file: file.to_owned(), paper, functions }, findings)
}

/// The paragraph that starts with `label`, on one line, without the label.
fn paragraph(head: &[&str], label: &str) -> Option<String> {
    let start = head.iter().position(|line| line.starts_with(label))?;
    let rest = head[start + 1..]
        .iter()
        .take_while(|line| !line.is_empty() && !LABELS.iter().any(|other| line.starts_with(other)));
    let first = head[start].trim_start_matches(label).trim();
    let words: Vec<&str> =
        std::iter::once(first).chain(rest.copied()).filter(|line| !line.is_empty()).collect();
    Some(words.join(" "))
}

/// What the head lacks, or has in the wrong order.
fn head_findings(file: &str, head: &[&str]) -> Vec<Finding> {
    let at = |line: usize, message: String| Finding { file: file.to_owned(), line, message };
    let mut findings = Vec::new();
    let title = head.first().copied().unwrap_or_default();
    if title.is_empty() || title.starts_with("```") || LABELS.iter().any(|label| title.starts_with(label)) {
        findings.push(at(1, format!("head: expected a title line `//! …`, found `{title}`")));
    }
    let mut last = (0, "title");
    let fence = head.iter().position(|line| *line == "```text");
    let parts = std::iter::once(("```text", fence))
        .chain(LABELS.map(|label| (label, head.iter().position(|line| line.starts_with(label)))));
    for (part, position) in parts {
        let Some(position) = position else {
            findings.push(at(1, format!("head: expected `{part}` after the {}, found none", last.1)));
            continue;
        };
        if position <= last.0 {
            let message = format!("head: expected `{part}` after the {}, found it before", last.1);
            findings.push(at(position + 1, message));
        }
        if part != "```text" && paragraph(head, part).is_none_or(|text| text.is_empty()) {
            findings.push(at(position + 1, format!("head: expected text after `{part}`, found none")));
        }
        last = (position.max(last.0), part);
    }
    findings
}

/// Tensor functions without a scalar twin; a file without any twin.
fn twin_findings(file: &str, functions: &[Function]) -> Vec<Finding> {
    let has = |name: &str| functions.iter().any(|f| f.name == name);
    let mut findings: Vec<Finding> = functions
        .iter()
        .filter(|f| f.kind == Kind::Tensor && !has(&format!("{}_scalar", f.name)))
        .map(|f| Finding {
            file: file.to_owned(),
            line: f.line,
            message: format!(
                "twin: expected `pub fn {0}_scalar` beside the tensor function `{0}`, found none",
                f.name
            ),
        })
        .collect();
    if findings.is_empty() && !functions.iter().any(|f| f.name.ends_with("_scalar")) {
        let message = "twin: expected a `pub fn NAME_scalar`, found none".to_owned();
        findings.push(Finding { file: file.to_owned(), line: 1, message });
    }
    findings
}

/// Public functions outside `impl` and test blocks. The source is taken to be formatted by rustfmt: a block ends
/// at the line that is its indent and `}`.
fn functions(text: &str) -> Vec<Function> {
    let mut lines = scan::code_lines(text);
    scan::blank_tests(&mut lines);
    let mut found = Vec::new();
    let mut skip: Option<String> = None;
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim_end();
        if let Some(end) = &skip {
            if line == end {
                skip = None;
            }
            continue;
        }
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let block = ["impl ", "impl<", "pub trait ", "trait "].iter().any(|start| code.starts_with(start));
        if block && !code.ends_with('}') {
            skip = Some(format!("{indent}}}"));
        } else if let Some(rest) = code.strip_prefix("pub fn ").or_else(|| code.strip_prefix("pub const fn "))
        {
            let name: String = rest.chars().take_while(|&c| scan::is_word(c)).collect();
            found.push(Function { name, line: index + 1, kind: kind(&lines[index..]) });
        }
    }
    found
}

/// Whether the signature at the first line, up to its `{`, names a tensor.
fn kind(lines: &[String]) -> Kind {
    for line in lines {
        let (signature, body) = line.split_once('{').map_or((line.as_str(), None), |(s, b)| (s, Some(b)));
        if scan::has_word(signature, "Tensor<") {
            return Kind::Tensor;
        }
        if body.is_some() {
            break;
        }
    }
    Kind::Host
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss file whose head is right; its fences are made here so that no check takes them for our own docs.
    fn good() -> String {
        let fence = "`".repeat(3);
        format!(
            "//! Direct Preference Optimization.\n//!\n//! {fence}text\n//! ℓ = −log σ(β Δ)\n//! {fence}\n//!\n\
             //! Where: Δ is `margin`.\n//! Paper: Rafailov et al., *Direct Preference\n//! Optimization*, \
             arXiv:2305.18290, Eq. 7.\n//! Departures: none.\n//! Detached: `reference`.\n\n\
             pub struct Config;\n\nimpl Config {{\n    pub fn new() -> Self {{\n        Self\n    }}\n}}\n\n\
             pub fn dpo_scalar(x: f64) -> f64 {{\n    x\n}}\n\n\
             #[cfg(feature = \"burn\")]\nmod tensor {{\n    pub fn dpo(\n        x: Tensor<1>,\n    ) -> Tensor<1> {{\n        x\n    }}\n}}\n"
        )
    }

    fn messages(text: &str) -> Vec<String> {
        read("loss/dpo.rs", text).1.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_good_file_is_read_and_has_no_finding() {
        let (loss, findings) = read("loss/dpo.rs", &good());
        assert_eq!(findings, []);
        assert_eq!(loss.paper, "Rafailov et al., *Direct Preference Optimization*, arXiv:2305.18290, Eq. 7.");
        let found: Vec<(&str, Kind)> = loss.functions.iter().map(|f| (f.name.as_str(), f.kind)).collect();
        assert_eq!(found, [("dpo_scalar", Kind::Host), ("dpo", Kind::Tensor)]);
    }

    #[test]
    fn each_missing_part_is_named() {
        for (part, expected) in [
            ("//! Where: Δ is `margin`.\n", "expected `Where:` after the ```text, found none"),
            ("//! Detached: `reference`.\n", "expected `Detached:` after the Departures:, found none"),
            ("//! Direct Preference Optimization.\n", "expected a title line `//! …`, found ``"),
        ] {
            let found = messages(&good().replace(part, ""));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with(expected), "{found:?}");
        }
    }

    #[test]
    fn order_and_emptiness_are_seen() {
        let swapped = good()
            .replace("Departures: none.", "X")
            .replace("Detached: `reference`.", "Departures: none.")
            .replace("//! X", "//! Detached: `reference`.");
        assert_eq!(
            messages(&swapped),
            ["loss/dpo.rs:10: head: expected `Detached:` after the Departures:, found it before"]
        );
        assert_eq!(
            messages(&good().replace("Departures: none.", "Departures:")),
            ["loss/dpo.rs:10: head: expected text after `Departures:`, found none"]
        );
    }

    #[test]
    fn a_tensor_function_needs_its_twin() {
        assert_eq!(
            messages(&good().replace("dpo_scalar", "dpo_plain")),
            [
                "loss/dpo.rs:27: twin: expected `pub fn dpo_scalar` beside the tensor function `dpo`, found none"
            ]
        );
    }
}
