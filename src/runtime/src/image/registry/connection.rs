//! Requests to a repository of a registry.

use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use super::auth::select_auth;
use super::http::{
    MAX_ATTEMPTS, backoff, client, describe, is_loopback, registry_error, retry_after,
    upload_client,
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
    /// The client of uploads.
    pub(super) uploads: Client,
    /// Base URL, `https://host[:port]`.
    pub(super) base: String,
    pub(super) name: String,
    pub(super) repository: String,
    pub(super) image: String,
    pub(super) auth: Option<RegistryAuth>,
    /// The last `Authorization` header, initially none or the given registry token.
    pub(super) header: Mutex<Option<String>>,
    /// Scopes of tokens, in addition to those that a challenge asks for.
    pub(super) scopes: Vec<String>,
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
            uploads: upload_client(config)?,
            base: format!("{scheme}://{host}"),
            name: name.to_string(),
            repository: reference.repository().to_string(),
            image: reference.to_string(),
            auth,
            header: Mutex::new(header),
            scopes: Vec::new(),
        })
    }

    /// Returns whether a URL is of the registry itself. Only such an address gets the credentials
    /// or may name a token server for them: uploads and redirections also lead to others.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin())
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
        let request = |client: &Client| {
            let mut request = client.get(url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            request
        };
        self.send(request, |_| ImageError::NotFound(self.image.clone()))
            .await
    }

    /// Sends a request that can be repeated. Authenticates if the registry itself requires it, and
    /// retries after transient failures. `absent` gives the error of an answer with the code 404 from its reason.
    pub(super) async fn send(
        &self,
        request: impl Fn(&Client) -> RequestBuilder,
        absent: impl Fn(String) -> ImageError,
    ) -> Result<Response, ImageError> {
        let mut authenticated = false;
        let mut attempt = 0;
        loop {
            let header = self.header.lock().clone();
            let mut request = request(&self.client);
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header);
            }
            let refusal = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response)
                    if response.status() == StatusCode::UNAUTHORIZED
                        && !authenticated
                        && self.is_own(response.url()) =>
                {
                    // Only once: if new credentials are rejected, retrying does not help.
                    authenticated = true;
                    self.authenticate(response.headers(), header.as_deref())
                        .await?;
                    continue;
                }
                Ok(response) => self.refusal(response, &absent).await,
                Err(e) => self.no_answer(&e),
            };
            attempt += 1;
            // A refused connection is reported early; other failures are more likely transient.
            let tries = if matches!(&refusal.error, ImageError::Registry { reason, .. } if reason.contains("refused"))
            {
                MAX_ATTEMPTS_IF_REFUSED
            } else {
                MAX_ATTEMPTS
            };
            if !refusal.transient || attempt >= tries {
                return Err(refusal.error);
            }
            tokio::time::sleep(refusal.wait.unwrap_or_else(|| backoff(attempt))).await;
        }
    }

    /// Interprets an answer without success.
    pub(super) async fn refusal(
        &self,
        response: Response,
        absent: impl Fn(String) -> ImageError,
    ) -> Refusal {
        let status = response.status();
        let wait = retry_after(response.headers());
        let text =
            String::from_utf8_lossy(&self.body(response).await.unwrap_or_default()).into_owned();
        let reason = registry_error(&text).unwrap_or_else(|| status.to_string());
        Refusal {
            error: match status {
                StatusCode::NOT_FOUND => absent(reason),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(reason),
                _ => self.failed(reason),
            },
            transient: status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            wait,
        }
    }

    /// Interprets the failure to get an answer.
    pub(super) fn no_answer(&self, error: &reqwest::Error) -> Refusal {
        Refusal {
            error: self.failed(describe(error)),
            transient: !error.is_builder() && !error.is_redirect(),
            wait: None,
        }
    }
}

/// Why a request failed.
pub(super) struct Refusal {
    pub(super) error: ImageError,
    /// Whether another attempt may succeed.
    pub(super) transient: bool,
    /// Delay before the next attempt that the registry asks for.
    pub(super) wait: Option<Duration>,
}
