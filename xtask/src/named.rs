//! `mutants --named`: the changes of which not one may pass unseen. cargo-mutants makes only the last of them.
//!
//! A detached part that is not, a mask that is not there, a sign that is the other one. Each is made by itself in
//! a copy of the workspace below the target folder; the user's files are never written.

mod sites;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sites::Site;

use crate::workspace::Workspace;
use crate::{Outcome, process, usage_error};

/// How long a build with its tests may take. Alone on a machine they need a few seconds.
const LIMIT: Duration = Duration::from_secs(180);

/// How often a child is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// A test failed.
    Caught,
    /// The tests did not end: seen as well.
    Timeout,
    /// No test failed.
    Missed,
    /// It does not compile, and so can never be written.
    Unviable,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Timeout => "timeout",
            Self::Missed => "missed",
            Self::Unviable => "unviable",
        }
    }
}

/// What the user asked for.
#[derive(Debug, Default, PartialEq)]
struct Options {
    list: bool,
    filter: String,
    /// Every n-th site from the k-th on.
    shard: Option<(usize, usize)>,
}

/// `mutants --named [--list] [--filter TEXT] [--shard K/N]`, the arguments after `--named`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    let options = match options(arguments) {
        Ok(options) => options,
        Err(message) => return Ok(usage_error("mutants", &message)),
    };
    let all = sites::sites(workspace)?;
    let wanted = all.into_iter().filter(|site| site.show().contains(&options.filter));
    let (first, step) = options.shard.unwrap_or((0, 1));
    let sites: Vec<Site> = wanted.skip(first).step_by(step).collect();
    let (equivalent, sites): (Vec<Site>, Vec<Site>) =
        sites.into_iter().partition(|site| site.equivalent.is_some());
    for site in &equivalent {
        println!("{} (left out: {})", site.show(), site.equivalent.unwrap_or_default());
    }
    if options.list {
        for site in &sites {
            println!("{}", site.show());
        }
        println!("{} changes, {} left out", sites.len(), equivalent.len());
        return Ok(ExitCode::SUCCESS);
    }
    if sites.is_empty() {
        return Err(format!("expected a site that contains `{}`, found none", options.filter));
    }
    judge(workspace, &sites)
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match (argument.as_str(), rest.as_slice().first()) {
            ("--list", _) => options.list = true,
            ("--filter", Some(text)) => options.filter.clone_from(text),
            ("--shard", Some(text)) => options.shard = Some(shard(text)?),
            (other, _) => {
                return Err(format!("expected `--list`, `--filter TEXT` or `--shard K/N`, found `{other}`"));
            }
        }
        if argument != "--list" {
            rest.next();
        }
    }
    Ok(options)
}

/// `K/N` with K below N.
fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parts
        .filter(|(k, n)| k < n)
        .ok_or_else(|| format!("--shard: expected K/N with K below N, found `{text}`"))
}

/// Makes each change and runs the tests.
fn judge(workspace: &Workspace, sites: &[Site]) -> Outcome {
    let folder = workspace.target().join("mutants-named");
    let (tree, log) = (folder.join("tree"), folder.join("tests.log"));
    copy(workspace, &tree)?;
    // The first build makes Burn as well: it has no limit.
    process::run(tests(workspace, &tree).arg("--no-run"))?;
    let clean = verdict(&mut tests(workspace, &tree), &log)?;
    if clean != Verdict::Missed {
        return Err(format!(
            "without a change: expected tests that pass, found: {}, see {}",
            clean.name(),
            log.display()
        ));
    }
    let mut verdicts = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        let path = tree.join(&site.file);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let source = fs::read_to_string(&path).map_err(failed)?;
        fs::write(&path, site.applied(&source)).map_err(failed)?;
        let verdict = verdict(&mut tests(workspace, &tree), &log);
        fs::write(&path, source).map_err(failed)?;
        let verdict = verdict?;
        eprintln!("[{}/{}] {} {}", index + 1, sites.len(), verdict.name(), site.show());
        verdicts.push(verdict);
    }
    report(sites, &verdicts)
}

