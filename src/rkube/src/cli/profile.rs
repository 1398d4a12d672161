//! `rkube profile`

use rkube_cluster::{Home, Kubeconfig, Profile, default_kubeconfig};
use rkube_failure::Failure;
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
    /// List all clusters
    List,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    name: String,
    status: String,
    driver: String,
    nodes: usize,
    address: String,
}

pub async fn run(
    home: &Home,
    _global: &Global,
    args: Args,
    output: &Output,
) -> Result<(), Failure> {
    let Command::List = args.command;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let mut entries = Vec::new();
    for name in home.profile_names()? {
        entries.push(match entry(home, &name, &kubeconfig).await {
            Ok(entry) => entry,
            Err(e) => Entry {
                name,
                status: format!("Damaged: {}", e.message),
                driver: "-".into(),
                nodes: 0,
                address: "-".into(),
            },
        });
    }
    output.result(&entries, || {
        if entries.is_empty() {
            return "There are no clusters; create one with: rkube start".into();
        }
        let mut rows = vec![
            ["PROFILE", "DRIVER", "NODES", "ADDRESS", "STATUS"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(entries.iter().map(|e| {
            vec![
                e.name.clone(),
                e.driver.clone(),
                e.nodes.to_string(),
                e.address.clone(),
                e.status.clone(),
            ]
        }));
        table(&rows)
    });
    Ok(())
}

async fn entry(home: &Home, name: &str, kubeconfig: &Kubeconfig) -> Result<Entry, Failure> {
    let profile = Profile::load(home, name)?;
    let text = match rkube_cluster::status(home, &profile, kubeconfig).await {
        Ok(status) => {
            let running = status.nodes.iter().filter(|n| n.host == "Running").count();
            match running {
                0 => "Stopped".to_owned(),
                n if n == status.nodes.len() && status.exit_code() == 0 => "Running".to_owned(),
                _ => "Degraded".to_owned(),
            }
        }
        // Such as a container engine that is not running.
        Err(e) => format!("Unknown: {}", e.message),
    };
    Ok(Entry {
        name: name.to_owned(),
        status: text,
        driver: profile.driver.clone(),
        nodes: profile.nodes.len(),
        address: profile.control_plane().ip.to_string(),
    })
}
