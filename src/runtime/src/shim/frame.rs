//! The protocol between agent and shim: frames with a kind, a length and a payload.

use std::collections::VecDeque;
use std::io;

use serde::{Deserialize, Serialize};

use crate::shim::plan::Plan;

/// Maximum length of a frame's payload, in bytes.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// Length of a frame's header (kind and payload length), in bytes.
pub const HEADER: usize = 5;

/// The type of a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON: a [`Request`].
    Request = b'Q',
    /// JSON: a [`Response`].
    Response = b'R',
    /// JSON: the [`Exit`] of the container or of the connection's command.
    Exit = b'X',
    /// Input for the container.
    Stdin = b'0',
    /// The end of the input for the container.
    StdinEnd = b'e',
    /// Output of the container's standard output or terminal.
    Stdout = b'1',
    /// Output of the container's standard error.
    Stderr = b'2',
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            b'Q' => Self::Request,
            b'R' => Self::Response,
            b'X' => Self::Exit,
            b'0' => Self::Stdin,
            b'e' => Self::StdinEnd,
            b'1' => Self::Stdout,
            b'2' => Self::Stderr,
            _ => return None,
        })
    }
}

/// A request from the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Subscribes to the container's exit. The response has the container's PID.
    Watch,
    /// Sends a signal to the container's first process, or to the connection's command.
    Kill {
        /// The signal's number.
        signal: i32,
    },
    /// Resizes the container's terminal. Ignored without a terminal.
    Resize {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
    /// Reopens the log file.
    ReopenLog,
    /// Subscribes to the container's output from now on. With `stdin`, the client may send `Stdin`
    /// frames.
    Attach {
        /// Whether this connection feeds the container.
        stdin: bool,
    },
    /// Runs a command. Without a terminal, the message must carry the descriptors of the command's
    /// three standard streams.
    Exec {
        /// The process.
        plan: Box<Plan>,
        /// Whether the command gets a terminal, whose master is sent with the response.
        tty: bool,
        /// The command's `oom_score_adj`, if the container's is set.
        oom_score_adj: Option<i32>,
    },
}

/// The response to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Description of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// PID of the process, for `Watch` and `Exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// The exit of a process. Also the content of a container's exit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal that killed the process.
    pub code: i32,
    /// The signal that killed the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container because it ran out of memory.
    #[serde(default)]
    pub oom: bool,
    /// Time of the exit, in nanoseconds since 1970.
    #[serde(default)]
    pub at: i64,
}

/// Appends a frame to a buffer.
pub fn append(out: &mut VecDeque<u8>, kind: Kind, payload: &[u8]) {
    out.push_back(kind as u8);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
}

/// Encodes a frame.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.push(kind as u8);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out
}

/// Encodes a frame with a JSON payload.
pub fn encode_json(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    // These types are plain data, so encoding cannot fail.
    encode(kind, &serde_json::to_vec(value).unwrap_or_default())
}

/// Parses a frame's header. Returns its kind and the length of its payload.
pub fn header(bytes: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let kind = Kind::parse(bytes[0]).ok_or_else(|| bad("a frame of an unknown kind"))?;
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(bad("a frame that is too long"));
    }
    Ok((kind, length))
}

/// Removes a complete frame from the front of a buffer. Returns `None` if there is none.
pub fn take_first(buffer: &mut Vec<u8>) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let Some(head) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let (kind, length) = header(*head)?;
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let payload = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_split(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            step in 1usize..20,
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|p| encode(Kind::Stdout, p)).collect();
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some((kind, payload)) = take_first(&mut buffer).unwrap() {
                    prop_assert_eq!(kind, Kind::Stdout);
                    seen.push(payload);
                }
            }
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut buffer = bytes;
            while let Ok(Some(_)) = take_first(&mut buffer) {}
        }
    }
}
