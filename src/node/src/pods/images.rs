//! Pulls container images: pull policies, credentials, back-off and events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use parking_lot::Mutex;
use rkube_runtime::{ImageError, ImageStatus, RegistryAuth, Runtime};
use tokio::sync::watch;

use super::backoff::{self, Backoff, go_duration_fine};
use super::object_hold::ObjectHold;
use super::reason::Reason;
use crate::kinds::*;
use crate::recorder::Recorder;
use crate::recorder::Severity::{self, Normal, Warning};

/// Delay after which a failed pull is reconsidered, so that the status changes from
/// `ErrImagePull` to `ImagePullBackOff`.
const BACKOFF_STATUS_DELAY: Duration = Duration::from_secs(2);

/// Error returned when a container's image is not available.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub reason: Reason,
    /// Time of the next attempt; `None` means at the next event.
    pub retry_at: Option<Instant>,
}

/// The node's image puller, shared by all pods.
pub(crate) struct ImagePuller {
    runtime: Runtime,
    recorder: Recorder,
    backoff: Mutex<Backoff>,
    /// Last pull error per back-off key.
    errors: Mutex<HashMap<String, String>>,
    /// Lock per image: concurrent pulls of the same image are serialized.
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    changed: watch::Sender<u64>,
}

/// Label of the images that are built into the binary.
pub(crate) const BUILTIN_LABEL: &str = "io.rkube.builtin";

/// A container's request for an image.
struct Request<'a> {
    recorder: &'a Recorder,
    pod: &'a Pod,
    container: &'a Container,
    image: &'a str,
}

impl Request<'_> {
    fn record(&self, severity: Severity, reason: &'static str, message: String) {
        self.recorder
            .container(self.pod, &self.container.name, severity, reason, message);
    }

    /// Returns the back-off key: each pod has its own back-off per image.
    fn key(&self) -> String {
        format!("{}_{}", self.pod.uid(), self.image)
    }
}

impl ImagePuller {
    /// Returns a puller without back-off or pulls in progress.
    pub(crate) fn new(runtime: Runtime, recorder: Recorder) -> Self {
        Self {
            runtime,
            recorder,
            backoff: Mutex::default(),
            errors: Mutex::default(),
            pulling: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Returns a receiver that is notified when the node's images change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notifies receivers of images that were added or removed without this puller.
    pub(crate) fn notify_change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Ensures that a container's image is present, as its pull policy requires.
    ///
    /// # Errors
    ///
    /// Fails if the policy forbids a pull, if the pull fails, or while it is in back-off.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        objects: &tokio::sync::Mutex<ObjectHold>,
    ) -> Result<ImageStatus, NoImage> {
        let image = container.image.as_deref().unwrap_or_default();
        let request = Request {
            recorder: &self.recorder,
            pod,
            container,
            image,
        };
        let present = self.runtime.image_status(image);
        let policy = pull_policy(container, present.as_ref());
        match (policy, present) {
            ("IfNotPresent" | "Never", Some(status)) => {
                request.record(
                    Normal,
                    "Pulled",
                    format!(
                        "Container image {image:?} already present on machine and can be accessed by the pod"
                    ),
                );
                return Ok(status);
            }
            ("Never", None) => {
                let message =
                    format!("Container image {image:?} is not present with pull policy of Never");
                request.record(Warning, "ErrImageNeverPull", message.clone());
                return Err(NoImage {
                    reason: Reason::new("ErrImageNeverPull", message),
                    retry_at: Some(Instant::now() + backoff::INITIAL),
                });
            }
            _ => {}
        }
        if let Some(held_back) = self.held_back(&request) {
            return Err(held_back);
        }
        self.pull(&request, policy, objects).await
    }

    /// Returns the error for a pull that is in back-off; `None` if it may proceed.
    fn held_back(&self, request: &Request<'_>) -> Option<NoImage> {
        let (image, key) = (request.image, request.key());
        let until = self
            .backoff
            .lock()
            .holds_since_update(&key, Instant::now())?;
        let message = match self.errors.lock().get(&key) {
            Some(error) => format!("Back-off pulling image {image:?}: ErrImagePull: {error}"),
            None => format!("Back-off pulling image {image:?}"),
        };
        request.record(
            Normal,
            "BackOff",
            format!("Back-off pulling image {image:?}"),
        );
        Some(NoImage {
            reason: Reason::new("ImagePullBackOff", message),
            retry_at: Some(until),
        })
    }

    async fn pull(
        &self,
        request: &Request<'_>,
        policy: &str,
        objects: &tokio::sync::Mutex<ObjectHold>,
    ) -> Result<ImageStatus, NoImage> {
        let image = request.image;
        request.record(Normal, "Pulling", format!("Pulling image {image:?}"));
        let requested = Instant::now();
        let auth = credentials(&self.recorder, request.pod, objects).await;
        let lock = self.lock(image);
        let guard = lock.lock().await;
        let started = Instant::now();
        // Another pod may have pulled the image while this one waited for the lock.
        let pulled = match self.runtime.image_status(image) {
            Some(status) if policy != "Always" => Ok(status),
            _ => self.runtime.pull_image(image, &auth, |_| {}).await,
        };
        drop(guard);
        self.unlock(image, lock);
        match pulled {
            Ok(status) => {
                request.record(
                    Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                        go_duration_fine(started.elapsed()),
                        go_duration_fine(requested.elapsed()),
                        status.size
                    ),
                );
                let key = request.key();
                self.backoff.lock().reset(&key);
                self.errors.lock().remove(&key);
                self.notify_change();
                Ok(status)
            }
            Err(e) => Err(self.failed(request, &e)),
        }
    }

