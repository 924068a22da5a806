//! `codegen`: the README's table of papers, from the heads of the loss files.

use std::fs;
use std::process::ExitCode;

use crate::head::{self, LossFile};
use crate::workspace::{Finding, Workspace};
use crate::{Outcome, usage_error};

const README: &str = "README.md";
const START: &str = "<!-- papers -->";
const END: &str = "<!-- /papers -->";

/// `codegen [--check]`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write(workspace),
        ["--check"] => match check(workspace) {
            findings if findings.is_empty() => Ok(ExitCode::SUCCESS),
            findings => {
                for finding in &findings {
                    println!("{finding}");
                }
                Err("README.md differs from the loss files: run `cargo xtask codegen`".to_owned())
            }
        },
        _ => Ok(usage_error("codegen", "expected nothing or --check")),
    }
}

/// Writes the table into the README, where it is not there already.
fn write(workspace: &Workspace) -> Outcome {
    let old = workspace.read(README).map_err(|finding| finding.to_string())?;
    let table = table(&head::loss_files(workspace).0);
    let new = replaced(&old, &table).map_err(|finding| finding.to_string())?;
    if new == old {
        println!("{README}: up to date");
    } else {
        fs::write(workspace.root().join(README), new).map_err(|error| format!("{README}: {error}"))?;
        println!("{README}: paper table written");
    }
    Ok(ExitCode::SUCCESS)
}

/// The first line of the README's table that is not the generated one.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let result = workspace.read(README).and_then(|old| {
        let new = replaced(&old, &table(&head::loss_files(workspace).0))?;
        Ok((old, new))
    });
    match result {
        Ok((old, new)) => difference(&old, &new).into_iter().collect(),
        Err(finding) => vec![finding],
    }
}

/// The first line at which two READMEs differ.
fn difference(old: &str, new: &str) -> Option<Finding> {
    if old == new {
        return None;
    }
    let (mut found, mut expected) = (old.lines(), new.lines());
    let mut line = 0;
    loop {
        line += 1;
        let pair = (found.next(), expected.next());
        if pair.0 != pair.1 || pair == (None, None) {
            let text = |line: Option<&str>| line.map_or("the end".to_owned(), |text| format!("`{text}`"));
            let message = format!("paper table: expected {}, found {}", text(pair.1), text(pair.0));
            return Some(Finding { file: README.to_owned(), line, message });
        }
    }
}

/// The README with `table` between the markers.
fn replaced(readme: &str, table: &str) -> Result<String, Finding> {
    let missing = |marker: &str| Finding {
        file: README.to_owned(),
        line: 0,
        message: format!("expected the marker `{marker}` on a line, found none"),
    };
    let start = readme.find(START).ok_or_else(|| missing(START))? + START.len();
    let end = start + readme[start..].find(END).ok_or_else(|| missing(END))?;
    Ok(format!("{}\n{table}{}", &readme[..start], &readme[end..]))
}

/// The table: one row a file, in the order of the file names.
pub(crate) fn table(files: &[LossFile]) -> String {
    let mut text = String::from("| paper | function | file |\n| --- | --- | --- |\n");
    for loss in files {
        let has = |name: &str| loss.functions.iter().any(|f| f.name == name);
        // A twin is the function's own name and `_scalar`: said once above the table.
        let is_twin = |name: &str| name.strip_suffix("_scalar").is_some_and(has);
        let alone = loss.functions.iter().filter(|f| !is_twin(&f.name));
        let functions: Vec<String> = alone.map(|f| format!("`{}`", f.name)).collect();
        let name = loss.file.rsplit('/').next().unwrap_or(&loss.file);
        let row =
            format!("| {} | {} | [{name}]({}) |\n", paper(&loss.paper), functions.join(", "), loss.file);
        text.push_str(&row);
    }
    text
}

/// A `Paper:` paragraph for a table cell: each citation up to its arXiv number, which becomes a link.
///
/// Citations are separated by `;`. One without a number is kept whole if it has a title in asterisks; what has
/// neither is a remark, and is kept only where nothing else is.
fn paper(paragraph: &str) -> String {
    let cells: Vec<String> = paragraph.split(';').filter_map(citation).collect();
    let text = if cells.is_empty() { paragraph.trim_end_matches('.').to_owned() } else { cells.join("; ") };
    text.replace('|', "\\|")
}

/// One citation, shortened.
fn citation(text: &str) -> Option<String> {
    let text = text.trim();
    let Some(at) = text.find("arXiv:") else {
        return text.contains('*').then(|| text.trim_end_matches('.').to_owned());
    };
    let rest = &text[at + "arXiv:".len()..];
    let number: String =
        rest.chars().take_while(|&c| c.is_ascii_alphanumeric() || ".-/".contains(c)).collect();
    let number = number.trim_end_matches(['.', '-', '/']);
    // The head may have made a link of it already.
    let before = text[..at].trim_end_matches(['[', '<']);
    Some(format!("{before}[arXiv:{number}](https://arxiv.org/abs/{number})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Function, Kind};

    #[test]
    fn a_row_has_the_paper_the_functions_and_the_file() {
        let function = |name: &str| Function { name: name.to_owned(), line: 1, kind: Kind::Host };
        let loss = LossFile {
            file: "crates/rlhf-core/src/loss/dpo.rs".to_owned(),
            paper: "Rafailov et al., *Direct Preference Optimization*, arXiv:2305.18290, Eq. 7.".to_owned(),
            functions: vec![function("dpo_scalar"), function("dpo")],
        };
        let row = table(&[loss]).lines().nth(2).map(str::to_owned);
        let expected = "| Rafailov et al., *Direct Preference Optimization*, \
                        [arXiv:2305.18290](https://arxiv.org/abs/2305.18290) | `dpo` | \
                        [dpo.rs](crates/rlhf-core/src/loss/dpo.rs) |";
        assert_eq!(row.as_deref(), Some(expected));
    }

    #[test]
    fn several_papers_and_remarks() {
        assert_eq!(
            paper("A, *T*, arXiv:2310.16763v1. Eq. 1; B, *U | V*, Biometrika 39 (1952); see also Eq. 3."),
            "A, *T*, [arXiv:2310.16763v1](https://arxiv.org/abs/2310.16763v1); B, *U \\| V*, Biometrika 39 (1952)"
        );
        assert_eq!(paper("none; a definition."), "none; a definition");
    }

    #[test]
    fn the_table_goes_between_the_markers_and_a_change_is_named() {
        let readme = format!("a\n\n{START}\nold\n{END}\n\nb\n");
        let new = replaced(&readme, "row\n").expect("both markers are there");
        assert_eq!(new, format!("a\n\n{START}\nrow\n{END}\n\nb\n"));
        assert_eq!(replaced(&new, "row\n"), Ok(new.clone()));
        let found = difference(&readme, &new).map(|finding| finding.to_string());
        assert_eq!(found.as_deref(), Some("README.md:4: paper table: expected `row`, found `old`"));
        let found = replaced("a\n", "row\n").map_err(|finding| finding.to_string());
        assert_eq!(found, Err(format!("README.md: expected the marker `{START}` on a line, found none")));
    }
}
