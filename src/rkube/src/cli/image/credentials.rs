//! Credentials for registries, as `docker login` and `podman login` keep them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

/// The name of Docker Hub in image names.
const HUB: &str = "docker.io";
/// The name under which tools keep the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// User name of credentials that are a token.
const TOKEN_USER: &str = "<token>";

/// Credentials of one registry, or of a part of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(Debug))]
pub struct Credential {
    /// The registry, as the file names it.
    pub registry: String,
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// The parts of `config.json` and `auth.json` that concern credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// The answer of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Returns the credentials for a registry (`host[:port]`) from the first file that has any.
pub async fn find(registry: &str) -> Result<Vec<Credential>, Failure> {
    for path in files(|name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    }) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(unusable(&path, &e.to_string())),
        };
        let config: Config =
            serde_json::from_slice(&text).map_err(|e| unusable(&path, &e.to_string()))?;
        let found = config.find(registry, &path).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Returns the files that tools keep credentials in. `variable` reads the environment.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = rkube_cluster::home_dir();
    let below = |name: &str| home.as_ref().map(|home| home.join(name));
    let docker = variable("DOCKER_CONFIG").or_else(|| below(".docker"));
    let runtime = variable("XDG_RUNTIME_DIR");
    [
        variable("REGISTRY_AUTH_FILE"),
        docker.map(|dir| dir.join("config.json")),
        runtime.map(|dir| dir.join("containers/auth.json")),
        below(".config/containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(
        Source::Host,
        Kind::Config,
        format!("cannot read credentials from {}: {why}", path.display()),
    )
    .advise("repair the file, or log in again: docker login REGISTRY")
}

impl Config {
    async fn find(&self, registry: &str, path: &Path) -> Result<Vec<Credential>, Failure> {
        let key = key(registry);
        let own = self
            .cred_helpers
            .iter()
            .find(|(name, _)| host(name) == registry);
        let helper = own.map(|(_, helper)| helper.as_str());
        let helper = helper.or(Some(&self.creds_store)).filter(|h| !h.is_empty());
        if let Some(helper) = helper
            && let Some(found) = ask(helper, key, path).await?
        {
            return Ok(vec![found]);
        }
        self.auths
            .iter()
            .filter(|(name, _)| host(name) == registry)
            .filter_map(|(name, entry)| entry.credential(name, path).transpose())
            .collect()
    }
}

impl Entry {
    /// Returns the credentials, if the entry is not the empty one of a helper.
    fn credential(&self, name: &str, path: &Path) -> Result<Option<Credential>, Failure> {
        let mut found = Credential {
            registry: name.to_owned(),
            username: self.username.clone(),
            password: self.password.clone(),
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
        };
        if !self.auth.is_empty() {
            let bad = || unusable(path, &format!("the entry of {name} is malformed"));
            let plain = STANDARD.decode(&self.auth).map_err(|_| bad())?;
            let plain = String::from_utf8(plain).map_err(|_| bad())?;
            let (username, password) = plain.split_once(':').ok_or_else(bad)?;
            found.username = username.to_owned();
            found.password = password.trim_end_matches('\0').to_owned();
        }
        let empty = Credential {
            registry: name.to_owned(),
            ..Credential::default()
        };
        Ok((found != empty).then_some(found))
    }
}

/// Returns the name under which tools keep the credentials of a registry.
pub fn key(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

/// Returns the registry that a key of a file means.
fn host(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

/// Asks a credential helper (`docker-credential-…`). Returns none if it knows nothing.
async fn ask(helper: &str, key: &str, path: &Path) -> Result<Option<Credential>, Failure> {
    let program = format!("docker-credential-{helper}");
    let failed = |kind, why: String| {
        Failure::new(
            Source::Host,
            kind,
            format!("{program}, which {} names, {why}", path.display()),
        )
        .advise("repair it, or log in again: docker login REGISTRY")
    };
    let spawned = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Error,
        };
        failed(kind, format!("cannot be run: {e}"))
    })?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read says so by its exit code.
        let _ = input.write_all(format!("{key}\n").as_bytes()).await;
    }
    let done = child
        .wait_with_output()
        .await
        .map_err(|e| failed(Kind::Error, format!("failed: {e}")))?;
    let text = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        // The protocol's words for "there are none".
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let said = format!("{}{}", text, String::from_utf8_lossy(&done.stderr));
        return Err(failed(Kind::Error, format!("failed: {}", said.trim())));
    }
    let answer: Answer = serde_json::from_str(&text)
        .map_err(|e| failed(Kind::Error, format!("gave a malformed answer: {e}")))?;
    let mut found = Credential {
        registry: key.to_owned(),
        ..Credential::default()
    };
    if answer.username == TOKEN_USER {
        found.identity_token = answer.secret;
    } else {
        (found.username, found.password) = (answer.username, answer.secret);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find_in(config: &str, registry: &str) -> Result<Vec<Credential>, Failure> {
        let config: Config = serde_json::from_str(config).unwrap();
        config.find(registry, Path::new("config.json")).await
    }

    #[tokio::test]
    async fn entries_are_found_by_their_registry() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "r.example:5000": {"identitytoken": "t"},
            "ghcr.io/team": {"username": "a", "password": "b"},
            "helped.example": {}
        }}"#;
        let hub = find_in(config, "docker.io").await.unwrap();
        assert_eq!((&*hub[0].username, &*hub[0].password), ("u", "p:q"));
        let token = find_in(config, "r.example:5000").await.unwrap();
        assert_eq!(token[0].identity_token, "t");
        let team = find_in(config, "ghcr.io").await.unwrap();
        assert_eq!(team[0].registry, "ghcr.io/team");
        for registry in ["helped.example", "r.example", "other.example"] {
            assert_eq!(find_in(config, registry).await.unwrap(), [], "{registry}");
        }
        let malformed = r#"{"auths": {"x.example": {"auth": "%%"}}}"#;
        let failure = find_in(malformed, "x.example").await.unwrap_err();
        assert_eq!(failure.kind, Kind::Config);
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_named() {
        let config = r#"{"credHelpers": {"x.example": "no-such-helper"}, "auths": {"y.example": {"auth": "dTpw"}}}"#;
        let failure = find_in(config, "x.example").await.unwrap_err();
        assert_eq!(failure.kind, Kind::NotFound);
        assert!(failure.message.contains("docker-credential-no-such-helper"));
        // It is not asked for other registries.
        assert_eq!(find_in(config, "y.example").await.unwrap().len(), 1);
    }

    #[test]
    fn files_of_all_tools_are_read() {
        let files = files(|name| (name != "REGISTRY_AUTH_FILE").then(|| PathBuf::from("/v")));
        assert_eq!(files[0], Path::new("/v/config.json"));
        assert_eq!(files[1], Path::new("/v/containers/auth.json"));
    }
}
