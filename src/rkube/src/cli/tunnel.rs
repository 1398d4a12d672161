//! `rkube tunnel`

use rkube_cluster::{Home, Profile, Progress, TunnelChange, TunnelCleanup};
use rkube_failure::{Failure, Kind, Source, command};

use super::{Global, Output, interrupted};

#[derive(clap::Args)]
pub struct Args {
    /// Run without a terminal, until --cleanup or the cluster's deletion
    #[arg(long, conflicts_with = "cleanup")]
    background: bool,
    /// End the tunnel that runs, or remove what a killed one has left
    #[arg(short, long)]
    cleanup: bool,
    /// Leave the terminal. Run by --background in a separate process
    #[arg(long, hide = true)]
    detached: bool,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    if args.cleanup {
        return cleanup(home, &profile, output).await;
    }
    if rkube_cluster::tunnel_is_open(home, &profile) {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!("a tunnel for '{}' is already running", profile.name),
        )
        .advise(format!(
            "end it with: {}",
            command("tunnel --cleanup", &profile.name)
        )));
    }
    if !rkube_cluster::tunnel_is_needed(home, &profile)? {
        output.say(&format!(
            "There is nothing to do: services of type LoadBalancer in '{}' have addresses from {} as long as the cluster runs.",
            profile.name,
            profile.load_balancer_range()
        ));
        return Ok(());
    }
    if args.background {
        return background(home, &profile, output).await;
    }
    if args.detached {
        #[cfg(unix)]
        super::detach::leave_terminal();
    }
    serve(home, &profile, output).await
}

/// Runs the tunnel until Ctrl-C or the cluster's deletion.
async fn serve(home: &Home, profile: &Profile, output: &Output) -> Result<(), Failure> {
    let range = if rkube_cluster::endpoints(home, profile)?.routable {
        profile.load_balancer_range().to_string()
    } else {
        "the loopback interface".to_owned()
    };
    output.say(&format!(
        "Services of type LoadBalancer in '{}' get addresses from {range}. Press Ctrl-C to stop.",
        profile.name
    ));
    rkube_cluster::tunnel(home, profile, interrupted(), |change| match change {
        TunnelChange::Up {
            service,
            address,
            ports,
        } => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            output.say(&format!(
                "{service}   {address}   ports {}",
                ports.join(", ")
            ));
        }
        TunnelChange::Down { service } => output.say(&format!("{service}   removed")),
        TunnelChange::Trouble(what) => output.warn(&what),
        TunnelChange::Deleted => output.say(&format!(
            "The cluster '{}' was deleted, so the tunnel ends.",
            profile.name
        )),
    })
    .await
}

async fn cleanup(home: &Home, profile: &Profile, output: &Output) -> Result<(), Failure> {
    let name = &profile.name;
    let text = match rkube_cluster::clean_up_tunnel(home, profile).await? {
        TunnelCleanup::Ended => format!("The tunnel of '{name}' has ended."),
        TunnelCleanup::Released(0) => {
            format!("There is nothing to do: '{name}' has no tunnel, and none has left anything.")
        }
        TunnelCleanup::Released(count) => format!(
            "{count} service{} of '{name}' had the address of a tunnel that was killed.",
            if count == 1 { "" } else { "s" }
        ),
    };
    output.say(&text);
    Ok(())
}

/// Starts the process that runs the tunnel.
#[cfg(unix)]
async fn background(home: &Home, profile: &Profile, output: &Output) -> Result<(), Failure> {
    use std::time::{Duration, Instant};

    /// The time that the process may take to open the tunnel.
    const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

    let name = &profile.name;
    let failed = |why: String| {
        let message = format!("cannot start the tunnel's process: {why}");
        Failure::new(Source::Host, Kind::Error, message)
            .advise(format!("see why with: {}", command("tunnel", name)))
    };
    let words = ["tunnel", "--detached", "--skip-audit", "-p", name];
    let mut child = super::detach::spawn(home, &words).map_err(|e| failed(e.to_string()))?;
    let deadline = Instant::now() + BEGIN_TIMEOUT;
    let id = child.id();
    let trouble = loop {
        let ended = child.try_wait().map_err(|e| failed(e.to_string()))?;
        let state = rkube_cluster::tunnel_state(home, profile);
        match (state.filter(|state| state.process == id), ended) {
            (Some(state), None) if state.open => break state.trouble,
            (Some(state), _) if state.trouble.is_some() => {
                return Err(failed(state.trouble.unwrap_or_default()));
            }
            (_, Some(status)) => return Err(failed(format!("it ended with {status}"))),
            _ => {}
        }
        if Instant::now() > deadline {
            return Err(failed("it does not begin".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if let Some(what) = trouble {
        output.warn(&what);
    }
    output.say(&format!(
        "A tunnel for '{name}' runs in the background. End it with: {}",
        command("tunnel --cleanup", name)
    ));
    Ok(())
}

/// Is refused: without a terminal, nothing could end the process.
#[cfg(not(unix))]
async fn background(_home: &Home, profile: &Profile, _output: &Output) -> Result<(), Failure> {
    Err(super::unsupported::unsupported(
        "a tunnel in the background is not supported on Windows",
        format!(
            "run it in a window of its own: {}",
            command("tunnel", &profile.name)
        ),
    ))
}
