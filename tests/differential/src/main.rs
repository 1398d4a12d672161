//! `rkube-differential`: compares two API servers, or checks the laws of one.

use anyhow::{Context as _, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rkube_differential::own::Own;
use rkube_differential::{Case, Generator, Server, laws, pair};
use std::collections::BTreeMap;

/// Sends generated objects to two API servers and prints how their answers differ. Without
/// another server, checks what holds for every object on every server.
///
/// Exits with 1 if there is a difference that is not in the list of known ones.
#[derive(Parser)]
struct Args {
    /// The kubeconfig of the server under test. Without one, it runs in this process.
    #[arg(long)]
    kubeconfig: Option<String>,
    /// The kubeconfig of the server to compare with.
    #[arg(long)]
    oracle: Option<String>,
    /// How many objects are sent.
    #[arg(long, default_value_t = 10_000)]
    cases: u64,
    /// The number of the first case.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// What the cases are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only kinds whose `apiVersion/kind` contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// A file of known differences: each line is a text that their lines contain.
    #[arg(long)]
    known: Option<String>,
    /// The namespace of the objects; it is created.
    #[arg(long, default_value = "differential")]
    namespace: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let known = match &args.known {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.clone())?,
        None => String::new(),
    };
    let known: Vec<&str> = known
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    let generator = Generator::new(args.seed, &args.only)?;
    let own;
    let server = match &args.kubeconfig {
        Some(file) => connect(file, &args.namespace).await?,
        None => {
            own = Own::start().await?;
            let server = own.server(&args.namespace);
            server.prepare().await?;
            server
        }
    };
    let oracle = match &args.oracle {
        Some(file) => Some(connect(file, &args.namespace).await?),
        None => None,
    };
    let mut seen = BTreeMap::new();
    let mut unexplained = 0;
    for number in args.from..args.from + args.cases {
        let case = generator.case(number);
        let lines = match &oracle {
            Some(oracle) => compared(&server, oracle, &case, &known, &mut seen).await?,
            None => judged(&server, &case, &known).await?,
        };
        unexplained += u64::from(lines.is_some());
        if let Some(lines) = lines.filter(|lines| !lines.is_empty()) {
            let kind = &case.resource.kind;
            println!(
                "case {number}, {kind}, {}:\n{}",
                case.changes.join(" "),
                lines.join("\n")
            );
        }
    }
    for (place, count) in seen.iter().filter(|(_, count)| **count > 1) {
        println!("{count} times: {place}");
    }
    println!(
        "{} cases with seed {}: {unexplained} with differences",
        args.cases, args.seed
    );
    anyhow::ensure!(unexplained == 0, "there are unexplained differences");
    Ok(())
}

async fn connect(file: &str, namespace: &str) -> Result<Server> {
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| file.to_owned())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let server = Server::new(Client::try_from(config)?, namespace);
    server.prepare().await?;
    Ok(server)
}

fn is_known(known: &[&str], line: &str) -> bool {
    known.iter().any(|part| line.contains(part))
}

/// Compares the answers to a case. Returns what to print of new differences: a place that was
/// seen with another object of the kind is only counted. Without a difference, returns nothing.
async fn compared(
    server: &Server,
    oracle: &Server,
    case: &Case,
    known: &[&str],
    seen: &mut BTreeMap<String, u64>,
) -> Result<Option<Vec<String>>> {
    let mut found = pair::run(server, oracle, case).await?;
    for difference in &mut found {
        difference.places.retain(|place| !is_known(known, place));
    }
    found.retain(|difference| !difference.places.is_empty());
    if found.is_empty() {
        return Ok(None);
    }
    let name = format!("d{}", case.number);
    let mut unseen = None;
    for difference in &found {
        for place in &difference.places {
            let place = place.replace(&name, "NAME");
            let count = seen
                .entry(format!("{} {place}", case.resource.kind))
                .or_insert(0);
            *count += 1;
            if *count == 1 {
                unseen = unseen.or(Some(difference));
            }
        }
    }
    let mut lines = Vec::new();
    if let Some(difference) = unseen {
        let smallest = pair::minimise(server, oracle, case, difference).await?;
        lines.push(format!("  {}", smallest.object));
        lines.push(format!("  {}", difference.request));
        lines.extend(difference.places.iter().map(|p| format!("    {p}")));
    }
    Ok(Some(lines))
}

/// Checks the laws with a case. Returns the breaches, if there are any.
async fn judged(server: &Server, case: &Case, known: &[&str]) -> Result<Option<Vec<String>>> {
    let outcome = laws::run(server, case).await?;
    let new = outcome
        .breaches
        .iter()
        .filter(|b| !is_known(known, &b.detail));
    let mut lines: Vec<String> = new.map(|b| format!("  {}: {}", b.law, b.detail)).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    lines.insert(0, format!("  {}", case.object));
    Ok(Some(lines))
}
