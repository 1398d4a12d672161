//! Dynamic resource allocation on a node: drivers prepare the claims of pods.
//!
//! [`Manager`] talks with the drivers; [`cache`] and [`health`] decide and remember.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc;

pub mod cache;
mod drivers;
mod health;
#[cfg(test)]
mod tests;

pub use cache::{AllocatedClaim, ClaimDevice, ClaimInfo};
pub use health::Health;

use crate::api::dra as api;
use crate::grpc::{Status, Stream};
use cache::Cache;
use drivers::{Drivers, Plugin};
use health::Reports;

/// Time in which a driver must answer.
const CALL_LIMIT: Duration = Duration::from_secs(45);
/// Time for a driver to come back before its resource slices are removed.
const WIPING_DELAY: Duration = Duration::from_secs(30);
/// Delay before a driver's stream of health is opened again.
const HEALTH_DELAY: Duration = Duration::from_secs(5);

/// Time limits, which tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a driver to answer.
    pub call: Duration,
    /// For a driver to come back before its resource slices are removed.
    pub wiping_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call: CALL_LIMIT,
            wiping_delay: WIPING_DELAY,
        }
    }
}

/// What the manager asks of the node agent.
pub struct Notices {
    /// Names of drivers whose resource slices must go.
    pub wipes: mpsc::UnboundedReceiver<String>,
    /// UIDs of pods whose devices changed their health.
    pub affected: mpsc::UnboundedReceiver<String>,
}

/// The health of a device of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHealth {
    /// The device: its first name in the Container Device Interface, or driver, pool and name.
    pub id: String,
    /// Whether it works.
    pub health: Health,
    /// What is wrong; may be empty.
    pub message: String,
}

/// The drivers of a node and the claims of its pods.
pub struct Manager {
    drivers: Arc<Drivers>,
    limits: Limits,
    cache: Mutex<Cache>,
    /// Held while drivers are asked: a claim of a pod that ends may be that of the next pod.
    asking: tokio::sync::Mutex<()>,
    reports: Mutex<Reports>,
    affected: mpsc::UnboundedSender<String>,
}

impl Manager {
    /// Returns the manager with the claims of an earlier agent.
    ///
    /// # Errors
    ///
    /// Fails if the file with the claims is damaged or the directory cannot be made.
    pub fn open(dir: &Path, limits: Limits) -> std::io::Result<(Arc<Self>, Notices)> {
        std::fs::create_dir_all(dir)?;
        let (wipe, wipes) = mpsc::unbounded_channel();
        let (affected, pods) = mpsc::unbounded_channel();
        let manager = Arc::new(Self {
            drivers: Drivers::new(limits.wiping_delay, wipe),
            limits,
            cache: Mutex::new(Cache::open(dir)?),
            asking: tokio::sync::Mutex::new(()),
            reports: Mutex::new(Reports::open(dir)),
            affected,
        });
        let notices = Notices {
            wipes,
            affected: pods,
        };
        Ok((manager, notices))
    }

    /// Checks a driver that was found in the registry.
    ///
    /// # Errors
    ///
    /// Returns upstream's message.
    pub fn validate(driver: &str, endpoint: &Path, supported: &[String]) -> Result<(), String> {
        let invalid = |e| {
            let endpoint = endpoint.display();
            format!(
                "invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {endpoint}: {e}"
            )
        };
        drivers::choose(supported).map(|_| ()).map_err(invalid)
    }

    /// Adds a driver's plugin.
    ///
    /// # Errors
    ///
    /// Returns upstream's message, also for a socket that is known.
    pub fn register(
        self: &Arc<Self>,
        driver: &str,
        endpoint: &Path,
        supported: &[String],
    ) -> Result<(), String> {
        let service = drivers::choose(supported)?;
        let Some(plugin) = self.drivers.add(driver, endpoint, service) else {
            let endpoint = endpoint.display();
            return Err(format!(
                "endpoint {endpoint} already registered for DRA driver plugin {driver}"
            ));
        };
        tracing::info!(driver, service = service.name(), "DRA driver registered");
        tokio::spawn(self.clone().watch_health(plugin));
        Ok(())
    }

