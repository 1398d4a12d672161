//! `rkube ip`

use rkube_cluster::{Home, Profile, Progress};
use rkube_failure::Failure;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// The node; the control plane's when not given
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
}

pub fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?;
    println!("{}", node.ip);
    if !rkube_cluster::endpoints(home, &profile)?.routable {
        let ssh = rkube_cluster::ssh_address(home, &profile, node)?;
        output.warn(&format!(
            "this machine does not reach that address; its SSH server is at {ssh}, for the rest use: rkube service, rkube tunnel"
        ));
    }
    Ok(())
}
