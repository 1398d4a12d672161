//! Tests with real containers. They require root and Debian's static busybox.
//!
//! The test binary also serves as `shim` and `pause`. Without root, busybox or namespaces, every
//! test passes and reports that it was skipped. Each test removes everything that it created, even
//! if it fails.

mod cases;
mod support;

use std::ffi::OsString;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(role) = args.first().and_then(|a| a.to_str())
        && let Some(code) = rkube_runtime::helper_main(role, &args[1..])
    {
        std::process::exit(code);
    }
    std::process::exit(run(&args));
}

/// Implements the part of the test harness's command line that test runners use.
fn run(args: &[OsString]) -> i32 {
    let args: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
    let has = |name: &str| args.contains(&name);
    let mut filters = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--format" | "--test-threads" | "--color" | "--skip" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let chosen = cases::ALL.iter().filter(|(name, _)| {
        filters.is_empty()
            || filters.iter().any(|f| {
                if has("--exact") {
                    name == f
                } else {
                    name.contains(f)
                }
            })
    });
    if has("--list") {
        if !has("--ignored") {
            chosen.for_each(|(name, _)| println!("{name}: test"));
        }
        return 0;
    }
    if has("--ignored") {
        return 0;
    }
    if let Some(reason) = support::unable() {
        rkube_testing::skipped(&reason);
        return 0;
    }
    let mut failed = 0;
    for (name, case) in chosen {
        let result = std::panic::catch_unwind(case);
        println!(
            "test {name} ... {}",
            if result.is_ok() { "ok" } else { "FAILED" }
        );
        failed += i32::from(result.is_err());
    }
    i32::from(failed > 0)
}