    /// Removes a driver's plugin, whose registration socket is gone.
    pub fn deregister(&self, driver: &str, endpoint: &Path) {
        tracing::info!(driver, "DRA driver is gone");
        self.drivers.remove(driver, endpoint);
    }

    /// Returns whether a driver is registered.
    pub fn has_driver(&self, driver: &str) -> bool {
        self.drivers.get(driver).is_ok()
    }

    async fn watch_health(self: Arc<Self>, plugin: Arc<Plugin>) {
        loop {
            tokio::select! {
                () = self.follow_health(&plugin) => {}
                () = plugin.end.cancelled() => {}
            }
            self.reports.lock().clear(&plugin.driver);
            tokio::select! {
                () = tokio::time::sleep(HEALTH_DELAY) => {}
                () = plugin.end.cancelled() => return,
            }
        }
    }

    /// Takes over a driver's reports until the stream ends. Many drivers have none.
    async fn follow_health(&self, plugin: &Plugin) {
        let end = async {
            let channel = plugin.channel().await?;
            let request = api::NodeWatchResourcesRequest {};
            let mut stream: Stream<api::NodeWatchResourcesResponse> =
                channel.stream(api::WATCH_HEALTH, &request).await?;
            while let Some(reports) = stream.next().await? {
                self.take_reports(&plugin.driver, reports);
            }
            Ok::<(), Status>(())
        };
        if let Err(status) = end.await {
            tracing::debug!(driver = plugin.driver, "health of devices: {status}");
        }
    }

    fn take_reports(&self, driver: &str, reports: api::NodeWatchResourcesResponse) {
        let now = SystemTime::now();
        let changed = self.reports.lock().update(driver, reports.devices, now);
        let cache = self.cache.lock();
        let users = changed
            .iter()
            .map(|(pool, device)| cache.users(driver, pool, device));
        for pod in users.flatten() {
            // The agent may be ending.
            let _ = self.affected.send(pod);
        }
    }

    /// Has the drivers prepare the claims of a pod. Claims that are prepared already are left.
    ///
    /// # Errors
    ///
    /// Returns upstream's message. If a driver is not registered, nothing is remembered, so that the
    /// pod can be deleted.
    pub async fn prepare(&self, pod: &str, claims: &[AllocatedClaim]) -> Result<(), String> {
        let mut plugins: BTreeMap<&str, Arc<Plugin>> = BTreeMap::new();
        for driver in claims.iter().flat_map(|claim| &claim.drivers) {
            plugins.insert(driver, self.drivers.get(driver)?);
        }
        let _asking = self.asking.lock().await;
        let batches = self.cache.lock().reserve(pod, claims)?;
        for (driver, batch) in batches {
            let plugin = match plugins.get(driver.as_str()) {
                Some(plugin) => plugin.clone(),
                None => self.drivers.get(&driver)?,
            };
            self.prepare_batch(&plugin, batch).await?;
        }
        self.cache.lock().prepared(claims.iter())
    }

    async fn prepare_batch(&self, plugin: &Plugin, claims: Vec<api::Claim>) -> Result<(), String> {
        let request = api::NodePrepareResourcesRequest { claims };
        let call = async {
            let channel = plugin.channel().await?;
            channel
                .call(plugin.service.prepare(), &request, self.limits.call)
                .await
        };
        let answer: Result<api::NodePrepareResourcesResponse, Status> = call.await;
        let answer = answer.map_err(|e| format!("NodePrepareResources: {e}"))?;
        let answered = answer.claims.len();
        for (uid, result) in answer.claims {
            let claim = request
                .claims
                .iter()
                .find(|claim| claim.uid == uid)
                .ok_or_else(|| {
                    format!("NodePrepareResources returned result for unknown claim UID {uid}")
                })?;
            if !result.error.is_empty() {
                return Err(format!(
                    "NodePrepareResources failed for ResourceClaim {}: {}",
                    claim.name, result.error
                ));
            }
            self.cache
                .lock()
                .prepared_by(&plugin.driver, claim, result.devices);
        }
        match request.claims.len() - answered {
            0 => Ok(()),
            skipped => Err(format!(
                "NodePrepareResources skipped {skipped} ResourceClaims"
            )),
        }
    }

