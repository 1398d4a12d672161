//! A client of the QEMU Machine Protocol (QMP): one JSON object per line.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Timeout of a response of a running QEMU.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a machine.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    line: Vec<u8>,
}

/// A message from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum QmpMessage {
    /// An event with its name and data.
    Event(String, Value),
    /// QEMU closed the connection.
    End,
    /// No message before the timeout.
    Timeout,
}

/// Whether a QEMU listens on `socket`. The socket of a dead one refuses connections.
pub fn is_alive(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

impl Qmp {
    /// Connects to a machine; returns `Ok(None)` if none listens. It is an error if a machine
    /// listens and does not respond.
    pub fn connect(socket: &Path) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => {
                return Err(e).with_context(|| format!("cannot connect to {}", socket.display()));
            }
        };
        let mut qmp = Self {
            reader: BufReader::new(stream),
            line: Vec::new(),
        };
        match qmp.next(RESPONSE_TIMEOUT)? {
            Some(Some(greeting)) if greeting.get("QMP").is_some() => {}
            Some(Some(other)) => bail!("{} speaks no QMP: {other}", socket.display()),
            Some(None) => return Ok(None),
            None => bail!("the machine at {} does not respond", socket.display()),
        }
        qmp.execute("qmp_capabilities", None)?;
        Ok(Some(qmp))
    }

    /// Runs a command and returns its result. Events that arrive before it are discarded.
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> anyhow::Result<Value> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.reader
            .get_mut()
            .write_all(&line)
            .with_context(|| format!("cannot send {command} to the machine"))?;
        let deadline = Instant::now() + RESPONSE_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(message) = self.next(left)? else {
                bail!("the machine does not respond to {command}");
            };
            let Some(message) = message else {
                // A machine that quits may close the connection before it responds.
                if command == "quit" {
                    return Ok(Value::Null);
                }
                bail!("the machine ended at {command}");
            };
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                bail!(
                    "the machine refuses {command}: {}",
                    error["desc"].as_str().unwrap_or("no reason given")
                );
            }
        }
    }

    /// Waits for the next event; without a `limit`, indefinitely.
    pub fn next_message(&mut self, limit: Option<Duration>) -> anyhow::Result<QmpMessage> {
        let deadline = limit.map(|l| Instant::now() + l);
        loop {
            let left = deadline.map_or(Duration::ZERO, |d| {
                d.saturating_duration_since(Instant::now())
                    .max(Duration::from_millis(1))
            });
            match self.next(left)? {
                None => return Ok(QmpMessage::Timeout),
                Some(None) => return Ok(QmpMessage::End),
                Some(Some(message)) => {
                    if let Some(name) = message.get("event").and_then(Value::as_str) {
                        return Ok(QmpMessage::Event(name.to_owned(), message["data"].clone()));
                    }
                }
            }
        }
    }

    /// Reads the next message: `Some(None)` at the end of the connection, `None` after `limit`. A
    /// `limit` of zero means no timeout.
    fn next(&mut self, limit: Duration) -> anyhow::Result<Option<Option<Value>>> {
        let limit = (!limit.is_zero()).then_some(limit);
        self.reader.get_ref().set_read_timeout(limit)?;
        match self.reader.read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.last() == Some(&b'\n') => {
                let message = serde_json::from_slice(&self.line).context("QEMU sent no JSON")?;
                self.line.clear();
                Ok(Some(Some(message)))
            }
            Ok(_) => Ok(Some(None)),
            // The partial line is kept for the next call.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(Some(None)),
            Err(e) => Err(e).context("the connection to the machine broke"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn commands_are_answered_past_events_and_the_end_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        assert!(Qmp::connect(&path).unwrap().is_none());
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut seen = Vec::new();
            for answer in [
                "{\"return\": {}}\r\n",
                "{\"event\": \"RESUME\"}\r\n{\"return\": {\"status\": \"running\"}}\r\n\
                 {\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\r\n",
            ] {
                seen.push(lines.next().unwrap().unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        let mut qmp = Qmp::connect(&path).unwrap().unwrap();
        assert_eq!(
            qmp.execute("query-status", None).unwrap()["status"],
            "running"
        );
        let message = qmp.next_message(None).unwrap();
        assert_eq!(
            message,
            QmpMessage::Event("SHUTDOWN".into(), json!({"reason": "guest-reset"}))
        );
        assert_eq!(qmp.next_message(None).unwrap(), QmpMessage::End);
        let seen = server.join().unwrap();
        assert!(seen[0].contains("qmp_capabilities") && seen[1].contains("query-status"));
        // The listener is closed, so the socket is that of a dead machine.
        assert!(!is_alive(&path));
    }
}
