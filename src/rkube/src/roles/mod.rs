//! Internal roles of the binary: the processes of a cluster.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context;
use rkube_config::{NodeConfig, paths, roles};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

mod control_plane;
mod demo;
mod ingress;
mod memory;
mod server;

/// Runs an internal role and returns its exit code; `None` if `role` is not one.
pub fn run(role: &str, args: &[OsString]) -> Option<i32> {
    if let Some(code) = rkube_runtime::helper_main(role, args) {
        return Some(code);
    }
    if let Some(code) = rkube_drivers::helper_main(role, args) {
        return Some(code);
    }
    let result = match role {
        roles::INIT => init(args),
        roles::VM_INIT => rkube_init::vm::boot(),
        roles::SERVER if server::is_here() => server::run(args),
        roles::CONTROL_PLANE => serve(2, control_plane::run),
        roles::AGENT => serve(2, rkube_node::run),
        roles::INGRESS => serve_until(ingress::threads(), ingress::STOP_TIMEOUT, ingress::run),
        roles::DEMO => demo::run(args),
        _ => return None,
    };
    Some(match result {
        Ok(()) => 0,
        Err(e) => {
            // `eprintln!` panics if the log is on a full disk.
            let _ = writeln!(std::io::stderr(), "{role}: {e:#}");
            1
        }
    })
}

/// Runs what the binary is in the node image under another name; `None` if `program` is none of these.
pub fn by_name(program: Option<&OsStr>, args: &[OsString]) -> Option<i32> {
    if std::path::Path::new(program?).file_name()? != server::CAT {
        return None;
    }
    Some(match server::cat(args) {
        Ok(()) => 0,
        Err(e) => {
            // `eprintln!` panics if the terminal is gone.
            let _ = writeln!(std::io::stderr(), "{}: {e}", server::CAT);
            1
        }
    })
}

fn init(args: &[OsString]) -> anyhow::Result<()> {
    let config = NodeConfig::read(paths::NODE_CONFIG)?;
    if args.first().is_some_and(|a| a == "machine") {
        return rkube_init::vm::run(&config);
    }
    rkube_init::run(&config)
}

/// Runs a service of the node until it fails or receives SIGTERM.
fn serve<F>(threads: usize, work: impl FnOnce(NodeConfig) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    serve_until(threads, Duration::ZERO, |config, _| work(config))
}

/// Like [`serve`], but SIGTERM cancels the token of the service, which then has some time to end.
fn serve_until<F>(
    threads: usize,
    grace: Duration,
    work: impl FnOnce(NodeConfig, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("RKUBE_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // They would be written to the same place with `eprintln!`, which panics on a full disk.
        .log_internal_errors(false)
        .init();
    // `rkube logs --last-start-only` looks for it.
    tracing::info!(version = rkube_config::VERSION, "service starts");
    let config = NodeConfig::read(paths::NODE_CONFIG)?;
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let stop = CancellationToken::new();
    let future = work(config, stop.clone());
    runtime.block_on(async {
        tokio::spawn(memory::release_periodically());
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut task = tokio::spawn(future);
        tokio::select! {
            result = &mut task => return result.context("the service panicked")?,
            _ = terminate.recv() => stop.cancel(),
        }
        match tokio::time::timeout(grace, task).await {
            Ok(result) => result.context("the service panicked")?,
            // What is left ends with the process.
            Err(_) => Ok(()),
        }
    })
}
