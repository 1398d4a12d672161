//! `rkube driver`

use rkube_cluster::{Candidate, Home};
use rkube_drivers::MachineOptions;
use rkube_failure::Failure;
use serde::Serialize;

use super::output::table;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all drivers, with problems and fixes
    List,
}

/// A driver in the output.
#[derive(Serialize)]
pub struct Entry {
    name: &'static str,
    healthy: bool,
    /// Whether `rkube start` uses it by default.
    default: bool,
    problems: Vec<String>,
    fixes: Vec<String>,
}

/// Converts candidates for output; the first usable one is the default.
pub fn entries(candidates: Vec<Candidate>) -> Vec<Entry> {
    let chosen = candidates.iter().position(Candidate::works);
    candidates
        .into_iter()
        .enumerate()
        .map(|(i, candidate)| {
            let healthy = candidate.works();
            let (problems, fixes) = candidate
                .problems
                .into_iter()
                .map(|p| (p.failure.message, p.failure.advice.unwrap_or_default()))
                .unzip();
            Entry {
                name: candidate.name,
                healthy,
                default: chosen == Some(i),
                problems,
                fixes,
            }
        })
        .collect()
}

/// Formats the drivers as a table, followed by their problems and fixes.
pub fn text(entries: &[Entry]) -> String {
    let mut rows = vec![["DRIVER", "HEALTHY", "DEFAULT"].map(str::to_owned).to_vec()];
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    rows.extend(
        entries
            .iter()
            .map(|e| vec![e.name.to_owned(), yes(e.healthy), yes(e.default)]),
    );
    let mut text = table(&rows);
    for entry in entries {
        for (i, (problem, fix)) in entry.problems.iter().zip(&entry.fixes).enumerate() {
            if i == 0 {
                text += &format!("\n{}:\n", entry.name);
            }
            text += &format!("  - {problem}\n");
            if !fix.is_empty() {
                text += &format!("    {fix}\n");
            }
        }
    }
    text
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let Command::List = args.command;
    let entries = entries(
        rkube_cluster::candidates(home, &global.profile, &MachineOptions::from_env()).await,
    );
    output.result(&entries, || text(&entries));
    Ok(())
}
