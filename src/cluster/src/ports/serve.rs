//! The process that serves a profile's ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::carry;
use super::resolve::{Finder, NoWay, Way};
use super::spec::PortForward;
use crate::files::{Home, Lock, io_failure, write_private};
use crate::forward::Forward;
use crate::profile::Profile;
use crate::sudo::act_for_owner_of;

/// Interval between two looks at the profile.
const PERIOD: Duration = Duration::from_millis(500);
/// Number of looks between two at the cluster, whose services may have other addresses.
const LOOKS: u32 = 4;
/// Number of looks in a row whose outcome cannot be written, after which the process ends.
const WRITES: u32 = 20;

/// What became of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortState {
    /// The port.
    pub port: PortForward,
    /// Why it is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

fn lock_path(home: &Home, profile: &Profile) -> PathBuf {
    profile.plan(home).dir.join("ports.lock")
}

fn states_path(home: &Home, profile: &Profile) -> PathBuf {
    profile.plan(home).dir.join("ports.json")
}

/// Whether a process serves the ports of a profile.
pub fn ports_are_served(home: &Home, profile: &Profile) -> bool {
    let Ok(file) = File::open(lock_path(home, profile)) else {
        return false;
    };
    matches!(Lock::share(file), Err(TryLockError::WouldBlock))
}

