//! The registered drivers of dynamic resource allocation and the connections to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::dra::Service;
use crate::grpc::{Channel, Status};

/// Time in which a driver must take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// First and longest delay before a connection is tried again: those of gRPC.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// A plugin of a driver. A driver may have several, during an update.
pub struct Plugin {
    /// Name of the driver.
    pub driver: String,
    endpoint: PathBuf,
    /// The version of its service that is used.
    pub service: Service,
    channel: Mutex<Option<Channel>>,
    /// Cancelled when the plugin is removed.
    pub end: CancellationToken,
}

impl Plugin {
    fn connected(&self) -> bool {
        self.channel.lock().as_ref().is_some_and(Channel::is_open)
    }

    /// Returns the connection to the plugin; makes one if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the plugin cannot be reached.
    pub async fn channel(&self) -> Result<Channel, Status> {
        let open = self.channel.lock().clone().filter(Channel::is_open);
        match open {
            Some(channel) => Ok(channel),
            None => Channel::connect(&self.endpoint, DIAL_LIMIT).await,
        }
    }
}

/// Chooses the version of the service: the first of the driver's that the kubelet knows.
///
/// # Errors
///
/// Returns upstream's message if there is none.
pub fn choose(supported: &[String]) -> Result<Service, String> {
    if supported.is_empty() {
        return Err("empty list of supported gRPC services (aka supported versions)".into());
    }
    let known = |name: &String| Service::ALL.into_iter().find(|s| s.name() == name);
    let quoted = |names: Vec<&str>| format!("{names:?}").replace("\", \"", "\" \"");
    supported.iter().find_map(known).ok_or_else(|| {
        format!(
            "none of services supported by the plugin ({}) are supported by the kubelet ({})",
            quoted(supported.iter().map(String::as_str).collect()),
            quoted(Service::ALL.map(Service::name).to_vec())
        )
    })
}

/// The drivers of a node.
pub struct Drivers {
    plugins: Mutex<BTreeMap<String, Vec<Arc<Plugin>>>>,
    /// Drivers whose slices are about to be removed.
    waiting: Mutex<BTreeSet<String>>,
    wiping_delay: Duration,
    /// Names of drivers whose resource slices must go.
    wipes: mpsc::UnboundedSender<String>,
}

impl Drivers {
    /// Returns no drivers. The names of those that are gone for `wiping_delay` are sent to `wipes`.
    pub fn new(wiping_delay: Duration, wipes: mpsc::UnboundedSender<String>) -> Arc<Self> {
        Arc::new(Self {
            plugins: Mutex::default(),
            waiting: Mutex::default(),
            wiping_delay,
            wipes,
        })
    }

    /// Adds a plugin and connects to it; `None` if its socket is known.
    pub fn add(
        self: &Arc<Self>,
        driver: &str,
        endpoint: &Path,
        service: Service,
    ) -> Option<Arc<Plugin>> {
        let plugin = Arc::new(Plugin {
            driver: driver.to_owned(),
            endpoint: endpoint.to_owned(),
            service,
            channel: Mutex::default(),
            end: CancellationToken::new(),
        });
        {
            let mut plugins = self.plugins.lock();
            let known = plugins.entry(driver.to_owned()).or_default();
            if known.iter().any(|p| p.endpoint == endpoint) {
                return None;
            }
            known.push(plugin.clone());
        }
        tokio::spawn(self.clone().keep_connected(plugin.clone()));
        Some(plugin)
    }

    /// Removes a plugin; its connection is closed.
    pub fn remove(self: &Arc<Self>, driver: &str, endpoint: &Path) {
        {
            let mut plugins = self.plugins.lock();
            let Some(known) = plugins.get_mut(driver) else {
                return;
            };
            for plugin in known.extract_if(.., |p| p.endpoint == endpoint) {
                plugin.end.cancel();
                plugin.channel.lock().take();
            }
            if known.is_empty() {
                plugins.remove(driver);
            }
        }
        self.sync(driver);
    }

    /// Returns the driver's plugin to use: the latest that is connected, otherwise the latest.
    ///
    /// # Errors
    ///
    /// Returns upstream's message if the driver is not registered.
    pub fn get(&self, driver: &str) -> Result<Arc<Plugin>, String> {
        if driver.is_empty() {
            return Err("DRA driver name is empty".into());
        }
        let plugins = self.plugins.lock();
        let known = plugins.get(driver).map(Vec::as_slice).unwrap_or_default();
        let best = known.iter().rev().find(|p| p.connected()).or(known.last());
        best.cloned()
            .ok_or_else(|| format!("DRA driver {driver} is not registered"))
    }

    async fn keep_connected(self: Arc<Self>, plugin: Arc<Plugin>) {
        let mut pause = RECONNECT.0;
        while !plugin.end.is_cancelled() {
            let connected = Channel::connect(&plugin.endpoint, DIAL_LIMIT).await;
            let channel = match connected {
                Ok(channel) => channel,
                Err(e) => {
                    tracing::debug!(driver = plugin.driver, "{e}");
                    self.sync(&plugin.driver);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = plugin.end.cancelled() => return,
                    }
                    pause = (pause * 8 / 5).min(RECONNECT.1);
                    continue;
                }
            };
            pause = RECONNECT.0;
            *plugin.channel.lock() = Some(channel.clone());
            self.sync(&plugin.driver);
            tokio::select! {
                () = channel.closed() => {}
                () = plugin.end.cancelled() => return,
            }
            plugin.channel.lock().take();
            self.sync(&plugin.driver);
            // A driver that closes each connection is not called without end.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn usable(&self, driver: &str) -> bool {
        let plugins = self.plugins.lock();
        plugins
            .get(driver)
            .is_some_and(|known| known.iter().any(|p| p.connected()))
    }

    /// Has the slices of a driver removed if it stays away.
    fn sync(self: &Arc<Self>, driver: &str) {
        if self.usable(driver) || !self.waiting.lock().insert(driver.to_owned()) {
            return;
        }
        let (drivers, driver) = (self.clone(), driver.to_owned());
        tokio::spawn(async move {
            let end = tokio::time::Instant::now() + drivers.wiping_delay;
            // The time starts anew once the driver was there.
            while tokio::time::Instant::now() < end {
                tokio::time::sleep(drivers.wiping_delay.min(Duration::from_millis(500))).await;
                if drivers.usable(&driver) {
                    drivers.waiting.lock().remove(&driver);
                    return;
                }
            }
            drivers.waiting.lock().remove(&driver);
            // The agent may be ending.
            let _ = drivers.wipes.send(driver);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_version_is_used() {
        let choose = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            choose(&names)
        };
        assert_eq!(
            choose(&["v1beta1.DRAPlugin", "v1.DRAPlugin"]),
            Ok(Service::V1Beta1)
        );
        assert_eq!(choose(&["x", "v1.DRAPlugin"]), Ok(Service::V1));
        assert!(choose(&[]).unwrap_err().starts_with("empty list"));
        assert_eq!(
            choose(&["v1alpha4.Node", "x"]).unwrap_err(),
            "none of services supported by the plugin ([\"v1alpha4.Node\" \"x\"]) are supported by \
             the kubelet ([\"v1.DRAPlugin\" \"v1beta1.DRAPlugin\"])"
        );
    }
}
