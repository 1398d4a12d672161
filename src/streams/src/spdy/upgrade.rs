//! Upgrades HTTP connections to SPDY.

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::session::{self, Streams};
use crate::upgrade::{UpgradeError, header_lists, header_values};

/// Protocol name in the `Upgrade` header.
const PROTOCOL: &str = "SPDY/3.1";
/// Header that negotiates the version of the protocol on the streams.
const VERSION_HEADER: header::HeaderName =
    header::HeaderName::from_static("x-stream-protocol-version");

/// Returns whether a request asks for an upgrade to SPDY.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    header_lists(headers, header::UPGRADE, PROTOCOL)
        && header_lists(headers, header::CONNECTION, "upgrade")
}

/// Returns the first of `supported` that the client offers; `None` if it offers others only.
///
/// A client that offers none gets the last one, which the oldest clients expect.
fn negotiate(headers: &HeaderMap, supported: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = header_values(headers, VERSION_HEADER).collect();
    if offered.is_empty() {
        return supported.last().copied();
    }
    supported.iter().find(|s| offered.contains(*s)).copied()
}

/// Upgrades a connection to SPDY and calls `serve` with its streams and the negotiated version.
///
/// `supported` lists versions of the protocol on the streams, in order of preference. The future
/// returned by `serve` is polled once the connection is upgraded.
///
/// # Errors
///
/// Fails if the client offers none of the supported versions.
pub fn upgrade<F>(
    mut request: Request<Incoming>,
    supported: &[&'static str],
    serve: impl FnOnce(Streams, &'static str) -> F,
) -> Result<Response<()>, UpgradeError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let version = negotiate(request.headers(), supported)
        .ok_or_else(|| UpgradeError::UnsupportedVersion(supported.to_vec()))?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, PROTOCOL)
        .header(header::CONNECTION, "Upgrade")
        .header(VERSION_HEADER, version)
        .body(())?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (streams, session) = session::prepare();
    let served = serve(streams, version);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                session.start(hyper_util::rt::TokioIo::new(upgraded));
                served.await;
            }
            Err(e) => tracing::debug!("upgrade: {e}"),
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPPORTED: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];

    fn offering(offers: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(VERSION_HEADER, offer.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_servers_preference_decides() {
        for (offers, version) in [
            (&[][..], Some("channel.k8s.io")),
            (
                &["channel.k8s.io, v4.channel.k8s.io"],
                Some("v4.channel.k8s.io"),
            ),
            (
                &["v3.channel.k8s.io", "v5.channel.k8s.io"],
                Some("v3.channel.k8s.io"),
            ),
            (&["v5.channel.k8s.io"], None),
        ] {
            assert_eq!(
                negotiate(&offering(offers), SUPPORTED),
                version,
                "{offers:?}"
            );
        }
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, "spdy/3.1".parse().unwrap());
        assert!(!is_upgrade(&headers));
        headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
        assert!(is_upgrade(&headers));
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        assert!(!is_upgrade(&headers));
    }
}
