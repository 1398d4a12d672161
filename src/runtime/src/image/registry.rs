//! Pulling from registries: the OCI distribution protocol over HTTPS, plain HTTP
//! for loopback and for registries declared insecure, Basic and token
//! authentication.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::archive::MAX_DOCUMENT;
use super::digest::Digest;
use super::manifest::{Config, Descriptor, Document, Platform, media};
use super::reference::Reference;
use super::store::{Record, Store, verify};
use crate::error::{Context, ImageError};
use crate::spec::{PullProgress, RegistryAuth, RuntimeConfig};

type Progress = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Where Docker Hub's API is.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Where Linux distributions keep the certificates they trust.
const ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Layers on their way at the same time.
const PARALLEL: usize = 3;
/// Tries of one request or download.
const TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A download that stands still this long is tried again.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Pulls an image; returns its ID.
pub async fn pull(
    store: &Arc<Store>,
    config: &RuntimeConfig,
    image: &str,
    auth: &[RegistryAuth],
    progress: Progress,
) -> Result<Digest, ImageError> {
    let reference = Reference::parse(image)?;
    let hub = Arc::new(Registry::new(config, &reference, auth)?);
    let lock_store = store.clone();
    let hold = blocking(move || lock_store.hold()).await?;
    let host = Platform::host();

    let top = hub
        .manifest(&reference.manifest_key(), reference.digest())
        .await?;
    let top_digest = top.0.clone();
    let (mut digest, mut bytes) = top;
    for _ in 0..4 {
        let Document::Index(index) = Document::parse(&bytes)? else {
            break;
        };
        let chosen = index.select(&host, image)?.digest.clone();
        (digest, bytes) = hub.manifest(chosen.as_str(), Some(&chosen)).await?;
    }
    let Document::Manifest(manifest) = Document::parse(&bytes)? else {
        return Err(ImageError::Malformed("indexes nested too deeply".into()));
    };
    let config_bytes = match store.read_blob(&manifest.config.digest) {
        Some(bytes) => bytes,
        None => hub.small_blob(&manifest.config).await?,
    };
    let image_config = Config::parse(&config_bytes, &host, image)?;
    let chain = image_config.chain_ids();
    if chain.len() != manifest.layers.len() {
        return Err(ImageError::Malformed(format!(
            "image {image:?} lists {} layers but its configuration {}",
            manifest.layers.len(),
            chain.len()
        )));
    }
    let missing: Vec<usize> = (0..chain.len())
        .filter(|i| !store.has_layer(&chain[*i]))
        .collect();
    progress(PullProgress::Resolved {
        digest: digest.to_string(),
        layers: manifest.layers.len(),
        bytes: missing.iter().map(|i| manifest.layers[*i].size).sum(),
    });

    // Downloads run ahead of unpacking, which needs the layers below.
    let mut downloads = futures::stream::iter(missing.into_iter().map(|i| {
        let (hub, store, progress) = (hub.clone(), store.clone(), progress.clone());
        let (layer, chain) = (manifest.layers[i].clone(), chain[i].clone());
        async move {
            let file = hub.download(&store, &layer, &chain, &progress).await?;
            Ok::<_, ImageError>((i, file))
        }
    }))
    .buffered(PARALLEL);
    while let Some(downloaded) = downloads.next().await {
        let (i, file) = downloaded?;
        if let Some(file) = file {
            let (store, chain) = (store.clone(), chain.clone());
            let diff = image_config.rootfs.diff_ids[i].clone();
            let layer = manifest.layers[i].digest.clone();
            blocking(move || {
                store.unpack_layer(&chain[i], &diff, &chain[..i], file)?;
                let _ = std::fs::remove_file(blob_file(&store, &layer));
                Ok(())
            })
            .await?;
        }
        progress(PullProgress::Unpacked {
            digest: manifest.layers[i].digest.to_string(),
        });
    }

    drop(downloads);
    let record = Record {
        config: manifest.config.digest.clone(),
        manifest: digest,
        // A name with a digest is no promise about its tag.
        tags: if reference.digest().is_some() {
            BTreeSet::new()
        } else {
            reference.tagged().into_iter().collect()
        },
        digests: BTreeSet::from([reference.with_digest(&top_digest)]),
        size: manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>(),
        layers: chain,
        added: jiff::Timestamp::now(),
    };
    let id = record.config.clone();
    let store = store.clone();
    blocking(move || {
        store.write_blob(&record.config, &config_bytes)?;
        store.write_blob(&record.manifest, &bytes)?;
        store.add(record, hold)
    })
    .await?;
    Ok(id)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Where a layer is downloaded to.
fn blob_file(store: &Store, digest: &Digest) -> PathBuf {
    store.ingest_dir().join(format!("blob-{}", digest.hex()))
}

/// One repository of one registry.
struct Registry {
    client: Client,
    /// `https://host[:port]`
    base: String,
    name: String,
    repository: String,
    image: String,
    auth: Option<RegistryAuth>,
    /// The `Authorization` header that the registry accepted last.
    header: Mutex<Option<String>>,
}

impl Registry {
    fn new(
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

    fn failed(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::Registry {
            registry: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    fn denied(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::Denied {
            registry: self.name.clone(),
            repository: self.repository.clone(),
            reason: reason.to_string(),
        }
    }

    /// A manifest or index by tag or digest, with its digest.
    async fn manifest(
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

    /// A blob small enough for memory.
    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let url = format!(
            "{}/v2/{}/blobs/{}",
            self.base, self.repository, descriptor.digest
        );
        let response = self.get(&url, None, 0).await?;
        let bytes = self.body(response).await?;
        verify(&descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, ImageError> {
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

    /// Downloads a layer to the ingest folder, going on where an earlier try ended;
    /// none when another process has unpacked it meanwhile.
    ///
    /// Only one process at a time writes the file. The lock ends with the
    /// download, never waiting for anything else, and the file that was written is
    /// the one that is given: whoever removes the name meanwhile does not matter.
    async fn download(
        &self,
        store: &Arc<Store>,
        layer: &Descriptor,
        chain: &Digest,
        progress: &Progress,
    ) -> Result<Option<std::fs::File>, ImageError> {
        let (locker, digest) = (store.clone(), layer.digest.clone());
        let _lock = blocking(move || locker.lock_download(&digest)).await?;
        if store.has_layer(chain) {
            return Ok(None);
        }
        let path = blob_file(store, &layer.digest);
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt)).await;
            }
            match self.download_once(layer, &path, progress).await {
                Ok(file) => return Ok(Some(file)),
                Err(e @ (ImageError::Registry { .. } | ImageError::DigestMismatch { .. })) => {
                    tracing::debug!(layer = %layer.digest, "download: {e}");
                    last = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| self.failed("the download failed")))
    }

    async fn download_once(
        &self,
        layer: &Descriptor,
        path: &PathBuf,
        progress: &Progress,
    ) -> Result<std::fs::File, ImageError> {
        let context = || format!("cannot write {}", path.display());
        let told = |done: u64| {
            progress(PullProgress::Layer {
                digest: layer.digest.to_string(),
                done,
                total: layer.size,
            });
        };
        // What an earlier try has left counts, once it is hashed.
        let earlier = path.clone();
        let mut hasher = layer.digest.hasher();
        let (mut file, mut done, mut hasher) = blocking(move || {
            let context = || format!("cannot write {}", earlier.display());
            let mut file = std::fs::File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&earlier)
                .image_context(context)?;
            let mut buffer = vec![0; 128 * 1024];
            let mut length = 0;
            loop {
                let n = file.read(&mut buffer).image_context(context)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
            Ok((file, length, hasher))
        })
        .await?;
        if done > layer.size {
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .image_context(context)?;
            (done, hasher) = (0, layer.digest.hasher());
        }
        let mut file = tokio::fs::File::from_std(file);
        if done < layer.size {
            let url = format!(
                "{}/v2/{}/blobs/{}",
                self.base, self.repository, layer.digest
            );
            let response = self.get(&url, None, done).await?;
            if done > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                // The registry begins anew.
                file.set_len(0).await.image_context(context)?;
                tokio::io::AsyncSeekExt::seek(&mut file, SeekFrom::Start(0))
                    .await
                    .image_context(context)?;
                (done, hasher) = (0, layer.digest.hasher());
            }
            let mut stream = response.bytes_stream();
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|e| self.failed(describe(&e)))?;
                done += piece.len() as u64;
                if done > layer.size {
                    break;
                }
                hasher.update(&piece);
                file.write_all(&piece).await.image_context(context)?;
                told(done);
            }
            file.flush().await.image_context(context)?;
        } else {
            told(done);
        }
        if done < layer.size {
            return Err(self.failed(format!("the download of {} ended early", layer.digest)));
        }
        let actual = hasher.finish();
        if done > layer.size || actual != layer.digest {
            // Not to be gone on with.
            let _ = tokio::fs::remove_file(path).await;
            return Err(ImageError::DigestMismatch {
                expected: layer.digest.to_string(),
                actual: actual.to_string(),
            });
        }
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0)).image_context(context)?;
        Ok(file)
    }

    /// A GET that authenticates when asked to, and tries again what may pass.
    async fn get(
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
                        // Once: what is refused with fresh credentials is refused.
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
                Err(e) if e.is_builder() => return Err(self.failed(describe(&e))),
                Err(e) => (None, self.failed(describe(&e))),
            };
            attempt += 1;
            let (wait, error) = outcome;
            // Nobody listens there: said soon. Anything else may pass.
            let tries = if matches!(&error, ImageError::Registry { reason, .. } if reason.contains("refused"))
            {
                2
            } else {
                TRIES
            };
            if attempt >= tries {
                return Err(error);
            }
            tokio::time::sleep(wait.unwrap_or_else(|| backoff(attempt))).await;
        }
    }

    /// Answers the registry's challenge.
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        used: Option<&str>,
    ) -> Result<(), ImageError> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter_map(Challenge::parse)
            .collect();
        let basic = self
            .auth
            .as_ref()
            .filter(|a| !a.username.is_empty() || !a.password.is_empty())
            .map(|a| {
                format!(
                    "Basic {}",
                    STANDARD.encode(format!("{}:{}", a.username, a.password))
                )
            });
        let header = if let Some(bearer) = challenges
            .iter()
            .find(|c| c.scheme.eq_ignore_ascii_case("bearer"))
        {
            format!("Bearer {}", self.token(bearer, basic.as_deref()).await?)
        } else if challenges
            .iter()
            .any(|c| c.scheme.eq_ignore_ascii_case("basic"))
        {
            basic.ok_or_else(|| self.denied("it requires a user name and password"))?
        } else {
            return Err(self.denied("it requires authentication of an unknown kind"));
        };
        if used == Some(header.as_str()) {
            return Err(self.denied("the credentials are not accepted"));
        }
        *self.header.lock() = Some(header);
        Ok(())
    }

    /// Asks the registry's token server.
    async fn token(
        &self,
        challenge: &Challenge,
        basic: Option<&str>,
    ) -> Result<String, ImageError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let realm = challenge
            .parameters
            .get("realm")
            .ok_or_else(|| self.denied("its challenge names no token server"))?;
        let mut url = reqwest::Url::parse(realm)
            .map_err(|e| self.denied(format!("its token server {realm:?} is no address: {e}")))?;
        let scope = challenge
            .parameters
            .get("scope")
            .cloned()
            .unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let service = challenge
            .parameters
            .get("service")
            .cloned()
            .unwrap_or_default();
        let refresh = self
            .auth
            .as_ref()
            .map(|a| a.identity_token.as_str())
            .filter(|t| !t.is_empty());
        let request = match refresh {
            Some(refresh) => {
                let form: Vec<String> = [
                    ("grant_type", "refresh_token"),
                    ("service", &service),
                    ("client_id", "rkube"),
                    ("scope", &scope),
                    ("refresh_token", refresh),
                ]
                .iter()
                .map(|(name, value)| format!("{name}={}", percent(value)))
                .collect();
                self.client
                    .post(url)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.join("&"))
            }
            None => {
                {
                    let mut query = url.query_pairs_mut();
                    if !service.is_empty() {
                        query.append_pair("service", &service);
                    }
                    query.append_pair("scope", &scope);
                }
                let mut request = self.client.get(url);
                if let Some(basic) = basic {
                    request = request.header(AUTHORIZATION, basic);
                }
                request
            }
        };
        let response = request
            .send()
            .await
            .map_err(|e| self.failed(format!("its token server: {}", describe(&e))))?;
        let status = response.status();
        let bytes = self.body(response).await?;
        if !status.is_success() {
            let reason = registry_error(&String::from_utf8_lossy(&bytes))
                .unwrap_or_else(|| format!("its token server answers {status}"));
            return Err(if status.is_server_error() {
                self.failed(reason)
            } else {
                self.denied(reason)
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|e| self.failed(format!("its token server's answer is malformed: {e}")))?;
        let token = if answer.token.is_empty() {
            answer.access_token
        } else {
            answer.token
        };
        if token.is_empty() {
            Err(self.failed("its token server gives no token"))
        } else {
            Ok(token)
        }
    }
}

