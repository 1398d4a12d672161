//! Requests to a repository of a registry.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RANGE,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use rkube_config::registries::{AUTH_HEADER, Endpoint};

use super::auth::select_auth;
use super::endpoints::{Candidate, Lost, host_of};
use super::http::{
    MAX_ATTEMPTS, backoff, describe, endpoint_clients, percent_encode, registry_error, retry_after,
};
use crate::error::ImageError;
use crate::image::archive::MAX_DOCUMENT;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, media};
use crate::image::reference::Reference;
use crate::image::store::verify;
use crate::spec::{RegistryAuth, RuntimeConfig};

/// Maximum number of attempts at a host that refuses connections.
const MAX_ATTEMPTS_IF_REFUSED: u32 = 2;
/// Maximum time that a request waits because the registry limits its rate.
const MAX_RATE_WAIT: Duration = Duration::from_secs(300);
/// Minimum time of such a wait: some registries ask for none, or for a time in the past.
const MIN_RATE_WAIT: Duration = Duration::from_secs(1);
/// Maximum number of such waits of a request.
const MAX_RATE_WAITS: u32 = 60;
/// Maximum time that a request waits because a server that fails asks for it.
const MAX_OTHER_WAIT: Duration = Duration::from_secs(60);

/// Media types of manifests and indexes.
const MANIFESTS: [&str; 4] = [
    media::OCI_INDEX,
    media::DOCKER_LIST,
    media::OCI_MANIFEST,
    media::DOCKER_MANIFEST,
];

/// How often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    /// Until it is clear that the registry does not answer.
    Many,
    /// Once more at most, since there is another endpoint to ask.
    Few,
}

/// A client of one repository in a registry.
pub(super) struct Registry {
    pub(super) client: Client,
    /// The client of uploads.
    pub(super) uploads: Client,
    /// The URL before the repository, `https://host[:port]/v2`.
    pub(super) base: String,
    pub(super) name: String,
    /// The registry that a mirror stands for.
    namespace: Option<String>,
    /// Whether this is a mirror.
    pub(super) mirror: bool,
    pub(super) repository: String,
    pub(super) image: String,
    pub(super) auth: Option<RegistryAuth>,
    /// The last `Authorization` header, initially none or the given registry token.
    pub(super) header: Mutex<Option<String>>,
    /// Headers of every request.
    headers: HeaderMap,
    /// Scopes of tokens, in addition to those that a challenge asks for.
    pub(super) scopes: Vec<String>,
    pub(super) tries: Tries,
    /// Set when there is no use in asking again.
    pub(super) lost: Lost,
    /// Gets what a person who waits should know.
    pub(super) tell: Option<Arc<dyn Fn(String) + Send + Sync>>,
}

impl Registry {
    /// Returns a client of the repository of `reference` at an endpoint.
    pub(super) fn at(
        config: &RuntimeConfig,
        reference: &Reference,
        auth: &[RegistryAuth],
        candidate: &Candidate,
    ) -> Result<Self, ImageError> {
        let Candidate { endpoint, mirror } = candidate;
        let repository = rewrite(endpoint, reference.repository())?;
        let name = match mirror {
            true => host_of(&endpoint.url),
            false => reference.registry(),
        };
        let given = match mirror {
            // Credentials that are for any registry are not for mirrors.
            true => {
                let named: Vec<&RegistryAuth> =
                    auth.iter().filter(|a| !a.registry.is_empty()).collect();
                select_auth(named, name, &repository)
            }
            false => select_auth(auth, name, &repository),
        };
        // The cache asks the registry for us, so it needs what we would show there.
        let passed = match endpoint.passes_login && endpoint.url.starts_with("https://") {
            true => select_auth(auth, reference.registry(), reference.repository()),
            false => None,
        };
        let login = endpoint.login.as_ref().map(|login| RegistryAuth {
            registry: name.to_owned(),
            username: login.username.clone(),
            password: login.password.clone(),
            identity_token: login.identity_token.clone(),
            registry_token: String::new(),
        });
        let auth = given.cloned().or(login);
        let mut headers = HeaderMap::new();
        let mut header = auth
            .as_ref()
            .filter(|a| !a.registry_token.is_empty())
            .map(|a| format!("Bearer {}", a.registry_token));
        for (key, value) in &endpoint.headers {
            if key.eq_ignore_ascii_case(AUTHORIZATION.as_str()) {
                header.get_or_insert_with(|| value.clone());
                continue;
            }
            let bad = |e: &dyn std::fmt::Display| {
                ImageError::Malformed(format!("header {key:?} of the registry {name}: {e}"))
            };
            headers.append(
                HeaderName::from_bytes(key.as_bytes()).map_err(|e| bad(&e))?,
                HeaderValue::from_str(value).map_err(|e| bad(&e))?,
            );
        }
        if let Some(auth) = passed {
            let value = HeaderValue::from_str(&auth.encode())
                .map_err(|e| ImageError::Malformed(format!("credentials: {e}")))?;
            headers.insert(HeaderName::from_static(AUTH_HEADER), value);
        }
        let (client, uploads) = endpoint_clients(config, endpoint)?;
        Ok(Self {
            client,
            uploads,
            base: endpoint.url.trim_end_matches('/').to_owned(),
            name: name.to_owned(),
            namespace: mirror.then(|| reference.registry().to_owned()),
            mirror: *mirror,
            repository,
            image: reference.to_string(),
            auth,
            header: Mutex::new(header),
            headers,
            scopes: Vec::new(),
            tries: Tries::Many,
            lost: Lost::default(),
            tell: None,
        })
    }

