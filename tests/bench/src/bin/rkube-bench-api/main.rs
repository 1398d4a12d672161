//! Measures API servers side by side, through nothing but kubeconfigs.
//!
//! `cargo run --release -p rkube-bench --bin rkube-bench-api -- \
//!     --target rkube=$HOME/.kube/config --target upstream=/tmp/admin.conf`
//!
//! Each phase runs on one target after the other before the next phase begins,
//! so that all of them meet the machine in the same state. Objects are config
//! maps with 1 KiB of data. What is made is removed again.

mod client;
mod phases;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::Mutex;

/// Measures API servers side by side.
#[derive(Parser)]
struct Args {
    /// An API server, NAME=KUBECONFIG; may be repeated
    #[arg(long = "target", value_name = "NAME=KUBECONFIG", required = true, value_parser = pair)]
    targets: Vec<(String, String)>,
    /// A process to weigh at the end, NAME=PID, several of one name add up; may be repeated
    #[arg(long = "pid", value_name = "NAME=PID", value_parser = pair)]
    pids: Vec<(String, String)>,
    /// Clients at work at once, each with a connection of its own
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Seconds that a phase lasts
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Time events alone
    #[arg(long)]
    events_only: bool,
    /// Watchers whose events are timed
    #[arg(long, default_value_t = 50)]
    watchers: usize,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("NAME=VALUE is expected".to_owned()),
    }
}

/// An API server under test.
pub struct Target {
    name: String,
    server: client::Server,
    /// Each has a connection of its own.
    clients: Vec<Arc<Mutex<client::Http>>>,
}

/// How long the machine is left alone before latencies and memory are measured.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(3);

/// Where everything is made; deleted at the end.
const NAMESPACES: [&str; 3] = ["bench-writes", "bench-500", "bench-5000"];

impl Target {
    async fn connect(name: &str, kubeconfig: &str, args: &Args) -> anyhow::Result<Self> {
        let path = PathBuf::from(kubeconfig);
        let file = Kubeconfig::read_from(&path).with_context(|| format!("{}", path.display()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("{}", path.display()))?;
        let server = client::Server::of(&config)?;
        let mut clients = Vec::new();
        for _ in 0..args.clients.max(1) {
            let client = server.connect().await.with_context(|| name.to_owned())?;
            clients.push(Arc::new(Mutex::new(client)));
        }
        Ok(Self {
            name: name.to_owned(),
            server,
            clients,
        })
    }
}

/// One line of the result: a figure a target.
struct Line {
    what: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Fails only when somebody was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut targets = Vec::new();
    for (name, kubeconfig) in &args.targets {
        targets.push(Target::connect(name, kubeconfig, &args).await?);
    }
    for target in &targets {
        phases::prepare(target).await?;
    }
    let measured = measure(&targets, &args).await;
    for target in &targets {
        phases::clean(target).await?;
    }
    let mut lines = measured?;
    // At rest as well: what was freed a moment ago is on its way back.
    tokio::time::sleep(SETTLE).await;
    lines.extend(memory(&args)?);
    print(&targets, &lines);
    Ok(())
}

async fn measure(targets: &[Target], args: &Args) -> anyhow::Result<Vec<Line>> {
    let time = std::time::Duration::from_secs(args.seconds.max(1));
    let mut lines = Vec::new();
    let phases: &[phases::Phase] = if args.events_only { &[] } else { &phases::ALL };
    for &phase in phases {
        let mut values = Vec::new();
        for target in targets {
            eprintln!("{}: {}", target.name, phase.name());
            values.push(phases::run(target, phase, time).await?);
        }
        lines.push(Line {
            what: phase.name(),
            unit: "1/s",
            values,
        });
    }
    let mut latencies = Vec::new();
    for target in targets {
        // What the phases before have left to do, on any of the servers, is not
        // what is measured.
        tokio::time::sleep(SETTLE).await;
        eprintln!("{}: watch", target.name);
        latencies.push(watching::latencies(target, args.watchers, time).await?);
    }
    for (what, part) in [("event, median", 0.5), ("event, 99th percentile", 0.99)] {
        lines.push(Line {
            what,
            unit: "ms",
            values: latencies.iter().map(|l| percentile(l, part)).collect(),
        });
    }
    Ok(lines)
}

/// The value below which `part` of the sorted values lie.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Proportional set size of the processes that were named.
fn memory(args: &Args) -> anyhow::Result<Option<Line>> {
    if args.pids.is_empty() {
        return Ok(None);
    }
    let mut values = Vec::new();
    for (target, _) in &args.targets {
        let mut kib = 0;
        for (_, pid) in args.pids.iter().filter(|(name, _)| name == target) {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
            let Some(found) = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            else {
                bail!("{path} tells no Pss");
            };
            kib += found;
        }
        values.push(if kib == 0 {
            f64::NAN
        } else {
            kib as f64 / 1024.0
        });
    }
    Ok(Some(Line {
        what: "memory (PSS)",
        unit: "MiB",
        values,
    }))
}

fn print(targets: &[Target], lines: &[Line]) {
    print!("{:<26}{:>5}", "", "");
    for target in targets {
        print!("{:>14}", target.name);
    }
    println!("{:>10}", if targets.len() == 2 { "ratio" } else { "" });
    for line in lines {
        print!("{:<26}{:>5}", line.what, line.unit);
        for value in &line.values {
            print!("{value:>14.1}");
        }
        match line.values.as_slice() {
            [a, b] => println!("{:>10.2}", a / b),
            _ => println!(),
        }
    }
}
