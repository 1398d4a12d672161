//! `rkube logs`

use rkube_cluster::{Home, Profile};
use rkube_config::Failure;
use rkube_config::failure::{Kind, Source};

use super::Global;

#[derive(clap::Args)]
pub struct Args {
    /// Only this node's
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Print this many lines of each log
    #[arg(short = 'l', long, default_value_t = 60, value_name = "N")]
    length: usize,
}

pub fn run(home: &Home, global: &Global, args: Args) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let dir = home.profile_dir(&profile.name);
    let mut logs = Vec::new();
    let nodes: Vec<&str> = match &args.node {
        Some(node) => vec![&profile.node(Some(node))?.name],
        None => {
            logs.push(("supervisor".to_owned(), dir.join("logs/supervisor.log")));
            profile.nodes.iter().map(|n| n.name.as_str()).collect()
        }
    };
    for node in nodes {
        let folder = dir.join("nodes").join(node).join("log");
        logs.push((format!("{node} init"), folder.join("init.log")));
        for service in ["control-plane", "agent"] {
            logs.push((
                format!("{node} {service}"),
                folder.join(format!("rkube/{service}.log")),
            ));
        }
    }
    for (title, path) in logs {
        match std::fs::read(&path) {
            Ok(content) => {
                println!("==> {title} <==");
                let text = String::from_utf8_lossy(&content);
                let lines: Vec<&str> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(args.length)..] {
                    println!("{line}");
                }
                println!();
            }
            // Not every node has every service.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Failure::new(
                    Source::Host,
                    Kind::Error,
                    format!("cannot read {}: {e}", path.display()),
                ));
            }
        }
    }
    Ok(())
}
