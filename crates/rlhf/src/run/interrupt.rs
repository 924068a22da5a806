//! Ctrl-C and SIGTERM: the first asks the run to stop at the next good place, the second ends it at once.
//!
//! The loops poll [`interrupted`] between steps, save, and return [`crate::error::Error::Interrupted`].
//! Signals belong to the process, so this is the one piece of state here that is not passed as an argument.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::Error;

/// Exit code of a run that a signal ended.
const INTERRUPTED: i32 = 130;

static FLAG: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// From now on a signal sets what [`interrupted`] says, and a second one ends the process with code 130.
/// Calling it again changes nothing. Meant for a binary's `main`; a library that embeds runs leaves it out.
///
/// # Errors
///
/// [`Error::Failed`] when the operating system refuses the handlers.
pub fn install() -> Result<(), Error> {
    let mut installed = FLAG.lock().unwrap_or_else(PoisonError::into_inner);
    if installed.is_none() {
        let flag = Arc::new(AtomicBool::new(false));
        register(&flag).map_err(|e| Error::Failed(format!("handling Ctrl-C: {e}")))?;
        *installed = Some(flag);
    }
    Ok(())
}

/// Whether a signal asked the run to stop; never without [`install`].
pub fn interrupted() -> bool {
    let installed = FLAG.lock().unwrap_or_else(PoisonError::into_inner);
    installed.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

fn register(flag: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in the order of registration: the shutdown must see the flag of the signal before.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(flag))?;
        flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const ROLE: &str = "RLHF_TEST_INTERRUPT";

    /// Not a test by itself: what the child process of the tests below does. Signals would reach every test
    /// of this process.
    #[test]
    fn child() {
        let Ok(role) = std::env::var(ROLE) else { return };
        install().unwrap();
        install().unwrap();
        assert!(!interrupted());
        // Standard error is not captured line by line by the harness under --nocapture.
        eprintln!("ready");
        let start = Instant::now();
        while !interrupted() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        eprintln!("asked");
        while role == "stubborn" && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::process::exit(7);
    }

    fn spawn(role: &str) -> (Child, impl Iterator<Item = String>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["run::interrupt::tests::child", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        (child, lines)
    }

    fn signal(child: &Child, name: &str) {
        let done = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        for (first, second) in [("INT", "INT"), ("TERM", "INT")] {
            let (mut child, mut lines) = spawn("stubborn");
            assert!(lines.any(|l| l.ends_with("ready")));
            signal(&child, first);
            assert!(lines.any(|l| l == "asked"));
            signal(&child, second);
            assert_eq!(child.wait().unwrap().code(), Some(130));
        }
    }

    #[test]
    fn one_signal_leaves_time_to_save() {
        for name in ["INT", "TERM"] {
            let (mut child, mut lines) = spawn("polite");
            assert!(lines.any(|l| l.ends_with("ready")));
            signal(&child, name);
            assert_eq!(child.wait().unwrap().code(), Some(7));
        }
    }
}