    /// Returns the URL of a part of the repository. A mirror is told for which registry it stands.
    pub(super) fn url(&self, path: &str) -> String {
        let query = match &self.namespace {
            Some(name) => format!("?ns={}", percent_encode(name)),
            None => String::new(),
        };
        format!("{}/{}/{path}{query}", self.base, self.repository)
    }

    /// Returns whether something answers that may be a registry.
    pub(super) async fn speaks(&self) -> bool {
        let answer = self.client.get(format!("{}/", self.base)).send().await;
        answer.is_ok_and(|answer| answer.status() != StatusCode::BAD_REQUEST)
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
        let url = self.url(&format!("manifests/{key}"));
        let accept = MANIFESTS.join(", ");
        let response = self.get(&url, Some(&accept), 0).await?;
        let bytes = self.body(response).await?;
        let digest = match expected {
            Some(digest) => {
                verify(digest, &bytes)?;
                digest.clone()
            }
            None => {
                // A page of a proxy, for example, which also comes with success.
                Document::parse(&bytes).map_err(|e| {
                    self.failed(format!("its answer is no manifest of an image: {e}"))
                })?;
                Digest::of(&bytes)
            }
        };
        Ok((digest, bytes))
    }

    /// Returns the digest of a manifest, if the registry tells.
    pub(super) async fn manifest_digest(&self, key: &str) -> Result<Option<Digest>, ImageError> {
        let url = self.url(&format!("manifests/{key}"));
        let head = |client: &Client| client.head(&url).header(ACCEPT, MANIFESTS.join(", "));
        let response = self
            .send(head, |_| ImageError::NotFound(self.image.clone()))
            .await?;
        let digest = response.headers().get("docker-content-digest");
        Ok(digest
            .and_then(|value| value.to_str().ok())
            .and_then(Digest::parse))
    }