/// Builds the HTTP client with the node's trusted certificates.
fn client(config: &RuntimeConfig) -> Result<Client, ImageError> {
    let failed =
        |e: &dyn std::fmt::Display| ImageError::Malformed(format!("cannot set up HTTPS: {e}"));
    let mut roots = rustls::RootCertStore::empty();
    // The first bundle that exists; a scratch node has none, and may still be given some.
    if let Some(bundle) = ROOTS.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).flatten());
    }
    for bundle in &config.extra_roots {
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            let certificate = certificate.map_err(|e| failed(&e))?;
            roots.add(certificate).map_err(|e| failed(&e))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("rkube/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .build()
        .map_err(|e| failed(&e))
}

/// Whether a registry's host is this machine itself.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => registry.split(':').next().unwrap_or(""),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The credentials whose registry, and path if any, fit best.
fn select_auth<'a>(
    auth: &'a [RegistryAuth],
    registry: &str,
    repository: &str,
) -> Option<&'a RegistryAuth> {
    let full = format!("{registry}/{repository}");
    auth.iter()
        .filter_map(|entry| {
            let text = entry
                .registry
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            let text = text.trim_end_matches('/');
            // Docker's configuration names the Hub by an old API's address.
            let text = match text {
                "index.docker.io/v1"
                | "index.docker.io/v2"
                | "index.docker.io"
                | "registry-1.docker.io" => "docker.io",
                other => other
                    .strip_suffix("/v1")
                    .or_else(|| other.strip_suffix("/v2"))
                    .unwrap_or(other),
            };
            let fits = text.is_empty()
                || full == text
                || full
                    .strip_prefix(text)
                    .is_some_and(|rest| rest.starts_with('/'))
                || wildcard(text, registry);
            fits.then_some((text.len(), entry))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, entry)| entry)
}

