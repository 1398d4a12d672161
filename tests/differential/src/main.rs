//! `rkube-differential`: compares two API servers, or checks the laws of one.

use anyhow::{Context as _, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rkube_differential::{Generator, Server, laws, pair};

/// Sends generated objects to two API servers and prints how their answers differ. With one
/// kubeconfig, checks what holds for every object on every server.
///
/// Exits with 1 if there is a difference that is not in the list of known ones.
#[derive(Parser)]
struct Args {
    /// The kubeconfig of the server under test.
    #[arg(long)]
    kubeconfig: String,
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
    let server = connect(&args.kubeconfig, &args.namespace).await?;
    let oracle = match &args.oracle {
        Some(file) => Some(connect(file, &args.namespace).await?),
        None => None,
    };
    let mut unexplained = 0;
    for number in args.from..args.from + args.cases {
        let case = generator.case(number);
        let lines = match &oracle {
            Some(oracle) => compared(&server, oracle, &case, &known).await?,
            None => judged(&server, &case, &known).await?,
        };
        if !lines.is_empty() {
            unexplained += 1;
            let kind = &case.resource.kind;
            println!(
                "case {number}, {kind}, {}:\n{}",
                case.changes.join(" "),
                lines.join("\n")
            );
        }
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

async fn compared(
    server: &Server,
    oracle: &Server,
    case: &rkube_differential::Case,
    known: &[&str],
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let found = pair::run(server, oracle, case).await?;
    let new = found
        .iter()
        .find(|d| d.places.iter().any(|p| !is_known(known, p)));
    if let Some(difference) = new {
        let smallest = pair::minimise(server, oracle, case, difference).await?;
        lines.push(format!("  {}", smallest.object));
        lines.push(format!("  {}", difference.request));
        let places = difference.places.iter().filter(|p| !is_known(known, p));
        lines.extend(places.map(|p| format!("    {p}")));
    }
    Ok(lines)
}

async fn judged(
    server: &Server,
    case: &rkube_differential::Case,
    known: &[&str],
) -> Result<Vec<String>> {
    let outcome = laws::run(server, case).await?;
    let new = outcome
        .breaches
        .iter()
        .filter(|b| !is_known(known, &b.detail));
    let mut lines: Vec<String> = new.map(|b| format!("  {}: {}", b.law, b.detail)).collect();
    if !lines.is_empty() {
        lines.insert(0, format!("  {}", case.object));
    }
    Ok(lines)
}
