//! Starts one container: image, specification, creation, start and `postStart` hook.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_runtime::{ContainerSpec, Runtime};
use tokio_util::sync::CancellationToken;

use super::backoff;
use super::container::{self, ContainerSources};
use super::context::PodContext;
use super::handlers::{self, Outcome};
use super::instance::Instance;
use super::object_hold::SharedHold;
use super::paths::{log_path, message_file};
use super::reason::Reason;
use crate::kinds::*;
use crate::logrotate::rotated_logs;
use crate::plugins;
use crate::recorder::Severity::{self, Normal, Warning};
use crate::volumes::Mounted;

/// A request to start one attempt of a container.
pub(crate) struct Start {
    pub context: Arc<PodContext>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub attempt: u32,
    pub sandbox: String,
    pub ip: Option<IpAddr>,
    pub volumes: Arc<Mounted>,
    pub objects: SharedHold,
    /// Earlier attempts; only the last is kept, for `kubectl logs --previous`.
    pub earlier: Vec<Instance>,
    pub target: Option<String>,
    pub cancel: CancellationToken,
}

/// Error returned when a container does not start; it becomes the waiting reason.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub reason: Reason,
    /// Time of the next attempt; `None` leaves it to the restart back-off.
    pub retry_at: Option<Instant>,
}

fn failed(reason: &str, message: impl Into<String>, retry: bool) -> NotStarted {
    NotStarted {
        reason: Reason::new(reason, message),
        retry_at: retry.then(|| Instant::now() + backoff::INITIAL),
    }
}

impl Start {
    fn record(&self, severity: Severity, reason: &'static str, message: String) {
        self.context
            .recorder
            .container(&self.pod, &self.container.name, severity, reason, message);
    }

    /// Starts the container and runs its `postStart` hook.
    ///
    /// The worker learns the container's state from the runtime's events.
    pub(crate) async fn run(self) -> Result<(), NotStarted> {
        let spec = tokio::select! {
            spec = self.prepare() => spec?,
            () = self.cancel.cancelled() => {
                return Err(failed("ContainerCreating", "", false));
            }
        };
        if self.cancel.is_cancelled() {
            return Err(failed("ContainerCreating", "", false));
        }
        self.collect().await;
        let runtime = &self.context.runtime;
        let resources = &self.context.resources;
        let spec = ContainerSpec {
            resources: resources.of_container(&self.pod, &self.container, spec.resources),
            ..spec
        };
        resources.started(&self.pod, &self.container);
        let id = match runtime.create_container(&self.sandbox, spec).await {
            Ok(id) => id,
            Err(e) => {
                self.record(Warning, "Failed", format!("Error: {e}"));
                return Err(failed("CreateContainerError", e.to_string(), true));
            }
        };
        self.record(Normal, "Created", "Container created".into());
        if let Err(e) = runtime.start_container(&id).await {
            self.record(Warning, "Failed", format!("Error: {e}"));
            return Err(failed("RunContainerError", e.to_string(), false));
        }
        self.record(Normal, "Started", "Container started".into());
        self.post_start(&id).await?;
        super::paused::hold(runtime, self.pod.namespace(), &id).await;
        Ok(())
    }

    /// Ensures that the image is present and builds the specification.
    async fn prepare(&self) -> Result<ContainerSpec, NotStarted> {
        let images = &self.context.images;
        let image = images
            .ensure(&self.pod, &self.container, &self.objects)
            .await
            .map_err(|e| {
                self.record(Warning, "Failed", format!("Error: {}", e.reason.reason));
                NotStarted {
                    reason: e.reason,
                    retry_at: e.retry_at,
                }
            })?;
        let sources = ContainerSources {
            host: &self.context.host,
            services: &self.context.services,
            pod: &self.pod,
            container: &self.container,
            attempt: self.attempt,
            image: &image,
            pod_ip: self.ip,
            volumes: &self.volumes,
            target: self.target.clone(),
        };
        let misconfigured = |message: String| {
            self.record(Warning, "Failed", format!("Error: {message}"));
            failed("CreateContainerConfigError", message, true)
        };
        let plugins = &self.context.plugins;
        let request = plugins::request(&self.pod, &self.container);
        let options = plugins.devices.prepare(self.pod.uid(), &request).await;
        let options = options.map_err(misconfigured)?;
        let claimed = plugins.claimed_devices(&self.pod, &self.container);
        let claimed = claimed.map_err(misconfigured)?;
        let mut spec = {
            let mut objects = self.objects.lock().await;
            let spec = container::specify(&sources, &mut objects).await;
            spec.map_err(misconfigured)?
        };
        // Reads the specifications of devices, which are few small files.
        let injected = tokio::task::spawn_blocking(move || {
            plugins::inject(&mut spec, options, claimed).map(|()| spec)
        });
        let injected = injected.await.unwrap_or_else(|e| Err(e.to_string()));
        injected.map_err(|message| {
            self.record(Warning, "Failed", format!("Error: {message}"));
            failed("CreateContainerError", message, true)
        })
    }

