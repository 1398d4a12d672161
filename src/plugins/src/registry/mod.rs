//! Finds plugins by the sockets in `/var/lib/kubelet/plugins_registry`, and registers them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

pub mod plan;
#[cfg(test)]
mod tests;
mod watch;

use crate::api::registration as api;
use crate::claims;
use crate::devices;
use crate::grpc::{Channel, Status};
use plan::{Action, Known, Registered, Sockets, plan};
use watch::Watch;

/// Time in which a plugin must take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Time in which a plugin must say what it is.
const INFO_LIMIT: Duration = Duration::from_secs(1);
/// Time in which a plugin must take note of its registration.
const NOTIFY_LIMIT: Duration = Duration::from_secs(5);
/// Delay between an event of the directory and the look at it.
const SETTLE: Duration = Duration::from_millis(20);

/// The kinds of plugins that the node takes.
#[derive(Clone)]
pub struct Handlers {
    /// Device plugins.
    pub devices: Arc<devices::Manager>,
    /// Drivers of dynamic resource allocation.
    pub claims: Arc<claims::Manager>,
}

impl Handlers {
    fn validate(&self, plugin: &Registered, versions: &[String]) -> Result<(), String> {
        match plugin.kind.as_str() {
            api::DEVICE_PLUGIN => self.devices.validate(&plugin.name, versions),
            _ => claims::Manager::validate(&plugin.name, &plugin.endpoint, versions),
        }
    }

    async fn register(&self, plugin: &Registered, versions: &[String]) -> Result<(), String> {
        match plugin.kind.as_str() {
            api::DEVICE_PLUGIN => self.devices.connect(&plugin.name, &plugin.endpoint).await,
            _ => self
                .claims
                .register(&plugin.name, &plugin.endpoint, versions),
        }
    }

    fn deregister(&self, plugin: &Registered) {
        match plugin.kind.as_str() {
            api::DEVICE_PLUGIN => self.devices.deregister(&plugin.name, &plugin.endpoint),
            _ => self.claims.deregister(&plugin.name, &plugin.endpoint),
        }
    }
}

/// Returns whether a kind of plugins is known.
fn is_known(kind: &str) -> bool {
    matches!(kind, api::DEVICE_PLUGIN | api::DRA_PLUGIN)
}

/// Registers the plugins of a directory, which is made if it is missing, until the future is
/// dropped.
///
/// # Errors
///
/// Fails if a task ends unexpectedly.
pub async fn run(dir: &Path, handlers: Handlers) -> io::Result<()> {
    let mut watch = Watch::new();
    let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
    let mut running: JoinSet<(PathBuf, Result<Registered, String>)> = JoinSet::new();
    loop {
        // Before the look, so that no change is missed.
        let found = watch.sockets(dir);
        let now = Instant::now().into_std();
        for action in plan(&found, &known, now) {
            carry_out(action, &found, &mut known, &mut running, &handlers);
        }
        let due = known.values().filter_map(Known::due).min();
        tokio::select! {
            () = watch.changed() => tokio::time::sleep(SETTLE).await,
            Some(ended) = running.join_next() => match ended {
                Ok((socket, result)) => finish(&socket, result, &mut known, &handlers),
                Err(e) => return Err(io::Error::other(e)),
            },
            () = sleep_until(due) => {}
        }
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn carry_out(
    action: Action,
    found: &Sockets,
    known: &mut BTreeMap<PathBuf, Known>,
    running: &mut JoinSet<(PathBuf, Result<Registered, String>)>,
    handlers: &Handlers,
) {
    match action {
        Action::Unregister(socket) => {
            if let Some(Known::Registered { plugin, .. }) = known.remove(&socket) {
                handlers.deregister(&plugin);
            }
        }
        Action::Forget(socket) => {
            known.remove(&socket);
        }
        Action::Register(socket) => {
            let Some(identity) = found.get(&socket).copied() else {
                return;
            };
            let failures = known.get(&socket).map_or(0, Known::failures);
            known.insert(socket.clone(), Known::Registering { identity, failures });
            let handlers = handlers.clone();
            running.spawn(async move {
                let result = register(&socket, &handlers).await;
                (socket, result)
            });
        }
    }
}

/// Notes the end of a registration.
fn finish(
    socket: &Path,
    result: Result<Registered, String>,
    known: &mut BTreeMap<PathBuf, Known>,
    handlers: &Handlers,
) {
    let Some(Known::Registering { identity, failures }) = known.get(socket) else {
        if let Ok(plugin) = result {
            handlers.deregister(&plugin);
        }
        return;
    };
    let identity = *identity;
    let next = match result {
        Ok(plugin) => Known::Registered { identity, plugin },
        Err(e) => {
            tracing::warn!(socket = %socket.display(), "{e}");
            Known::failed(identity, failures + 1, Instant::now().into_std())
        }
    };
    known.insert(socket.to_owned(), next);
}

/// Asks a plugin what it is and registers it.
async fn register(socket: &Path, handlers: &Handlers) -> Result<Registered, String> {
    let path = socket.display();
    let channel = Channel::connect(socket, DIAL_LIMIT).await.map_err(|e| {
        format!("RegisterPlugin error -- dial failed at socket {path}, err: failed to dial socket {path}, err: {e}")
    })?;
    let info: Result<api::PluginInfo, Status> = channel
        .call(api::GET_INFO, &api::InfoRequest {}, INFO_LIMIT)
        .await;
    let info = info.map_err(|e| {
        format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {path}, err: {e}")
    })?;
    let plugin = Registered {
        kind: info.kind,
        name: info.name,
        endpoint: match info.endpoint.as_str() {
            "" => socket.to_owned(),
            endpoint => endpoint.into(),
        },
    };
    let versions = info.supported_versions;
    let refusal = if is_known(&plugin.kind) {
        let valid = handlers.validate(&plugin, &versions);
        let failed = |e| format!("RegisterPlugin error -- plugin validation failed with err: {e}");
        valid.map_err(failed).err()
    } else {
        Some(format!(
            "RegisterPlugin error -- no handler registered for plugin type: {} at socket {path}",
            plugin.kind
        ))
    };
    let refusal = match refusal {
        Some(refusal) => Some(refusal),
        None => {
            let done = handlers.register(&plugin, &versions).await;
            let failed =
                |e| format!("RegisterPlugin error -- plugin registration failed with err: {e}");
            done.map_err(failed).err()
        }
    };
    let status = api::RegistrationStatus {
        plugin_registered: refusal.is_none(),
        error: refusal.clone().unwrap_or_default(),
    };
    let told: Result<api::RegistrationStatusResponse, Status> =
        channel.call(api::NOTIFY, &status, NOTIFY_LIMIT).await;
    match (refusal, told) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(_)) => Ok(plugin),
        (None, Err(e)) => {
            handlers.deregister(&plugin);
            Err(format!(
                "RegisterPlugin error -- failed to send registration status at socket {path}, err: {e}"
            ))
        }
    }
}
