//! Volumes whose files come from the API: config maps, secrets, tokens and pod fields.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ServiceAccountTokenProjection, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;

use super::atomic::{self, File, Files, check_path};
use super::beneath::Dir;
use super::local;
use super::types::{Dependency, Problem, VolumeSources, fs_group, problem, volume_dir};
use crate::delay;
use crate::kinds::*;
use crate::objects::{ObjectState, Watched};
use crate::pods::env::{Fields, resource_field};
use crate::pods::object_hold::SharedHold;

/// Default permissions of files.
const DEFAULT_MODE: i32 = 0o644;
/// Maximum time between two refreshes of a pod's volumes.
const MAX_REFRESH_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Delay before the next refresh after a failed one.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// Share of a token's lifetime after which it is replaced, in percent.
const REFRESH_PERCENT: i64 = 80;
/// Maximum age of a token before it is replaced.
const MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Returns whether a volume's files come from the API.
pub(crate) fn is_content(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// Kind of an object that a volume depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ObjectKind {
    ConfigMap,
    Secret,
}

impl ObjectKind {
    /// Returns the name in messages about an object that is missing.
    fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// Keys of an object that become files.
struct KeySelection<'a> {
    kind: ObjectKind,
    name: &'a str,
    /// The keys and their paths; all keys if absent or empty.
    items: Option<&'a [KeyToPath]>,
    /// Whether object and keys may be missing.
    optional: bool,
    /// Permission bits of files without their own.
    mode: i32,
}

/// A service account token in a volume.
struct Token {
    volume: String,
    path: String,
    token: String,
    refresh_at: Timestamp,
}

/// The volumes of one pod whose files come from the API.
pub(crate) struct Contents {
    sources: VolumeSources,
    pod: Arc<Pod>,
    objects: SharedHold,
    volumes: Vec<Volume>,
    tokens: Vec<Token>,
    dependencies: Vec<((ObjectKind, String), Dependency)>,
}

impl Contents {
    /// Returns an empty set of volumes.
    pub(crate) fn new(sources: VolumeSources, pod: Arc<Pod>, objects: SharedHold) -> Self {
        Self {
            sources,
            pod,
            objects,
            volumes: Vec::new(),
            tokens: Vec::new(),
            dependencies: Vec::new(),
        }
    }

