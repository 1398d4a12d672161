//! The end of tunnels from another terminal, and what killed ones have left.

#[cfg(unix)]
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;
use rkube_failure::{Failure, Kind, Source};

#[cfg(unix)]
use super::lock_of;
use super::{is_finalized, is_open, key, open, published, wants_address};
use crate::files::Home;
use crate::profile::Profile;

/// The time that a tunnel may take to give its addresses back.
#[cfg(unix)]
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What was there to clean up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// A tunnel, which has ended.
    Ended,
    /// This number of addresses that a killed tunnel had left in services.
    Released(usize),
}

/// Whether services of the cluster have no address that this machine reaches unless a tunnel is
/// open.
///
/// # Errors
/// Fails if the profile's driver does not exist.
pub fn is_needed(home: &Home, profile: &Profile) -> Result<bool, Failure> {
    Ok(profile.no_load_balancer || !crate::endpoints(home, profile)?.routable)
}

/// Ends the tunnel of a profile. Without one, removes the routes and addresses that a killed one has
/// left.
///
/// # Errors
/// Fails if the tunnel belongs to another user, if it does not end, or if the cluster does not run.
pub async fn cleanup(home: &Home, profile: &Profile) -> Result<Cleanup, Failure> {
    if is_open(home, profile) {
        end(home, profile).await?;
        return Ok(Cleanup::Ended);
    }
    // Opening removes the routes.
    let (tunnel, _lock) = open(home, profile).await?;
    let services: Api<Service> = Api::all(tunnel.client.clone());
    let listed = services.list(&ListParams::default()).await.map_err(|e| {
        let message = format!("cannot list services: {e}");
        Failure::new(Source::ControlPlane, Kind::Unavailable, message)
    })?;
    let mut released = 0;
    for service in listed.items.iter().filter(|s| wants_address(s)) {
        let ours = |text: &String| {
            let ip = text.parse::<std::net::Ipv4Addr>();
            // The cluster's own load balancer keeps what it has assigned, whatever the profile says
            // of its next start.
            ip.is_ok_and(|ip| {
                let range = tunnel.route.range(profile);
                ip.is_loopback() || (!is_finalized(service) && range.contains(&ip))
            })
        };
        if !published(service).iter().any(ours) {
            continue;
        }
        tunnel.set_status(service, None).await.map_err(|e| {
            let message = format!("cannot take back the address of {}: {e}", key(service));
            Failure::new(Source::ControlPlane, Kind::Error, message)
        })?;
        released += 1;
    }
    Ok(Cleanup::Released(released))
}

/// Returns the number of a process other than the first one; others stand for groups of processes.
#[cfg(unix)]
fn number(text: &str) -> Option<i32> {
    text.trim().parse().ok().filter(|number| *number > 1)
}

/// Returns the command line of a process.
#[cfg(target_os = "linux")]
fn words_of(pid: i32) -> std::io::Result<Vec<String>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = line.split(|byte| *byte == 0);
    Ok(words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}

/// Returns the command line of a process.
#[cfg(all(unix, not(target_os = "linux")))]
fn words_of(pid: i32) -> std::io::Result<Vec<String>> {
    let mut command = std::process::Command::new("ps");
    let line = command.args(["-o", "args=", "-p", &pid.to_string()]);
    let line = String::from_utf8_lossy(&line.output()?.stdout).into_owned();
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// Whether a command line is that of `rkube tunnel`.
#[cfg(unix)]
fn is_tunnel(words: &[String]) -> bool {
    let Some((program, rest)) = words.split_first() else {
        return false;
    };
    let file = program.rsplit('/').next().unwrap_or_default();
    file.contains("rkube") && rest.iter().any(|word| word == "tunnel")
}

/// Asks the tunnel's process to end, and waits until it has.
#[cfg(unix)]
async fn end(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let path = lock_of(&profile.plan(home).dir);
    let failed = |why: String| {
        let message = format!("cannot end the tunnel of '{}': {why}", profile.name);
        Failure::new(Source::Program, Kind::Error, message)
    };
    let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
    let pid = number(&text)
        .ok_or_else(|| failed("its process is not known; end it with Ctrl-C".to_owned()))?;
    if !is_tunnel(&words_of(pid).map_err(|e| failed(format!("process {pid}: {e}")))?) {
        return Err(failed(format!(
            "process {pid} is not the one; end it with Ctrl-C"
        )));
    }
    // As long as the lock is held, the number is that of the process which was looked at.
    if !is_open(home, profile) {
        return Ok(());
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .map_err(|e| failed(format!("process {pid}: {e}")).advise("repeat the command with sudo"))?;
    let end = Instant::now() + END_TIMEOUT;
    while is_open(home, profile) {
        if Instant::now() > end {
            return Err(failed(format!("process {pid} does not end")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[cfg(not(unix))]
async fn end(_home: &Home, profile: &Profile) -> Result<(), Failure> {
    Err(Failure::new(
        Source::Program,
        Kind::Unsupported,
        format!(
            "the tunnel of '{}' can only be ended where it runs",
            profile.name
        ),
    )
    .advise("press Ctrl-C in its terminal"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_tunnels_are_ended() {
        for (text, expected) in [
            ("4711\n", Some(4711)),
            ("", None),
            ("0", None),
            ("1", None),
            ("-1", None),
            ("x", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
        for (line, expected) in [
            ("/usr/bin/rkube tunnel --detached -p dev", true),
            ("rkube -p dev tunnel", true),
            ("/opt/rkube/bin/other tunnel", false),
            ("rkube start", false),
            ("", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(is_tunnel(&words), expected, "{line:?}");
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(words_of(own).unwrap()[0].contains("rkube_cluster"));
    }
}
