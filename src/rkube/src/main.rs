//! `rkube`: one binary, every role.
//!
//! The first argument decides: a role inside a cluster (never typed by a
//! person), or a command of the CLI.

// Reuses the readers and writers of typed objects that are compiled there.
use rkube_client as _;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator;
mod cli;
#[cfg(target_os = "linux")]
mod roles;
#[cfg(not(target_os = "linux"))]
mod roles_elsewhere;

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
use roles_elsewhere as roles;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    // Before anything else: shims and supervisors must stay small and
    // single-threaded.
    if let Some(role) = args.first().and_then(|a| a.to_str())
        && let Some(code) = roles::run(role, &args[1..])
    {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    #[cfg(windows)]
    return on_a_deep_stack();
    #[cfg(not(windows))]
    cli::main()
}

/// The CLI on as much stack as it has elsewhere: Windows gives the first thread 1 MB.
#[cfg(windows)]
fn on_a_deep_stack() -> ExitCode {
    let thread = std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(cli::main);
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // It has said why.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: cannot start a thread: {e}");
            ExitCode::FAILURE
        }
    }
}
