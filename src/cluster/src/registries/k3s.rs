//! The file `registries.yaml` of k3s, which k3d takes with `--registry-config`. The section
//! `registries` of a cluster file has the same form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_config::registries::{ANY, DOCKER_HUB, DOCKER_HUB_HOST, Endpoint, Login, Registry};
use rkube_failure::Failure;
use serde::Deserialize;

use super::{check_bundle, check_identity, check_name, check_url, read_text, with_version, wrong};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: Option<BTreeMap<String, Option<Mirror>>>,
    configs: Option<BTreeMap<String, Option<Config>>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Option<Vec<String>>,
    rewrite: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Config {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    /// `user:password` in base64.
    auth: Option<String>,
    #[serde(alias = "identityToken")]
    identity_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_skip_verify: Option<bool>,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Registry>, Failure> {
    let text = read_text(path)?;
    let value: serde_yaml::Value = serde_yaml::from_str(&text).map_err(|e| wrong(path, e))?;
    from_value(value).map_err(|why| wrong(path, why))
}

/// Returns the settings that a document has.
///
/// # Errors
/// Fails with the field and the reason.
pub fn from_value(value: serde_yaml::Value) -> Result<BTreeMap<String, Registry>, String> {
    let file: File = match value {
        serde_yaml::Value::Null => File::default(),
        value => serde_yaml::from_value(value).map_err(|e| e.to_string())?,
    };
    let mut configs = BTreeMap::new();
    for (name, config) in file.configs.into_iter().flatten() {
        let place = format!("configs[{name}]");
        if name != ANY {
            check_name(&name).map_err(|why| format!("{place}: {why}"))?;
        }
        let read = endpoint_settings(config.unwrap_or_default());
        configs.insert(name, read.map_err(|why| format!("{place}{why}"))?);
    }
    // Those of Docker Hub may be under either of its names.
    let config_of = |host: &str| {
        let alias = match host {
            DOCKER_HUB_HOST => DOCKER_HUB,
            DOCKER_HUB => DOCKER_HUB_HOST,
            _ => host,
        };
        let found = configs.get(host).or_else(|| configs.get(alias));
        found.or_else(|| configs.get(ANY)).cloned()
    };
    let mut hosts: BTreeMap<String, Registry> = BTreeMap::new();
    for (name, mirror) in file.mirrors.into_iter().flatten() {
        let place = format!("mirrors[{name}]");
        if name != ANY {
            check_name(&name).map_err(|why| format!("{place}: {why}"))?;
        }
        let mirror = mirror.unwrap_or_default();
        let rewrites: Vec<(String, String)> = mirror.rewrite.into_iter().flatten().collect();
        for (pattern, _) in &rewrites {
            regex::Regex::new(pattern).map_err(|e| format!("{place}.rewrite: {e}"))?;
        }
        let mut mirrors = Vec::new();
        for (i, text) in mirror.endpoint.into_iter().flatten().enumerate() {
            let url = check_url(&text).map_err(|why| format!("{place}.endpoint[{i}]: {why}"))?;
            let parsed = reqwest::Url::parse(&url).map_err(|e| e.to_string())?;
            let host = host_of(&parsed);
            // A path is used as it is, as containerd does with override_path.
            let url = match parsed.path() {
                "" | "/" => with_version(&url),
                _ => url.trim_end_matches('/').to_owned(),
            };
            mirrors.push(Endpoint {
                url,
                push: false,
                rewrites: rewrites.clone(),
                ..config_of(&host).unwrap_or_default()
            });
        }
        let server = config_of(&name);
        hosts.insert(name, Registry { mirrors, server });
    }
    for (name, config) in &configs {
        let name = match name.as_str() {
            DOCKER_HUB_HOST => DOCKER_HUB,
            other => other,
        };
        if hosts.contains_key(name) {
            continue;
        }
        // Mirrors for all registries are also those of this one.
        let mirrors = hosts.get(ANY).map(|any| any.mirrors.clone());
        let registry = Registry {
            mirrors: mirrors.unwrap_or_default(),
            server: Some(config.clone()),
        };
        hosts.insert(name.to_owned(), registry);
    }
    Ok(hosts)
}

/// Returns the `host[:port]` of a URL.
fn host_of(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Returns the settings of an endpoint that is not named yet.
fn endpoint_settings(config: Config) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint::default();
    if let Some(auth) = config.auth {
        endpoint.login = login(auth).map_err(|why| format!(".auth: {why}"))?;
    }
    let Some(tls) = config.tls else {
        return Ok(endpoint);
    };
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| format!(".tls: {}: {e}", path.display()))
    };
    if let Some(path) = tls.ca_file.filter(|path| !path.as_os_str().is_empty()) {
        let text = read(&path)?;
        check_bundle(text.as_bytes()).map_err(|why| format!(".tls.ca_file: {why}"))?;
        endpoint.ca.push(text);
    }
    let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    match (given(tls.cert_file), given(tls.key_file)) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (read(&certificate)?, read(&key)?);
            check_identity(&certificate, &key).map_err(|why| format!(".tls: {why}"))?;
            endpoint.identity = Some((certificate, key));
        }
        (None, None) => {}
        _ => return Err(".tls: cert_file and key_file belong together".to_owned()),
    }
    endpoint.skip_verify = tls.insecure_skip_verify == Some(true);
    Ok(endpoint)
}

fn login(auth: Auth) -> Result<Option<Login>, String> {
    let mut login = Login {
        username: auth.username.unwrap_or_default(),
        password: auth.password.unwrap_or_default(),
        identity_token: auth.identity_token.unwrap_or_default(),
    };
    if let Some(text) = auth.auth.filter(|text| !text.is_empty()) {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_| "auth is not in base64".to_owned())?;
        let text = String::from_utf8(bytes).map_err(|_| "auth is not text".to_owned())?;
        let (user, password) = text
            .split_once(':')
            .ok_or_else(|| "auth does not have the form USER:PASSWORD".to_owned())?;
        login.username = user.to_owned();
        login.password = password.trim_end_matches('\0').to_owned();
    }
    Ok((login != Login::default()).then_some(login))
}
