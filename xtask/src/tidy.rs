//! `tidy`: what no compiler checks. Also a test of this package.

mod choosing;
mod layers;
mod text;

use std::process::ExitCode;

use crate::workspace::{Finding, Workspace};
use crate::{Outcome, codegen, head, usage_error};

/// `tidy`: prints each finding as `file:line: what, expected, found`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    if !arguments.is_empty() {
        return Ok(usage_error("tidy", "expected no arguments"));
    }
    let findings = findings(workspace);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(format!("{count} findings")),
    }
}

/// Everything that is untidy in the workspace.
fn findings(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = layers::findings(workspace);
    findings.extend(head::loss_files(workspace).1);
    findings.extend(codegen::check(workspace));
    findings.extend(choosing::findings(workspace));
    findings.extend(text::findings(workspace));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let found: Vec<String> = findings(&Workspace::here()).iter().map(Finding::to_string).collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
