//! `rkube logs`

use rkube_cluster::{Home, Profile};
use rkube_failure::Failure;

use super::Global;

#[derive(clap::Args)]
pub struct Args {
    /// Name of the node [default: all nodes]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Number of lines to print of each log
    #[arg(short = 'l', long, default_value_t = 60, value_name = "N")]
    length: usize,
}

pub async fn run(home: &Home, global: &Global, args: Args) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    for (title, content) in rkube_cluster::logs(home, &profile, args.node.as_deref()).await? {
        println!("==> {title} <==");
        let text = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(args.length)..] {
            println!("{line}");
        }
        println!();
    }
    Ok(())
}
