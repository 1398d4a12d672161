//! Runs commands of `rkube` for the page and forwards their JSON events.
//!
//! Runs the binary itself, so that the dashboard does exactly what the command line does.
//! Arguments never pass through a shell and never begin with a dash.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::answer::{self, Body};

/// Maximum size of an image archive, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 16 << 30;

/// Maximum time that a tunnel may take to open.
const TUNNEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

/// A command that the page may run.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Start a cluster.
    Start,
    /// Stop the cluster.
    Stop,
    /// Delete the cluster.
    Delete,
    /// Add a node.
    NodeAdd,
    /// Delete a node.
    NodeDelete { node: String },
    /// Start a node.
    NodeStart { node: String },
    /// Stop a node.
    NodeStop { node: String },
    /// Pull an image on every node.
    ImagePull { image: String },
    /// Remove an image from every node.
    ImageRemove { image: String },
    /// Enable an addon, or update it.
    AddonEnable { addon: String },
    /// Disable an addon.
    AddonDisable { addon: String },
    /// Save the cluster's objects and volumes.
    SnapshotSave { name: String },
    /// Restore a snapshot's objects and volumes.
    SnapshotRestore { name: String },
    /// Delete a snapshot.
    SnapshotDelete { name: String },
}

impl Action {
    /// Returns the command's arguments. Fails if a name could be something else, such as
    /// an option or a path.
    pub fn arguments(&self) -> Result<Vec<&str>, Failure> {
        let name = |text: &'_ str| -> Result<(), Failure> {
            let good = text
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric())
                && text.len() <= 512
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_./:@".contains(&b));
            if good {
                return Ok(());
            }
            Err(Failure::new(
                Source::Program,
                Kind::Usage,
                "that is no name of a node or an image",
            ))
        };
        let label = |text: &'_ str| -> Result<(), Failure> {
            if rkube_api::names::dns1123_label(text).is_empty() {
                return Ok(());
            }
            Err(Failure::new(
                Source::Program,
                Kind::Usage,
                "that is no name of an addon or a snapshot",
            ))
        };
        Ok(match self {
            Self::Start => vec!["start"],
            Self::Stop => vec!["stop"],
            Self::Delete => vec!["delete"],
            Self::NodeAdd => vec!["node", "add"],
            Self::NodeDelete { node } => {
                name(node)?;
                vec!["node", "delete", node]
            }
            Self::NodeStart { node } => {
                name(node)?;
                vec!["node", "start", node]
            }
            Self::NodeStop { node } => {
                name(node)?;
                vec!["node", "stop", node]
            }
            Self::ImagePull { image } => {
                name(image)?;
                vec!["image", "pull", image]
            }
            Self::ImageRemove { image } => {
                name(image)?;
                vec!["image", "rm", image]
            }
            Self::AddonEnable { addon } => {
                label(addon)?;
                vec!["addons", "enable", addon]
            }
            Self::AddonDisable { addon } => {
                label(addon)?;
                vec!["addons", "disable", addon]
            }
            Self::SnapshotSave { name } => {
                label(name)?;
                vec!["snapshot", "save", name]
            }
            Self::SnapshotRestore { name } => {
                label(name)?;
                vec!["snapshot", "restore", name]
            }
            Self::SnapshotDelete { name } => {
                label(name)?;
                vec!["snapshot", "delete", name]
            }
        })
    }
}

/// Runs `rkube` on this host.
pub struct Commands {
    binary: PathBuf,
    tunnel: Mutex<Option<(String, Child)>>,
}

