//! The command line: one file per command, and the code they share.

mod addons;
mod apply;
mod args;
mod audit;
mod certs;
mod config;
mod cp;
#[cfg(target_os = "linux")]
mod ctl;
#[cfg(not(target_os = "linux"))]
mod ctl_elsewhere;
#[cfg(target_os = "linux")]
mod ctl_store;
mod dashboard;
mod delete;
#[cfg(unix)]
mod detach;
mod dev;
mod docker;
mod driver;
mod export;
mod file;
mod image;
mod ip;
mod k3d;
mod kind;
mod kubectl;
mod line;
mod load;
mod logs;
mod messages;
mod minikube;
mod mount;
mod node;
mod output;
mod pause;
mod port;
mod profile;
mod registry;
mod schema;
mod service;
mod settings;
mod snapshot;
mod ssh;
mod start;
mod start_registries;
mod start_values;
mod status;
mod stop;
mod template;
mod tunnel;
mod unsupported;
mod update_context;
mod values;
mod version;
mod words;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use rkube_cluster::Home;
use rkube_cluster::Progress as _;
use rkube_failure::{EXIT_INTERRUPTED, Failure, Kind, Source};

#[cfg(not(target_os = "linux"))]
use ctl_elsewhere as ctl;
use output::Output;

/// Runs multi-node Kubernetes clusters on this machine
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
    /// Name of the cluster (profile)
    #[arg(
        short,
        long,
        global = true,
        default_value = "rkube",
        env = "RKUBE_PROFILE",
        value_name = "NAME"
    )]
    pub profile: String,
    /// Output format
    #[arg(
        short,
        long,
        global = true,
        default_value = "text",
        ignore_case = true,
        value_name = "FORMAT"
    )]
    pub output: output::Format,
    /// Language of help and messages [default: that of the locale]
    #[arg(
        long,
        global = true,
        env = "RKUBE_LANGUAGE",
        hide_env = true,
        ignore_case = true,
        value_name = "LANGUAGE"
    )]
    pub language: Option<messages::Language>,
    /// User to name in the log of commands
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Leave the command out of the log of commands
    #[arg(long, global = true, hide = true)]
    pub skip_audit: bool,
    /// Whether the profile was named by a flag or the environment.
    #[arg(skip)]
    pub profile_given: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster; create it if it does not exist
    Start(Box<start::Args>),
    /// Bring a running cluster to what its cluster file says
    Apply(apply::Args),
    /// Stop a cluster and keep its data
    Stop(stop::Args),
    /// Delete a cluster and all its data
    Delete(delete::Args),
    /// Freeze a cluster: it keeps its memory and gets no CPU time
    Pause(pause::Args),
    /// Resume a paused cluster
    #[command(alias = "resume")]
    Unpause(pause::Args),
    /// Show the status of a cluster
    Status(status::Args),
    /// Add, delete, start, stop or list nodes
    Node(node::Args),
    /// Open a shell or run a command on a node
    Ssh(ssh::Args),
    /// Print the path of the private SSH key for the nodes
    SshKey(ssh::KeyArgs),
    /// Print the public SSH key of a node, as a line of known_hosts
    SshHost(ssh::HostArgs),
    /// Copy a file to or from a node
    Cp(cp::Args),
    /// Mount a directory of this machine into the nodes, or list the mounts
    Mount(mount::Args),
    /// Run kubectl with this cluster's context
    Kubectl(kubectl::Args),
    /// Print the IP address of a node
    Ip(ip::Args),
    /// Make services of type LoadBalancer reachable from this machine
    Tunnel(tunnel::Args),
    /// Open, close or list ports of this machine that lead to nodes and services
    Port(port::Args),
    /// Open a service in a web browser, or print the URLs of services
    #[command(alias = "services")]
    Service(service::Args),
    /// Open the dashboard in a web browser
    Dashboard(dashboard::Args),
    /// Build, load, pull, list, tag, save or remove container images of the nodes
    Image(image::Args),
    /// Build, apply and watch an app: changed files reach its running pods
    #[command(after_help = dev::HELP)]
    Dev(Box<dev::Args>),
    /// Run a registry of images on this machine, for all clusters
    Registry(registry::Args),
    /// Save, restore, list or delete snapshots of a cluster
    Snapshot(snapshot::Args),
    /// Enable, disable or list addons (ingress, …)
    #[command(alias = "addon")]
    Addons(addons::Args),
    /// Print the logs of the nodes and the control plane
    Logs(logs::Args),
    /// Write logs and objects of a cluster to files, or print its kubeconfig
    Export(export::Args),
    /// Show and renew the certificates of a cluster
    Certs(certs::Args),
    /// Choose the current cluster (profile), or list all
    #[command(alias = "profiles")]
    Profile(profile::Args),
    /// Set and print defaults of flags
    Config(config::Args),
    /// List drivers and the reasons why they cannot be used
    Driver(driver::Args),
    /// Update the cluster's entry in the kubeconfig file
    UpdateContext,
    /// Create and manage clusters with kind's commands (kind create cluster, …)
    #[command(disable_help_flag = true)]
    Kind(minikube::Rest),
    /// Print the JSON Schemas of what commands print with -o json
    Schema(schema::Args),
    /// Print the version of rkube and of Kubernetes
    Version(version::Args),
    /// Print the flags that every command takes
    #[command(hide = true)]
    Options,
    /// Print rkube's licence
    #[command(hide = true)]
    License(words::LicenseArgs),
    /// Print the version; rkube asks no server for a newer one
    #[command(hide = true)]
    UpdateCheck,
    /// Print variables by which docker build, images, push, … act on the cluster's images
    #[command(after_help = docker::HELP)]
    DockerEnv(docker::Args),
    /// Not supported; says how to get images to the nodes
    #[command(hide = true)]
    PodmanEnv(minikube::Rest),
    /// Not supported; says how to get images to the nodes
    #[command(hide = true)]
    Cache(minikube::Rest),
    /// Print a shell completion script
    Completion {
        /// Name of the shell
        #[arg(ignore_case = true)]
        shell: clap_complete::Shell,
    },
    /// Inspect containers and images; must be run on a node
    Ctl(ctl::Args),
}

