//! The health of devices, as drivers report it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::api::dra as api;

/// How long a report holds if the driver does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest message in bytes, as in the API.
const MAX_MESSAGE: usize = 1024;
/// Name of the file.
const FILE: &str = "dra_health_state";

/// Whether a device works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It does.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Nothing is known, or not any more.
    #[default]
    Unknown,
}

impl Health {
    /// Returns the word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
        }
    }
}

/// A report about a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    health: Health,
    message: String,
    timeout: Duration,
    at: SystemTime,
}

impl Report {
    fn is_over(&self, now: SystemTime) -> bool {
        now.duration_since(self.at)
            .is_ok_and(|age| age > self.timeout)
    }
}

/// The pool and the name of a device.
pub type DeviceKey = (String, String);

/// The last reports by driver and device.
#[derive(Debug, Default)]
pub struct Reports {
    drivers: BTreeMap<String, BTreeMap<DeviceKey, Report>>,
    path: PathBuf,
}

/// The reports as a list, for keys in JSON are text.
type Saved = Vec<(String, Vec<(DeviceKey, Report)>)>;

impl Reports {
    /// Reads the reports of an earlier agent. Without them, nothing is known.
    pub fn open(dir: &std::path::Path) -> Self {
        let path = dir.join(FILE);
        let saved: Saved = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let drivers = saved
            .into_iter()
            .map(|(driver, reports)| (driver, reports.into_iter().collect()));
        Self {
            drivers: drivers.collect(),
            path,
        }
    }

    fn save(&self) {
        let saved: Vec<_> = self
            .drivers
            .iter()
            .map(|(d, r)| (d, r.iter().collect::<Vec<_>>()))
            .collect();
        let done = serde_json::to_vec(&saved)
            .map_err(std::io::Error::other)
            .and_then(|bytes| rkube_fsutil::write_atomic_private(&self.path, &bytes));
        if let Err(e) = done {
            tracing::warn!(
                "{}: {e}; a restart forgets the health of devices",
                self.path.display()
            );
        }
    }

    /// Takes over a driver's reports; returns the devices whose health changed.
    pub fn update(
        &mut self,
        driver: &str,
        devices: Vec<api::DeviceHealth>,
        now: SystemTime,
    ) -> BTreeSet<DeviceKey> {
        let known = self.drivers.entry(driver.to_owned()).or_default();
        let mut changed = BTreeSet::new();
        let mut reported = BTreeSet::new();
        for device in devices {
            let id = device.device.unwrap_or_default();
            let key = (id.pool_name, id.device_name);
            let seconds = u64::try_from(device.health_check_timeout_seconds).unwrap_or(0);
            let report = Report {
                health: match device.health {
                    1 => Health::Healthy,
                    2 => Health::Unhealthy,
                    _ => Health::Unknown,
                },
                message: cut(device.message),
                timeout: if seconds == 0 {
                    DEFAULT_TIMEOUT
                } else {
                    Duration::from_secs(seconds)
                },
                at: now,
            };
            let what = |r: &Report| (r.health, r.message.clone(), r.timeout);
            if known.get(&key).is_none_or(|old| what(old) != what(&report)) {
                changed.insert(key.clone());
            }
            reported.insert(key.clone());
            known.insert(key, report);
        }
        for (key, report) in known.iter_mut().filter(|(key, _)| !reported.contains(key)) {
            if report.health != Health::Unknown && report.is_over(now) {
                (report.health, report.at) = (Health::Unknown, now);
                report.message.clear();
                changed.insert(key.clone());
            }
        }
        if !changed.is_empty() {
            self.save();
        }
        changed
    }

    /// Forgets a driver's reports: its stream ended.
    pub fn clear(&mut self, driver: &str) {
        if self.drivers.remove(driver).is_some() {
            self.save();
        }
    }

    /// Returns the health of a device and the driver's message.
    pub fn get(&self, driver: &str, pool: &str, device: &str, now: SystemTime) -> (Health, String) {
        let key = (pool.to_owned(), device.to_owned());
        let report = self.drivers.get(driver).and_then(|d| d.get(&key));
        match report.filter(|r| !r.is_over(now)) {
            Some(report) => (report.health, report.message.clone()),
            None => Default::default(),
        }
    }
}

/// Shortens a message to what the API takes.
fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3)
            .rev()
            .find(|i| message.is_char_boundary(*i));
        message.truncate(end.unwrap_or(0));
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(device: &str, health: i32, timeout: i64) -> api::DeviceHealth {
        api::DeviceHealth {
            device: Some(api::DeviceIdentifier {
                pool_name: "pool".into(),
                device_name: device.into(),
            }),
            health,
            health_check_timeout_seconds: timeout,
            message: format!("m{health}"),
            ..Default::default()
        }
    }

    /// The cases of upstream's `TestUpdateHealthInfo` and `TestGetHealthInfo`.
    #[test]
    fn reports_hold_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let mut reports = Reports::open(dir.path());
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(reports.get("d", "pool", "a", start).0, Health::Unknown);
        let changed = reports.update("d", vec![report("a", 1, 0), report("b", 2, 60)], start);
        assert_eq!(changed.len(), 2);
        assert!(
            reports
                .update("d", vec![report("a", 1, 0), report("b", 2, 60)], start)
                .is_empty()
        );
        assert_eq!(
            reports.get("d", "pool", "b", at(50)),
            (Health::Unhealthy, "m2".into())
        );
        assert_eq!(reports.get("d", "pool", "a", at(30)).0, Health::Healthy);
        assert_eq!(reports.get("d", "pool", "a", at(31)), Default::default());
        // One that is not reported any more is unknown after its time.
        let changed = reports.update("d", vec![report("b", 2, 60)], at(40));
        assert_eq!(changed.into_iter().next().unwrap().1, "a");
        let again = Reports::open(dir.path());
        assert_eq!(again.get("d", "pool", "b", at(50)).0, Health::Unhealthy);
        reports.clear("d");
        assert_eq!(reports.get("d", "pool", "b", at(50)).0, Health::Unknown);
        assert_eq!(Reports::open(dir.path()).drivers.len(), 0);
    }

    #[test]
    fn messages_are_cut() {
        assert_eq!(cut("ö".repeat(512)), "ö".repeat(512));
        assert_eq!(cut("ö".repeat(513)), format!("{}...", "ö".repeat(510)));
    }
}
