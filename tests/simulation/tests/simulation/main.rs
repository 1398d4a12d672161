//! Runs the whole control plane in simulated time, on a simulated disk.
//!
//! Store, API server, controllers and scheduler are the real ones; nodes and users are models.
//! Everything runs on one thread, and time advances only when all of it waits. The seed decides
//! what the user asks for, when the control plane crashes, when the disk is full, slow or
//! fails, when nodes cannot be reached and when the clock jumps.
//!
//! `RKUBE_SIM_SEEDS` sets the number of runs, `RKUBE_SIM_SEED` repeats one.

mod api;
mod check;
mod clock;
mod election;
mod node;
mod plane;
mod registers;
mod trace;
mod user;

use std::process::{Command, Stdio};
use std::sync::Arc;

use plane::{Authority, Simulation};

/// The number of runs without a setting.
const SEEDS: u64 = 10;
/// The test that runs one seed, and the variable that names it.
const ONE: &str = "the_control_plane_survives_whatever_fails";
const SEED: &str = "RKUBE_SIM_SEED";

/// Runs a simulation on a separate thread, and returns the digest of what was written.
fn simulate(seed: u64) -> u64 {
    // Before the thread takes the first random number of its seed.
    let authority = Arc::new(Authority::new());
    let thread = std::thread::Builder::new()
        .name(format!("seed-{seed}"))
        .stack_size(16 << 20)
        .spawn(move || {
            clock::begin(seed);
            Simulation::new(seed, authority).run()
        })
        .expect("a thread");
    match thread.join() {
        Ok(digest) => digest,
        Err(panic) => {
            eprintln!("repeat with {SEED}={seed}");
            std::panic::resume_unwind(panic)
        }
    }
}

/// Starts a process that simulates. Only the first runtime of a process always makes the same
/// random choices.
fn process(seed: u64) -> std::process::Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", ONE, "--nocapture"])
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process")
}

/// Returns the line that tells what a process has done.
fn outcome(seed: u64, process: std::process::Child) -> String {
    let output = process.wait_with_output().expect("its output");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "repeat with {SEED}={seed}\n{told}\n{errors}"
    );
    let line = told.lines().find(|line| line.starts_with("seed "));
    line.expect("a digest").to_owned()
}

#[test]
fn the_control_plane_survives_whatever_fails() {
    if std::env::var_os("RKUBE_SIM_TRACE").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .init();
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    if let Some(seed) = number(SEED) {
        println!("\nseed {seed}: {:016x}", simulate(seed));
        return;
    }
    let seeds: Vec<u64> = (0..number("RKUBE_SIM_SEEDS").unwrap_or(SEEDS)).collect();
    for pair in seeds.chunks(2) {
        let processes: Vec<_> = pair.iter().map(|seed| (*seed, process(*seed))).collect();
        for (seed, process) in processes {
            println!("{}", outcome(seed, process));
        }
    }
}

/// Checks that a seed always leads to the same outcome.
#[test]
fn a_seed_always_leads_to_the_same() {
    let run = || outcome(3, process(3));
    assert_eq!(run(), run());
}
