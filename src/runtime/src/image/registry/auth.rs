//! Authentication to registries: credentials, challenges and tokens.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::connection::Registry;
use super::http::{describe, percent_encode, registry_error};
use crate::error::ImageError;
use crate::spec::RegistryAuth;

impl Registry {
    /// Answers the challenge of a 401 response, and stores the resulting `Authorization` header.
    /// `used` is the header of the rejected request; fails if the result is the same.
    pub(super) async fn authenticate(
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

    /// Returns whether credentials may be sent to a token server: over HTTPS only, unless the
    /// registry itself is used over plain HTTP.
    fn may_receive_credentials(&self, server: &reqwest::Url) -> bool {
        server.scheme() == "https" || self.base.starts_with("http://")
    }

    /// Returns the scopes of a token: those of the challenge and those of this client's work.
    fn token_scopes(&self, asked: Option<&str>) -> Vec<String> {
        let mut scopes: Vec<String> = asked
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if scopes.is_empty() && self.scopes.is_empty() {
            scopes.push(format!("repository:{}:pull", self.repository));
        }
        for scope in &self.scopes {
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        scopes
    }

    /// Requests a bearer token from the registry's token server. Fails if that would send
    /// credentials over plain HTTP on behalf of a registry that is used over HTTPS.
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
        let scopes = self.token_scopes(challenge.parameters.get("scope").map(String::as_str));
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
        if (refresh.is_some() || basic.is_some()) && !self.may_receive_credentials(&url) {
            return Err(self.denied(format!(
                "its token server {realm:?} would receive the credentials unencrypted"
            )));
        }
        let request = match refresh {
            Some(refresh) => {
                let form: Vec<String> = [
                    ("grant_type", "refresh_token"),
                    ("service", &service),
                    ("client_id", "rkube"),
                    ("scope", &scopes.join(" ")),
                    ("refresh_token", refresh),
                ]
                .iter()
                .map(|(name, value)| format!("{name}={}", percent_encode(value)))
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
                    for scope in &scopes {
                        query.append_pair("scope", scope);
                    }
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

/// Returns the matching credentials with the longest registry and path.
pub(super) fn select_auth<'a>(
    auth: impl IntoIterator<Item = &'a RegistryAuth>,
    registry: &str,
    repository: &str,
) -> Option<&'a RegistryAuth> {
    let full = format!("{registry}/{repository}");
    auth.into_iter()
        .filter_map(|entry| {
            let text = entry
                .registry
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            let text = text.trim_end_matches('/');
            // Docker's configuration lists Docker Hub under the URL of an old API.
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
                || wildcard(text, registry, repository);
            fits.then_some((text.len(), entry))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, entry)| entry)
}

/// Returns whether a pattern like `*.example.com/team` matches a repository of a registry. `*`
/// matches within one label of the host, as in image pull secrets; a path matches whole components.
fn wildcard(pattern: &str, registry: &str, repository: &str) -> bool {
    if !pattern.contains('*') {
        return false;
    }
    let (pattern, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let below = repository
        .strip_prefix(path)
        .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'));
    let (host, port) = registry.split_once(':').unwrap_or((registry, ""));
    let (pattern_host, pattern_port) = pattern.split_once(':').unwrap_or((pattern, ""));
    let labels: Vec<&str> = host.split('.').collect();
    let patterns: Vec<&str> = pattern_host.split('.').collect();
    below
        && port == pattern_port
        && labels.len() == patterns.len()
        && labels.iter().zip(&patterns).all(|(l, p)| label(p, l))
}

/// Returns whether a label of a host matches a pattern with at most one `*`.
fn label(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => {
            label.len() >= head.len() + tail.len()
                && label.starts_with(head)
                && label.ends_with(tail)
        }
        None => label == pattern,
    }
}

/// Splits a text after its opening quotation mark into the quoted string, without escapes, and
/// what follows its end.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((i, c)) = characters.next() {
        match c {
            '"' => return (value, &text[i + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// A parsed `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    /// Parses a header. Returns `None` if it has no scheme.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parameters = HashMap::new();
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            let Some((name, after)) = rest.split_once('=') else {
                break;
            };
            let (value, after) = if let Some(rest) = after.strip_prefix('"') {
                quoted(rest)
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

/// Parses a challenge, for fuzz targets. Returns its scheme and its parameters.
#[cfg(feature = "fuzzing")]
pub fn challenge(text: &str) -> Option<(String, HashMap<String, String>)> {
    Challenge::parse(text).map(|challenge| (challenge.scheme, challenge.parameters))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::endpoints::candidates;
    use super::*;
    use crate::image::reference::Reference;
    use crate::spec::RuntimeConfig;

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
    fn credentials_are_sent_encrypted() {
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        config.insecure_registries = vec!["plain.example".into()];
        let allowed = |image: &str, server: &str| {
            let reference = Reference::parse(image).unwrap();
            let candidate = candidates(&config, &reference).remove(0);
            let registry = Registry::at(&config, &reference, &[], &candidate).unwrap();
            registry.may_receive_credentials(&reqwest::Url::parse(server).unwrap())
        };
        assert!(allowed("tls.example/app", "https://auth.example/token"));
        assert!(!allowed("tls.example/app", "http://auth.example/token"));
        assert!(allowed("plain.example/app", "http://auth.example/token"));
        assert!(allowed("localhost:5000/app", "http://localhost:5000/token"));
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
            entry("*.example.com/team"),
            entry("*.example.com:5000/v2/"),
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
        let team = Some("*.example.com/team");
        assert_eq!(find("a.example.com", "team"), team);
        assert_eq!(find("a.example.com", "team/app"), team);
        assert_eq!(find("a.example.com", "teammate/app"), Some("*.example.com"));
        assert_eq!(
            find("a.example.com:5000", "x"),
            Some("*.example.com:5000/v2/")
        );
    }
}
