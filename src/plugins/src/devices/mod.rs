//! Device plugins, API `v1beta1`.
//!
//! [`Manager`] talks with the plugins; [`state`] decides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rkube_component_helpers::resource::is_extended;
use tokio::sync::{mpsc, watch};

mod checkpoint;
mod options;
mod registration;
pub mod state;
#[cfg(test)]
mod tests;
mod types;

pub use types::{
    Allocation, Capacity, Device, DeviceFile, HostMount, Ids, NO_NUMA, Options, Request,
    ResourceHealth, Role,
};

use crate::api::device_plugin as api;
use crate::grpc::{self, Channel, Code, Status};
use state::{Choice, Reusable, State};

/// Time in which a plugin must take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Time in which `GetDevicePluginOptions` must answer. Upstream waits as long as the plugin does.
const OPTIONS_LIMIT: Duration = Duration::from_secs(10);
/// Time in which `Allocate` and `GetPreferredAllocation` must answer. Upstream has no limit, and
/// holds up all pods of the node meanwhile.
const ALLOCATE_LIMIT: Duration = Duration::from_secs(120);
/// Time in which `PreStartContainer` must answer.
const PRE_START_LIMIT: Duration = Duration::from_secs(30);
/// Time for a plugin to come back before its resource is removed from the node.
const GRACE: Duration = Duration::from_secs(300);
/// Name of the socket on which plugins register.
const SOCKET: &str = "kubelet.sock";

/// Time limits, which tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For `Allocate` and `GetPreferredAllocation`.
    pub allocate: Duration,
    /// For `PreStartContainer`.
    pub pre_start: Duration,
    /// For a plugin to come back.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocate: ALLOCATE_LIMIT,
            pre_start: PRE_START_LIMIT,
            grace: GRACE,
        }
    }
}

struct Inner {
    state: State,
    channels: BTreeMap<String, Channel>,
    /// Resources whose plugins are gone for good, until the status says so.
    removed: std::collections::BTreeSet<String>,
}

/// The device plugins of a node.
pub struct Manager {
    dir: PathBuf,
    /// Directory of the checkpoint.
    kept: PathBuf,
    limits: Limits,
    inner: Mutex<Inner>,
    /// Changes whenever the capacity may have changed.
    changes: watch::Sender<u64>,
    /// UIDs of pods whose devices changed their health.
    affected: mpsc::UnboundedSender<String>,
}

