//! `rkube registry`: a registry of images on this machine, for all clusters.
//!
//! A separate process serves it. It does not depend on any cluster: clusters are told of it, and
//! forget it.

#[cfg(unix)]
mod control;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use rkube_cluster::{Home, Profile};
use rkube_failure::Failure;

use super::values::parse_duration;
use super::{Global, Output};

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
    /// Create the registry, or start its process again, and tell the running clusters
    #[command(alias = "start")]
    Create(CreateArgs),
    /// Show the registry: its address, its size and the clusters that know it
    #[command(alias = "ls")]
    List,
    /// Delete the registry with all its images
    #[command(alias = "rm")]
    Delete,
    /// Remove blobs that no image has, and uploads that were given up
    #[command(alias = "prune")]
    Gc {
        /// Also remove images that lost their tag to another one
        #[arg(long)]
        untagged: bool,
        /// Keep what was sent or asked for within this time
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
        older_than: Duration,
    },
    /// Serve the registry, as a separate process.
    #[command(hide = true)]
    Serve,
}

#[derive(clap::Args)]
pub struct CreateArgs {
    /// Port on this machine's loopback [default: 5000, or the next one that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Users and their passwords, as 'htpasswd -B' writes them; without, everybody on this machine
    /// and in the clusters may do everything
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// How users prove who they are
    #[arg(long, value_name = "SCHEME", default_value = "basic", value_parser = ["basic", "token"], requires = "htpasswd")]
    auth: String,
    /// Maximum size of a layer, such as 10g [default: 64 GiB]
    #[arg(long, value_name = "SIZE", value_parser = super::node::parse_size)]
    max_blob_size: Option<u64>,
}

/// Runs the command.
#[cfg(unix)]
pub async fn run(home: &Home, _: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    match args.command {
        Command::Create(args) => process::create(home, &args, output).await,
        Command::List => process::list(home, output).await,
        Command::Delete => process::delete(home, output).await,
        Command::Gc {
            untagged,
            older_than,
        } => control::collect(home, older_than, untagged, output).await,
        Command::Serve => serve::run(home).await,
    }
}

/// Tells a cluster of the registry after its start, if there is one. A cluster is not worse for not
/// knowing it, so failures are warnings.
#[cfg(unix)]
pub async fn after_start(home: &Home, profile: &Profile, output: &Output) {
    process::after_start(home, profile, output).await;
}

/// Tells a node that was added or started the registry's port.
#[cfg(unix)]
pub async fn tell_nodes(home: &Home, profile: &str, output: &Output) {
    process::tell_nodes(home, profile, output).await;
}

/// Enables the addon: creates the registry if there is none, and tells the cluster.
#[cfg(unix)]
pub async fn enable(home: &Home, profile: &Profile, output: &Output) -> Result<(), Failure> {
    process::enable(home, profile, output).await
}

/// Deletes the registry if there is one.
#[cfg(unix)]
pub async fn purge(home: &Home, output: &Output) -> Result<(), Failure> {
    process::purge(home, output).await
}

#[cfg(not(unix))]
pub use elsewhere::*;

#[cfg(not(unix))]
mod elsewhere {
    use super::*;

    fn refused() -> Failure {
        super::super::unsupported::unsupported(
            "'registry' is not supported on this system",
            "build in the cluster: rkube image build -t NAME .",
        )
    }

    pub async fn run(_: &Home, _: &Global, _: Args, _: &Output) -> Result<(), Failure> {
        Err(refused())
    }

    pub async fn after_start(_: &Home, _: &Profile, _: &Output) {}

    pub async fn tell_nodes(_: &Home, _: &str, _: &Output) {}

    pub async fn enable(_: &Home, _: &Profile, _: &Output) -> Result<(), Failure> {
        Err(refused())
    }

    pub async fn purge(_: &Home, _: &Output) -> Result<(), Failure> {
        Ok(())
    }
}
