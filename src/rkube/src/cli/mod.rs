//! The command line: a file a command, and what they share.

mod addons;
#[cfg(target_os = "linux")]
mod ctl;
#[cfg(not(target_os = "linux"))]
mod ctl_elsewhere;
mod dashboard;
mod delete;
mod driver;
mod image;
mod ip;
mod logs;
mod node;
mod output;
mod profile;
mod service;
mod snapshot;
mod ssh;
mod start;
mod status;
mod stop;
mod tunnel;
mod update_context;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use rkube_cluster::Home;
use rkube_failure::{EXIT_INTERRUPTED, Failure, Kind, Source};

#[cfg(not(target_os = "linux"))]
use ctl_elsewhere as ctl;
use output::Output;

/// A real multi-node Kubernetes on this machine, in about a second.
#[derive(Parser)]
#[command(name = "rkube", version = rkube_config::VERSION, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(clap::Args)]
pub struct Global {
    /// The cluster to work on; several run side by side
    #[arg(
        short,
        long,
        global = true,
        default_value = "rkube",
        env = "RKUBE_PROFILE",
        value_name = "NAME"
    )]
    pub profile: String,
    /// How to print: text for people, json for programs
    #[arg(
        short,
        long,
        global = true,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub output: output::Format,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, making it first if there is none
    Start(Box<start::Args>),
    /// Stop a cluster; `start` brings it back as it was
    Stop(stop::Args),
    /// Delete a cluster and everything it left on this machine
    Delete(delete::Args),
    /// Tell how a cluster is doing
    Status(status::Args),
    /// List, add, delete, stop and start nodes
    Node(node::Args),
    /// Open a shell on a node, or run a command there
    Ssh(ssh::Args),
    /// Print the path of the SSH key for the nodes
    SshKey,
    /// Print a node's address
    Ip(ip::Args),
    /// Give services of type LoadBalancer addresses that this machine reaches
    Tunnel,
    /// Print the URLs of a service
    Service(service::Args),
    /// Open the dashboard, a page in the browser
    Dashboard(dashboard::Args),
    /// Load, list and remove container images on the nodes
    Image(image::Args),
    /// Save what a cluster holds, and bring it back
    Snapshot(snapshot::Args),
    /// List, enable and disable addons: third-party software as manifests
    #[command(alias = "addon")]
    Addons(addons::Args),
    /// Print the logs of a cluster's own processes
    Logs(logs::Args),
    /// List profiles
    Profile(profile::Args),
    /// Tell which drivers work on this machine, and what the others lack
    Driver(driver::Args),
    /// Write the cluster's entry in the kubeconfig again
    UpdateContext,
    /// Print versions
    Version,
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// On a node: look at its containers, images and their logs
    Ctl(ctl::Args),
}

/// Parses the command line, runs the command and turns its result into an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    // Fails only when somebody was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let output = Output::new(cli.global.output);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            return output.fail(&Failure::new(
                Source::Host,
                Kind::Error,
                format!("cannot start the runtime: {e}"),
            ));
        }
    };
    // These take back on Ctrl-C what they have done.
    let handles_interrupt = matches!(
        cli.command,
        Command::Tunnel | Command::Start(_) | Command::Dashboard(_) | Command::Snapshot(_)
    );
    let result = runtime.block_on(async {
        // Not even made where the command looks itself: a signal would be taken
        // here before the command asks for it.
        let otherwise = async {
            if handles_interrupt {
                std::future::pending().await
            } else {
                interrupted().await;
            }
        };
        tokio::select! {
            result = run(cli, &output) => Some(result),
            () = otherwise => None,
        }
    });
    // A blocked helper thread must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Some(Ok(code)) => {
            output.finish();
            code
        }
        Some(Err(failure)) if failure.is_interruption() => {
            output.interrupted();
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Some(Err(failure)) => output.fail(&failure),
        None => {
            output.interrupted();
            ExitCode::from(EXIT_INTERRUPTED)
        }
    }
}

/// Help and version are no errors; everything else is `PROGRAM_USAGE`.
fn usage(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let _ = e.print();
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(Failure::new(Source::Program, Kind::Usage, "").exit_code()),
    }
}

/// Resolves at Ctrl-C, SIGTERM or the terminal's end. Signals are caught from the
/// call on, not only from the first poll on: nothing begun after it can be cut short.
#[cfg(unix)]
fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals = kinds.map(signal);
    async move {
        let waits = signals.into_iter().flatten().map(|mut signal| {
            Box::pin(async move {
                signal.recv().await;
            })
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            std::future::pending().await
        } else {
            futures::future::select_all(waits).await;
        }
    }
}

/// Resolves at Ctrl-C, Ctrl-Break or the console's end. They are caught from the call
/// on, not only from the first poll on: nothing begun after it can be cut short.
#[cfg(windows)]
fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
    let (key, other_key) = (ctrl_c(), ctrl_break());
    let (closed, shut_down) = (ctrl_close(), ctrl_shutdown());
    async move {
        // One that cannot be listened for never comes.
        macro_rules! next {
            ($events:expr) => {
                async {
                    match $events {
                        Ok(mut events) => events.recv().await.unwrap_or(()),
                        Err(_) => std::future::pending().await,
                    }
                }
            };
        }
        tokio::select! {
            () = next!(key) => {}
            () = next!(other_key) => {}
            () = next!(closed) => {}
            () = next!(shut_down) => {}
        }
    }
}

async fn run(cli: Cli, output: &Output) -> Result<ExitCode, Failure> {
    let home = Home::find()?;
    let global = cli.global;
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Start(args) => start::run(&home, &global, *args, output).await.map(done),
        Command::Stop(args) => stop::run(&home, &global, args, output).await.map(done),
        Command::Delete(args) => delete::run(&home, &global, args, output).await.map(done),
        Command::Status(args) => status::run(&home, &global, args, output).await,
        Command::Node(args) => node::run(&home, &global, args, output).await.map(done),
        Command::Ssh(args) => ssh::run(&home, &global, args).await,
        Command::SshKey => ssh::key(&home, &global).map(done),
        Command::Ip(args) => ip::run(&home, &global, args, output).map(done),
        Command::Tunnel => tunnel::run(&home, &global, output).await.map(done),
        Command::Service(args) => service::run(&home, &global, args, output).await.map(done),
        Command::Dashboard(args) => dashboard::run(&home, &global, args, output).await.map(done),
        Command::Image(args) => image::run(&home, &global, args, output).await.map(done),
        Command::Snapshot(args) => snapshot::run(&home, &global, args, output).await.map(done),
        Command::Addons(args) => addons::run(&home, &global, args, output).await.map(done),
        Command::Logs(args) => logs::run(&home, &global, args).await.map(done),
        Command::Profile(args) => profile::run(&home, &global, args, output).await.map(done),
        Command::Driver(args) => driver::run(&home, &global, args, output).await.map(done),
        Command::UpdateContext => update_context::run(&home, &global, output).await.map(done),
        Command::Version => version::run(&home, &global, output).await.map(done),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "rkube", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Ctl(args) => ctl::run(&global, args, output).await.map(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
