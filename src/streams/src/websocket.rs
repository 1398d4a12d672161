//! WebSocket upgrades and the channel sub-protocols of Kubernetes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
pub use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::remote_command::TerminalSize;
use crate::upgrade::{UpgradeError, header_lists, header_values};

/// The server's end of a WebSocket on an upgraded connection.
pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Size of the read buffer of a tunnel, in bytes.
const CHUNK_BYTES: usize = 32 << 10;
/// Capacity of a tunnel's buffer in each direction, in bytes.
const TUNNEL_BYTES: usize = 64 << 10;

/// Channel numbers of remote commands, the first byte of a message.
pub mod channel {
    /// Standard input, from the client.
    pub const STDIN: u8 = 0;
    /// Standard output, to the client.
    pub const STDOUT: u8 = 1;
    /// Standard error, to the client.
    pub const STDERR: u8 = 2;
    /// Result of the command, to the client.
    pub const ERROR: u8 = 3;
    /// Terminal sizes, from the client.
    pub const RESIZE: u8 = 4;
    /// Closes the channel given by the second byte (version 5).
    pub const CLOSE: u8 = 255;
}

/// A version of the channel sub-protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Name in the handshake; empty if the client offers no sub-protocol.
    pub name: &'static str,
    /// Whether messages are text: the channel as a digit, then the data in base64.
    pub base64: bool,
    /// Whether the client can close the standard input.
    pub close: bool,
    /// Whether the error channel carries a `Status` rather than plain text.
    pub status: bool,
}

/// Supported versions in order of preference.
const VERSIONS: &[Version] = &[
    Version {
        name: "v5.channel.k8s.io",
        base64: false,
        close: true,
        status: true,
    },
    Version {
        name: "v4.channel.k8s.io",
        base64: false,
        close: false,
        status: true,
    },
    Version {
        name: "v4.base64.channel.k8s.io",
        base64: true,
        close: false,
        status: true,
    },
    Version {
        name: "channel.k8s.io",
        base64: false,
        close: false,
        status: false,
    },
    Version {
        name: "base64.channel.k8s.io",
        base64: true,
        close: false,
        status: false,
    },
];

/// Version for clients that offer no sub-protocol.
const UNNAMED: Version = Version {
    name: "",
    base64: false,
    close: false,
    status: false,
};

/// Meaning of a client's message to a remote command.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandEvent {
    /// Data for the standard input.
    Stdin(Bytes),
    /// The standard input has ended.
    CloseStdin,
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// The message is malformed, or its channel is not for the server.
    Ignored,
    /// The client has closed the connection.
    Disconnected,
}

impl Version {
    /// Splits a message into channel and data; `None` if it is malformed.
    pub fn decode(self, message: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (first, rest) = message.split_first()?;
        if !self.base64 {
            return Some((*first, rest.to_vec()));
        }
        let channel = first.checked_sub(b'0').filter(|c| *c < 10)?;
        Some((channel, BASE64.decode(rest).ok()?))
    }

    /// Returns the message with this data on a channel.
    ///
    /// With [`base64`](Self::base64), `channel` must be below 10.
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0' + channel));
            BASE64.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::binary(message)
    }

    /// Interprets a client's message to a remote command.
    pub fn command_event(self, message: Message) -> CommandEvent {
        let data = match message_bytes(message) {
            Some(Payload::Data(data)) => data,
            Some(Payload::Close) => return CommandEvent::Disconnected,
            None => return CommandEvent::Ignored,
        };
        match self.decode(&data) {
            Some((channel::STDIN, bytes)) => CommandEvent::Stdin(bytes.into()),
            Some((channel::RESIZE, bytes)) => {
                TerminalSize::parse(&bytes).map_or(CommandEvent::Ignored, CommandEvent::Resize)
            }
            Some((channel::CLOSE, bytes))
                if self.close && bytes.first() == Some(&channel::STDIN) =>
            {
                CommandEvent::CloseStdin
            }
            _ => CommandEvent::Ignored,
        }
    }
}

/// Payload of a WebSocket message.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// Data of a binary or text message.
    Data(Bytes),
    /// A close frame.
    Close,
}

/// Returns a message's payload; `None` for pings and pongs.
pub fn message_bytes(message: Message) -> Option<Payload> {
    match message {
        Message::Binary(bytes) => Some(Payload::Data(bytes)),
        Message::Text(text) => Some(Payload::Data(text.into())),
        Message::Close(_) => Some(Payload::Close),
        _ => None,
    }
}

/// Returns the close frame for a connection that ends without an error.
pub fn normal_close() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// Returns the first supported version that the client offers; `None` if it offers others only.
///
/// A client that offers no sub-protocol gets a version without name.
pub fn negotiate(headers: &HeaderMap) -> Option<Version> {
    let offered = offered_protocols(headers);
    if offered.is_empty() {
        return Some(UNNAMED);
    }
    VERSIONS.iter().find(|v| offered.contains(&v.name)).copied()
}

/// Returns the sub-protocols that a client offers, in its order of preference.
pub fn offered_protocols(headers: &HeaderMap) -> Vec<&str> {
    header_values(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .filter(|v| !v.is_empty())
        .collect()
}

/// Returns whether a request asks for an upgrade to a WebSocket.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    header_lists(headers, header::UPGRADE, "websocket")
        && header_lists(headers, header::CONNECTION, "upgrade")
}