impl Commands {
    /// Creates a runner of the given binary.
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            tunnel: Mutex::new(None),
        }
    }

    /// Returns a command for a profile, without arguments.
    pub fn command(&self, profile: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["-p", profile]).stdin(Stdio::null());
        command
    }

    /// Runs a command and responds with its JSON document. A command may have one although
    /// it fails, such as the status of a stopped cluster.
    pub async fn run_json(&self, profile: &str, arguments: &[&str]) -> Response<Body> {
        let mut command = self.command(profile);
        let output = match command.args(["-o", "json"]).args(arguments).output().await {
            Ok(output) => output,
            Err(e) => return answer::failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        };
        if let Some(message) = reported_failure(&output.stdout) {
            return answer::failure(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
        if serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout).is_err() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return answer::failure(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        let document = answer::full(output.stdout);
        answer::typed(StatusCode::OK, "application/json", document)
    }

    /// Runs a command and responds with its text.
    pub async fn run_text(&self, profile: &str, arguments: &[&str]) -> Response<Body> {
        match self
            .command(profile)
            .args(["-o", "text"])
            .args(arguments)
            .output()
            .await
        {
            Ok(output) if output.status.success() => answer::typed(
                StatusCode::OK,
                "text/plain; charset=utf-8",
                answer::full(output.stdout),
            ),
            Ok(output) => answer::failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ),
            Err(e) => answer::failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }

    /// Runs a command and responds with its events as they arrive, then `{"exit": CODE}`.
    /// The command continues when the page disconnects.
    pub fn run_events(&self, profile: &str, arguments: &[&str]) -> Response<Body> {
        let mut command = self.command(profile);
        command.args(["-o", "json"]).args(arguments);
        events(command, None)
    }

    /// Loads the image archive in the request's body on every node.
    pub async fn load_images(&self, profile: &str, request: Request<Incoming>) -> Response<Body> {
        let archive = match save_body(request).await {
            Ok(archive) => archive,
            Err(e) => return answer::failure(StatusCode::BAD_REQUEST, e.to_string()),
        };
        let mut command = self.command(profile);
        command
            .args(["-o", "json", "image", "load"])
            .arg(archive.path() as &Path);
        events(command, Some(archive))
    }

    /// Opens a tunnel, which ends with the dashboard. Waits until `is_open`, at most
    /// [`TUNNEL_TIMEOUT`].
    ///
    /// Fails if the tunnel of another profile is open, or with the message of `rkube tunnel`.
    pub async fn open_tunnel(
        &self,
        profile: &str,
        is_open: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let failed = |kind, what: String| Failure::new(Source::Host, kind, what);
        if let Some(of) = self.tunnel_of() {
            if of == profile {
                return Ok(());
            }
            return Err(failed(
                Kind::Conflict,
                format!("this dashboard has a tunnel of '{of}' open; close that one first"),
            ));
        }
        let mut command = self.command(profile);
        interrupt::prepare(&mut command);
        let mut child = command
            .arg("tunnel")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(Kind::Error, format!("cannot run rkube tunnel: {e}")))?;
        let stderr = child.stderr.take();
        // Polls, because the lock of an open tunnel cannot be watched.
        let deadline = tokio::time::Instant::now() + TUNNEL_TIMEOUT;
        while !is_open() && tokio::time::Instant::now() < deadline {
            let pause = std::time::Duration::from_millis(20);
            if let Ok(ended) = tokio::time::timeout(pause, child.wait()).await {
                let mut why = String::new();
                if let Some(mut stderr) = stderr {
                    // Falls back to the exit code.
                    let _ = stderr.read_to_string(&mut why).await;
                }
                let code = ended.map_or_else(|e| e.to_string(), |s| s.to_string());
                let why = if why.trim().is_empty() { code } else { why };
                return Err(failed(Kind::Error, why.trim().to_owned()));
            }
        }
        if let Some(stderr) = stderr {
            // The tunnel would block once the pipe is full.
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    tracing::debug!("rkube tunnel: {line}");
                }
            });
        }
        *self.tunnel.lock() = Some((profile.to_owned(), child));
        Ok(())
    }

    /// Ends this dashboard's tunnel as Ctrl-C would, and waits for the process.
    pub async fn close_tunnel(&self) {
        let Some((_, mut child)) = self.tunnel.lock().take() else {
            return;
        };
        interrupt::send(&child);
        let _ = child.wait().await;
    }

    /// Returns the profile whose tunnel this dashboard has open.
    pub fn tunnel_of(&self) -> Option<String> {
        let mut tunnel = self.tunnel.lock();
        if let Some((_, child)) = tunnel.as_mut()
            && !matches!(child.try_wait(), Ok(None))
        {
            *tunnel = None;
        }
        tunnel.as_ref().map(|(of, _)| of.clone())
    }
}

/// Returns the failure that a command reported in place of its document.
fn reported_failure(stdout: &[u8]) -> Option<String> {
    let last = stdout.trim_ascii_end().rsplit(|b| *b == b'\n').next()?;
    let event: serde_json::Value = serde_json::from_slice(last).ok()?;
    let kind = event.get("type")?.as_str()?;
    let data = event.get("data")?;
    let message = data.get("message")?.as_str()?;
    let advice = data.get("advice").and_then(|a| a.as_str()).unwrap_or("");
    let and = if advice.is_empty() { "" } else { "; " };
    (kind == "io.k8s.sigs.minikube.error").then(|| format!("{message}{and}{advice}"))
}

/// Ends a command as Ctrl-C would.
#[cfg(unix)]
mod interrupt {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::process::{Child, Command};

    /// Does nothing: SIGINT can be sent to a single process.
    pub fn prepare(_command: &mut Command) {}

