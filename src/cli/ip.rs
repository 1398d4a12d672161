//! `rkube ip`

use rkube_cluster::{Home, Profile};
use rkube_config::Failure;

use super::Global;

#[derive(clap::Args)]
pub struct Args {
    /// The node; the control plane's when not given
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
}

pub fn run(home: &Home, global: &Global, args: Args) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    println!("{}", profile.node(args.node.as_deref())?.ip);
    Ok(())
}
