//! `rkube delete`

use rkube_cluster::{Home, Kubeconfig, default_kubeconfig, remove_tree};
use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output, settings};

#[derive(clap::Args)]
pub struct Args {
    /// Delete all clusters
    #[arg(long)]
    all: bool,
    /// Also remove settings, your addons and everything else of rkube's in its directory
    #[arg(long)]
    purge: bool,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let existing = home.profile_names()?;
    let names = if args.all {
        existing
    } else {
        vec![global.profile.clone()]
    };
    if args.purge
        && !args.all
        && home
            .profile_names()?
            .iter()
            .any(|name| *name != global.profile)
    {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            "--purge would remove other clusters, too",
        )
        .advise("delete all clusters with: rkube delete --all --purge"));
    }
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    for name in names {
        if !rkube_cluster::exists(home, &name)? {
            // Clean-up steps of scripts run whether there is a cluster or not.
            settings::forget_profile(home, &name)?;
            output.say(&format!(
                "There is no cluster '{name}', so nothing was deleted."
            ));
            continue;
        }
        rkube_cluster::delete(home, &name, Some(&kubeconfig), output).await?;
        settings::forget_profile(home, &name)?;
        output.say(&format!("The cluster '{name}' was deleted."));
    }
    if args.purge {
        super::registry::purge(home, output).await?;
        // Not the whole directory: RKUBE_HOME may name one that holds other files, too.
        for own in ["profiles", "addons", "config", "run"] {
            remove_tree(&home.root().join(own))?;
        }
        home.tidy();
        let root = home.root().display();
        if home.root().exists() {
            output.say(&format!(
                "{root} is kept: it has files that are not rkube's."
            ));
        } else {
            output.say(&format!("{root} was removed."));
        }
    }
    Ok(())
}