/// Prints what was missed, and how many became what.
fn report(sites: &[Site], verdicts: &[Verdict]) -> Outcome {
    for (site, _) in sites.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::Missed) {
        println!("{}", site.show());
    }
    let count = |verdict: Verdict| verdicts.iter().filter(|found| **found == verdict).count();
    let (caught, timeout) = (count(Verdict::Caught), count(Verdict::Timeout));
    let (missed, unviable) = (count(Verdict::Missed), count(Verdict::Unviable));
    println!(
        "{} changes: {caught} caught, {timeout} timeouts, {missed} missed, {unviable} unviable",
        sites.len()
    );
    if missed == 0 { Ok(ExitCode::SUCCESS) } else { Err(format!("{missed} changes were missed")) }
}

/// The workspace's files, without what was built, as they are now.
fn copy(workspace: &Workspace, to: &Path) -> Result<(), String> {
    if to.exists() {
        fs::remove_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    for file in workspace.all_files() {
        let target = to.join(&file);
        let copied = target.parent().map_or(Ok(()), fs::create_dir_all);
        copied
            .and_then(|()| fs::copy(workspace.root().join(&file), &target))
            .map_err(|error| format!("{}: {error}", target.display()))?;
    }
    Ok(())
}

/// The tests of `rlhf-core` and the laws of its losses, those of the copy. They are built apart: in the
/// workspace's own target folder cargo would take a changed library for the user's, whose files are older.
fn tests(workspace: &Workspace, tree: &Path) -> Command {
    let mut command = process::cargo(workspace);
    command.current_dir(tree).env("CARGO_TARGET_DIR", tree.with_file_name("target"));
    command.args(["test", "--package", "rlhf-core", "--package", "rlhf-laws", "--lib", "--tests"]);
    command
}

/// Runs the tests, for [`LIMIT`] at most; what they print goes to `log`.
fn verdict(tests: &mut Command, log: &Path) -> Result<Verdict, String> {
    let shown = process::show(tests);
    let failed = |error: std::io::Error| format!("`{shown}`: {error}");
    let to = File::create(log).map_err(failed)?;
    let errors = to.try_clone().map_err(failed)?;
    alone(tests);
    let mut child = tests.stdin(Stdio::null()).stdout(to).stderr(errors).spawn().map_err(failed)?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            let text = fs::read(log).map_err(failed)?;
            return Ok(of_output(status.success(), &String::from_utf8_lossy(&text)));
        }
        if start.elapsed() > LIMIT {
            end(&mut child);
            return Ok(Verdict::Timeout);
        }
        thread::sleep(PAUSE);
    }
}

/// What the end of `cargo test` means.
fn of_output(passed: bool, text: &str) -> Verdict {
    match (passed, text.contains("error: could not compile")) {
        (true, _) => Verdict::Missed,
        (false, true) => Verdict::Unviable,
        (false, false) => Verdict::Caught,
    }
}

/// The command will lead a group of its own, so that what it starts can be ended with it.
#[cfg(unix)]
fn alone(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn alone(_: &mut Command) {}

/// Ends a child of [`alone`] and, where the system knows groups, all that it started.
fn end(child: &mut Child) {
    if cfg!(unix) {
        let _sent = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
    }
    // Either may find that there is nobody left.
    let _ended = child.kill().and_then(|()| child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let expected = Options { list: true, filter: "detach".to_owned(), shard: Some((1, 6)) };
        assert_eq!(options(&words("--filter detach --list --shard 1/6")), Ok(expected));
        assert_eq!(options(&[]), Ok(Options::default()));
        let refused = |text: &str| options(&words(text)).expect_err("a wrong option");
        assert!(refused("--shard 6/6").contains("expected K/N with K below N, found `6/6`"));
        assert!(refused("--filter").ends_with("found `--filter`"));
        assert!(refused("--in-place").ends_with("found `--in-place`"));
    }

    #[test]
    fn a_change_is_caught_missed_or_none() {
        assert_eq!(of_output(true, "test result: ok"), Verdict::Missed);
        assert_eq!(of_output(false, "test result: FAILED"), Verdict::Caught);
        assert_eq!(of_output(false, "error: could not compile `a` (lib) due to 1"), Verdict::Unviable);
    }

    #[cfg(unix)]
    #[test]
    fn a_child_that_does_not_end_is_ended_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        alone(&mut command);
        let mut child = command.spawn().expect("a shell");
        end(&mut child);
        assert!(child.try_wait().expect("a child that was waited for").is_some());
    }
}
