//! A test server with helpers for requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use rkube_auth::UserInfo;
use rkube_store::{EmbeddedOptions, EmbeddedStore};
use serde_json::Value;

use crate::{ApiServer, Body, Config, Pki, body};

/// A server with its PKI and the directory of its store.
pub struct TestServer {
    pub server: Arc<ApiServer>,
    pub pki: TestPki,
    pub folder: tempfile::TempDir,
}

/// A CA and certificates that it has signed.
pub struct TestPki {
    pub pki: Pki,
    pub admin_cert: String,
    pub admin_key: String,
    /// A serving certificate for `ext.default.svc`.
    pub extension_cert: String,
    pub extension_key: String,
}

/// Returns an address of this machine that is not loopback, as a proxy's targets must not be.
pub fn own_address() -> std::net::IpAddr {
    // Connecting a UDP socket sends nothing; it only chooses the source address.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect("198.51.100.1:9")
        .expect("this test needs a network interface other than loopback");
    socket.local_addr().unwrap().ip()
}

/// Creates a CA and the certificates of a test cluster.
pub fn make_pki() -> TestPki {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, SanType,
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test-ca");
    let ca_cert = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let sign = |cn: &str, org: &str, server: bool| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        if !org.is_empty() {
            params
                .distinguished_name
                .push(DnType::OrganizationName, org);
        }
        params.extended_key_usages = vec![if server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        if server {
            params.subject_alt_names = vec![
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
                SanType::IpAddress(own_address()),
                SanType::DnsName("ext.default.svc".try_into().unwrap()),
            ];
        }
        (
            params.signed_by(&key, &issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    };
    let (serving_cert, serving_key) = sign("kube-apiserver", "", true);
    let (kubelet_cert, kubelet_key) = sign("kube-apiserver-kubelet-client", "", false);
    let (admin_cert, admin_key) = sign("admin", "system:masters", false);
    let (proxy_cert, proxy_key) = sign("front-proxy-client", "", false);
    let (extension_cert, extension_key) = sign("ext.default.svc", "", true);
    let sa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    TestPki {
        pki: Pki {
            ca_cert: ca_cert.pem().into(),
            serving_cert: serving_cert.into(),
            serving_key: serving_key.into(),
            kubelet_client_cert: kubelet_cert.into(),
            kubelet_client_key: kubelet_key.into(),
            front_proxy_ca_cert: None,
            front_proxy_client_cert: Some(proxy_cert.into()),
            front_proxy_client_key: Some(proxy_key.into()),
            service_account_key: sa.serialize_pem().into(),
            service_account_pub: sa.public_key_pem().into(),
        },
        admin_cert,
        admin_key,
        extension_cert,
        extension_key,
    }
}

/// Returns a configuration with an embedded store in `folder`.
pub fn config(folder: &std::path::Path, pki: Pki) -> Config {
    Config {
        store: EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap(),
        pki,
        version: "v1.36.0+rkube0.0.0".into(),
        dns_domain: "cluster.local".into(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ports: (30000, 32767),
        advertise_ip: "192.168.49.2".parse().unwrap(),
        advertise_port: 8443,
        audit: None,
    }
}

/// Starts a server with a new PKI and an empty store.
pub async fn start() -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let pki = make_pki();
    let server = ApiServer::new(config(folder.path(), pki.pki.clone()))
        .await
        .unwrap();
    TestServer {
        server,
        pki,
        folder,
    }
}

impl TestServer {
    /// Sends a request, as `admin` in `system:masters` unless it carries another user.
    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        let mut request = request;
        if request.extensions().get::<UserInfo>().is_none() {
            request
                .extensions_mut()
                .insert(UserInfo::authenticated("admin", &["system:masters"]));
        }
        self.server.call(request).await
    }

    /// Sends a request with a body of type `kind`. Returns the status code and the body; a body
    /// that is not JSON is returned as a string.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        payload: impl Into<Bytes>,
    ) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("user-agent", "test/1")
            .body(body::full(payload))
            .unwrap();
        let response = self.send(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (code, value)
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, "", "").await
    }

    /// Sends a GET request with the given `Accept` header.
    pub async fn get_as(&self, path: &str, accept: &str) -> (u16, Value) {
        let request = Request::builder()
            .uri(path)
            .header("accept", accept)
            .body(body::empty())
            .unwrap();
        let response = self.send(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            code,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
        )
    }

    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, value: Value) -> (u16, Value) {
        self.call(Method::POST, path, "application/json", value.to_string())
            .await
    }

    /// Sends a PUT request with a JSON body.
    pub async fn put(&self, path: &str, value: Value) -> (u16, Value) {
        self.call(Method::PUT, path, "application/json", value.to_string())
            .await
    }

    /// Sends a PATCH request; `form` is the media subtype, such as `merge-patch+json`.
    pub async fn patch(&self, path: &str, form: &str, value: Value) -> (u16, Value) {
        let kind = format!("application/{form}");
        self.call(Method::PATCH, path, &kind, value.to_string())
            .await
    }

    /// Sends a DELETE request without a body.
    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.call(Method::DELETE, path, "application/json", "")
            .await
    }

    /// Starts a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        let request = Request::builder().uri(path).body(body::empty()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), 200);
        Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

/// The events of a watch.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// Returns the next event; `None` at the end of the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Returns the next event's type and its object's name.
    pub async fn named(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch has ended");
        (
            event["type"].as_str().unwrap().to_owned(),
            event["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    }
}

/// Returns the TLS configuration of a server with this PKI.
pub fn tls_config(pki: &Pki) -> Result<rustls::ServerConfig, crate::Error> {
    let serving = crate::Certificates::new(pki)?.serving;
    crate::server::tls_config(pki, serving)
}
