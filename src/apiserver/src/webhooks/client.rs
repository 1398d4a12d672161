//! HTTPS client for webhooks, addressed by URL or by service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rkube_x509::{Roots, ServerVerifier};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cache::Cache;
use crate::connect::location::{host_port, service_address};

/// Maximum size in bytes of a webhook's response. Conversion reviews contain whole lists.
const MAX_ANSWER: usize = 64 << 20;
/// Maximum number of cached TLS configurations; normally there is one per CA bundle.
const MAX_CLIENTS: usize = 64;

/// Posts reviews to admission and conversion webhooks.
pub struct WebhookClient {
    cache: Arc<Cache>,
    /// PEM certificates that verify webhooks without a CA bundle.
    ca_cert: Vec<u8>,
    /// TLS configurations by CA bundle.
    tls: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

impl WebhookClient {
    /// Creates a client that finds services in `cache`.
    pub fn new(cache: Arc<Cache>, ca_cert: Vec<u8>) -> Self {
        Self {
            cache,
            ca_cert,
            tls: Mutex::default(),
        }
    }

    /// Posts a review to the webhook of `config` (a `WebhookClientConfig`). Passes `limit` as the
    /// query parameter `timeout`.
    ///
    /// # Errors
    ///
    /// The reason for the failure, worded as by Go's HTTP client.
    pub async fn post(
        &self,
        config: &Value,
        review: &Value,
        limit: Duration,
    ) -> Result<Value, String> {
        let mut place = place(&self.cache, config)?;
        let sign = if place.path.contains('?') { '&' } else { '?' };
        place.path = format!("{}{sign}timeout={}s", place.path, limit.as_secs());
        let url = place.url();
        let answer = self.send(config, review, place);
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => Err(format!("Post {url:?}: {reason}")),
            Err(_) => Err(format!("Post {url:?}: context deadline exceeded")),
        }
    }

    async fn send(
        &self,
        config: &Value,
        review: &Value,
        place: WebhookLocation,
    ) -> Result<Value, String> {
        let WebhookLocation {
            address,
            name,
            port,
            path,
        } = place;
        let tls = self.tls(config["caBundle"].as_str().unwrap_or_default())?;
        // As any client: the Host header has the port unless it is the default, and brackets IPv6
        // addresses.
        let host = match port {
            443 if name.contains(':') => format!("[{name}]"),
            443 => name.clone(),
            port => host_port(&name, port),
        };
        let name_of_server = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(&address)
            .await
            .map_err(|e| format!("dial tcp {address}: {e}"))?;
        let stream = TlsConnector::from(tls)
            .connect(name_of_server, stream)
            .await
            .map_err(|e| rkube_x509::reason(&e).unwrap_or_else(|| format!("tls: {e}")))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // Ends when the sender is dropped, at the latest with this call's timeout.
        tokio::spawn(connection);
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|e| e.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if !code.is_success() {
            return Err(format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                String::from_utf8_lossy(&body[..body.len().min(256)])
            ));
        }
        serde_json::from_slice(&body).map_err(|e| format!("the answer is no JSON: {e}"))
    }

    fn tls(&self, bundle: &str) -> Result<Arc<ClientConfig>, String> {
        if let Some(found) = self.tls.lock().get(bundle) {
            return Ok(found.clone());
        }
        use base64::Engine as _;
        let pem = if bundle.is_empty() {
            self.ca_cert.clone()
        } else {
            base64::engine::general_purpose::STANDARD
                .decode(bundle)
                .map_err(|e| format!("caBundle: {e}"))?
        };
        let roots = Roots::from_pem(&pem).map_err(|e| format!("caBundle: {e}"))?;
        let config = rkube_x509::client_config(ServerVerifier::new(roots), None);
        let config = Arc::new(config.map_err(|e| e.to_string())?);
        let mut kept = self.tls.lock();
        if kept.len() >= MAX_CLIENTS {
            kept.clear();
        }
        kept.insert(bundle.to_owned(), config.clone());
        Ok(config)
    }
}

/// The location of a webhook.
struct WebhookLocation {
    /// Host and port to connect to.
    address: String,
    /// The name for which its certificate must be valid.
    name: String,
    port: u16,
    path: String,
}

impl WebhookLocation {
    fn url(&self) -> String {
        format!("https://{}{}", host_port(&self.name, self.port), self.path)
    }
}

/// Returns the location that a `WebhookClientConfig` names by its URL.
fn place_of_url(url: &str) -> Result<WebhookLocation, String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("url {url:?}: {e}"))?;
    let host = uri
        .host()
        .ok_or_else(|| format!("url {url:?} names no host"))?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let host = host.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(443);
    Ok(WebhookLocation {
        address: host_port(host, port),
        name: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

fn place(cache: &Cache, config: &Value) -> Result<WebhookLocation, String> {
    if let Some(url) = config["url"].as_str().filter(|u| !u.is_empty()) {
        return place_of_url(url);
    }
    let service = &config["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let port = service["port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .unwrap_or(443);
    let address = service_address(cache, namespace, name, port.into()).map_err(|e| e.message)?;
    let path = match text("path") {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    Ok(WebhookLocation {
        address,
        name: format!("{name}.{namespace}.svc"),
        port,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_may_have_ipv6_addresses() {
        for (url, address, name, shown) in [
            (
                "https://[fd00::2]:8443/x?y=1",
                "[fd00::2]:8443",
                "fd00::2",
                "https://[fd00::2]:8443/x?y=1",
            ),
            ("https://[::1]", "[::1]:443", "::1", "https://[::1]:443/"),
            (
                "https://hook.example/a",
                "hook.example:443",
                "hook.example",
                "https://hook.example:443/a",
            ),
        ] {
            let place = place_of_url(url).unwrap();
            assert_eq!((&*place.address, &*place.name), (address, name));
            assert_eq!(place.url(), shown);
            assert!(ServerName::try_from(place.name).is_ok());
        }
    }
}
