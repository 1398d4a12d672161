//! `rkube export`

use std::path::{Path, PathBuf};

use rkube_cluster::{
    Exported, Home, Kubeconfig, Profile, Progress as _, default_kubeconfig, io_failure,
};
use rkube_failure::Failure;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write logs of nodes and pods, objects, events and versions to a directory
    ///
    /// Secrets are left out. Items that cannot be read are listed in missing.txt.
    Logs {
        /// Path of the directory, which is created
        dir: PathBuf,
    },
    /// Print a kubeconfig for this cluster alone
    Kubeconfig {
        /// Use the address for containers in the cluster's network
        #[arg(long)]
        internal: bool,
    },
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    match args.command {
        Command::Logs { dir } => {
            let done = write(home, &profile, &dir, output).await?;
            output.say(&format!(
                "{} files of the cluster '{}' were written to {}.",
                done.files,
                profile.name,
                dir.display()
            ));
            Ok(())
        }
        Command::Kubeconfig { internal } => {
            let text = rkube_cluster::kubeconfig(home, &profile, internal)?;
            super::config::print(&text, output)
        }
    }
}

/// Writes the logs of a cluster to a directory.
pub async fn write(
    home: &Home,
    profile: &Profile,
    dir: &Path,
    output: &Output,
) -> Result<Exported, Failure> {
    std::fs::create_dir_all(dir).map_err(|e| io_failure("create", dir, &e))?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let done = rkube_cluster::export(home, profile, &kubeconfig, dir, output).await?;
    output.finish();
    if !done.missing.is_empty() {
        output.warn(&format!(
            "{} logs or lists could not be read; see {}",
            done.missing.len(),
            dir.join("missing.txt").display()
        ));
    }
    Ok(done)
}