impl Manager {
    /// Returns the manager of a directory of sockets, with the allocations of an earlier agent from
    /// the directory `kept`, and the UIDs of pods whose devices change their health. Removes the sockets of earlier plugins: when the
    /// kubelet's socket appears again, they register anew.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be made or read.
    pub fn open(
        dir: &Path,
        kept: &Path,
        limits: Limits,
    ) -> std::io::Result<(Arc<Self>, mpsc::UnboundedReceiver<String>)> {
        use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)?;
        std::fs::create_dir_all(kept)?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                std::fs::remove_file(entry.path())?;
            }
        }
        let state = checkpoint::read(kept);
        let waiting: Vec<String> = state.resources().map(|(name, _)| name.to_owned()).collect();
        let (affected, receiver) = mpsc::unbounded_channel();
        let manager = Arc::new(Self {
            dir: dir.to_owned(),
            kept: kept.to_owned(),
            limits,
            inner: Mutex::new(Inner {
                state,
                channels: BTreeMap::new(),
                removed: Default::default(),
            }),
            changes: watch::Sender::default(),
            affected,
        });
        for resource in waiting {
            manager.clone().remove_later(resource, 0);
        }
        Ok((manager, receiver))
    }

    /// Serves the socket on which plugins register, until the future is dropped.
    ///
    /// # Errors
    ///
    /// Fails if the socket cannot be made.
    pub async fn serve(self: Arc<Self>) -> std::io::Result<()> {
        let listener = grpc::listen(&self.dir.join(SOCKET))?;
        grpc::serve(listener, Arc::new(registration::Registration(self))).await;
        Ok(())
    }

    /// Notified whenever the capacity may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Checks a plugin that was found in the registry.
    ///
    /// # Errors
    ///
    /// Returns upstream's message.
    pub fn validate(&self, resource: &str, versions: &[String]) -> Result<(), String> {
        if !versions.iter().any(|v| v == api::VERSION) {
            return Err(format!(
                "manager version, {}, is not among plugin supported versions [{}]",
                api::VERSION,
                versions.join(" ")
            ));
        }
        if !is_extended(resource) {
            return Err(format!(
                "invalid name of device plugin socket: the ResourceName {resource:?} is invalid"
            ));
        }
        Ok(())
    }

    /// Connects to a plugin, and follows its devices from then on.
    ///
    /// # Errors
    ///
    /// Fails if the plugin does not answer.
    pub async fn connect(self: &Arc<Self>, resource: &str, socket: &Path) -> Result<(), String> {
        let channel = Channel::connect(socket, DIAL_LIMIT)
            .await
            .map_err(|e| format!("failed to dial device plugin: {e}"))?;
        let options: api::DevicePluginOptions = channel
            .call(api::GET_OPTIONS, &api::Empty {}, OPTIONS_LIMIT)
            .await
            .map_err(|e| format!("failed to get device plugin options: {e}"))?;
        let connection = {
            let mut inner = self.inner.lock();
            inner.channels.insert(resource.to_owned(), channel.clone());
            inner.removed.remove(resource);
            inner.state.connect(resource, options)
        };
        tracing::info!(resource, socket = %socket.display(), "device plugin connected");
        tokio::spawn(
            self.clone()
                .follow(resource.to_owned(), connection, channel),
        );
        Ok(())
    }

    /// Takes over a plugin's lists of devices until it ends them.
    async fn follow(self: Arc<Self>, resource: String, connection: u64, channel: Channel) {
        let end = self.lists(&resource, connection, &channel).await;
        tracing::info!(resource, "device plugin disconnected: {end}");
        self.disconnected(&resource, connection);
    }

    async fn lists(&self, resource: &str, connection: u64, channel: &Channel) -> Status {
        let eof = || Status::new(Code::Unavailable, "EOF");
        let started = channel.stream(api::LIST_AND_WATCH, &api::Empty {}).await;
        let mut stream: grpc::Stream<api::ListAndWatchResponse> = match started {
            Ok(stream) => stream,
            Err(status) => return status,
        };
        let mut is_first = true;
        loop {
            let list = match stream.next().await {
                Ok(Some(list)) => list,
                Ok(None) => return eof(),
                Err(status) => return status,
            };
            let (pods, is_news) = {
                let mut inner = self.inner.lock();
                let before = inner.state.capacity();
                let pods = inner.state.update(resource, connection, list.devices);
                (pods, before != inner.state.capacity())
            };
            let Some(pods) = pods else { return eof() };
            // Plugins may send the same list as often as they like.
            if is_news || std::mem::take(&mut is_first) {
                self.changed();
                self.save();
            }
            for pod in pods {
                // The agent may be ending.
                let _ = self.affected.send(pod);
            }
        }
    }

    /// Ends the connection to a resource's plugin, whose socket is gone.
    pub fn deregister(self: &Arc<Self>, resource: &str, socket: &Path) {
        let connection = {
            let inner = self.inner.lock();
            let current = inner.channels.get(resource);
            if current.is_none_or(|channel| channel.path() != socket) {
                return;
            }
            inner.state.resource(resource).map(|r| r.connection)
        };
        if let Some(connection) = connection {
            self.disconnected(resource, connection);
        }
    }

    fn disconnected(self: &Arc<Self>, resource: &str, connection: u64) {
        let is_news = {
            let mut inner = self.inner.lock();
            let is_news = inner.state.disconnect(resource, connection);
            if is_news {
                inner.channels.remove(resource);
            }
            is_news
        };
        if is_news {
            self.changed();
            self.clone().remove_later(resource.to_owned(), connection);
        }
    }

    /// Removes a resource unless its plugin comes back in time.
    fn remove_later(self: Arc<Self>, resource: String, connection: u64) {
        tokio::spawn(async move {
            tokio::time::sleep(self.limits.grace).await;
            let removed = {
                let mut inner = self.inner.lock();
                let removed = inner.state.remove(&resource, connection);
                if removed {
                    inner.removed.insert(resource);
                }
                removed
            };
            if removed {
                self.changed();
                self.save();
            }
        });
    }

    /// Writes the checkpoint; an error is only logged.
    fn save(&self) {
        if let Err(e) = self.try_save() {
            tracing::error!("{e}");
        }
    }

    fn try_save(&self) -> Result<(), String> {
        // Under the lock, so that a later state is not overwritten by an earlier one.
        let inner = self.inner.lock();
        checkpoint::write(&self.kept, &inner.state)
    }

    /// Returns the numbers of devices for the node's status.
    pub fn capacity(&self) -> Capacity {
        let inner = self.inner.lock();
        Capacity {
            removed: inner.removed.clone(),
            ..inner.state.capacity()
        }
    }

    /// Returns whether a resource is a device plugin's; see [`State::is_device`].
    pub fn is_device(&self, resource: &str) -> bool {
        self.inner.lock().state.is_device(resource)
    }

    /// Returns whether any of the requests is for devices of plugins.
    pub fn concerns(&self, requests: &[Request]) -> bool {
        let inner = self.inner.lock();
        let mut names = requests.iter().flat_map(|r| r.limits.keys());
        names.any(|name| inner.state.is_device(name))
    }

    /// Allocates devices to a pod's containers: init containers first, in their order.
    ///
    /// # Errors
    ///
    /// Returns upstream's message; the pod then has no devices.
    pub async fn allocate(&self, pod: &str, requests: &[Request]) -> Result<(), String> {
        let mut reusable = Reusable::new();
        let mut result = Ok(());
        for request in requests {
            result = self.allocate_container(pod, request, &mut reusable).await;
            if result.is_err() {
                self.free(pod);
                break;
            }
        }
        result
    }

    async fn allocate_container(
        &self,
        pod: &str,
        request: &Request,
        reusable: &mut Reusable,
    ) -> Result<(), String> {
        let none = Ids::new();
        let mut chosen = false;
        for (resource, amount) in &request.limits {
            if !self.inner.lock().state.is_device(resource) {
                continue;
            }
            let required = usize::try_from(*amount).unwrap_or(0);
            let reuse = reusable.get(resource).unwrap_or(&none);
            let ids = self
                .choose(pod, &request.container, resource, required, reuse)
                .await?;
            let Some(ids) = ids else { continue };
            let response = self.ask_to_allocate(resource, &ids).await;
            let mut inner = self.inner.lock();
            inner.state.release(pod, resource);
            inner
                .state
                .insert(pod, &request.container, resource, &ids, response?);
            chosen = true;
        }
        self.inner.lock().state.pass_on(pod, request, reusable);
        if chosen {
            self.try_save()?;
        }
        Ok(())
    }

    /// Chooses devices and reserves them; `None` if none are needed.
    async fn choose(
        &self,
        pod: &str,
        container: &str,
        resource: &str,
        required: usize,
        reusable: &Ids,
    ) -> Result<Option<Ids>, String> {
        let (available, must_include) = {
            let mut inner = self.inner.lock();
            match inner
                .state
                .choose(pod, container, resource, required, reusable)?
            {
                Choice::Nothing => return Ok(None),
                Choice::Devices(ids) => {
                    inner.state.reserve(pod, resource, &ids);
                    return Ok(Some(ids));
                }
                Choice::Ask {
                    available,
                    must_include,
                } => (available, must_include),
            }
        };
        let preferred = self
            .ask_for_preferred(resource, required, &available, &must_include)
            .await?;
        let mut inner = self.inner.lock();
        let ids = inner
            .state
            .choose_with(resource, required, must_include, &preferred)?;
        inner.state.reserve(pod, resource, &ids);
        Ok(Some(ids))
    }

    fn channel(&self, resource: &str) -> Result<Channel, String> {
        let inner = self.inner.lock();
        match inner.channels.get(resource) {
            Some(channel) => Ok(channel.clone()),
            None if inner.state.resource(resource).is_some() => {
                Err(format!("endpoint {resource} has been stopped"))
            }
            None => Err(format!("unknown Device Plugin {resource}")),
        }
    }

    async fn ask_for_preferred(
        &self,
        resource: &str,
        required: usize,
        available: &Ids,
        must_include: &Ids,
    ) -> Result<Ids, String> {
        let request = api::PreferredAllocationRequest {
            container_requests: vec![api::ContainerPreferredAllocationRequest {
                available_device_ids: available.iter().cloned().collect(),
                must_include_device_ids: must_include.iter().cloned().collect(),
                allocation_size: i32::try_from(required).unwrap_or(i32::MAX),
            }],
        };
        let answer: api::PreferredAllocationResponse = self
            .channel(resource)?
            .call(api::GET_PREFERRED, &request, self.limits.allocate)
            .await
            .map_err(|e| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {e}")
            })?;
        let first = answer.container_responses.into_iter().next();
        Ok(first
            .map(|r| r.device_ids.into_iter().collect())
            .unwrap_or_default())
    }

    async fn ask_to_allocate(
        &self,
        resource: &str,
        ids: &Ids,
    ) -> Result<api::ContainerAllocateResponse, String> {
        let request = api::AllocateRequest {
            container_requests: vec![api::ContainerAllocateRequest {
                devices_ids: ids.iter().cloned().collect(),
            }],
        };
        let answer: api::AllocateResponse = self
            .channel(resource)?
            .call(api::ALLOCATE, &request, self.limits.allocate)
            .await
            .map_err(|e| e.to_string())?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers return in allocation response ".to_owned())
    }

    /// Prepares the start of a container: tells the plugins that want to know, and allocates what
    /// was lost. Returns what the runtime does for the container's devices.
    ///
    /// # Errors
    ///
    /// Returns upstream's message.
    pub async fn prepare(&self, pod: &str, request: &Request) -> Result<Options, String> {
        let mut missing = false;
        for (resource, amount) in &request.limits {
            let (is_device, held) = {
                let inner = self.inner.lock();
                let held = inner.state.of_container(pod, &request.container, resource);
                (inner.state.is_device(resource), held)
            };
            if !is_device || *amount == 0 {
                continue;
            }
            self.pre_start(pod, &request.container, resource, held.as_ref())
                .await?;
            missing |= held.is_none();
        }
        if missing {
            let mut reusable = Reusable::new();
            self.allocate_container(pod, request, &mut reusable).await?;
        }
        Ok(self.inner.lock().state.options(pod, &request.container))
    }

    async fn pre_start(
        &self,
        pod: &str,
        container: &str,
        resource: &str,
        held: Option<&Ids>,
    ) -> Result<(), String> {
        let wanted = {
            let inner = self.inner.lock();
            let known = inner.state.resource(resource);
            let none =
                || format!("endpoint not found in cache for a registered resource: {resource}");
            let options = known.ok_or_else(none)?.options.as_ref();
            options.is_some_and(|o| o.pre_start_required)
        };
        if !wanted {
            return Ok(());
        }
        let held = held.ok_or_else(|| {
            format!("no devices found allocated in local cache for pod {pod}, container {container}, resource {resource}")
        })?;
        let request = api::PreStartContainerRequest {
            devices_ids: held.iter().cloned().collect(),
        };
        let call = self.channel(resource)?;
        let done: Result<api::PreStartContainerResponse, Status> = call
            .call(api::PRE_START, &request, self.limits.pre_start)
            .await;
        done.map(|_| ())
            .map_err(|e| format!("device plugin PreStartContainer rpc failed with err: {e}"))
    }

    /// Takes a pod's devices back.
    pub fn free(&self, pod: &str) {
        if self.inner.lock().state.free(pod) {
            self.save();
        }
    }

    /// Takes back the devices of all pods but those with these UIDs.
    pub fn retain(&self, is_known: impl Fn(&str) -> bool) {
        let pods = self.inner.lock().state.pods();
        for pod in pods.iter().filter(|pod| !is_known(pod)) {
            self.free(pod);
        }
    }

    /// Returns the health of a container's devices, for its status.
    pub fn health(&self, pod: &str, container: &str) -> Vec<ResourceHealth> {
        self.inner.lock().state.health(pod, container)
    }

    /// Returns the devices of a container: resource, and IDs by NUMA node.
    pub fn held(&self, pod: &str, container: &str) -> Vec<(String, BTreeMap<i64, Vec<String>>)> {
        let inner = self.inner.lock();
        let held = inner.state.held(pod, container);
        held.map(|(resource, a)| (resource.to_owned(), a.ids.clone()))
            .collect()
    }

    /// Returns the healthy devices by resource.
    pub fn healthy(&self) -> BTreeMap<String, BTreeMap<String, Device>> {
        let inner = self.inner.lock();
        let resources = inner.state.resources().map(|(name, resource)| {
            let healthy = resource
                .devices
                .iter()
                .filter(|(id, _)| resource.healthy.contains(*id));
            let healthy = healthy.map(|(id, device)| (id.clone(), device.clone()));
            (name.to_owned(), healthy.collect())
        });
        resources.collect()
    }
}