    /// Returns the size of a blob.
    pub(super) async fn blob_size(&self, digest: &Digest) -> Result<u64, ImageError> {
        let url = self.url(&format!("blobs/{digest}"));
        let head = |client: &Client| client.head(&url);
        let response = self
            .send(head, |_| ImageError::NotFound(self.image.clone()))
            .await?;
        let length = response.headers().get(CONTENT_LENGTH);
        length
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| self.failed(format!("it does not tell the size of {digest}")))
    }

    /// Fetches a blob of at most [`MAX_DOCUMENT`] bytes into memory and verifies its digest.
    pub(super) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let url = self.url(&format!("blobs/{}", descriptor.digest));
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
        let mut waits = Waits::default();
        loop {
            let header = self.header.lock().clone();
            let mut request = request(&self.client).headers(self.headers.clone());
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
            if refusal.limited && self.tries == Tries::Few {
                // Another endpoint can be asked at once.
                let reason = reason_of(refusal.error);
                self.lost.set(&reason);
                return Err(self.failed(reason));
            }
            if let (true, Some(wait)) = (refusal.limited, refusal.wait) {
                // Asked for, so it is no attempt.
                self.wait_as_asked(wait, refusal.error, &mut waits).await?;
                continue;
            }
            attempt += 1;
            if !refusal.transient || attempt >= self.attempts(&refusal) {
                return Err(refusal.error);
            }
            tokio::time::sleep(refusal.wait.unwrap_or_else(|| backoff(attempt))).await;
        }
    }

    /// Returns how often a request is tried that failed like this.
    fn attempts(&self, refusal: &Refusal) -> u32 {
        // A refused connection is reported early; other failures are more likely transient.
        let refused = matches!(&refusal.error, ImageError::Registry { reason, .. } if reason.contains("refused"));
        match (self.tries, refusal.answered, refused) {
            (Tries::Many, _, false) => MAX_ATTEMPTS,
            (Tries::Few, false, _) => 1,
            _ => MAX_ATTEMPTS_IF_REFUSED,
        }
    }

    /// Waits because the registry limits the rate of requests. Fails if that would be too long or
    /// too often.
    pub(super) async fn wait_as_asked(
        &self,
        wait: Duration,
        error: ImageError,
        waits: &mut Waits,
    ) -> Result<(), ImageError> {
        let wait = wait.max(MIN_RATE_WAIT);
        if !waits.permit(wait) {
            return Err(self.failed(format!(
                "{}; it asks to try again in {}",
                reason_of(error),
                in_words(wait)
            )));
        }
        let text = format!(
            "{} limits the rate of requests and asks to wait for {}",
            self.name,
            in_words(wait)
        );
        tracing::warn!(image = self.image, "{text}");
        if let Some(tell) = &self.tell {
            tell(text);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Interprets an answer without success.
    pub(super) async fn refusal(
        &self,
        response: Response,
        absent: impl Fn(String) -> ImageError,
    ) -> Refusal {
        let status = response.status();
        let wait = retry_after(response.headers(), jiff::Timestamp::now());
        let text =
            String::from_utf8_lossy(&self.body(response).await.unwrap_or_default()).into_owned();
        let known = registry_error(&text);
        if status == StatusCode::BAD_REQUEST && known.is_none() && self.tries == Tries::Few {
            // As servers of HTTPS answer plain requests.
            self.lost.set(&status.to_string());
        }
        let reason = known.unwrap_or_else(|| status.to_string());
        Refusal {
            error: match status {
                StatusCode::NOT_FOUND => absent(reason),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(reason),
                _ => self.failed(reason),
            },
            transient: status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            limited: status == StatusCode::TOO_MANY_REQUESTS,
            answered: true,
            // Only limits of the rate are worth longer waits.
            wait: match status {
                StatusCode::TOO_MANY_REQUESTS => wait,
                _ => wait.map(|wait| wait.min(MAX_OTHER_WAIT)),
            },
        }
    }

    /// Interprets the failure to get an answer.
    pub(super) fn no_answer(&self, error: &reqwest::Error) -> Refusal {
        let reason = describe(error);
        if self.tries == Tries::Few && !error.is_builder() && !error.is_redirect() {
            self.lost.set(&reason);
        }
        Refusal {
            error: self.failed(reason),
            transient: !error.is_builder() && !error.is_redirect(),
            limited: false,
            answered: false,
            wait: None,
        }
    }
}

impl Refusal {
    /// Returns the reason of an attempt that failed without an answer to interpret.
    pub(super) fn new(error: ImageError, transient: bool) -> Self {
        Self {
            error,
            transient,
            limited: false,
            answered: true,
            wait: None,
        }
    }
}

/// Returns the repository at an endpoint: after the first rewrite that changes it.
fn rewrite(endpoint: &Endpoint, repository: &str) -> Result<String, ImageError> {
    for (pattern, replacement) in &endpoint.rewrites {
        let pattern = regex::Regex::new(pattern).map_err(|e| {
            ImageError::Malformed(format!("the rewrite {pattern:?} of a mirror: {e}"))
        })?;
        let rewritten = pattern.replace_all(repository, replacement.as_str());
        if rewritten != repository {
            return Ok(rewritten.into_owned());
        }
    }
    Ok(repository.to_owned())
}

/// Returns the reason in an error of a registry.
fn reason_of(error: ImageError) -> String {
    match error {
        ImageError::Registry { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// Returns a duration in words.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        1 => "1 second".to_owned(),
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds.div_ceil(60)),
        seconds => format!("{} hours", seconds.div_ceil(3600)),
    }
}

/// The waits of a request for a registry that limits its rate.
#[derive(Default)]
pub(super) struct Waits {
    time: Duration,
    count: u32,
}

impl Waits {
    /// Counts a wait. Returns whether it is not too much.
    fn permit(&mut self, wait: Duration) -> bool {
        self.time = self.time.saturating_add(wait);
        self.count += 1;
        self.time <= MAX_RATE_WAIT && self.count <= MAX_RATE_WAITS
    }
}

/// Why a request failed.
pub(super) struct Refusal {
    pub(super) error: ImageError,
    /// Whether another attempt may succeed.
    pub(super) transient: bool,
    /// Whether the registry limits the rate of requests.
    pub(super) limited: bool,
    /// Whether there was an answer.
    answered: bool,
    /// Delay before the next attempt that the registry asks for.
    pub(super) wait: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_rewritten_once() {
        let endpoint = Endpoint {
            rewrites: [
                ("^library/(.*)", "hub/$1"),
                ("^hub/(.*)", "again/$1"),
                ("x$", "y"),
            ]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .into(),
            ..Endpoint::default()
        };
        for (from, to) in [
            ("library/busybox", "hub/busybox"),
            ("hub/a", "again/a"),
            ("team/x", "team/y"),
            ("team/a", "team/a"),
        ] {
            assert_eq!(rewrite(&endpoint, from).unwrap(), to);
        }
        let bad = Endpoint {
            rewrites: vec![("(".into(), String::new())],
            ..Endpoint::default()
        };
        assert!(rewrite(&bad, "a").is_err());
    }

    #[test]
    fn waits_are_limited_in_time_and_number() {
        let mut long = Waits::default();
        assert!(long.permit(MAX_RATE_WAIT));
        assert!(!long.permit(MIN_RATE_WAIT));
        assert!(!Waits::default().permit(Duration::MAX));
        let mut many = Waits::default();
        let count = (0..1000).take_while(|_| many.permit(MIN_RATE_WAIT)).count();
        assert_eq!(count, MAX_RATE_WAITS as usize);
    }

    #[test]
    fn waits_in_words() {
        let words = [1, 90, 121, 7201].map(|s| in_words(Duration::from_secs(s)));
        assert_eq!(words, ["1 second", "90 seconds", "3 minutes", "3 hours"]);
    }
}
