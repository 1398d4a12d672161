//! `rkube snapshot`

use std::time::Duration;

use rkube_cluster::{Home, Progress, Snapshot};
use rkube_failure::Failure;

use super::output::table;
use super::start::parse_duration;
use super::{Global, Output, interrupted};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Save all objects and the data of volumes, while the cluster runs
    Save {
        /// The snapshot's name
        name: String,
    },
    /// List the snapshots of a cluster
    #[command(alias = "ls")]
    List,
    /// Make the cluster what it was: its objects and the data of its volumes are replaced,
    /// and its nodes boot
    Restore {
        /// The snapshot's name
        name: String,
        /// How long the nodes may take to be ready
        #[arg(long, default_value = "6m", value_name = "TIME", value_parser = parse_duration)]
        wait_timeout: Duration,
    },
    /// Remove a snapshot
    #[command(alias = "rm")]
    Delete {
        /// The snapshot's name
        name: String,
    },
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = &global.profile;
    // Whatever of it has no effect yet is dropped at Ctrl-C, and cleans up after itself.
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
            output.say(&format!("The cluster '{profile}' is what '{name}' says."));
            Ok(())
        }
        Command::Delete { name } => {
            rkube_cluster::delete_snapshot(home, profile, &name)?;
            output.say(&format!("The snapshot '{name}' is removed."));
            Ok(())
        }
    }
}

fn list(home: &Home, profile: &str, output: &Output) -> Result<(), Failure> {
    let (snapshots, damaged) = rkube_cluster::snapshots(home, profile)?;
    for failure in damaged {
        if output.json() {
            // Events would spoil the document that programs read.
            eprintln!("{}", failure.message);
        } else {
            output.warn(&failure.message);
        }
    }
    output.result(&snapshots, || {
        if snapshots.is_empty() {
            return "There are no snapshots; make one with: rkube snapshot save NAME".into();
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

/// Bytes for people.
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
