//! WebSocket upgrades and the channels of remote commands.

use base64::Engine as _;
use http::{HeaderMap, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Answer, full, text};

/// A WebSocket on an upgraded connection.
pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Streams by the first byte of a message.
pub(crate) mod channel {
    pub(crate) const STDIN: u8 = 0;
    pub(crate) const STDOUT: u8 = 1;
    pub(crate) const STDERR: u8 = 2;
    pub(crate) const ERROR: u8 = 3;
    pub(crate) const RESIZE: u8 = 4;
    /// Closes the channel that the second byte names (version 5).
    pub(crate) const CLOSE: u8 = 255;
}

/// A version of the channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its name in the handshake.
    pub name: &'static str,
    /// Messages are text: a digit and base64.
    pub base64: bool,
    /// The client can close its standard input.
    pub close: bool,
    /// The error channel carries a `Status`, not plain words.
    pub status: bool,
}

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

/// What a client that offers no protocol speaks.
const BARE: Version = Version {
    name: "",
    base64: false,
    close: false,
    status: false,
};

impl Version {
    /// A message's channel and bytes; `None` for one that is malformed.
    pub(crate) fn decode(self, message: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (first, rest) = message.split_first()?;
        if !self.base64 {
            return Some((*first, rest.to_vec()));
        }
        let channel = first.checked_sub(b'0').filter(|c| *c < 10)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(rest)
            .ok()?;
        Some((channel, bytes))
    }

    /// The message for some bytes of a channel.
    pub(crate) fn encode(
        self,
        channel: u8,
        bytes: &[u8],
    ) -> tokio_tungstenite::tungstenite::Message {
        use tokio_tungstenite::tungstenite::Message;
        if self.base64 {
            let mut text = String::from(char::from(b'0' + channel));
            base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::binary(message)
    }
}

/// The first of our versions that the client offers.
pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Version> {
    let offered = offers(headers);
    if offered.is_empty() {
        return Some(BARE);
    }
    VERSIONS
        .iter()
        .find(|v| offered.iter().any(|o| o == v.name))
        .copied()
}

/// The protocols that a client offers.
pub(crate) fn offers(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect()
}

/// Whether a header lists a word.
pub(crate) fn lists(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case(word))
}

/// Whether the request wants to become a WebSocket.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    lists(headers, header::UPGRADE, "websocket") && lists(headers, header::CONNECTION, "upgrade")
}

/// The answer that makes the connection a WebSocket.
pub(crate) fn accept(headers: &HeaderMap, protocol: &str) -> Answer {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key");
    };
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
    builder
        .body(full(""))
        .unwrap_or_else(|e| text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// The socket on a connection that was upgraded.
pub(crate) async fn open(upgraded: hyper::upgrade::Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(offer: &str) -> HeaderMap {
        let mut h = HeaderMap::new();
        h.insert(header::SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
        h
    }

    #[test]
    fn the_best_version_is_taken() {
        let v = negotiate(&headers("v4.channel.k8s.io, v5.channel.k8s.io")).unwrap();
        assert_eq!(v.name, "v5.channel.k8s.io");
        assert!(negotiate(&headers("other")).is_none());
        assert_eq!(negotiate(&HeaderMap::new()), Some(BARE));
    }

    #[test]
    fn messages_both_ways() {
        for version in VERSIONS {
            let message = version.encode(channel::STDOUT, b"hi\xff");
            assert_eq!(
                version.decode(&message.into_data()),
                Some((1, b"hi\xff".to_vec()))
            );
        }
        assert_eq!(VERSIONS[0].decode(b""), None);
        assert_eq!(VERSIONS[2].decode(b"1!!"), None);
    }
}
