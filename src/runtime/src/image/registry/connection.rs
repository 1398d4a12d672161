//! Requests to a repository of a registry.

use futures::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE};
use reqwest::{Client, Response, StatusCode};

use super::auth::select_auth;
use super::http::{
    MAX_ATTEMPTS, backoff, client, describe, is_loopback, registry_error, retry_after,
};
use crate::error::ImageError;
use crate::image::archive::MAX_DOCUMENT;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, media};
use crate::image::reference::Reference;
use crate::image::store::verify;
use crate::spec::{RegistryAuth, RuntimeConfig};

/// Host of the API of Docker Hub.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Maximum number of attempts at a host that refuses connections.
const MAX_ATTEMPTS_IF_REFUSED: u32 = 2;

/// A client of one repository in a registry.
pub(super) struct Registry {
    pub(super) client: Client,
    /// Base URL, `https://host[:port]`.
    pub(super) base: String,
    pub(super) name: String,
    pub(super) repository: String,
    pub(super) image: String,
    pub(super) auth: Option<RegistryAuth>,
    /// The last `Authorization` header, initially none or the given registry token.
    pub(super) header: Mutex<Option<String>>,
}

impl Registry {
    /// Returns a client of the repository of `reference`. Uses plain HTTP for loopback hosts and
    /// for registries declared insecure.
    pub(super) fn new(
        config: &RuntimeConfig,
        reference: &Reference,
        auth: &[RegistryAuth],
    ) -> Result<Self, ImageError> {
        let name = reference.registry();
        let host = if name == "docker.io" {
            DOCKER_HUB
        } else {
            name
        };
        let declared = config.insecure_registries.iter().any(|r| r == name);
        let plain = declared || is_loopback(name);
        let host = match config.loopback_gateway {
            Some(gateway) if declared && is_loopback(name) => match name.rsplit_once(':') {
                Some((_, port)) => format!("{gateway}:{port}"),
                None => gateway.to_string(),
            },
            _ => host.to_owned(),
        };
        let scheme = if plain { "http" } else { "https" };
        let auth = select_auth(auth, name, reference.repository()).cloned();
        let header = auth
            .as_ref()
            .filter(|a| !a.registry_token.is_empty())
            .map(|a| format!("Bearer {}", a.registry_token));
        Ok(Self {
            client: client(config)?,
            base: format!("{scheme}://{host}"),
            name: name.to_string(),
            repository: reference.repository().to_string(),
            image: reference.to_string(),
            auth,
            header: Mutex::new(header),
        })
    }

    /// Returns an error of the registry.
    pub(super) fn failed(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::Registry {
            registry: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    /// Returns an error of a denied request.
    pub(super) fn denied(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::Denied {
            registry: self.name.clone(),
            repository: self.repository.clone(),
            reason: reason.to_string(),
        }
    }

    /// Fetches a manifest or index by tag or digest. Returns its digest, which is verified against
    /// `expected`, and its bytes.
    pub(super) async fn manifest(
        &self,
        key: &str,
        expected: Option<&Digest>,
    ) -> Result<(Digest, Vec<u8>), ImageError> {
        let url = format!("{}/v2/{}/manifests/{key}", self.base, self.repository);
        let accept = [
            media::OCI_INDEX,
            media::DOCKER_LIST,
            media::OCI_MANIFEST,
            media::DOCKER_MANIFEST,
        ]
        .join(", ");
        let response = self.get(&url, Some(&accept), 0).await?;
        let bytes = self.body(response).await?;
        let digest = match expected {
            Some(digest) => {
                verify(digest, &bytes)?;
                digest.clone()
            }
            None => Digest::of(&bytes),
        };
        Ok((digest, bytes))
    }

    /// Fetches a blob of at most [`MAX_DOCUMENT`] bytes into memory and verifies its digest.
    pub(super) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let url = format!(
            "{}/v2/{}/blobs/{}",
            self.base, self.repository, descriptor.digest
        );
        let response = self.get(&url, None, 0).await?;
        let bytes = self.body(response).await?;
        verify(&descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// Reads the body of a response. Fails if it is longer than [`MAX_DOCUMENT`].
    pub(super) async fn body(&self, response: Response) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|e| self.failed(describe(&e)))?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(self.failed("a document is too large"));
            }
        }
        Ok(bytes)
    }

    /// Sends a GET request, for the bytes after `from`. Authenticates if required, and retries
    /// after transient failures.
    pub(super) async fn get(
        &self,
        url: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Response, ImageError> {
        let mut authenticated = false;
        let mut attempt = 0;
        loop {
            let mut request = self.client.get(url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let header = self.header.lock().clone();
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header);
            }
            let outcome = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    if status.is_success() {
                        return Ok(response);
                    }
                    if status == StatusCode::UNAUTHORIZED && !authenticated {
                        // Only once: if new credentials are rejected, retrying does not help.
                        authenticated = true;
                        self.authenticate(response.headers(), header.as_deref())
                            .await?;
                        continue;
                    }
                    let wait = retry_after(response.headers());
                    let text =
                        String::from_utf8_lossy(&self.body(response).await.unwrap_or_default())
                            .into_owned();
                    let reason = registry_error(&text).unwrap_or_else(|| status.to_string());
                    match status {
                        StatusCode::NOT_FOUND => {
                            return Err(ImageError::NotFound(self.image.clone()));
                        }
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                            return Err(self.denied(reason));
                        }
                        StatusCode::TOO_MANY_REQUESTS => (wait, self.failed(reason)),
                        status if status.is_server_error() => (wait, self.failed(reason)),
                        _ => return Err(self.failed(reason)),
                    }
                }
                Err(e) if e.is_builder() || e.is_redirect() => {
                    return Err(self.failed(describe(&e)));
                }
                Err(e) => (None, self.failed(describe(&e))),
            };
            attempt += 1;
            let (wait, error) = outcome;
            // A refused connection is reported early; other failures are more likely transient.
            let tries = if matches!(&error, ImageError::Registry { reason, .. } if reason.contains("refused"))
            {
                MAX_ATTEMPTS_IF_REFUSED
            } else {
                MAX_ATTEMPTS
            };
            if attempt >= tries {
                return Err(error);
            }
            tokio::time::sleep(wait.unwrap_or_else(|| backoff(attempt))).await;
        }
    }
}
