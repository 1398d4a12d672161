//! Compares API servers, using only their kubeconfigs.
//!
//! `cargo run --release -p rkube-bench --bin rkube-bench-api -- \
//!     --target rkube=$HOME/.kube/config --target upstream=/tmp/admin.conf`
//!
//! Each phase runs on all targets, one after the other, before the next phase begins. All
//! targets therefore find the machine in the same state. Objects are config maps with 1 KiB
//! of data. All objects are removed at the end.

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

/// Compares API servers
#[derive(Parser)]
struct Args {
    /// An API server, NAME=KUBECONFIG; may be repeated
    #[arg(long = "target", value_name = "NAME=KUBECONFIG", required = true, value_parser = pair)]
    targets: Vec<(String, String)>,
    /// A process whose memory is measured at the end, NAME=PID; may be repeated, and
    /// processes with the same NAME add up
    #[arg(long = "pid", value_name = "NAME=PID", value_parser = pair)]
    pids: Vec<(String, String)>,
    /// Number of concurrent clients, each with its own connection
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Duration of a phase, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measure only the latency of events
    #[arg(long)]
    events_only: bool,
    /// Number of watchers in the measurement of events
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

/// An API server to measure.
pub struct Target {
    name: String,
    server: client::Server,
    /// The clients, each with its own connection.
    clients: Vec<Arc<Mutex<client::Http>>>,
}

/// The pause before latencies and memory are measured.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(3);

/// The namespaces of all objects; deleted at the end.
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

/// One line of the result, with one value per target.
struct Line {
    what: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Errors only if a provider is already installed, which is fine.
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
    // Waits until the servers have returned freed memory.
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
        // Waits until all servers have finished the work of earlier phases.
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

/// Returns the value below which the fraction `part` of the sorted values lies.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Returns the proportional set size (PSS) of the processes given by `--pid`.
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
