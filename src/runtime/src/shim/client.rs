//! Connections of the agent to a shim.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::frame::{self, Kind, Response};
use super::sys;

/// Queue length, in bytes, from which a client that does not read blocks the container's
/// output.
pub(super) const CLIENT_BUFFER: usize = 256 * 1024;

/// A connection of the agent.
pub(super) struct Client {
    pub(super) socket: UnixStream,
    pub(super) input: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) output: VecDeque<u8>,
    pub(super) role: Role,
    pub(super) gone: bool,
}

/// What a connection is used for.
pub(super) enum Role {
    /// Requests and events.
    Control,
    /// Attached to the container's streams.
    Attached { stdin: bool },
    /// A command is starting: its launcher's report so far, and a terminal's listener.
    Starting {
        report: File,
        said: String,
        console: Option<(UnixListener, std::path::PathBuf)>,
    },
    /// A command is running.
    Running { pid: i32 },
    /// The command has ended.
    Done,
}

impl Client {
    /// Queues a message and sends what the socket accepts.
    pub(super) fn say(&mut self, kind: Kind, value: &impl serde::Serialize) {
        self.output.extend(frame::encode_json(kind, value));
        self.flush();
    }

    /// Sends an error.
    pub(super) fn fail(&mut self, reason: String) {
        self.say(
            Kind::Response,
            &Response {
                error: Some(reason),
                pid: None,
            },
        );
    }

    /// Sends the response to a command's start, with its terminal.
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
        // A connection for a command has sent nothing yet, so the descriptor is sent
        // with the response's first byte.
        match sys::send(self.socket.as_raw_fd(), &bytes, &[terminal.as_raw_fd()]) {
            Ok(n) => self.output.extend(&bytes[n..]),
            Err(_) => self.gone = true,
        }
    }

    /// Sends what the socket accepts.
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
