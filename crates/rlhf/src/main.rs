//! The binary `rlhf`. Standard output carries data only; progress and logs go to standard error.

mod cli;

use std::process::ExitCode;

/// Fresh pages cost more than the memory that purging would give back: burn's tensors come and go
/// at every step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