/// `*.example.com` stands for one label, as in image pull secrets.
fn wildcard(pattern: &str, registry: &str) -> bool {
    if !pattern.contains('*') {
        return false;
    }
    let (host, port) = registry.split_once(':').unwrap_or((registry, ""));
    let (pattern_host, pattern_port) = pattern.split_once(':').unwrap_or((pattern, ""));
    let labels: Vec<&str> = host.split('.').collect();
    let patterns: Vec<&str> = pattern_host.split('.').collect();
    port == pattern_port
        && labels.len() == patterns.len()
        && labels
            .iter()
            .zip(&patterns)
            .all(|(label, pattern)| match pattern.split_once('*') {
                Some((head, tail)) => {
                    label.len() >= head.len() + tail.len()
                        && label.starts_with(head)
                        && label.ends_with(tail)
                }
                None => label == pattern,
            })
}

/// A `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parameters = HashMap::new();
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            let Some((name, after)) = rest.split_once('=') else {
                break;
            };
            let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((i, c)) = characters.next() {
                    match c {
                        '"' => {
                            end = i + 1;
                            break;
                        }
                        '\\' => value.extend(characters.next().map(|(_, c)| c)),
                        other => value.push(other),
                    }
                }
                (value, &quoted[end..])
            } else {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_string(), &after[end..])
            };
            parameters.insert(name.trim().to_ascii_lowercase(), value);
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self {
            scheme: scheme.to_string(),
            parameters,
        })
    }
}

