//! `rkube stop`

use std::time::Duration;

#[cfg(unix)]
use rkube_cluster::Fate;
use rkube_cluster::Home;
use rkube_failure::Failure;

use super::values::parse_duration;
use super::{Global, Output};

/// The time that the waiting process may take to begin.
#[cfg(unix)]
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Args {
    /// Stop all clusters
    #[arg(long)]
    all: bool,
    /// Stop the cluster after this time, such as 5m, and return at once
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse_duration)]
    schedule: Option<Duration>,
    /// Do not stop the cluster, and cancel the stop that is scheduled
    #[arg(long)]
    cancel_scheduled: bool,
    /// Wait for the time of this schedule. Run by --schedule in a separate process
    #[arg(long, hide = true, value_name = "ID")]
    scheduled: Option<String>,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    if let Some(id) = &args.scheduled {
        return wait(home, &global.profile, id, output).await;
    }
    let names = if args.all {
        home.profile_names()?
    } else {
        vec![global.profile.clone()]
    };
    for name in names {
        if args.cancel_scheduled {
            rkube_cluster::Profile::load(home, &name)?;
            output.say(&match rkube_cluster::cancel_stop(home, &name)? {
                true => format!("The scheduled stop of the cluster '{name}' was cancelled."),
                false => format!("No stop of the cluster '{name}' is scheduled."),
            });
            continue;
        }
        // As with minikube, no time is now.
        if let Some(delay) = args.schedule.filter(|delay| !delay.is_zero()) {
            schedule(home, &name, delay, output).await?;
            continue;
        }
        rkube_cluster::stop(home, &name, output).await?;
        output.say(&format!("The cluster '{name}' was stopped."));
    }
    Ok(())
}

/// Waits in the process that outlives the terminal.
#[cfg(unix)]
async fn wait(home: &Home, name: &str, id: &str, output: &Output) -> Result<(), Failure> {
    super::detach::leave_terminal();
    rkube_cluster::wait_and_stop(home, name, id, output).await
}

#[cfg(not(unix))]
async fn wait(home: &Home, name: &str, id: &str, output: &Output) -> Result<(), Failure> {
    rkube_cluster::wait_and_stop(home, name, id, output).await
}

/// Starts the process that waits and stops the cluster.
#[cfg(unix)]
async fn schedule(
    home: &Home,
    name: &str,
    delay: Duration,
    output: &Output,
) -> Result<(), Failure> {
    use rkube_failure::{Kind, Source};

    let failed = |why: String| {
        let message = format!("cannot start the process that waits for the stop: {why}");
        Failure::new(Source::Host, Kind::Error, message)
    };
    let id = rkube_cluster::schedule_stop(home, name, delay)?;
    let words = ["stop", "--skip-audit", "-p", name, "--scheduled", &id];
    let mut child = super::detach::spawn(home, &words).map_err(|e| failed(e.to_string()))?;
    let deadline = std::time::Instant::now() + BEGIN_TIMEOUT;
    let fate = loop {
        let ended = child.try_wait().map_err(|e| failed(e.to_string()))?;
        // Read after the child's state: it ends after what it does to the schedule.
        let fate = rkube_cluster::fate(home, name, &id)?;
        if let Some(fate) = begun(fate, ended.map(|status| status.success())) {
            break fate;
        }
        if let Some(status) = ended {
            return Err(failed(format!("it ended with {status}")));
        }
        if std::time::Instant::now() > deadline {
            return Err(failed("it does not begin".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    output.say(&match fate {
        Fate::Waits(left) => format!(
            "The cluster '{name}' will be stopped in {left}. Cancel that with: {}",
            rkube_failure::command("stop --cancel-scheduled", name)
        ),
        _ => format!(
            "The scheduled stop of the cluster '{name}' has begun, unless another command took its place."
        ),
    });
    Ok(())
}

/// Returns what has become of a schedule once its process has begun, or has already ended
/// (`succeeded`).
#[cfg(unix)]
fn begun(fate: Fate, succeeded: Option<bool>) -> Option<Fate> {
    match (fate, succeeded) {
        (_, Some(false)) => None,
        (_, Some(true)) => Some(Fate::Gone),
        (Fate::Pending, None) => None,
        (fate, None) => Some(fate),
    }
}

/// Is refused, as by minikube.
#[cfg(not(unix))]
async fn schedule(
    _home: &Home,
    name: &str,
    _delay: Duration,
    _output: &Output,
) -> Result<(), Failure> {
    Err(super::unsupported::unsupported(
        "--schedule is not supported on this system",
        format!("stop it now with: {}", rkube_failure::command("stop", name)),
    ))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_is_not_a_failure() {
        let waits = || Fate::Waits("1s".to_owned());
        for (fate, succeeded, expected) in [
            (Fate::Pending, None, None),
            (waits(), None, Some(waits())),
            // The stop has begun before anybody looked, or is over.
            (Fate::Gone, None, Some(Fate::Gone)),
            (Fate::Gone, Some(true), Some(Fate::Gone)),
            (Fate::Pending, Some(false), None),
            (Fate::Gone, Some(false), None),
        ] {
            assert_eq!(begun(fate, succeeded), expected);
        }
    }
}
