//! The binary `rlhf`. Standard output carries data only; progress and logs go to standard error.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which its Rust bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Tensors come and go at every step: pages given back to the system would be faulted in again.
#[expect(unsafe_code, reason = "the option has no safe binding")]
fn keep_pages() {
    // SAFETY: sets an integer option of the allocator before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}

fn main() -> ExitCode {
    keep_pages();
    cli::main()
}
