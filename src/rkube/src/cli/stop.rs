//! `rkube stop`

use rkube_cluster::Home;
use rkube_failure::Failure;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Stop all clusters
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let names = if args.all {
        home.profile_names()?
    } else {
        vec![global.profile.clone()]
    };
    for name in names {
        rkube_cluster::stop(home, &name, output).await?;
        output.say(&format!("The cluster '{name}' was stopped."));
    }
    Ok(())
}
