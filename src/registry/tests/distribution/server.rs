//! A registry over HTTP for the tests.

use std::path::Path;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use rkube_registry::{Admitted, Algorithm, Digest, Options, Registry};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry at a port of the loopback.
pub struct Server {
    client: Client,
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.code(), code);
        answer
    }
}

impl Server {
    pub async fn start(directory: &Path, options: Options) -> Self {
        // Fails if another test installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = Registry::open(directory, options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let admitted = Admitted {
            names: ["registry.kube-system".to_owned()].into(),
            ..Admitted::default()
        };
        let task = tokio::spawn(registry.serve(listener, move |_| Some(admitted.clone())));
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            client,
            address,
            task,
        }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let method: Method = method.parse().unwrap();
        let mut request = self.client.request(method.clone(), url);
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, HeaderValue::from_str(value).unwrap());
        }
        if !body.is_empty() || !matches!(method, Method::GET | Method::HEAD) {
            request = request.body(body.to_vec());
        }
        let response = request.send().await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn push(&self, name: &str, blob: &[u8]) -> Digest {
        let digest = sha256(blob);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let answer = self.send("POST", &path, &[], blob).await.expect(201);
        assert_eq!(
            answer.header("location"),
            format!("/v2/{name}/blobs/{digest}")
        );
        digest
    }

    pub async fn put(&self, name: &str, key: &str, media_type: &str, document: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{key}");
        let text = document.to_string();
        self.send(
            "PUT",
            &path,
            &[("content-type", media_type)],
            text.as_bytes(),
        )
        .await
    }

    /// Pushes an image of one blob. Returns the digest of its manifest.
    pub async fn image(&self, name: &str, tag: &str) -> Digest {
        let blob = self.push(name, b"{}").await;
        let document = image(&blob);
        let answer = self.put(name, tag, MANIFEST, &document).await.expect(201);
        let digest = sha256(document.to_string().as_bytes());
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        digest
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

pub fn image(blob: &Digest) -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob.to_string(), "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.to_string(), "size": 2}]})
}
