//! Stops that are to happen later: `rkube stop --schedule`.
//!
//! A file of the profile says when, and a separate process waits for it. The process holds the file
//! locked, so that a file without a process, as after a reboot, counts as no schedule. It ends by
//! itself when the file is removed or replaced, also with the profile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};

use crate::Progress;
use crate::files::{Home, Lock, io_failure, write_private};
use crate::lifecycle;
use crate::profile::Profile;

/// The period of the process's checks of the clock and the file. The clock may jump when a laptop
/// wakes.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// The number of attempts of a stop that another command or the driver prevents.
const ATTEMPTS: u32 = 120;
/// The time in which the process tries to lock the file, which readers hold for a moment.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The period of these attempts.
const TAKE_PERIOD: Duration = Duration::from_millis(20);

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Schedule {
    /// When the cluster is stopped.
    at: Timestamp,
    /// Tells this schedule from earlier and later ones.
    id: String,
}

fn path(home: &Home, name: &str) -> PathBuf {
    home.profile_dir(name).join("scheduled-stop.json")
}

/// Reads the schedule of a profile; `None` if there is none.
fn read(home: &Home, name: &str) -> Result<Option<Schedule>, Failure> {
    let path = path(home, name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_failure("read", &path, &e)),
    };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        let message = format!("{} is damaged: {e}", path.display());
        Failure::new(Source::Program, Kind::Config, message).advise("remove that file")
    })
}

/// Takes the lock that the waiting process holds; `None` if another process has it.
fn take(home: &Home, name: &str) -> Option<Lock> {
    let file = std::fs::File::options().write(true).open(path(home, name));
    Lock::take(file.ok()?).ok()
}

/// Whether a process waits for the schedule. Readers do not take each other for that process.
fn is_waited_for(home: &Home, name: &str) -> bool {
    let Ok(file) = std::fs::File::open(path(home, name)) else {
        return false;
    };
    matches!(Lock::share(file), Err(std::fs::TryLockError::WouldBlock))
}

/// Whether `id` is the schedule of a profile, and not one that was cancelled, replaced or carried out.
pub(crate) fn is_scheduled(home: &Home, name: &str, id: &str) -> Result<bool, Failure> {
    Ok(read(home, name)?.is_some_and(|schedule| schedule.id == id))
}

/// The outcome of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No process waits for it yet.
    Pending,
    /// A process waits; the time that is left.
    Waits(String),
    /// It is being carried out or was, or was cancelled or replaced.
    Gone,
}

/// Returns what has become of the schedule `id`.
pub fn fate(home: &Home, name: &str, id: &str) -> Result<Fate, Failure> {
    Ok(match read(home, name)? {
        Some(schedule) if schedule.id == id => match is_waited_for(home, name) {
            true => Fate::Waits(time_to(schedule.at, Timestamp::now())),
            false => Fate::Pending,
        },
        _ => Fate::Gone,
    })
}

/// Writes down that a cluster is to be stopped after `delay`, instead of what was scheduled before.
/// Returns the name of the schedule, with which [`wait_and_stop`] must be called in a process of its
/// own.
pub fn schedule_stop(home: &Home, name: &str, delay: Duration) -> Result<String, Failure> {
    let _lock = Profile::lock(home, name)?;
    let too_far = |e: jiff::Error| {
        let message = format!("a stop cannot be scheduled then: {e}");
        Failure::new(Source::Program, Kind::Usage, message)
    };
    let now = Timestamp::now();
    let delay = jiff::SignedDuration::try_from(delay).map_err(too_far)?;
    let schedule = Schedule {
        at: now.checked_add(delay).map_err(too_far)?,
        id: format!("{}-{}", now.as_nanosecond(), std::process::id()),
    };
    let text = serde_json::to_string(&schedule)
        .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
    write_private(&path(home, name), text.as_bytes())?;
    Ok(schedule.id)
}

