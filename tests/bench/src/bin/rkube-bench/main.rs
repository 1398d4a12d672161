//! Measures the phases of a cluster's life cycle through the public command line.
//!
//! `cargo run --release -p rkube-bench -- --rkube PATH --nodes 4 --rounds 5`
//!
//! Times are wall-clock milliseconds. Memory is the proportional set size (PSS) of all
//! processes of the cluster; CPU is their user and system time. Several drivers (`--driver
//! native,docker,qemu`) are printed side by side. With emulated virtual machines a round
//! takes minutes; use `--nodes 2 --rounds 1` for them.
//!
//! `--dashboard` measures the dashboard in Chromium instead: the time until the page is
//! painted, and its frames and memory with `--pods` pods, of which `--changes` change per
//! second.
//!
//! `--dev` measures `rkube dev`: the time from a changed file to an answer that has it.

mod dashboard;
mod dev;
mod usage;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::PostParams;
use kube::{Api, Client};
use rkube_cluster::{Home, Profile};

/// The timeout of a phase.
const LIMIT: Duration = Duration::from_secs(300);

/// The node port of the app.
const NODE_PORT: u16 = 31080;

/// Measures the phases of a cluster's life cycle
#[derive(Parser)]
struct Args {
    /// The rkube binary to measure
    #[arg(long, default_value = "rkube")]
    rkube: PathBuf,
    /// The drivers to compare
    #[arg(
        long = "driver",
        value_name = "NAME",
        default_value = "native",
        value_delimiter = ','
    )]
    drivers: Vec<String>,
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// Number of rounds through the life cycle
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of the measurement of an idle cluster, in seconds
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Measure the dashboard instead
    #[arg(long)]
    dashboard: bool,
    /// Measure the development loop instead
    #[arg(long, conflicts_with = "dashboard")]
    dev: bool,
    /// Number of pods in the dashboard
    #[arg(long, default_value_t = 5000)]
    pods: u32,
    /// Number of pods that change per second
    #[arg(long, default_value_t = 50)]
    changes: u32,
}

/// The measurements of one round: name, value, unit.
#[derive(Default)]
struct Round(Vec<(&'static str, f64, &'static str)>);

impl Round {
    fn time(&mut self, name: &'static str, since: Instant) {
        self.0
            .push((name, since.elapsed().as_secs_f64() * 1000.0, "ms"));
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if args.dashboard {
        return dashboard::run(&args);
    }
    if args.dev {
        return dev::run(&args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut found = Vec::new();
    for driver in &args.drivers {
        let mut rounds = Vec::new();
        for i in 0..args.rounds {
            eprintln!("{driver}: round {} of {}", i + 1, args.rounds);
            // One idle measurement is enough, and it takes a minute.
            let idle = (i == 0).then(|| Duration::from_secs(args.idle));
            rounds.push(runtime.block_on(round(&args, driver, idle))?);
        }
        found.push(rounds);
    }
    match found.as_slice() {
        [rounds] => spread(&args, rounds),
        all => side_by_side(&args, all),
    }
    Ok(())
}

/// Returns the values of one measurement in all rounds, sorted.
fn sorted(rounds: &[Round], name: &str) -> Vec<f64> {
    let mut values: Vec<f64> = rounds
        .iter()
        .filter_map(|r| r.0.iter().find(|v| v.0 == name))
        .map(|v| v.1)
        .collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Prints the medians of several drivers, one column per driver.
fn side_by_side(args: &Args, all: &[Vec<Round>]) {
    print!("{:<34}", format!("{} nodes, medians", args.nodes));
    for driver in &args.drivers {
        print!(" {driver:>10}");
    }
    println!();
    for (name, _, unit) in &all[0][0].0 {
        print!("{:<34}", format!("{name} ({unit})"));
        for rounds in all {
            let values = sorted(rounds, name);
            match values.get(values.len() / 2) {
                Some(median) => print!(" {median:>10.1}"),
                None => print!(" {:>10}", "-"),
            }
        }
        println!();
    }
}

/// Prints minimum, median and maximum of one driver.
fn spread(args: &Args, rounds: &[Round]) {
    println!(
        "{:<34} {:>10} {:>10} {:>10}",
        format!("{} nodes", args.nodes),
        "min",
        "median",
        "max"
    );
    for (name, _, unit) in &rounds[0].0 {
        let values = sorted(rounds, name);
        let (min, median, max) = (
            values[0],
            values[values.len() / 2],
            values[values.len() - 1],
        );
        println!(
            "{:<34} {min:>10.1} {median:>10.1} {max:>10.1}",
            format!("{name} ({unit})")
        );
    }
}

struct Cluster<'a> {
    rkube: &'a std::path::Path,
    home: PathBuf,
    name: String,
    driver: String,
}

impl Cluster<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.rkube);
        command
            .args(args)
            .env("RKUBE_HOME", &self.home)
            .env("RKUBE_PROFILE", &self.name)
            .env("RKUBE_DRIVER", &self.driver)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<()> {
        let done = self
            .command(args)
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot run {}", self.rkube.display()))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("rkube {args:?} failed ({}): {}", done.status, said.trim());
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // After a successful round, the cluster no longer exists.
        let _ = self.run(&["delete"]);
    }
}

async fn round(args: &Args, driver: &str, idle: Option<Duration>) -> anyhow::Result<Round> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster {
        rkube: &args.rkube,
        home: dir.path().to_path_buf(),
        name: format!("bench{}", std::process::id() % 100_000),
        driver: driver.to_owned(),
    };
    let mut found = Round::default();
    // A published port reaches the app even if nodes are not routable.
    let published = if driver == "native" {
        None
    } else {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        Some((port, format!("{port}:{NODE_PORT}")))
    };
    let nodes = args.nodes.to_string();
    let mut command = vec!["start", "--nodes", &nodes];
    command.extend(published.iter().flat_map(|(_, p)| ["--ports", p.as_str()]));
    let start = Instant::now();
    cluster.run(&command)?;
    found.time("start to all nodes Ready", start);

