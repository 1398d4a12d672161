//! `rkube delete`

use rkube_cluster::{Home, Kubeconfig, default_kubeconfig};
use rkube_failure::Failure;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Delete all clusters
    #[arg(long)]
    all: bool,
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let names = if args.all {
        home.profile_names()?
    } else {
        vec![global.profile.clone()]
    };
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    for name in names {
        rkube_cluster::delete(home, &name, Some(&kubeconfig), output).await?;
        output.say(&format!("The cluster '{name}' was deleted."));
    }
    Ok(())
}
