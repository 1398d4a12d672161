//! The wire between agent and shim: frames of a kind, a length and a payload.

use std::collections::VecDeque;
use std::io;

use serde::{Deserialize, Serialize};

use crate::shim::plan::Plan;

/// A frame's payload is this long at most, in bytes.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// Kind and length.
pub const HEADER: usize = 5;

/// The type of a frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON: a [`Request`].
    Request = b'Q',
    /// JSON: a [`Response`].
    Response = b'R',
    /// JSON: an [`Exit`], of the container or the connection's command.
    Exit = b'X',
    /// Bytes for the container.
    Stdin = b'0',
    /// No more bytes for the container.
    StdinEnd = b'e',
    /// Bytes of the container's standard output or terminal.
    Stdout = b'1',
    /// Bytes of the container's standard error.
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

/// A request of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Subscribes to the container's exit. The response has the container's PID.
    Watch,
    /// A signal for the container's first process, or for the connection's command.
    Kill {
        /// The signal's number.
        signal: i32,
    },
    /// A new size for the container's terminal.
    Resize {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
    /// Reopens the log file.
    ReopenLog,
    /// The container's streams from now on; `Stdin` frames are taken if asked for.
    Attach {
        /// Whether this connection feeds the container.
        stdin: bool,
    },
    /// To run a command. Without a terminal the connection's first message
    /// carries descriptors of its three streams.
    Exec {
        /// The process.
        plan: Box<Plan>,
        /// Whether it gets a terminal, whose master is sent back.
        tty: bool,
        /// Its `oom_score_adj`, when the container's is set.
        oom_score_adj: Option<i32>,
    },
}

/// A shim's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Description of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The process, for `Watch` and `Exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// A process's exit; also the content of a container's exit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + the signal for a killed one.
    pub code: i32,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// When, in nanoseconds since 1970.
    #[serde(default)]
    pub at: i64,
}

/// Appends a frame to a buffer.
pub fn put(out: &mut VecDeque<u8>, kind: Kind, payload: &[u8]) {
    out.push_back(kind as u8);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
}

/// A frame as bytes.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.push(kind as u8);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out
}

/// A frame with a JSON payload.
pub fn encode_json(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    // These types are plain data: encoding cannot fail.
    encode(kind, &serde_json::to_vec(value).unwrap_or_default())
}

/// Reads a frame's header.
pub fn header(bytes: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let kind = Kind::parse(bytes[0]).ok_or_else(|| bad("a frame of an unknown kind"))?;
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(bad("a frame that is too long"));
    }
    Ok((kind, length))
}

/// Takes a whole frame off the front of a buffer, if there is one.
pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<(Kind, Vec<u8>)>> {
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
                while let Some((kind, payload)) = take(&mut buffer).unwrap() {
                    prop_assert_eq!(kind, Kind::Stdout);
                    seen.push(payload);
                }
            }
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut buffer = bytes;
            while let Ok(Some(_)) = take(&mut buffer) {}
        }
    }
}