/// Removes the schedule of a profile. Returns whether a stop was going to happen.
///
/// # Errors
/// Fails while another command, such as the stop itself, changes the profile.
pub fn cancel_stop(home: &Home, name: &str) -> Result<bool, Failure> {
    let _lock = home.lock(name)?;
    withdraw(home, name)
}

/// Removes the schedule of a profile that the caller has locked.
pub(crate) fn withdraw(home: &Home, name: &str) -> Result<bool, Failure> {
    let was = scheduled_stop(home, name).is_some();
    let path = path(home, name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(was),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_failure("remove", &path, &e)),
    }
}

/// Returns the time until the scheduled stop of a cluster, such as `4m59s`; `None` if no process waits
/// for that.
pub fn time_to_stop(home: &Home, name: &str) -> Option<String> {
    scheduled_stop(home, name).map(|at| time_to(at, Timestamp::now()))
}

/// Returns when a cluster is going to be stopped.
fn scheduled_stop(home: &Home, name: &str) -> Option<Timestamp> {
    // A damaged file schedules nothing; the next schedule replaces it.
    let schedule = read(home, name).ok()??;
    is_waited_for(home, name).then_some(schedule.at)
}

/// Waits for the time of a schedule and stops the cluster. Returns early if the schedule is removed or
/// replaced.
pub async fn wait_and_stop(
    home: &Home,
    name: &str,
    id: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let deadline = Instant::now() + TAKE_TIMEOUT;
    let _lock = loop {
        if !is_scheduled(home, name, id)? {
            return Ok(());
        }
        if let Some(lock) = take(home, name) {
            break lock;
        }
        if Instant::now() > deadline {
            let message = format!("another process waits for the stop of the cluster '{name}'");
            return Err(Failure::new(Source::Program, Kind::Conflict, message));
        }
        tokio::time::sleep(TAKE_PERIOD).await;
    };
    loop {
        match read(home, name)? {
            Some(schedule) if schedule.id == id => {
                if schedule.at <= Timestamp::now() {
                    break;
                }
            }
            _ => return Ok(()),
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
    let mut attempt = 1;
    loop {
        match lifecycle::stop_scheduled(home, name, id, progress).await {
            Err(e) if e.kind == Kind::Conflict && attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Returns the time until a moment as Go prints it, in whole seconds: `1h2m3s`.
fn time_to(at: Timestamp, now: Timestamp) -> String {
    // A second that has begun counts, so that a stop in 5 minutes is not one in 4m59s.
    let left = at.duration_since(now).as_millis().max(0).unsigned_abs();
    let left = left.div_ceil(1000);
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Progress for Silent {
        fn step(&self, _: &str, _: &str) {}
        fn warn(&self, _: &str) {}
    }

    fn home_with(schedule: &Schedule) -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::create_dir_all(home.profile_dir("p")).unwrap();
        let text = serde_json::to_string(schedule).unwrap();
        write_private(&path(&home, "p"), text.as_bytes()).unwrap();
        (dir, home)
    }

    /// Makes a cluster whose driver there is not.
    fn profile_in(home: &Home) {
        let profile = Profile::new(&crate::profile::NewProfile {
            name: "p",
            driver: "none",
            nodes: &[crate::NodeSpec::default()],
            node_cidr: "192.168.77.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            ipv6: None,
            dns_domain: "cluster.local",
            insecure_registries: &[],
            ports: &[],
            mounts: &[],
            kind: false,
            store: None,
            machine: &rkube_drivers::MachineOptions::default(),
        });
        profile.unwrap().save(home).unwrap();
    }

    #[test]
    fn a_schedule_counts_only_while_a_process_waits_for_it() {
        let at: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        let id = "1-1".to_owned();
        let (_dir, home) = home_with(&Schedule { at, id });
        assert_eq!(scheduled_stop(&home, "p"), None);
        let lock = take(&home, "p").unwrap();
        assert_eq!(scheduled_stop(&home, "p"), Some(at));
        assert!(cancel_stop(&home, "p").unwrap());
        drop(lock);
        assert!(!cancel_stop(&home, "p").unwrap());
        assert_eq!(scheduled_stop(&home, "other"), None);
    }

    #[test]
    fn readers_do_not_take_each_other_for_the_process() {
        let at: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        let id = "1-1".to_owned();
        let (_dir, home) = home_with(&Schedule { at, id });
        let file = std::fs::File::open(path(&home, "p")).unwrap();
        let reader = Lock::share(file).unwrap();
        assert_eq!(scheduled_stop(&home, "p"), None);
        assert_eq!(fate(&home, "p", "1-1").unwrap(), Fate::Pending);
        drop(reader);
        let lock = take(&home, "p").unwrap();
        assert!(matches!(fate(&home, "p", "1-1").unwrap(), Fate::Waits(_)));
        // It was replaced.
        assert_eq!(fate(&home, "p", "0-1").unwrap(), Fate::Gone);
        drop(lock);
        cancel_stop(&home, "p").unwrap();
        assert_eq!(fate(&home, "p", "1-1").unwrap(), Fate::Gone);
    }

    #[tokio::test]
    async fn a_reader_does_not_end_the_process() {
        let at: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        let id = "1-1".to_owned();
        let (_dir, home) = home_with(&Schedule { at, id });
        let file = std::fs::File::open(path(&home, "p")).unwrap();
        let reader = Lock::share(file).unwrap();
        let mut waiting = Box::pin(wait_and_stop(&home, "p", "1-1", &Silent));
        // The process begins while another one reads, and goes on.
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(reader);
        let cancel = async {
            while scheduled_stop(&home, "p").is_none() {
                tokio::task::yield_now().await;
            }
            cancel_stop(&home, "p").unwrap()
        };
        let (done, was) = tokio::join!(waiting, cancel);
        done.unwrap();
        assert!(was);
    }

    #[tokio::test]
    async fn a_stop_that_was_cancelled_while_another_command_ran_does_not_happen() {
        let at: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        let (_dir, home) = home_with(&Schedule {
            at,
            id: "1-1".to_owned(),
        });
        profile_in(&home);
        // A stop would fail with this driver.
        let lock = home.lock("p").unwrap();
        let mut waiting = Box::pin(wait_and_stop(&home, "p", "1-1", &Silent));
        assert!(futures::poll!(&mut waiting).is_pending());
        withdraw(&home, "p").unwrap();
        drop(lock);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn the_process_ends_when_its_schedule_is_gone() {
        let at: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        let id = "2-1".to_owned();
        let (_dir, home) = home_with(&Schedule { at, id });
        // It was replaced before the process came to it.
        wait_and_stop(&home, "p", "1-1", &Silent).await.unwrap();
        let waiting = wait_and_stop(&home, "p", "2-1", &Silent);
        let cancel = async {
            while scheduled_stop(&home, "p").is_none() {
                tokio::task::yield_now().await;
            }
            cancel_stop(&home, "p").unwrap()
        };
        let (done, was) = tokio::join!(waiting, cancel);
        done.unwrap();
        assert!(was);
    }

    #[tokio::test]
    async fn a_stop_that_is_due_is_tried() {
        let at: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        let id = "1-1".to_owned();
        let (_dir, home) = home_with(&Schedule { at, id });
        // There is no such cluster, which only the stop finds out.
        let failure = wait_and_stop(&home, "p", "1-1", &Silent).await.unwrap_err();
        assert_eq!(failure.kind, Kind::NotFound);
    }

    #[test]
    fn times_are_gos() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (at, text) in [
            ("2026-01-01T00:00:09Z", "9s"),
            ("2026-01-01T00:00:08.5Z", "9s"),
            ("2026-01-01T00:05:00Z", "5m0s"),
            ("2026-01-01T01:00:02Z", "1h0m2s"),
            ("2025-01-01T00:00:00Z", "0s"),
        ] {
            assert_eq!(time_to(at.parse().unwrap(), now), text);
        }
    }
}
