//! Getting a container's image: policies, credentials, back-off, events.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use rkube_runtime::{ImageStatus, RegistryAuth};
use tokio::sync::watch;

use super::ObjectHold;
use super::backoff::{Backoff, go_duration_fine};
use super::status::Waiting;
use crate::agent::Agent;
use crate::kinds::*;
use crate::recorder::Severity::{Normal, Warning};

/// An image that cannot be had now.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub waiting: Waiting,
    /// When to try again; at any event otherwise.
    pub retry_at: Option<Timestamp>,
}

/// Pulls images; one for the node.
pub(crate) struct ImagePuller {
    backoff: Mutex<Backoff>,
    errors: Mutex<HashMap<String, String>>,
    /// Pulls under way: pods that want the same image wait for the same pull.
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    changed: watch::Sender<u64>,
}

impl Default for ImagePuller {
    fn default() -> Self {
        Self {
            backoff: Mutex::default(),
            errors: Mutex::default(),
            pulling: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

/// Label of the images that the binary carries.
pub(crate) const BUILTIN: &str = "io.rkube.builtin";

impl ImagePuller {
    /// Told whenever the node's images changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// To be called when images came or went by another way.
    pub(crate) fn note_change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Makes sure that the container's image is there, as its pull policy says.
    pub(crate) async fn ensure(
        &self,
        agent: &Agent,
        pod: &Pod,
        container: &Container,
        objects: &tokio::sync::Mutex<ObjectHold>,
    ) -> Result<ImageStatus, NoImage> {
        let image = container.image.as_deref().unwrap_or_default();
        let tell = |severity, reason, message: String| {
            agent
                .recorder
                .container(pod, &container.name, severity, reason, message);
        };
        let mut policy = container
            .image_pull_policy
            .as_deref()
            .unwrap_or_else(|| default_policy(image));
        let present = agent.runtime.image_status(image);
        // An image of the binary itself is in no registry, and this is its newest.
        if present
            .as_ref()
            .is_some_and(|status| status.labels.contains_key(BUILTIN))
        {
            policy = "IfNotPresent";
        }
        match (policy, present) {
            ("IfNotPresent" | "Never", Some(status)) => {
                tell(
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
                tell(Warning, "ErrImageNeverPull", message.clone());
                return Err(NoImage {
                    waiting: Waiting {
                        reason: "ErrImageNeverPull".into(),
                        message,
                    },
                    retry_at: Some(Timestamp::now() + super::backoff::INITIAL),
                });
            }
            _ => {}
        }
        let key = format!("{}_{image}", pod.uid());
        let held = self
            .backoff
            .lock()
            .holds_since_update(&key, Timestamp::now());
        if let Some(until) = held {
            let last = self.errors.lock().get(&key).cloned();
            let message = match last {
                Some(error) => format!("Back-off pulling image {image:?}: ErrImagePull: {error}"),
                None => format!("Back-off pulling image {image:?}"),
            };
            tell(
                Normal,
                "BackOff",
                format!("Back-off pulling image {image:?}"),
            );
            return Err(NoImage {
                waiting: Waiting {
                    reason: "ImagePullBackOff".into(),
                    message,
                },
                retry_at: Some(until),
            });
        }
        tell(Normal, "Pulling", format!("Pulling image {image:?}"));
        let asked = std::time::Instant::now();
        let auth = credentials(agent, pod, objects).await;
        let lock = self.lock(image);
        let guard = lock.lock().await;
        let began = std::time::Instant::now();
        // Another pod's pull may have brought it while this one waited.
        let done = match agent.runtime.image_status(image) {
            Some(status) if policy != "Always" => Ok(status),
            _ => agent.runtime.pull_image(image, &auth, |_| {}).await,
        };
        drop(guard);
        self.unlock(image, lock);
        match done {
            Ok(status) => {
                tell(
                    Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                        go_duration_fine(began.elapsed()),
                        go_duration_fine(asked.elapsed()),
                        status.size
                    ),
                );
                self.backoff.lock().reset(&key);
                self.errors.lock().remove(&key);
                self.note_change();
                Ok(status)
            }
            Err(e) => {
                let now = Timestamp::now();
                let mut backoff = self.backoff.lock();
                backoff.collect(now);
                backoff.next(&key, now, now);
                let until = backoff.holds_since_update(&key, now);
                drop(backoff);
                self.errors.lock().insert(key, e.to_string());
                tell(
                    Warning,
                    "Failed",
                    format!("Failed to pull image {image:?}: {e}"),
                );
                let reason = match &e {
                    rkube_runtime::ImageError::InvalidReference { .. } => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                Err(NoImage {
                    waiting: Waiting {
                        reason: reason.into(),
                        message: e.to_string(),
                    },
                    // Soon once more, to show that the pull is held back now.
                    retry_at: until.map(|u| u.min(now + jiff::SignedDuration::from_secs(2))),
                })
            }
        }
    }

    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.pulling
            .lock()
            .entry(image.to_owned())
            .or_default()
            .clone()
    }

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

async fn credentials(
    agent: &Agent,
    pod: &Pod,
    objects: &tokio::sync::Mutex<ObjectHold>,
) -> Vec<RegistryAuth> {
    let mut all = Vec::new();
    let mut missing = Vec::new();
    for reference in pod.spec().image_pull_secrets.iter().flatten() {
        if reference.name.is_empty() {
            continue;
        }
        let secret = objects
            .lock()
            .await
            .secret(agent, pod.namespace(), &reference.name)
            .await;
        match secret {
            Some(secret) => all.extend(parse_secret(&secret)),
            None => missing.push(reference.name.clone()),
        }
    }
    if !missing.is_empty() {
        agent.recorder.pod(
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