/// The first message of a registry's error document.
fn registry_error(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let error = value.get("errors")?.get(0)?;
    let part = |key: &str| {
        error
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or("")
    };
    match (part("code"), part("message")) {
        ("", "") => None,
        (code, "") => Some(code.to_string()),
        (_, message) => Some(message.to_string()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

/// Half a second, doubling, with a random part.
fn backoff(attempt: u32) -> Duration {
    let base = 250u64 << attempt.min(6);
    Duration::from_millis(base + rand::random_range(0..=base / 2))
}

/// An HTTP error with its causes; without the URL, which the message around it implies.
fn describe(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if error.is_timeout() {
        return "it does not answer in time".into();
    }
    match causes.pop() {
        Some(last) => last,
        None => error.to_string(),
    }
}

/// Percent-encoding for a form's value.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges() {
        let text = r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "Bearer");
        assert_eq!(challenge.parameters["realm"], "https://auth.example/token");
        assert_eq!(challenge.parameters["scope"], "repository:a/b:pull,push");
        let basic = Challenge::parse("Basic realm=x").unwrap();
        assert_eq!(
            (basic.scheme.as_str(), basic.parameters["realm"].as_str()),
            ("Basic", "x")
        );
    }

    proptest! {
        #[test]
        fn challenges_never_panic(text in "\\PC*") {
            let _ = Challenge::parse(&text);
        }
    }

    #[test]
    fn credentials_by_best_fit() {
        let entry = |registry: &str| RegistryAuth {
            registry: registry.into(),
            ..RegistryAuth::default()
        };
        let all = [
            entry("https://index.docker.io/v1/"),
            entry("ghcr.io"),
            entry("ghcr.io/team"),
            entry("*.example.com"),
        ];
        let find = |registry: &str, repository: &str| {
            select_auth(&all, registry, repository).map(|a| a.registry.as_str())
        };
        assert_eq!(
            find("docker.io", "library/a"),
            Some("https://index.docker.io/v1/")
        );
        assert_eq!(find("ghcr.io", "team/a"), Some("ghcr.io/team"));
        assert_eq!(find("ghcr.io", "teammate/a"), Some("ghcr.io"));
        assert_eq!(find("a.example.com", "x"), Some("*.example.com"));
        assert_eq!(find("a.b.example.com", "x"), None);
    }

    #[test]
    fn loopback() {
        for host in [
            "localhost:5000",
            "127.0.0.1",
            "127.0.0.1:5000",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("localhost.example.com"));
        assert_eq!(percent("a b/é"), "a%20b%2F%C3%A9");
    }
}
