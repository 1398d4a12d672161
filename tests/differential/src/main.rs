//! `rkube-differential`: compares two API servers, or checks the laws of one.

use anyhow::{Context as _, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rkube_differential::own::Own;
use rkube_differential::report::{self, Report};
use rkube_differential::{Case, Generator, Server, known, laws, pair, script, step};

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
    /// Number of objects that are sent.
    #[arg(long, default_value_t = 10_000)]
    cases: u64,
    /// The number of the first case.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Seed from which the cases are made.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only kinds whose `apiVersion/kind` contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Only scripts whose name contains this text; `none` leaves them out.
    #[arg(long, default_value = "")]
    scripts: String,
    /// A file of known differences instead of the own list: on each line a text that their lines
    /// contain, ` # ` and the reason.
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
        None => known::OWN.to_owned(),
    };
    let mut report = Report::new(known::parse(&known)?);
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
    if let Some(oracle) = &oracle {
        for script in step::scripts(&args.scripts)? {
            let found = script::run(&server, oracle, &script).await?;
            for difference in report.add(&script.name, "\0", found) {
                let lines = report::lines(&difference).join("\n");
                println!("script {}:\n{lines}", script.name);
            }
        }
    }
    for number in args.from..args.from + args.cases {
        let case = generator.case(number);
        let lines = match &oracle {
            Some(oracle) => compared(&server, oracle, &case, &mut report).await?,
            None => judged(&server, &case, &mut report).await?,
        };
        if !lines.is_empty() {
            let kind = &case.resource.kind;
            println!(
                "case {number}, {kind}, {}:\n{}",
                case.changes.join(" "),
                lines.join("\n")
            );
        }
    }
    for line in report.repeated() {
        println!("{line}");
    }
    println!(
        "{} cases with seed {}: {} with differences",
        args.cases, args.seed, report.unexplained
    );
    anyhow::ensure!(report.unexplained == 0, "there are unexplained differences");
    Ok(())
}

async fn connect(file: &str, namespace: &str) -> Result<Server> {
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| file.to_owned())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let server = Server::new(Client::try_from(config)?, namespace);
    server.prepare().await?;
    Ok(server)
}

/// Compares the answers to a case. Returns what to print of new differences: a place that was
/// seen with another object of the kind is only counted.
async fn compared(
    server: &Server,
    oracle: &Server,
    case: &Case,
    report: &mut Report,
) -> Result<Vec<String>> {
    let found = pair::run(server, oracle, case).await?;
    let name = format!("d{}", case.number);
    let new = report.add(&case.resource.kind, &name, found);
    let Some(first) = new.first() else {
        return Ok(Vec::new());
    };
    let smallest = pair::minimise(server, oracle, case, first).await?;
    let mut lines = vec![format!("  {}", smallest.object)];
    lines.extend(new.iter().flat_map(report::lines));
    Ok(lines)
}

/// Checks the laws with a case. Returns the breaches.
async fn judged(server: &Server, case: &Case, report: &mut Report) -> Result<Vec<String>> {
    let outcome = laws::run(server, case).await?;
    let new = outcome.breaches.iter();
    let new = new.filter(|b| !report.is_known(&b.detail));
    let mut lines: Vec<String> = new.map(|b| format!("  {}: {}", b.law, b.detail)).collect();
    if !lines.is_empty() {
        report.unexplained += 1;
        lines.insert(0, format!("  {}", case.object));
    }
    Ok(lines)
}
