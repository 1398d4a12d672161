//! `rkube mount`

use std::path::PathBuf;

use rkube_cluster::{Home, Profile};
use rkube_drivers::HostMount;
use rkube_failure::Failure;

use super::output::table;
use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    /// Directory or file of this machine and its path in the nodes, HOST:NODE[:ro] [default: list
    /// what is mounted]
    #[arg(value_name = "MOUNT")]
    mount: Option<HostMount>,
    /// Name of the node [default: all nodes]
    #[arg(short, long, value_name = "NODE", conflicts_with = "kill")]
    node: Option<String>,
    /// Unmount what is at this path of the nodes
    #[arg(long, value_name = "PATH", conflicts_with = "mount")]
    remove: Option<PathBuf>,
    /// Unmount everything
    #[arg(long, conflicts_with_all = ["mount", "remove"])]
    kill: bool,
}

/// A row of the list.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    host: PathBuf,
    path: PathBuf,
    read_only: bool,
    /// `None` for all nodes.
    node: Option<String>,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let name = &profile.name;
    if let Some(mount) = &args.mount {
        let node = args.node.as_deref();
        rkube_cluster::mount(home, name, node, mount, output).await?;
        let place = match node {
            Some(node) => format!("the node {}", profile.node(Some(node))?.name),
            None => "all nodes".to_owned(),
        };
        output.say(&format!(
            "Mounted {} at {} on {place}; it stays after a restart. Remove it with: {}",
            mount.host.display(),
            mount.node.display(),
            rkube_failure::command(&format!("mount --remove {}", mount.node.display()), name)
        ));
        return Ok(());
    }
    if args.node.is_some() && args.remove.is_none() {
        return Err(usage_failure(
            "--node is for a directory to mount or --remove",
        ));
    }
    let rows = rows(&profile);
    let remove: Vec<PathBuf> = match args.remove {
        Some(path) => vec![path],
        None if args.kill => rows.into_iter().map(|row| row.path).collect(),
        None => {
            list(&rows, output);
            return Ok(());
        }
    };
    if remove.iter().any(|path| !path.has_root()) {
        return Err(usage_failure(
            "--remove needs the absolute path in the nodes",
        ));
    }
    let mut paths = remove;
    paths.sort();
    paths.dedup();
    for path in paths {
        rkube_cluster::unmount(home, name, args.node.as_deref(), &path, output).await?;
        let place = args.node.as_deref().unwrap_or("the nodes");
        output.say(&format!("{} was taken away from {place}.", path.display()));
    }
    Ok(())
}

fn rows(profile: &Profile) -> Vec<Row> {
    let row = |mount: &HostMount, node: Option<&str>| Row {
        host: mount.host.clone(),
        path: mount.node.clone(),
        read_only: mount.read_only,
        node: node.map(str::to_owned),
    };
    let everywhere = profile.mounts.iter().map(|mount| row(mount, None));
    let single = profile.nodes.iter().flat_map(|node| {
        let name = node.name.as_str();
        node.mounts.iter().map(move |mount| row(mount, Some(name)))
    });
    everywhere.chain(single).collect()
}

fn list(rows: &[Row], output: &Output) {
    output.result(&rows, || {
        if rows.is_empty() {
            return "No directories of this machine are mounted.".to_owned();
        }
        let head = ["HOST", "PATH", "ACCESS", "NODES"].map(str::to_owned);
        let lines = rows.iter().map(|row| {
            vec![
                row.host.display().to_string(),
                row.path.display().to_string(),
                if row.read_only { "read" } else { "write" }.to_owned(),
                row.node.clone().unwrap_or_else(|| "all".to_owned()),
            ]
        });
        let all: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(lines).collect();
        table(&all)
    });
}
