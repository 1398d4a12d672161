//! `rkube node`

use rkube_cluster::{Home, Kubeconfig, NodeSpec, Profile, default_kubeconfig};
use rkube_failure::Failure;

use super::output::table;
use super::{Global, Output, interrupted};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }

    /// Whether the command undoes its work when it is interrupted.
    pub fn handles_interrupt(&self) -> bool {
        matches!(self.command, Command::Add { .. })
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the nodes of a cluster
    List,
    /// Add worker nodes
    Add {
        /// Number of nodes to add
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
        count: u32,
        /// CPU limit of the node, such as 2 or 1.5 [default: no limit]
        #[arg(long, value_name = "N", value_parser = parse_cpus)]
        cpus: Option<u64>,
        /// Memory limit of the node, such as 2g or 512m [default: no limit]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        memory: Option<u64>,
    },
    /// Drain a node and delete it
    Delete {
        /// Name of the node, such as m02
        node: String,
    },
    /// Stop a node; it stays stopped until `rkube node start`
    Stop {
        /// Name of the node
        node: String,
    },
    /// Start a stopped node
    Start {
        /// Name of the node
        node: String,
    },
}

/// Parses a decimal number of CPUs and returns millicores.
pub fn parse_cpus(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.1..=1024.0).contains(&cpus) => Ok((cpus * 1000.0).round() as u64),
        _ => Err(format!("'{text}' is not a number of CPUs from 0.1 to 1024")),
    }
}

/// Parses a size with a unit and returns bytes. The default unit is MiB, as minikube's.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &lower[digits.len()..] {
        "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "" | "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return Err(format!("'{text}' is not a size such as 512m or 2g")),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("'{text}' is not a size such as 512m or 2g"))?;
    if bytes < 64 << 20 {
        return Err(format!("'{text}' is too small, the minimum is 64m"));
    }
    Ok(bytes)
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = &global.profile;
    match args.command {
        Command::List => list(home, global, output).await,
        Command::Add {
            count,
            cpus,
            memory,
        } => {
            let spec = NodeSpec {
                cpu_millis: cpus,
                memory_bytes: memory,
                ..NodeSpec::default()
            };
            let mut interrupt = std::pin::pin!(interrupted());
            for _ in 0..count {
                // A cluster that does not run adds nodes without waiting.
                if futures::poll!(&mut interrupt).is_ready() {
                    return Err(Failure::interruption());
                }
                let node =
                    rkube_cluster::add_node(home, profile, &spec, &mut interrupt, output).await?;
                output.say(&format!("The node '{}' was added.", node.name));
            }
            super::registry::tell_nodes(home, profile, output).await;
            super::image::catch_up::run(home, profile, output).await;
            Ok(())
        }
        Command::Delete { node } => {
            let node = full_name(home, profile, &node)?;
            rkube_cluster::delete_node(home, profile, &node, output).await?;
            output.say(&format!("The node '{node}' was deleted."));
            Ok(())
        }
        Command::Stop { node } => {
            let node = full_name(home, profile, &node)?;
            rkube_cluster::stop_node(home, profile, &node, output).await?;
            output.say(&format!("The node '{node}' was stopped."));
            Ok(())
        }
        Command::Start { node } => {
            let node = full_name(home, profile, &node)?;
            rkube_cluster::start_node(home, profile, &node, output).await?;
            super::registry::tell_nodes(home, profile, output).await;
            super::image::catch_up::run(home, profile, output).await;
            output.say(&format!("The node '{node}' is ready."));
            Ok(())
        }
    }
}

/// Returns the full name of a node, for messages.
fn full_name(home: &Home, profile: &str, node: &str) -> Result<String, Failure> {
    let profile = Profile::load(home, profile)?;
    Ok(profile.node(Some(node))?.name.clone())
}

async fn list(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let status =
        rkube_cluster::status(home, &profile, &Kubeconfig::at(default_kubeconfig()?)).await?;
    output.result(&status.nodes, || {
        let mut rows = vec![
            ["NAME", "ADDRESS", "STATE", "READY", "ROLE"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for node in &status.nodes {
            rows.push(vec![
                node.name.clone(),
                node.ip.clone(),
                node.host.to_owned(),
                if node.kubelet == "Running" {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
                if node.worker {
                    "worker"
                } else {
                    "control-plane"
                }
                .to_owned(),
            ]);
        }
        table(&rows)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_add_nodes_undo_that_on_interrupts() {
        for (line, expected) in [
            ("node add", true),
            ("apply -f cluster.yaml", true),
            ("node list", false),
            ("node delete m02", false),
        ] {
            let words = std::iter::once("rkube").chain(line.split(' '));
            let words = words.map(std::ffi::OsString::from).collect();
            let settings = crate::cli::settings::Settings::default();
            let parsed = crate::cli::args::parse(words, &settings).unwrap();
            let handles = crate::cli::handles_interrupt(&parsed.cli.command);
            assert_eq!(handles, expected, "{line}");
        }
    }

    #[test]
    fn sizes_and_cpus() {
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("512"), Ok(512 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for bad in ["", "g", "1p", "-1g", "1", "99999999999g"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_cpus("1.5"), Ok(1500));
        for bad in ["0", "-1", "x", "nan", "inf"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }
}