    /// Records a failed pull and starts or extends its back-off.
    fn failed(&self, request: &Request<'_>, error: &ImageError) -> NoImage {
        let (now, key) = (Instant::now(), request.key());
        let until = {
            let mut backoff = self.backoff.lock();
            let mut errors = self.errors.lock();
            backoff.collect(now);
            backoff.next(&key, now, now);
            errors.insert(key.clone(), error.to_string());
            // Those of pods that are gone were never reset.
            errors.retain(|key, _| backoff.knows(key));
            backoff.holds_since_update(&key, now)
        };
        request.record(
            Warning,
            "Failed",
            format!("Failed to pull image {:?}: {error}", request.image),
        );
        let reason = match error {
            ImageError::InvalidReference { .. } => "InvalidImageName",
            _ => "ErrImagePull",
        };
        NoImage {
            reason: Reason::new(reason, error.to_string()),
            retry_at: until.map(|u| u.min(now + BACKOFF_STATUS_DELAY)),
        }
    }

    /// Returns the lock for pulls of an image.
    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.pulling
            .lock()
            .entry(image.to_owned())
            .or_default()
            .clone()
    }

    /// Releases the lock of an image; removes it if no other pull uses it.
    fn unlock(&self, image: &str, mine: Arc<tokio::sync::Mutex<()>>) {
        let mut pulling = self.pulling.lock();
        drop(mine);
        if pulling
            .get(image)
            .is_some_and(|l| Arc::strong_count(l) == 1)
        {
            pulling.remove(image);
        }
    }
}

/// Returns the pull policy of a container's image.
///
/// Built-in images are in no registry and always up to date, so they are never pulled.
fn pull_policy<'a>(container: &'a Container, present: Option<&ImageStatus>) -> &'a str {
    if present.is_some_and(|status| status.labels.contains_key(BUILTIN_LABEL)) {
        return "IfNotPresent";
    }
    container
        .image_pull_policy
        .as_deref()
        .unwrap_or_else(|| default_policy(container.image.as_deref().unwrap_or_default()))
}

/// Returns the default pull policy: `Always` for `latest` or no tag, otherwise `IfNotPresent`.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        _ => "IfNotPresent",
    }
}

/// Returns the registry credentials from a pod's image pull secrets. Missing secrets are reported
/// as an event.
async fn credentials(
    recorder: &Recorder,
    pod: &Pod,
    objects: &tokio::sync::Mutex<ObjectHold>,
) -> Vec<RegistryAuth> {
    let mut all = Vec::new();
    let mut missing = Vec::new();
    for reference in pod.spec().image_pull_secrets.iter().flatten() {
        if reference.name.is_empty() {
            continue;
        }
        match objects.lock().await.secret(&reference.name).await {
            Some(secret) => all.extend(parse_secret(&secret)),
            None => missing.push(reference.name.clone()),
        }
    }
    if !missing.is_empty() {
        recorder.pod(
            pod,
            Warning,
            "FailedToRetrieveImagePullSecret",
            format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            ),
        );
    }
    all
}

fn parse_secret(secret: &Secret) -> Vec<RegistryAuth> {
    let data = |key: &str| secret.data.as_ref()?.get(key).map(|b| b.0.as_slice());
    if let Some(bytes) = data(".dockerconfigjson") {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        parse_auths(&value["auths"])
    } else if let Some(bytes) = data(".dockercfg") {
        parse_auths(&serde_json::from_slice(bytes).unwrap_or_default())
    } else {
        Vec::new()
    }
}

fn parse_auths(auths: &serde_json::Value) -> Vec<RegistryAuth> {
    let Some(map) = auths.as_object() else {
        return Vec::new();
    };
    map.iter()
        .map(|(registry, entry)| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let (mut username, mut password) = (text("username"), text("password"));
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(text("auth"))
                .ok()
                .and_then(|b| String::from_utf8(b).ok());
            if let Some((u, p)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
                (username, password) = (u.to_owned(), p.trim_matches('\0').to_owned());
            }
            RegistryAuth {
                registry: registry.clone(),
                username,
                password,
                identity_token: text("identitytoken"),
                registry_token: text("registrytoken"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_credentials() {
        let list = parse_auths(&serde_json::json!({
            "a:5000": {"auth": "dXNlcjpwYTpzcw=="},
            "b": {"username": "u", "password": "p"},
        }));
        assert_eq!(
            (list[0].username.as_str(), list[0].password.as_str()),
            ("user", "pa:ss")
        );
        assert_eq!(
            (list[1].registry.as_str(), list[1].username.as_str()),
            ("b", "u")
        );
    }

    #[test]
    fn the_policy_follows_the_tag() {
        assert_eq!(default_policy("a"), "Always");
        assert_eq!(default_policy("r:5000/a:latest"), "Always");
        assert_eq!(default_policy("r:5000/a:1"), "IfNotPresent");
        assert_eq!(default_policy("a@sha256:0"), "IfNotPresent");
    }
}