/// Returns the parser of the command line, for generated documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, runs the command and turns its result into an exit code.
pub fn main() -> ExitCode {
    let settings = match Home::find().map(|home| settings::Settings::load(&home)) {
        Ok(Ok(settings)) => settings,
        Ok(Err(failure)) => return Output::new(output::Format::Text).fail(&failure),
        // The command reports it, if it needs the directory.
        Err(_) => settings::Settings::default(),
    };
    rkube_failure::set_current_profile(&settings.profile_of_advice());
    let words = words();
    messages::choose(&words, &settings);
    if let Some(words) = kind::words(&words) {
        return kind::main(words, &settings);
    }
    let parsed = match args::parse(words, &settings) {
        Ok(parsed) => parsed,
        Err(e) => return usage(&e),
    };
    let (cli, findings) = (parsed.cli, parsed.findings);
    let output = Output::new(cli.global.output);
    for text in &findings.warnings {
        // Programs read standard output as one document.
        if output.text() {
            output.warn(text);
        } else {
            eprintln!("{text}");
        }
    }
    if let Some(refusal) = &findings.refusal {
        return output.fail(refusal);
    }
    if let Some(done) = &findings.done {
        output.say(done);
        return ExitCode::SUCCESS;
    }
    let global = &cli.global;
    if global.output == output::Format::Name && !lists(&cli.command) {
        let failure = usage_failure("--output=name is for lists of named objects");
        return output.fail(&failure.advise(
            "use it with status, certs check, image ls, or the command list of profile, node, addons, snapshot, driver, service, config or schema",
        ));
    }
    let entry = (!global.skip_audit)
        .then(|| {
            audit::begin(
                parsed.line,
                &global.profile,
                global.user.as_deref(),
                &settings,
            )
        })
        .flatten();
    let code = execute(&output, handles_interrupt(&cli.command), run(cli, &output));
    if let (Some(entry), Ok(home)) = (entry, Home::find())
        && let Err(failure) = entry.end(&home)
    {
        eprintln!("the command was not logged: {}", failure.message);
    }
    code
}