    /// Returns whether no volume was written yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.volumes.is_empty()
    }

    /// Writes a volume's files and returns its directory.
    pub(crate) async fn write(&mut self, volume: &Volume) -> Result<PathBuf, Problem> {
        let files = self.files(volume).await?;
        let (plugin, memory) = if volume.config_map.is_some() {
            ("configmap", false)
        } else if volume.secret.is_some() {
            ("secret", true)
        } else if volume.downward_api.is_some() {
            ("downward-api", true)
        } else {
            ("projected", true)
        };
        let dir = volume_dir(self.pod.uid(), plugin, &volume.name);
        let group = fs_group(&self.pod);
        let mount_points = mount_points_in(&self.pod, &volume.name);
        let at = dir.clone();
        tokio::task::spawn_blocking(move || {
            if memory {
                local::tmpfs(&at, None, 0o755)?;
            } else {
                std::fs::create_dir_all(&at)?;
            }
            atomic::write(&atomic::Volume {
                dir: &at,
                files: &files,
                group,
                mount_points: &mount_points,
            })?;
            Dir::open(&at)?.set_access(None, group, dir_mode(memory, group))
        })
        .await
        .map_err(problem)?
        .map_err(problem)?;
        if !self.volumes.iter().any(|v| v.name == volume.name) {
            self.volumes.push(volume.clone());
        }
        Ok(dir)
    }

    /// Refreshes the volumes when the pod, an object or a token's age changes, until the future is
    /// dropped or the pod's sender is.
    pub(crate) async fn refresh(mut self, mut pod: watch::Receiver<Arc<Pod>>) {
        loop {
            if !self.changed(&mut pod).await {
                return;
            }
            self.pod = pod.borrow_and_update().clone();
            let volumes = self.volumes.clone();
            let mut failed = false;
            for volume in &volumes {
                if let Err(e) = self.write(volume).await {
                    // The files stay: if a config map is deleted, its last content is kept.
                    tracing::debug!(pod = %self.pod.full_name(), volume = %volume.name, "refreshing: {}", e.reason);
                    failed = true;
                }
            }
            if failed {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Waits until a refresh is due; returns false once the pod's sender is dropped.
    async fn changed(&mut self, pod: &mut watch::Receiver<Arc<Pod>>) -> bool {
        let due = self.tokens.iter().map(|t| t.refresh_at).min();
        let aged = async {
            match due {
                Some(due) => delay::until(due).await,
                None => tokio::time::sleep(MAX_REFRESH_PERIOD).await,
            }
        };
        let dependencies = self.dependencies.iter_mut();
        let waits: Vec<_> = dependencies.map(|(_, d)| Box::pin(d.changed())).collect();
        let any = async {
            if waits.is_empty() {
                std::future::pending::<()>().await;
            }
            futures::future::select_all(waits).await;
        };
        tokio::select! {
            () = any => true,
            changed = pod.changed() => changed.is_ok(),
            () = aged => true,
        }
    }

    async fn files(&mut self, volume: &Volume) -> Result<Files, Problem> {
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let wanted = KeySelection {
                kind: ObjectKind::ConfigMap,
                name: &source.name,
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                mode,
            };
            self.config_map(&mut files, &wanted).await?;
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let wanted = KeySelection {
                kind: ObjectKind::Secret,
                name: source.secret_name.as_deref().unwrap_or_default(),
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                mode,
            };
            self.secret(&mut files, &wanted).await?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            for item in source.items.iter().flatten() {
                self.downward(&mut files, item, mode)?;
            }
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            for projection in source.sources.iter().flatten() {
                self.projection(&mut files, &volume.name, projection, mode)
                    .await?;
            }
        }
        Ok(files)
    }

    async fn projection(
        &mut self,
        files: &mut Files,
        volume: &str,
        source: &VolumeProjection,
        mode: i32,
    ) -> Result<(), Problem> {
        if let Some(s) = &source.config_map {
            let wanted = KeySelection {
                kind: ObjectKind::ConfigMap,
                name: &s.name,
                items: s.items.as_deref(),
                optional: s.optional == Some(true),
                mode,
            };
            self.config_map(files, &wanted).await
        } else if let Some(s) = &source.secret {
            let wanted = KeySelection {
                kind: ObjectKind::Secret,
                name: &s.name,
                items: s.items.as_deref(),
                optional: s.optional == Some(true),
                mode,
            };
            self.secret(files, &wanted).await
        } else if let Some(s) = &source.downward_api {
            for item in s.items.iter().flatten() {
                self.downward(files, item, mode)?;
            }
            Ok(())
        } else if let Some(s) = &source.service_account_token {
            self.token(files, volume, s, mode).await
        } else {
            Err(problem(
                "this node does not support this source of a projected volume",
            ))
        }
    }

    /// Adds the keys of a config map, of its text and of its binary data.
    async fn config_map(
        &mut self,
        files: &mut Files,
        wanted: &KeySelection<'_>,
    ) -> Result<(), Problem> {
        // The pod's hold keeps the watch for its containers' environments too.
        let watched = self.objects.lock().await.watch_config_map(wanted.name);
        let all = |map: &ConfigMap| {
            let text = map.data.clone().unwrap_or_default().into_iter();
            let text = text.map(|(key, value)| (key, value.into_bytes()));
            let binary = map.binary_data.clone().unwrap_or_default().into_iter();
            text.chain(binary.map(|(key, value)| (key, value.0)))
                .collect()
        };
        self.keys_of(files, wanted, &watched, Dependency::ConfigMap, all)
            .await
    }

    /// Adds the keys of a secret.
    async fn secret(
        &mut self,
        files: &mut Files,
        wanted: &KeySelection<'_>,
    ) -> Result<(), Problem> {
        let watched = self.objects.lock().await.watch_secret(wanted.name);
        let all = |secret: &Secret| {
            let data = secret.data.clone().unwrap_or_default().into_iter();
            data.map(|(key, value)| (key, value.0)).collect()
        };
        self.keys_of(files, wanted, &watched, Dependency::Secret, all)
            .await
    }

    /// Adds the keys of an object; `all` returns them with their values.
    async fn keys_of<K>(
        &mut self,
        files: &mut Files,
        wanted: &KeySelection<'_>,
        watched: &Watched<K>,
        dependency: fn(watch::Receiver<ObjectState<K>>) -> Dependency,
        all: impl Fn(&K) -> Vec<(String, Vec<u8>)>,
    ) -> Result<(), Problem> {
        let mut receiver = watched.changes();
        receiver.mark_unchanged();
        let dependency = dependency(receiver);
        let object = watched.get().await;
        let key = (wanted.kind, wanted.name.to_owned());
        self.depend(key, dependency.clone());
        let failed = |message: String| Problem {
            dependency: Some(dependency),
            ..problem(message)
        };
        match object {
            Some(object) => select(files, &all(&object), wanted).map_err(failed),
            None if wanted.optional => Ok(()),
            None => Err(failed(format!(
                "{} {:?} not found",
                wanted.kind.name(),
                wanted.name
            ))),
        }
    }

    /// Makes the next change of the object trigger a refresh.
    fn depend(&mut self, key: (ObjectKind, String), mut dependency: Dependency) {
        match &mut dependency {
            Dependency::ConfigMap(r) => r.mark_unchanged(),
            Dependency::Secret(r) => r.mark_unchanged(),
        }
        self.dependencies.retain(|(k, _)| *k != key);
        self.dependencies.push((key, dependency));
    }

    fn downward(
        &self,
        files: &mut Files,
        item: &DownwardAPIVolumeFile,
        mode: i32,
    ) -> Result<(), Problem> {
        let text = if let Some(field) = &item.field_ref {
            let fields = Fields {
                pod: &self.pod,
                node_name: self.sources.host.name(),
                node_ips: self.sources.host.config.ips(),
                pod_ips: pod_ips(&self.pod),
            };
            fields.get(&field.field_path).map_err(problem)?
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let container = self
                .pod
                .container(name)
                .ok_or_else(|| problem(format!("container {name} not found")))?;
            resource_field(
                &self.sources.host.allocatable(),
                &self.pod,
                &container,
                field,
            )
            .map_err(problem)?
        } else {
            return Err(problem("a downward API item names no field"));
        };
        put(
            files,
            &item.path,
            text.into_bytes(),
            item.mode.unwrap_or(mode),
            None,
        )
    }

    async fn token(
        &mut self,
        files: &mut Files,
        volume: &str,
        source: &ServiceAccountTokenProjection,
        mode: i32,
    ) -> Result<(), Problem> {
        let now = Timestamp::now();
        let known = self
            .tokens
            .iter()
            .find(|t| t.volume == volume && t.path == source.path && t.refresh_at > now);
        let token = match known {
            Some(token) => token.token.clone(),
            None => {
                let (token, refresh_at) = self.request_token(source).await?;
                self.tokens
                    .retain(|t| !(t.volume == volume && t.path == source.path));
                self.tokens.push(Token {
                    volume: volume.into(),
                    path: source.path.clone(),
                    token: token.clone(),
                    refresh_at,
                });
                token
            }
        };
        // A token that is meant for one user or group is not readable by others.
        let user = common_user(&self.pod);
        let mode = if user.is_some() || fs_group(&self.pod).is_some() {
            0o600
        } else {
            mode
        };
        put(files, &source.path, token.into_bytes(), mode, user)
    }

    async fn request_token(
        &self,
        source: &ServiceAccountTokenProjection,
    ) -> Result<(String, Timestamp), Problem> {
        let account = self
            .pod
            .spec()
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".into());
        let api: Api<ServiceAccount> =
            Api::namespaced(self.sources.client.clone(), self.pod.namespace());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(
                    source
                        .audience
                        .iter()
                        .filter(|a| !a.is_empty())
                        .cloned()
                        .collect(),
                ),
                expiration_seconds: source.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(self.pod.name().into()),
                    uid: Some(self.pod.uid().into()),
                }),
            }),
            ..Default::default()
        };
        let answer = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(|e| problem(format!("failed to fetch token: {e}")))?;
        let status = answer
            .status
            .ok_or_else(|| problem("failed to fetch token: the answer has none"))?;
        let now = Timestamp::now();
        let (Some(token), Some(expiry)) = (status.token, status.expiration_timestamp) else {
            return Err(problem("failed to fetch token: the answer is incomplete"));
        };
        Ok((token, now + refresh_after(expiry.0.duration_since(now))))
    }
}

