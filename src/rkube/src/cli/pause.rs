//! `rkube pause` and `rkube unpause`

use rkube_cluster::{Home, set_paused};
use rkube_failure::Failure;

use super::unsupported::unsupported;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Namespaces whose pods to pause. Not supported: the whole cluster is paused
    #[arg(short, long, hide = true, value_name = "NAMES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// All namespaces, which is the only way to pause a cluster
    #[arg(short = 'A', long, hide = true)]
    all_namespaces: bool,
}

/// Freezes the cluster, or lets it go on.
pub async fn run(
    home: &Home,
    global: &Global,
    args: Args,
    paused: bool,
    output: &Output,
) -> Result<(), Failure> {
    if !args.namespaces.is_empty() && !args.all_namespaces {
        let name = &global.profile;
        return Err(unsupported(
            "--namespaces is not supported: the nodes would take frozen pods for dead ones and restart them",
            format!(
                "leave it out to pause the whole cluster, or scale what is not needed to zero: {}",
                rkube_failure::command("kubectl -- scale deployment NAME --replicas 0", name)
            ),
        ));
    }
    let count = set_paused(home, &global.profile, paused, output).await?;
    let name = &global.profile;
    output.say(&match (count, paused) {
        (0, true) => format!("The cluster '{name}' is paused already."),
        (0, false) => format!("The cluster '{name}' is not paused."),
        (_, true) => format!(
            "The cluster '{name}' is paused: it keeps its memory and needs no CPU time. Let it go on with: {}",
            rkube_failure::command("unpause", name)
        ),
        (_, false) => format!("The cluster '{name}' is running again."),
    });
    Ok(())
}