/// Returns what became of the ports of a profile; empty if no process serves them.
pub fn port_states(home: &Home, profile: &Profile) -> Vec<PortState> {
    if !ports_are_served(home, profile) {
        return Vec::new();
    }
    // Not written yet.
    let text = std::fs::read_to_string(states_path(home, profile)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// A port that is open.
struct Open {
    way: Way,
    task: JoinHandle<()>,
}

/// What becomes of a port after a look at the cluster.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It stays open as it is.
    Stay,
    /// It is opened with another way.
    Open(Way),
    /// It is closed, for this reason.
    Close(String),
}

/// Returns what becomes of a port with the way `now`.
fn next(found: Result<Way, NoWay>, now: Option<Way>) -> Next {
    match (found, now) {
        (Ok(way), Some(now)) if way == now => Next::Stay,
        (Ok(way), _) => Next::Open(way),
        // The API server may be away for a moment; the way so far is as good as any.
        (Err(NoWay::Unknown(_)), Some(_)) => Next::Stay,
        // Addresses and node ports are given to other services, which nobody asked for here.
        (Err(NoWay::Gone(why) | NoWay::Unknown(why)), _) => Next::Close(why),
    }
}

impl Open {
    /// Closes the port, and returns once it can be listened on again.
    async fn close(mut self) {
        self.task.abort();
        // That it was aborted is the only possible outcome of interest.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the ports of a profile as long as it has any and the cluster runs, or until `stop`
/// resolves. Returns at once if another process serves them.
///
/// # Errors
/// Fails if the lock of the process cannot be taken.
pub async fn serve_ports(
    home: &Home,
    name: &str,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    let path = lock_path(home, &profile);
    let file = {
        let _owner = act_for_owner_of(&path);
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| io_failure("open", &path, &e))?
    };
    let _lock = match Lock::take(file) {
        Ok(lock) => lock,
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(io_failure("lock", &path, &e)),
    };
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let mut server = Server::default();
    let work = async {
        let (mut unwritten, mut failures) = (false, 0);
        for look in 0_u32.. {
            let now = match Profile::try_load(home, name) {
                Ok(Some(now)) if now.created == profile.created => now,
                // Written at the moment.
                Err(_) => {
                    tokio::time::sleep(PERIOD).await;
                    continue;
                }
                Ok(_) => break,
            };
            let again = look.is_multiple_of(LOOKS);
            if now.forwards.is_empty() || (again && !driver.is_up(&now.plan(home)).await) {
                break;
            }
            unwritten |= server.follow(home, &now, again).await;
            if unwritten {
                match server.write(home, &now) {
                    Ok(()) => (unwritten, failures) = (false, 0),
                    // Open ports serve nobody worse for a disk that is full at the moment.
                    Err(_) if failures < WRITES => failures += 1,
                    Err(failure) => return Err(failure),
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = stop => Ok(()),
    };
    // Whoever sees that no states are there finds the ports free.
    server.close_all().await;
    // Gone with the profile, perhaps.
    let _ = std::fs::remove_file(states_path(home, &profile));
    outcome
}

#[derive(Default)]
struct Server {
    open: BTreeMap<PortForward, Open>,
    problems: BTreeMap<PortForward, String>,
}

impl Server {
    /// Opens and closes ports as the profile has them. `again` is whether ways are looked up again.
    /// Returns whether something changed.
    async fn follow(&mut self, home: &Home, profile: &Profile, again: bool) -> bool {
        let wanted: BTreeSet<&PortForward> = profile.forwards.iter().collect();
        let known = self.open.keys();
        let gone: Vec<PortForward> = known
            .filter(|port| !wanted.contains(port))
            .cloned()
            .collect();
        let mut changed = !gone.is_empty();
        // Before others are opened, which may be the same ones with another target.
        for port in &gone {
            self.close(port).await;
        }
        self.problems.retain(|port, _| {
            let kept = wanted.contains(port);
            changed |= !kept;
            kept
        });
        let mut finder = Finder::new(home, profile);
        for port in &profile.forwards {
            let known = self.open.contains_key(port) || self.problems.contains_key(port);
            if known && !again {
                continue;
            }
            let found = finder.way(port).await;
            let now = self.open.get(port).map(|open| open.way);
            let opened = match next(found, now) {
                Next::Stay => continue,
                Next::Open(way) => {
                    self.close(port).await;
                    open(home, profile, port, way).await
                }
                Next::Close(why) => {
                    self.close(port).await;
                    Err(why)
                }
            };
            match opened {
                Ok(open) => {
                    self.problems.remove(port);
                    self.open.insert(port.clone(), open);
                    changed = true;
                }
                Err(why) => {
                    changed |= self.problems.get(port) != Some(&why);
                    self.problems.insert(port.clone(), why);
                }
            }
        }
        changed
    }

    /// Closes a port if it is open. It can be listened on again then.
    async fn close(&mut self, port: &PortForward) {
        if let Some(open) = self.open.remove(port) {
            open.close().await;
        }
    }

    async fn close_all(&mut self) {
        while let Some((_, open)) = self.open.pop_first() {
            open.close().await;
        }
    }

    fn write(&self, home: &Home, profile: &Profile) -> Result<(), Failure> {
        let state = |port: &PortForward| PortState {
            port: port.clone(),
            problem: self.problems.get(port).cloned(),
        };
        let states: Vec<PortState> = profile.forwards.iter().map(state).collect();
        let text = serde_json::to_string(&states)
            .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
        write_private(&states_path(home, profile), text.as_bytes())
    }
}

/// Opens a port.
async fn open(
    home: &Home,
    profile: &Profile,
    port: &PortForward,
    way: Way,
) -> Result<Open, String> {
    let at = SocketAddr::from((port.host_ip, port.host_port));
    let failed = |e: std::io::Error| format!("cannot listen at {at}: {e}");
    let task = match way {
        Way::Direct(to) if port.udp => {
            let socket = tokio::net::UdpSocket::bind(at).await.map_err(failed)?;
            tokio::spawn(carry::udp(socket, to))
        }
        Way::Direct(to) => {
            let listener = tokio::net::TcpListener::bind(at).await.map_err(failed)?;
            tokio::spawn(carry::tcp(listener, to))
        }
        Way::Ssh(to) => {
            let forward = Forward::bind(at, to).map_err(|e| e.message)?;
            // Without a terminal, nobody is told; broken connections are made again.
            tokio::spawn(forward.run(home.clone(), profile.clone(), |_| {}))
        }
    };
    Ok(Open { way, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_never_leads_to_a_successor_of_its_target() {
        let (one, two) = (
            "10.0.0.1:80".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        );
        let (one, two) = (Way::Direct(one), Way::Direct(two));
        let gone = || Err(NoWay::Gone("gone".into()));
        let unknown = || Err(NoWay::Unknown("away".into()));
        assert_eq!(next(Ok(one), Some(one)), Next::Stay);
        assert_eq!(next(Ok(two), Some(one)), Next::Open(two));
        assert_eq!(next(Ok(two), None), Next::Open(two));
        assert_eq!(next(unknown(), Some(one)), Next::Stay);
        assert_eq!(next(unknown(), None), Next::Close("away".into()));
        assert_eq!(next(gone(), Some(one)), Next::Close("gone".into()));
    }

    #[tokio::test]
    async fn a_closed_port_can_be_listened_on_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        std::net::TcpListener::bind(at).unwrap_err();
        let open = Open {
            way: Way::Direct(at),
            task: tokio::spawn(carry::tcp(listener, at)),
        };
        tokio::task::yield_now().await;
        open.close().await;
        std::net::TcpListener::bind(at).unwrap();
    }
}
