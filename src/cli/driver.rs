//! `rkube driver`

use rkube_cluster::Home;
use rkube_config::Failure;
use rkube_drivers::ClusterPlan;
use serde::Serialize;

use super::output::table;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all drivers with what this machine lacks for them
    List,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    healthy: bool,
    problems: Vec<String>,
    fixes: Vec<String>,
}

pub fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let Command::List = args.command;
    let mut entries = Vec::new();
    for name in ["native", "docker", "qemu"] {
        entries.push(match rkube_drivers::by_name(name) {
            Ok(driver) => {
                let plan = ClusterPlan {
                    name: global.profile.clone(),
                    dir: home.profile_dir(&global.profile),
                    run_dir: home.run_dir(&global.profile),
                    binary: home.profile_dir(&global.profile).join("bin/rkube"),
                    // As for a new cluster; that none is free shows as a problem below.
                    node_cidr: driver.free_range(&[]).unwrap_or_default(),
                    loopback_ports: Vec::new(),
                    nodes: Vec::new(),
                };
                let problems = driver.preflight(&plan);
                let fatal = problems.iter().any(|p| p.fatal);
                let (messages, fixes) = problems
                    .into_iter()
                    .map(|p| (p.failure.message, p.failure.advice.unwrap_or_default()))
                    .unzip();
                Entry {
                    name: name.into(),
                    healthy: !fatal,
                    problems: messages,
                    fixes,
                }
            }
            Err(e) => Entry {
                name: name.into(),
                healthy: false,
                problems: vec![e.message],
                fixes: e.advice.into_iter().collect(),
            },
        });
    }
    output.result(&entries, || {
        let mut rows = vec![
            ["DRIVER", "HEALTHY", "PROBLEM", "FIX"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for e in &entries {
            let healthy = if e.healthy { "yes" } else { "no" };
            rows.push(vec![
                e.name.clone(),
                healthy.into(),
                e.problems.join("; "),
                e.fixes.join("; "),
            ]);
        }
        table(&rows)
    });
    Ok(())
}