    /// Sends SIGINT to the process.
    pub fn send(child: &Child) {
        if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
            // It may have ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }
}

/// Ends a command as Ctrl-Break would: Ctrl-C cannot be sent to a single process.
#[cfg(windows)]
mod interrupt {
    use tokio::process::{Child, Command};
    use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
    use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;

    /// Puts the process into a new process group, to which console events can be sent.
    pub fn prepare(command: &mut Command) {
        command.creation_flags(CREATE_NEW_PROCESS_GROUP);
    }

    /// Sends Ctrl-Break to the process group.
    pub fn send(child: &Child) {
        if let Some(group) = child.id() {
            // SAFETY: the call takes numbers only. The process may have ended already.
            let _ = unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, group) };
        }
    }
}

/// Responds with a command's standard output, line by line. Keeps `archive` until the
/// command has ended.
fn events(mut command: Command, archive: Option<tempfile::NamedTempFile>) -> Response<Body> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return answer::failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    };
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    tokio::spawn(async move {
        let stderr = child.stderr.take();
        let errors = tokio::spawn(async move {
            let mut text = String::new();
            if let Some(stderr) = stderr {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            text
        });
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The page may have disconnected; the command continues.
                let _ = sender.send(format!("{line}\n").into());
            }
        }
        let errors = errors.await.unwrap_or_default();
        let code = match child.wait().await {
            Ok(status) => status.code().unwrap_or(-1),
            Err(_) => -1,
        };
        let end = serde_json::json!({ "exit": code, "stderr": errors });
        let _ = sender.send(format!("{end}\n").into());
        drop(archive);
    });
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((line, receiver))
    });
    answer::typed(
        StatusCode::OK,
        "application/x-ndjson",
        answer::streamed(lines.boxed()),
    )
}

/// Saves a body as a temporary file that only this user can read.
async fn save_body(
    request: Request<Incoming>,
) -> Result<tempfile::NamedTempFile, answer::BoxError> {
    let archive = tempfile::NamedTempFile::new()?;
    let mut file = tokio::fs::File::from_std(archive.reopen()?);
    let mut body = request.into_body();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            size += data.len() as u64;
            if size > MAX_ARCHIVE_BYTES {
                return Err("the archive is too large".into());
            }
            file.write_all(&data).await?;
        }
    }
    file.flush().await?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_names() {
        let pull = |image: &str| Action::ImagePull {
            image: image.into(),
        };
        assert_eq!(
            pull("docker.io/library/nginx:1.29").arguments().unwrap(),
            ["image", "pull", "docker.io/library/nginx:1.29"]
        );
        for bad in ["", "--driver=x", "-h", "a b", "$(id)", "a;b", "a\nb"] {
            assert!(pull(bad).arguments().is_err(), "{bad}");
            assert!(Action::NodeDelete { node: bad.into() }.arguments().is_err());
        }
    }

    #[test]
    fn addons_and_snapshots_are_labels() {
        let arguments = |action: &str, field: &str, name: &str| {
            let text = serde_json::json!({ "action": action, field: name });
            let action: Action = serde_json::from_value(text).unwrap();
            action.arguments().map(|words| words.join(" "))
        };
        let cases = [
            ("addon-enable", "addon", "addons enable a-1"),
            ("addon-disable", "addon", "addons disable a-1"),
            ("snapshot-save", "name", "snapshot save a-1"),
            ("snapshot-restore", "name", "snapshot restore a-1"),
            ("snapshot-delete", "name", "snapshot delete a-1"),
        ];
        for (action, field, expected) in cases {
            assert_eq!(arguments(action, field, "a-1").unwrap(), expected);
            for bad in [
                "", "-a", "--all", "a-", "A", "a.b", "./a", "..", "a b", "a/b",
            ] {
                assert!(arguments(action, field, bad).is_err(), "{action} {bad}");
            }
        }
    }

    #[test]
    fn failures_have_the_commands_message() {
        let event = |kind: &str, advice: &str| {
            format!(
                "{{\"type\":\"x\"}}\n{{\"type\":\"io.k8s.sigs.minikube.{kind}\",\"data\":{{\"message\":\"no\",\"advice\":\"{advice}\"}}}}\n"
            )
        };
        let message = |text: &str| reported_failure(text.as_bytes());
        assert_eq!(message(&event("error", "")), Some("no".into()));
        assert_eq!(message(&event("error", "do")), Some("no; do".into()));
        assert_eq!(message(&event("step", "")), None);
        assert_eq!(message("[]\n"), None);
        assert_eq!(message("[\n  {\n \"type\": \"x\"}\n]\n"), None);
        assert_eq!(message(""), None);
    }
}
