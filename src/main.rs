//! `rkube`: one binary, every role.
//!
//! The first argument decides: a role inside a cluster (never typed by a
//! person), or a command of the CLI.

mod cli;
mod roles;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    // Before anything else: shims and supervisors must stay small and
    // single-threaded.
    if let Some(role) = args.first().and_then(|a| a.to_str())
        && let Some(code) = roles::run(role, &args[1..])
    {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    cli::main()
}