/// Returns the response that upgrades the connection.
///
/// `headers` are those of the request; if `protocol` is empty, the response names no sub-protocol.
///
/// # Errors
///
/// Fails if the request has no `Sec-WebSocket-Key`.
pub fn accept(headers: &HeaderMap, protocol: &str) -> Result<Response<()>, UpgradeError> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(UpgradeError::MissingKey)?;
    let mut builder = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(
            header::SEC_WEBSOCKET_ACCEPT,
            derive_accept_key(key.as_bytes()),
        );
    if !protocol.is_empty() {
        builder = builder.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(builder.body(())?)
}

/// Returns the server's end of a WebSocket on an upgraded connection.
pub async fn open(upgraded: hyper::upgrade::Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
}

/// Returns the server's end of a WebSocket whose client may send messages of at most
/// `max_message` bytes. Reading a larger one fails.
pub async fn open_limited(upgraded: hyper::upgrade::Upgraded, max_message: usize) -> Socket {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await
}

/// Returns the data of a socket as one stream of bytes, for SPDY inside a WebSocket.
///
/// Message boundaries are ignored on input. Written data is sent as binary messages; shutting the
/// stream down closes the socket.
pub fn tunnel(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut read, mut write) = tokio::io::split(near);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message_bytes(message) {
                Some(Payload::Data(bytes)) => bytes,
                Some(Payload::Close) => break,
                None => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The stream may have been dropped.
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            let message = Message::binary(Bytes::copy_from_slice(&buffer[..n]));
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // The client may have closed the connection.
        let _ = sink.close().await;
    });
    far
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offering(offer: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
        headers
    }

    #[test]
    fn the_preferred_version_is_negotiated() {
        for (offer, name) in [
            (
                "v4.channel.k8s.io, v5.channel.k8s.io",
                Some("v5.channel.k8s.io"),
            ),
            (
                "base64.channel.k8s.io,channel.k8s.io",
                Some("channel.k8s.io"),
            ),
            ("v4.base64.channel.k8s.io", Some("v4.base64.channel.k8s.io")),
            ("other", None),
            ("", Some("")),
        ] {
            assert_eq!(negotiate(&offering(offer)).map(|v| v.name), name, "{offer}");
        }
        assert_eq!(negotiate(&HeaderMap::new()), Some(UNNAMED));
    }

    #[test]
    fn an_upgrade_needs_a_key() {
        let mut headers = offering("channel.k8s.io");
        assert!(matches!(
            accept(&headers, "channel.k8s.io"),
            Err(UpgradeError::MissingKey)
        ));
        // Key and response from RFC 6455, section 1.3.
        headers.insert(
            header::SEC_WEBSOCKET_KEY,
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        let response = accept(&headers, "channel.k8s.io").unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(
            response.headers()[header::SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            response.headers()[header::SEC_WEBSOCKET_PROTOCOL],
            "channel.k8s.io"
        );
        let response = accept(&headers, "").unwrap();
        assert!(
            !response
                .headers()
                .contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        );
    }

    #[test]
    fn messages_round_trip_in_every_version() {
        for version in VERSIONS {
            let message = version.encode(channel::STDOUT, b"hi\xff");
            assert_eq!(
                version.decode(&message.into_data()),
                Some((1, b"hi\xff".to_vec()))
            );
        }
        assert_eq!(VERSIONS[0].decode(b""), None);
        assert_eq!(VERSIONS[2].decode(b"1!!"), None);
        assert_eq!(VERSIONS[2].decode(b"\xff"), None);
    }

    #[test]
    fn clients_messages_are_events() {
        let (v5, v4) = (VERSIONS[0], VERSIONS[1]);
        let event =
            |version: Version, bytes: &[u8]| version.command_event(Message::binary(bytes.to_vec()));
        assert_eq!(
            event(v5, b"\0ls\n"),
            CommandEvent::Stdin(Bytes::from_static(b"ls\n"))
        );
        assert_eq!(
            event(v5, b"\x04{\"Width\":80,\"Height\":24}"),
            CommandEvent::Resize(TerminalSize {
                width: 80,
                height: 24
            })
        );
        assert_eq!(event(v5, b"\x04{}"), CommandEvent::Ignored);
        assert_eq!(event(v5, b"\xff\0"), CommandEvent::CloseStdin);
        assert_eq!(event(v5, b"\xff\x01"), CommandEvent::Ignored);
        assert_eq!(event(v4, b"\xff\0"), CommandEvent::Ignored);
        assert_eq!(event(v5, b"\x01x"), CommandEvent::Ignored);
        assert_eq!(event(v5, b""), CommandEvent::Ignored);
        assert_eq!(
            v4.command_event(Message::Close(None)),
            CommandEvent::Disconnected
        );
        assert_eq!(
            v4.command_event(Message::Ping(Bytes::new())),
            CommandEvent::Ignored
        );
        // In base64 versions the channel is a digit.
        assert_eq!(
            VERSIONS[4].command_event(Message::text("0bHM=")),
            CommandEvent::Stdin(Bytes::from_static(b"ls"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            channel in 0u8..10,
            version in 0..VERSIONS.len(),
        ) {
            let version = VERSIONS[version];
            let message = version.encode(channel, &bytes).into_data();
            prop_assert_eq!(version.decode(&message), Some((channel, bytes)));
        }

        #[test]
        fn decoding_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            version in 0..VERSIONS.len(),
        ) {
            let _ = VERSIONS[version].command_event(Message::binary(bytes));
        }
    }
}
