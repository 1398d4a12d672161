//! `rkube`: one binary for the command line and for every process of a cluster.
//!
//! The first argument selects an internal role or a command of the command line.

// Links the API types' serializers that `rkube_client` instantiates, instead of compiling them
// again.
use rkube_client as _;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator;
#[cfg(target_os = "linux")]
mod roles;
#[cfg(not(target_os = "linux"))]
mod roles_elsewhere;

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
use roles_elsewhere as roles;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if let Some(code) = roles::by_name(std::env::args_os().next().as_deref(), &args) {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    // Checked first, because shims and supervisors must stay small and single-threaded.
    if let Some(role) = args.first().and_then(|a| a.to_str())
        && !is_command(role, &args[1..])
        && let Some(code) = roles::run(role, &args[1..])
    {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    #[cfg(windows)]
    return run_on_large_stack();
    #[cfg(not(windows))]
    rkube::main()
}

/// Whether the first argument, which also names a role, is a command of the command line.
fn is_command(role: &str, args: &[std::ffi::OsString]) -> bool {
    // The role's only argument is the directory of a sandbox.
    let sandbox = |dir: &std::ffi::OsString| std::path::Path::new(dir).is_absolute();
    role == "pause" && !matches!(args, [dir] if sandbox(dir))
}

/// Runs the command line on an 8 MiB stack, as on Unix. The main thread on Windows has 1 MiB.
#[cfg(windows)]
fn run_on_large_stack() -> ExitCode {
    let thread = std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(rkube::main);
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // The panic message has been printed.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: cannot start a thread: {e}");
            ExitCode::FAILURE
        }
    }
}
