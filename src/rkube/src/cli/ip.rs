//! `rkube ip`

use rkube_cluster::{Home, Profile, Progress};
use rkube_failure::{Failure, command};

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Name of the node [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
}

pub fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?;
    let ip = profile.node_ip(node);
    output.result(&serde_json::json!({ "name": node.name, "ip": ip }), || {
        ip.to_string()
    });
    if !rkube_cluster::endpoints(home, &profile)?.routable {
        let ssh = rkube_cluster::ssh_address(home, &profile, node)?;
        output.warn(&format!(
            "this machine has no route to that address. SSH is available at {ssh}; for services use: {}, {}",
            command("service", &profile.name),
            command("tunnel", &profile.name)
        ));
    }
    Ok(())
}
