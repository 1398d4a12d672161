//! The protocol between the command line and the supervisor: one JSON line each way
//! over a Unix socket that only root and the cluster's owner can connect to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A request to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Start these nodes of the plan on disk.
    Start { nodes: Vec<String> },
    /// Stop these nodes; without `grace` they are killed.
    Stop { nodes: Vec<String>, grace: bool },
    /// Return the running nodes.
    Status,
    /// Stop all nodes and exit.
    Shutdown { grace: bool },
}

/// The supervisor's response.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Response {
    /// Why the request failed.
    pub error: Option<String>,
    /// Process ids of the running nodes' inits.
    pub running: BTreeMap<String, i32>,
}

/// Returns the path of the supervisor's socket.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Sends a request to the supervisor. Returns `Ok(None)` if none is running.
pub fn ask(
    run_dir: &Path,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<Option<Response>> {
    let path = socket_path(run_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(e) => {
            return Err(e)
                .with_context(|| format!("cannot reach the supervisor at {}", path.display()));
        }
    };
    stream.set_read_timeout(Some(timeout))?;
    send(&mut stream, request).context("cannot send to the supervisor")?;
    receive(&stream)
        .context("the supervisor does not respond")
        .map(Some)
}

/// Writes one message.
pub fn send(stream: &mut UnixStream, message: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Reads one message.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> anyhow::Result<T> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
