//! The guide to the losses names every loss file, and nothing that does not exist.

use std::collections::HashSet;

use crate::head::{self, LossFile};
use crate::scan;
use crate::workspace::{Finding, Workspace};

const GUIDE: &str = "docs/choosing.md";
const CORE: &str = "crates/rlhf-core/src";

/// Losses that the guide leaves out, and names in it that `rlhf-core` does not know.
pub(super) fn findings(workspace: &Workspace) -> Vec<Finding> {
    let guide = match workspace.read(GUIDE) {
        Ok(text) => text,
        Err(unreadable) => return vec![unreadable],
    };
    let sources = workspace.files(CORE, &["rs"]);
    let texts: Vec<String> = sources.iter().filter_map(|file| workspace.read(file).ok()).collect();
    let known: HashSet<&str> = texts.iter().flat_map(|text| words(text)).collect();
    check(&guide, &head::loss_files(workspace).0, &known)
}

fn check(guide: &str, losses: &[LossFile], known: &HashSet<&str>) -> Vec<Finding> {
    let at = |line: usize, message: String| Finding { file: GUIDE.to_owned(), line, message };
    let mut named = HashSet::new();
    let mut findings = Vec::new();
    for (index, line) in guide.lines().enumerate() {
        // Every second piece between backticks is code.
        for word in line.split('`').skip(1).step_by(2).flat_map(words) {
            named.insert(word);
            let is_template = word.starts_with("NAME");
            if !is_template && !word.starts_with("rlhf") && !known.contains(word) {
                findings.push(at(index + 1, format!("expected a name of rlhf-core, found `{word}`")));
            }
        }
    }
    let left_out = |loss: &&LossFile| {
        let functions = loss.functions.iter().map(|f| f.name.trim_end_matches("_scalar"));
        !functions.into_iter().any(|name| named.contains(name))
    };
    let missing = losses.iter().filter(left_out);
    findings.extend(
        missing.map(|loss| at(0, format!("expected a function of {} to be named, found none", loss.file))),
    );
    findings
}

/// The identifiers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !scan::is_word(c)).filter(|word| word.starts_with(|c: char| c.is_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Function, Kind};

    fn loss(name: &str) -> LossFile {
        let function = |name: String| Function { name, line: 1, kind: Kind::Host };
        LossFile {
            file: format!("loss/{name}.rs"),
            paper: String::new(),
            functions: vec![function(format!("{name}_scalar"))],
        }
    }

    #[test]
    fn a_loss_left_out_and_a_name_unknown_are_found() {
        let known: HashSet<&str> = ["dpo", "ipo", "beta"].into();
        let losses = [loss("dpo"), loss("ipo")];
        let found = |guide: &str| -> Vec<String> {
            check(guide, &losses, &known).iter().map(Finding::to_string).collect()
        };
        assert_eq!(found("| pairs | `dpo` with `beta` | `ipo` |"), Vec::<String>::new());
        assert_eq!(
            found("take\n`dpo` or `kto`"),
            [
                "docs/choosing.md:2: expected a name of rlhf-core, found `kto`",
                "docs/choosing.md: expected a function of loss/ipo.rs to be named, found none",
            ]
        );
    }
}
