//! The agent's connections to a shim, on the shim's side.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::frame::{self, Kind, Response};
use super::sys;

/// Maximum number of queued bytes per client. Above it, the container's output is not read until
/// the client has caught up.
pub(super) const CLIENT_BUFFER: usize = 256 * 1024;

/// A connection from the agent.
pub(super) struct Client {
    pub(super) socket: UnixStream,
    pub(super) input: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) output: VecDeque<u8>,
    pub(super) role: Role,
    pub(super) gone: bool,
}

/// The purpose of a connection.
pub(super) enum Role {
    /// Requests, responses and the container's exit.
    Control,
    /// Attached to the container's streams.
    Attached { stdin: bool },
    /// A command is starting: the launcher's report so far, and the listener for the terminal.
    Starting {
        report: File,
        said: String,
        console: Option<(UnixListener, std::path::PathBuf)>,
    },
    /// A command is running.
    Running { pid: i32 },
    /// The command has exited.
    Done,
}

impl Client {
    /// Queues a message, and sends as much as the socket accepts.
    pub(super) fn say(&mut self, kind: Kind, value: &impl serde::Serialize) {
        self.output.extend(frame::encode_json(kind, value));
        self.flush();
    }

    /// Sends an error response.
    pub(super) fn fail(&mut self, reason: String) {
        self.say(
            Kind::Response,
            &Response {
                error: Some(reason),
                pid: None,
            },
        );
    }

    /// Sends the response to a command's start, together with its terminal.
    pub(super) fn started(&mut self, pid: i32, terminal: Option<OwnedFd>) {
        let bytes = frame::encode_json(
            Kind::Response,
            &Response {
                error: None,
                pid: Some(pid),
            },
        );
        let Some(terminal) = terminal else {
            self.output.extend(bytes);
            self.flush();
            return;
        };
        // Nothing has been sent on this connection yet, so the descriptor accompanies the
        // response's first byte.
        match sys::send(self.socket.as_raw_fd(), &bytes, &[terminal.as_raw_fd()]) {
            Ok(n) => self.output.extend(&bytes[n..]),
            Err(_) => self.gone = true,
        }
    }

    /// Sends as much of the queue as the socket accepts.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match sys::write(self.socket.as_raw_fd(), front) {
                Ok(Some(n)) => {
                    self.output.drain(..n);
                }
                Ok(None) => return,
                Err(_) => {
                    self.output.clear();
                    self.gone = true;
                    return;
                }
            }
        }
        if self.output.capacity() > CLIENT_BUFFER {
            self.output = VecDeque::new();
        }
    }
}
