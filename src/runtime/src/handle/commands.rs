//! Commands in running containers, and attaching to their streams.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use super::types::{KILL_TIMEOUT, Runtime};
use crate::client;
use crate::container::Container;
use crate::error::{Result, RuntimeError};
use crate::session::Session;
use crate::shim::frame::Request;
use crate::spec::ExecSpec;
use crate::status::ExecOutput;

/// Maximum number of bytes per stream that `exec_sync` returns.
const MAX_OUTPUT: usize = 16 << 20;
/// Timeout for reading the rest of the output after a command exited. Its children may keep the
/// pipes open.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);

impl Runtime {
    /// Runs a command in a running container. Returns an error if the command cannot be run.
    pub async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session> {
        let container = self.container(id)?;
        self.running(&container)?;
        // The command would wait until the container goes on. The words are runc's.
        if rkube_cgroups::node::is_frozen(&container.meta.cgroup) {
            return Err(RuntimeError::Invalid(
                "cannot exec in a paused container".into(),
            ));
        }
        if spec.command.is_empty() {
            return Err(RuntimeError::Invalid("no command specified".into()));
        }
        let mut plan = container.shim_config()?.plan;
        plan.args = spec.command;
        let mut set = |name: &str, value: &str| {
            let prefix = format!("{name}=");
            plan.env.retain(|v| !v.starts_with(&prefix));
            plan.env.push(format!("{prefix}{value}"));
        };
        if spec.tty && !spec.env.iter().any(|(name, _)| name == "TERM") {
            set("TERM", "xterm");
        }
        for (name, value) in &spec.env {
            set(name, value);
        }
        if let Some(dir) = spec.working_dir.filter(|dir| !dir.is_empty()) {
            plan.cwd = dir;
        }
        let adjustment = container_oom_score(&container);
        client::exec(
            id,
            &container.socket,
            plan,
            spec.tty,
            spec.stdin,
            adjustment,
        )
        .await
    }

    /// Runs a command to its end and returns its output, at most 16 MiB per stream; the rest is
    /// discarded. After `timeout` (unlimited if zero), kills it and returns
    /// [`RuntimeError::Timeout`].
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let spec = ExecSpec {
            command: command.to_vec(),
            ..ExecSpec::default()
        };
        let late = || RuntimeError::Timeout {
            command: command.join(" "),
            seconds: timeout.as_secs_f64(),
        };
        let mut session = if timeout.is_zero() {
            self.exec(id, spec).await?
        } else {
            let started = tokio::time::timeout(timeout, self.exec(id, spec)).await;
            started.map_err(|_| late())??
        };
        let kept: [Arc<Mutex<Vec<u8>>>; 2] = Default::default();
        let mut streams = tokio::task::JoinSet::new();
        for (stream, kept) in [session.stdout.take(), session.stderr.take()]
            .into_iter()
            .zip(&kept)
        {
            let kept = kept.clone();
            streams.spawn(async move {
                let Some(mut stream) = stream else { return };
                let mut buffer = vec![0; 16 * 1024];
                // Output beyond the limit is read and discarded, so that the command does not
                // block.
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let mut kept = kept.lock();
                    let room = MAX_OUTPUT.saturating_sub(kept.len()).min(n);
                    kept.extend_from_slice(&buffer[..room]);
                }
            });
        }
        let control = session.control.clone();
        let exit_code = if timeout.is_zero() {
            control.wait().await
        } else {
            match tokio::time::timeout(timeout, control.wait()).await {
                Ok(result) => result,
                Err(_) => {
                    control.kill(libc::SIGKILL)?;
                    let _ = tokio::time::timeout(KILL_TIMEOUT, control.wait()).await;
                    return Err(late());
                }
            }
        }?;
        // Processes that the command left behind may keep its output open.
        let all = async { while streams.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(OUTPUT_TIMEOUT, all).await;
        drop(streams);
        let [stdout, stderr] = kept.map(|bytes| std::mem::take(&mut *bytes.lock()));
        Ok(ExecOutput {
            stdout,
            stderr,
            exit_code,
        })
    }

    /// Attaches to a running container's streams, from now on. `stdin` has no effect if the
    /// container has no open standard input.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        let container = self.container(id)?;
        let handle = self.running(&container)?;
        let (stdin, tty) = (
            stdin && (container.meta.spec.stdin || container.meta.spec.tty),
            container.meta.spec.tty,
        );
        client::attach(id, &container.socket, handle, stdin, tty).await
    }

    /// Reopens the container's log file after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        self.running(&container)?
            .ask(Request::ReopenLog)
            .await
            .map(drop)
    }
}

/// Returns the `oom_score_adj` for a command, if the container's specification sets one.
fn container_oom_score(container: &Container) -> Option<i32> {
    container.meta.spec.oom_score_adj?;
    // The value granted at the start is that of the first process.
    let pid = container.live.lock().pid?;
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
        .ok()?
        .trim()
        .parse()
        .ok()
}