/// Returns the age at which a token with this lifetime is replaced.
fn refresh_after(life: SignedDuration) -> SignedDuration {
    SignedDuration::from_secs((life.as_secs() * REFRESH_PERCENT / 100).max(10)).min(MAX_TOKEN_AGE)
}

fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let mut ips: Vec<IpAddr> = listed
        .chain(&status.pod_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let mut seen = std::collections::HashSet::new();
    ips.retain(|ip| seen.insert(*ip));
    ips
}

/// Returns the user that all init and main containers run as; `None` if they differ or none is set.
fn common_user(pod: &Pod) -> Option<u32> {
    let default = pod
        .spec()
        .security_context
        .as_ref()
        .and_then(|c| c.run_as_user);
    let mut users = pod
        .init_containers()
        .iter()
        .chain(&pod.spec().containers)
        .map(|c| {
            c.security_context
                .as_ref()
                .and_then(|s| s.run_as_user)
                .or(default)
        });
    let first = users.next()??;
    users
        .all(|u| u == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

/// Returns the mode of a volume's directory, as upstream: that of an `emptyDir` of its medium.
fn dir_mode(memory: bool, group: Option<u32>) -> u32 {
    let sticky = if memory { 0o1000 } else { 0 };
    let inherited = if group.is_some() { 0o2000 } else { 0 };
    0o777 | sticky | inherited
}

/// Returns the paths below a volume, relative to it, at which containers mount other volumes.
///
/// The volume is mounted read-only, so the runtime cannot create these mount points. Those below
/// another of them are left out: they belong to the volume that is mounted there.
fn mount_points_in(pod: &Pod, volume: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let ordinary = pod.init_containers().iter().chain(&pod.spec().containers);
    for container in ordinary.chain(&pod.ephemeral()) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let mut paths: Vec<String> = mounts.iter().map(mount_path).collect();
        paths.sort_unstable();
        for outer in mounts.iter().filter(|m| m.name == volume) {
            let prefix = format!("{}/", mount_path(outer));
            let mut last: Option<String> = None;
            for path in &paths {
                let Some(inner) = path.strip_prefix(&prefix) else {
                    continue;
                };
                if last.as_ref().is_none_or(|last| !inner.starts_with(last)) {
                    last = Some(format!("{inner}/"));
                    found.insert(inner.to_owned());
                }
            }
        }
    }
    found
}

/// Returns the path at which a container sees a volume, without superfluous parts and without a slash
/// at its end.
fn mount_path(mount: &VolumeMount) -> String {
    let mut clean = String::new();
    for part in Path::new(&mount.mount_path).components() {
        match part {
            Component::Normal(name) => {
                clean.push('/');
                clean.push_str(&name.to_string_lossy());
            }
            Component::ParentDir => clean.truncate(clean.rfind('/').unwrap_or(0)),
            _ => {}
        }
    }
    clean
}

fn put(
    files: &mut Files,
    path: &str,
    content: Vec<u8>,
    mode: i32,
    uid: Option<u32>,
) -> Result<(), Problem> {
    check_path(path).map_err(problem)?;
    let mode = u32::try_from(mode).unwrap_or(0o644);
    // Without repeated separators, as in the paths of the files on disk.
    let path: PathBuf = Path::new(path).components().collect();
    let path = path.to_string_lossy().into_owned();
    files.insert(path, File { content, mode, uid });
    Ok(())
}

/// Adds an object's keys to `files`. `all` are its keys with their values.
///
/// # Errors
///
/// A key is missing and not optional, or a path is invalid.
fn select(
    files: &mut Files,
    all: &[(String, Vec<u8>)],
    wanted: &KeySelection<'_>,
) -> Result<(), String> {
    let message = |p: Problem| p.reason;
    let Some(items) = wanted.items.filter(|i| !i.is_empty()) else {
        for (key, value) in all {
            put(files, key, value.clone(), wanted.mode, None).map_err(message)?;
        }
        return Ok(());
    };
    for item in items {
        let mode = item.mode.unwrap_or(wanted.mode);
        match all.iter().find(|(key, _)| *key == item.key) {
            Some((_, value)) => {
                put(files, &item.path, value.clone(), mode, None).map_err(message)?;
            }
            None if wanted.optional => {}
            None => {
                let what = match wanted.kind {
                    ObjectKind::ConfigMap => "config",
                    ObjectKind::Secret => "secret",
                };
                return Err(format!("references non-existent {what} key: {}", item.key));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