/// Whether a command undoes its work on Ctrl-C itself.
fn handles_interrupt(command: &Command) -> bool {
    match command {
        Command::Tunnel(_) | Command::Start(_) | Command::Dashboard(_) | Command::Snapshot(_) => {
            true
        }
        Command::Apply(_) | Command::Dev(_) => true,
        Command::Node(args) => args.handles_interrupt(),
        Command::Ctl(args) => args.handles_interrupt(),
        _ => false,
    }
}

/// Runs a command until it ends, or until Ctrl-C unless it handles that itself. Prints its failure.
fn execute(
    output: &Output,
    handles_interrupt: bool,
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> ExitCode {
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            return output.fail(&Failure::new(
                Source::Host,
                Kind::Error,
                format!("cannot start the asynchronous runtime: {e}"),
            ));
        }
    };
    let result = runtime.block_on(async {
        // Not installed for commands that handle signals: it would receive the signal
        // before the command does.
        let otherwise = async {
            if handles_interrupt {
                std::future::pending().await
            } else {
                interrupted().await;
            }
        };
        tokio::select! {
            result = command => Some(result),
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

/// Returns the words of the command line. Called as `kubectl`, they are those of that command.
fn words() -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if kubectl::is_called(words.first().map(std::ffi::OsString::as_os_str)) {
        words.splice(1..1, ["kubectl".into(), "--".into()]);
    }
    words
}

/// Whether a command prints a list of names.
fn lists(command: &Command) -> bool {
    match command {
        Command::Node(args) => args.lists(),
        Command::Addons(args) => args.lists(),
        Command::Snapshot(args) => args.lists(),
        Command::Config(args) => args.lists(),
        Command::Schema(args) => args.lists(),
        Command::Certs(args) => args.lists(),
        Command::Status(_) => true,
        Command::Profile(args) => args.lists(),
        Command::Service(args) => args.lists(),
        Command::Port(args) => args.lists(),
        // Its only command is a list.
        Command::Driver(_) => true,
        Command::Image(args) => args.lists(),
        Command::Registry(args) => args.lists(),
        _ => false,
    }
}

/// Returns the failure of an invalid command line.
fn usage_failure(message: impl Into<String>) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

/// Returns the word that is most like `word`, if one is much like it.
fn near<'a>(word: &str, words: &'a [String]) -> Option<&'a str> {
    let same_start = |other: &&String| {
        let common = word.chars().zip(other.chars()).take_while(|(a, b)| a == b);
        common.count() >= 4 || other.contains(word) && word.len() >= 3
    };
    words.iter().find(same_start).map(String::as_str)
}

/// Prints a parser result. Help and version exit with 0, errors with `PROGRAM_USAGE`.
fn usage(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    print_usage(e);
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(Failure::new(Source::Program, Kind::Usage, "").exit_code()),
    }
}

/// Prints what the parser says, in the language that was chosen.
fn print_usage(e: &clap::Error) {
    if !messages::active() {
        // A reader that has gone is no failure.
        let _ = e.print();
        return;
    }
    let text = messages::finish(&e.render().to_string());
    match e.use_stderr() {
        true => eprint!("{text}"),
        false => output::print_out(&text),
    }
}

/// Resolves on SIGINT, SIGTERM or SIGHUP. Signals are caught from the call on, not only
/// from the first poll on, so that work started after the call is never killed.
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

