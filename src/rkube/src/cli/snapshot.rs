//! `rkube snapshot`

use std::time::Duration;

use rkube_cluster::{Home, Progress, Snapshot};
use rkube_failure::Failure;

use super::output::table;
use super::values::parse_duration;
use super::{Global, Output, interrupted};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Save all API objects and the data of volumes of a running cluster
    Save {
        /// Name of the snapshot
        name: String,
    },
    /// List the snapshots of a cluster
    #[command(alias = "ls")]
    List,
    /// Restore a snapshot: replace all API objects and the data of volumes, and restart
    /// the nodes
    Restore {
        /// Name of the snapshot
        name: String,
        /// Maximum time to wait for the nodes to be ready, such as 90s or 6m
        #[arg(long, default_value = "6m", value_name = "TIME", value_parser = parse_duration)]
        wait_timeout: Duration,
    },
    /// Delete a snapshot
    #[command(alias = "rm")]
    Delete {
        /// Name of the snapshot
        name: String,
    },
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = &global.profile;
    // Until a command takes effect, Ctrl-C drops its future, which cleans up.
    let interrupt = interrupted();
    match args.command {
        Command::Save { name } => {
            let saved = tokio::select! {
                saved = rkube_cluster::save_snapshot(home, profile, &name, output) => saved?,
                () = interrupt => return Err(Failure::interruption()),
            };
            output.say(&format!(
                "The snapshot '{name}' holds {} objects and takes {}.",
                saved.objects,
                size(saved.bytes)
            ));
            Ok(())
        }
        Command::List => list(home, profile, output),
        Command::Restore { name, wait_timeout } => {
            let staged = tokio::select! {
                staged = rkube_cluster::stage_snapshot(home, profile, &name, output) => staged?,
                () = interrupt => return Err(Failure::interruption()),
            };
            staged.restore(wait_timeout, output).await?;
            output.say(&format!(
                "The cluster '{profile}' was restored from the snapshot '{name}'."
            ));
            Ok(())
        }
        Command::Delete { name } => {
            rkube_cluster::delete_snapshot(home, profile, &name)?;
            output.say(&format!("The snapshot '{name}' was deleted."));
            Ok(())
        }
    }
}

fn list(home: &Home, profile: &str, output: &Output) -> Result<(), Failure> {
    let (snapshots, damaged) = rkube_cluster::snapshots(home, profile)?;
    for failure in damaged {
        if output.json() {
            // Standard output must stay one JSON document.
            eprintln!("{}", failure.message);
        } else {
            output.warn(&failure.message);
        }
    }
    output.result(&snapshots, || {
        if snapshots.is_empty() {
            let none = format!(
                "There are no snapshots; create one with: {}",
                rkube_failure::command("snapshot save NAME", profile)
            );
            return super::messages::text(&none).into_owned();
        }
        let heads = ["NAME", "CREATED", "OBJECTS", "SIZE", "NODES"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(snapshots.iter().map(row));
        table(&rows)
    });
    Ok(())
}

fn row(snapshot: &Snapshot) -> Vec<String> {
    vec![
        snapshot.name.clone(),
        snapshot.created.clone(),
        snapshot.objects.to_string(),
        size(snapshot.bytes),
        snapshot.nodes.len().to_string(),
    ]
}

/// Formats a number of bytes.
fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 20), "5.0 MiB");
    }
}