    /// Has the drivers unprepare the claims that only this pod uses.
    ///
    /// # Errors
    ///
    /// Returns upstream's message; the claims stay prepared, and it can be tried again.
    pub async fn unprepare(&self, pod: &str) -> Result<(), String> {
        let _asking = self.asking.lock().await;
        let last = self.cache.lock().release(pod);
        let mut batches = cache::Batches::new();
        for claim in &last {
            for driver in claim.drivers() {
                batches
                    .entry(driver.clone())
                    .or_default()
                    .push(claim.reference());
            }
        }
        for (driver, claims) in batches {
            let plugin = self.drivers.get(&driver)?;
            self.unprepare_batch(&plugin, claims).await?;
        }
        self.cache.lock().remove(&last)
    }

    async fn unprepare_batch(
        &self,
        plugin: &Plugin,
        claims: Vec<api::Claim>,
    ) -> Result<(), String> {
        let request = api::NodeUnprepareResourcesRequest { claims };
        let call = async {
            let channel = plugin.channel().await?;
            channel
                .call(plugin.service.unprepare(), &request, self.limits.call)
                .await
        };
        let answer: Result<api::NodeUnprepareResourcesResponse, Status> = call.await;
        let answer = answer.map_err(|e| format!("NodeUnprepareResources: {e}"))?;
        for (uid, result) in &answer.claims {
            let claim = request
                .claims
                .iter()
                .find(|claim| claim.uid == *uid)
                .ok_or_else(|| {
                    format!("NodeUnprepareResources returned result for unknown claim UID {uid}")
                })?;
            if !result.error.is_empty() {
                return Err(format!(
                    "NodeUnprepareResources failed for ResourceClaim {}: {}",
                    claim.name, result.error
                ));
            }
        }
        match request.claims.len() - answer.claims.len() {
            0 => Ok(()),
            skipped => Err(format!(
                "NodeUnprepareResources skipped {skipped} ResourceClaims"
            )),
        }
    }

    /// Returns whether a pod uses claims that may be prepared. It must not look ended before.
    pub fn is_used_by(&self, pod: &str) -> bool {
        self.cache.lock().is_used_by(pod)
    }

    /// Unprepares the claims of pods that are not known any more.
    pub async fn reconcile(&self, is_known: impl Fn(&str) -> bool) {
        let pods = self.cache.lock().pods();
        for pod in pods.iter().filter(|pod| !is_known(pod)) {
            if let Err(e) = self.unprepare(pod).await {
                tracing::info!(pod, "unpreparing claims failed, will retry: {e}");
            }
        }
    }

    /// Returns a claim's devices: its driver and the device.
    ///
    /// # Errors
    ///
    /// Returns upstream's message if the claim is not known.
    pub fn devices(
        &self,
        namespace: &str,
        claim: &str,
    ) -> Result<Vec<(String, ClaimDevice)>, String> {
        let cache = self.cache.lock();
        let info = cache.get(namespace, claim).ok_or_else(|| {
            format!("internal error: unable to get claim info for ResourceClaim {claim} in namespace {namespace}")
        })?;
        Ok(info
            .devices()
            .map(|(driver, device)| (driver.to_owned(), device.clone()))
            .collect())
    }

    /// Returns the health of the devices of a claim that are for a request; of all if it is empty.
    pub fn health(&self, namespace: &str, claim: &str, request: &str) -> Vec<DeviceHealth> {
        let devices = self.devices(namespace, claim).unwrap_or_default();
        // A device of an alternative of a request is for the request.
        let request = request.split('/').next().unwrap_or_default();
        let (reports, now) = (self.reports.lock(), SystemTime::now());
        let mut healths: Vec<DeviceHealth> = Vec::new();
        for (driver, device) in devices.iter().filter(|(_, d)| d.is_for(request)) {
            let (pool, name) = (&device.pool_name, &device.device_name);
            let (health, message) = reports.get(driver, pool, name, now);
            let id = device.cdi_device_ids.first().cloned();
            let id = id.unwrap_or_else(|| format!("{driver}/{pool}/{name}"));
            if healths.iter().all(|known| known.id != id) {
                healths.push(DeviceHealth {
                    id,
                    health,
                    message,
                });
            }
        }
        healths
    }
}
