//! `rkube docker-env`: the images of a cluster for Docker's clients.
//!
//! A separate process serves a part of the Docker Engine API at a socket of the profile: that of
//! images and of the classic builder. It runs the same commands on the nodes as `rkube image`.

mod shell;

#[cfg(unix)]
mod build;
#[cfg(unix)]
mod containers;
#[cfg(unix)]
mod images;
#[cfg(unix)]
mod reply;
#[cfg(unix)]
mod request;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod system;
#[cfg(unix)]
mod transfer;

use rkube_cluster::{Home, Profile};
use rkube_failure::Failure;

use super::unsupported::unsupported;
use super::{Global, Output};
use shell::{Shell, Variables};

#[derive(clap::Args)]
pub struct Args {
    /// Shell to print the variables for [default: that of $SHELL]
    #[arg(long, ignore_case = true, value_name = "SHELL")]
    shell: Option<Shell>,
    /// Print what sets the variables back
    #[arg(short, long)]
    unset: bool,
    /// Serve the socket, as a separate process.
    #[arg(long, hide = true)]
    serve: bool,
}

/// The text of `rkube docker-env --help` after the flags.
pub const HELP: &str = "\
Afterwards, docker build, images, tag, push, pull, load, save, rmi and ps of this shell act on the \
images and containers of the cluster. The classic builder is used (DOCKER_BUILDKIT=0). Containers \
cannot be run; that is what kubectl is for. The endpoint ends when the cluster is stopped.";

/// Prints the variables by which Docker's clients find the images of a cluster.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let name = &global.profile;
    if args.serve {
        return serve(home, name).await;
    }
    let shell = args.shell.unwrap_or_else(Shell::of_environment);
    let existing = |name: &str| std::env::var(name).ok();
    if args.unset {
        let variables = Variables::unset(&existing);
        output.result(&variables.values(), || shell.print(&variables, name, true));
        return Ok(());
    }
    let profile = Profile::load(home, name)?;
    start(home, &profile).await?;
    let socket = rkube_cluster::docker_socket(home, name);
    let variables = Variables::set(&socket, name, &existing);
    output.result(&variables.values(), || shell.print(&variables, name, false));
    Ok(())
}

/// Refuses `rkube podman-env`: Podman's client speaks a different API.
pub fn podman(profile: &str) -> Failure {
    unsupported(
        "'podman-env' is not supported: Podman's remote client speaks an API that the nodes do not have",
        format!(
            "use Docker's client: {}, or build with: {}",
            rkube_failure::command("docker-env", profile),
            rkube_failure::command("image build -t NAME .", profile)
        ),
    )
}

#[cfg(unix)]
async fn serve(home: &Home, name: &str) -> Result<(), Failure> {
    super::detach::leave_terminal();
    let profile = Profile::load(home, name)?;
    server::run(home, &profile).await
}

/// Starts the process that serves the socket, unless it is there.
#[cfg(unix)]
async fn start(home: &Home, profile: &Profile) -> Result<(), Failure> {
    use std::time::{Duration, Instant};

    use rkube_failure::{Kind, Source};

    /// The time that the process may take to listen.
    const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);

    let failed = |why: String| {
        let message = format!("cannot start the process that serves Docker's clients: {why}");
        Failure::new(Source::Host, Kind::Error, message)
    };
    // Says why the cluster cannot be used, if it cannot.
    let node = profile.node(None)?;
    rkube_cluster::ssh(home, profile, node).await?;
    if rkube_cluster::docker_socket_answers(home, &profile.name) {
        return Ok(());
    }
    let words = ["docker-env", "--serve", "--skip-audit", "-p", &profile.name];
    let mut child = super::detach::spawn(home, &words).map_err(|e| failed(e.to_string()))?;
    let deadline = Instant::now() + BEGIN_TIMEOUT;
    while !rkube_cluster::docker_socket_answers(home, &profile.name) {
        if let Some(status) = child.try_wait().map_err(|e| failed(e.to_string()))?
            && !status.success()
        {
            let seen = format!("it ended with {status}");
            return Err(failed(seen).advise(format!(
                "see why with: {}",
                rkube_failure::command("docker-env --serve", &profile.name)
            )));
        }
        if Instant::now() > deadline {
            return Err(failed("it does not begin".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[cfg(not(unix))]
async fn serve(_home: &Home, name: &str) -> Result<(), Failure> {
    Err(elsewhere(name))
}

#[cfg(not(unix))]
async fn start(_home: &Home, profile: &Profile) -> Result<(), Failure> {
    Err(elsewhere(&profile.name))
}

#[cfg(not(unix))]
fn elsewhere(name: &str) -> Failure {
    unsupported(
        "'docker-env' is not supported on this system",
        format!(
            "build in the cluster: {}",
            rkube_failure::command("image build -t NAME .", name)
        ),
    )
}