    /// Removes all earlier attempts but the last, with their logs and termination messages.
    async fn collect(&self) {
        let keep = self.earlier.len().saturating_sub(1);
        for old in self.earlier.iter().take(keep) {
            if let Err(e) = self.context.runtime.remove_container(&old.id).await {
                tracing::debug!("removing container {}: {e}", old.id);
            }
            let log = log_path(&self.pod, &old.name, old.attempt);
            let mut files = rotated_logs(&log);
            files.extend([log, message_file(self.pod.uid(), &old.name, old.attempt)]);
            remove_files(&files).await;
        }
    }

    async fn post_start(&self, id: &str) -> Result<(), NotStarted> {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else {
            return Ok(());
        };
        let outcome = tokio::select! {
            outcome = run_hook(&self.context.runtime, hook, &self.container, id, self.ip, HOOK_TIMEOUT) => outcome,
            () = self.cancel.cancelled() => return Ok(()),
        };
        let (Outcome::Failure(message) | Outcome::Error(message)) = outcome else {
            return Ok(());
        };
        self.record(
            Warning,
            "FailedPostStartHook",
            "PostStartHook failed".into(),
        );
        tracing::debug!(pod = %self.pod.full_name(), "postStart: {message}");
        self.record(
            Normal,
            "Killing",
            format!(
                "FailedPostStartHook: Stopping container {}",
                self.container.name
            ),
        );
        let grace = Duration::from_secs(u64::try_from(self.pod.grace_seconds()).unwrap_or(30));
        if let Err(e) = self.context.runtime.stop_container(id, grace).await {
            tracing::warn!("stopping container {id}: {e}");
        }
        Err(failed("PostStartHookError", message, false))
    }
}

/// Removes files that may not exist. Errors are only logged.
pub(crate) async fn remove_files(files: &[PathBuf]) {
    for file in files {
        match tokio::fs::remove_file(file).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("removing {}: {e}", file.display());
            }
            _ => {}
        }
    }
}

/// Limit for `postStart` hooks. Upstream has none; a hook also ends with its container.
const HOOK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Runs a `postStart` or `preStop` hook; `limit` bounds its duration.
pub(crate) async fn run_hook(
    runtime: &Runtime,
    hook: &k8s_openapi::api::core::v1::LifecycleHandler,
    container: &Container,
    id: &str,
    ip: Option<IpAddr>,
    limit: Duration,
) -> Outcome {
    let no_ip = || Outcome::Error("the pod has no address".into());
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        match handlers::exec(runtime, id, &command, limit).await {
            Outcome::Failure(text) => Outcome::Failure(format!(
                "command {:?} exited with a non-zero code: {text}",
                command.join(" ")
            )),
            other => other,
        }
    } else if let Some(get) = &hook.http_get {
        let Some(ip) = ip else { return no_ip() };
        let agent = format!(
            "kube-lifecycle/{}",
            rkube_config::KUBERNETES_VERSION.trim_start_matches('v')
        );
        match handlers::http_get(get, container, ip, limit, &agent).await {
            // Any HTTP response is a success for a hook, whatever its status.
            Outcome::Failure(text) if text.starts_with("HTTP probe failed") => {
                Outcome::Success(text)
            }
            other => other,
        }
    } else if let Some(socket) = &hook.tcp_socket {
        let Some(ip) = ip else { return no_ip() };
        handlers::tcp(socket, container, ip, limit).await
    } else if let Some(sleep) = &hook.sleep {
        let pause = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(pause.min(limit)).await;
        Outcome::Success(String::new())
    } else {
        Outcome::Error("invalid handler: no action".into())
    }
}

/// Delay before the next attempt after a failure other than a container's exit.
pub(crate) const RETRY_DELAY: Duration = backoff::INITIAL;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_exist_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (log, words) = (dir.path().join("0.log"), dir.path().join("words"));
        for name in ["0.log", "0.log.20260101-000000", "1.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let mut files = rotated_logs(&log);
        files.extend([log, words]);
        remove_files(&files).await;
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["1.log"], "another attempt's log stays");
    }

    #[test]
    fn failures_say_when_to_retry() {
        let once = failed("RunContainerError", "m", false);
        assert_eq!(once.reason, Reason::new("RunContainerError", "m"));
        assert_eq!(once.retry_at, None);
        let before = Instant::now();
        let again = failed("CreateContainerError", "m", true).retry_at.unwrap();
        assert!(again >= before + backoff::INITIAL);
    }
}