    let home = Home::at(&cluster.home);
    let profile = Profile::load(&home, &cluster.name).map_err(|e| anyhow::anyhow!("{e}"))?;
    let client = rkube_cluster::client(&home, &profile)
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    deploy(&client).await?;
    lookup(&client).await?;
    found.time("start to DNS answering from a pod", start);
    let address = match &published {
        Some((port, _)) => format!("127.0.0.1:{port}"),
        None => format!("{}:{NODE_PORT}", profile.control_plane().ip),
    };
    until("the app", || answers(&address)).await?;
    found.time("start to the app answering", start);

    if let Some(idle) = idle {
        // Waits until the work of the start has finished.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let members = usage::Members::of(&cluster.name, &cluster.home);
        let before = usage::cpu(&members);
        tokio::time::sleep(idle).await;
        let used = usage::cpu(&members).saturating_sub(before);
        found.0.push((
            "CPU idle",
            used.as_secs_f64() / idle.as_secs_f64() * 100.0,
            "% of a core",
        ));
        found.0.push((
            "memory of all processes",
            usage::pss(&members) as f64 / f64::from(1 << 20),
            "MiB PSS",
        ));
    }

    let since = Instant::now();
    cluster.run(&["stop"])?;
    found.time("stop", since);
    let since = Instant::now();
    cluster.run(&["start"])?;
    found.time("start again to all nodes Ready", since);
    until("the app", || answers(&address)).await?;
    found.time("start again to the app answering", since);
    let since = Instant::now();
    cluster.run(&["delete"])?;
    found.time("delete", since);
    Ok(found)
}

async fn deploy(client: &Client) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "kubia" },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "kubia" } },
            "template": {
                "metadata": { "labels": { "app": "kubia" } },
                "spec": { "containers": [{ "name": "kubia", "image": "rkube/kubia" }] },
            },
        },
    }))?;
    deployments
        .create(&PostParams::default(), &deployment)
        .await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "kubia" },
        "spec": { "type": "NodePort", "selector": { "app": "kubia" }, "ports": [{ "port": 8080, "nodePort": NODE_PORT }] },
    }))?;
    services.create(&PostParams::default(), &service).await?;
    Ok(())
}

/// Runs a pod that resolves a name, and waits until it has succeeded.
async fn lookup(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "lookup" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "lookup",
                "image": "rkube/kubia",
                "command": ["/rkube", "demo", "lookup", "kubernetes.default.svc.cluster.local"],
            }],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let done = |pod: Option<&Pod>| {
        pod.and_then(|p| p.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
    };
    let wait = kube_runtime::wait::await_condition(pods, "lookup", done);
    tokio::time::timeout(LIMIT, wait)
        .await
        .context("no name was resolved in time")??;
    Ok(())
}

async fn until(what: &str, mut good: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !good() {
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

fn answers(address: &str) -> bool {
    use std::io::{Read, Write};
    let get = || -> std::io::Result<String> {
        let address = address.parse().map_err(std::io::Error::other)?;
        let mut stream =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    get().is_ok_and(|text| text.contains("You've hit"))
}