/// Resolves on Ctrl-C, Ctrl-Break or when the console closes. Events are caught from the
/// call on, not only from the first poll on, so that work started after it is never killed.
#[cfg(windows)]
fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
    let (key, other_key) = (ctrl_c(), ctrl_break());
    let (closed, shut_down) = (ctrl_close(), ctrl_shutdown());
    async move {
        // An event that cannot be listened for never resolves.
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
        Command::Apply(args) => apply::run(&home, &global, args, output).await.map(done),
        Command::Stop(args) => stop::run(&home, &global, args, output).await.map(done),
        Command::Delete(args) => delete::run(&home, &global, args, output).await.map(done),
        Command::Status(args) => status::run(&home, &global, args, output).await,
        Command::Node(args) => node::run(&home, &global, args, output).await.map(done),
        Command::Ssh(args) => ssh::run(&home, &global, args).await,
        Command::SshKey(args) => ssh::key(&home, &global, args, output).map(done),
        Command::SshHost(args) => ssh::host(&home, &global, args, output).map(done),
        Command::Cp(args) => cp::run(&home, &global, args, output).await.map(done),
        Command::Kubectl(args) => kubectl::run(&home, &global, &args),
        Command::Ip(args) => ip::run(&home, &global, args, output).map(done),
        Command::Tunnel(args) => tunnel::run(&home, &global, args, output).await.map(done),
        Command::Port(args) => port::run(&home, &global, args, output).await.map(done),
        Command::Service(args) => service::run(&home, &global, args, output).await.map(done),
        Command::Dashboard(args) => dashboard::run(&home, &global, args, output).await.map(done),
        Command::Image(args) => image::run(&home, &global, args, output).await,
        Command::Dev(args) => dev::run(&home, &global, *args, output).await,
        Command::Registry(args) => registry::run(&home, &global, args, output).await.map(done),
        Command::Snapshot(args) => snapshot::run(&home, &global, args, output).await.map(done),
        Command::Addons(args) => addons::run(&home, &global, args, output).await.map(done),
        Command::Logs(args) => logs::run(&home, &global, args, output).await.map(done),
        Command::Certs(args) => certs::run(&home, &global, args, output).await.map(done),
        Command::Config(args) => config::run(&home, &global, args, output).await.map(done),
        Command::Profile(args) => profile::run(&home, &global, args, output).await.map(done),
        Command::Driver(args) => driver::run(&home, &global, args, output).await.map(done),
        Command::UpdateContext => update_context::run(&home, &global, output).await.map(done),
        Command::Version(args) => version::run(&home, &global, args, output).await.map(done),
        Command::Schema(args) => schema::run(&args, output).map(done),
        Command::Options => {
            words::options(output);
            Ok(ExitCode::SUCCESS)
        }
        Command::License(args) => words::license(args, output).map(done),
        Command::UpdateCheck => {
            words::update_check(output);
            Ok(ExitCode::SUCCESS)
        }
        Command::Pause(args) => pause::run(&home, &global, args, true, output)
            .await
            .map(done),
        Command::Unpause(args) => pause::run(&home, &global, args, false, output)
            .await
            .map(done),
        Command::Export(args) => export::run(&home, &global, args, output).await.map(done),
        // Taken before the flags are read, unless a flag precedes it.
        Command::Kind(_) => Err(usage_failure(
            "flags of rkube cannot be combined with kind's commands",
        )
        .advise("begin with the command: rkube kind create cluster --name NAME")),
        Command::DockerEnv(args) => docker::run(&home, &global, args, output).await.map(done),
        Command::PodmanEnv(_) => Err(docker::podman(&global.profile)),
        Command::Cache(_) => Err(minikube::instead_of("cache", &global.profile)),
        Command::Mount(args) => mount::run(&home, &global, args, output).await.map(done),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rkube", &mut script);
            // A reader that has gone is no failure, as with all output.
            output::print_out(&String::from_utf8_lossy(&script));
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
