//! containerd's directories of registries: `HOST/hosts.toml` below one directory, and certificates
//! beside it as Docker has them.

use std::collections::BTreeMap;
use std::path::Path;

use rkube_config::registries::{ANY, Endpoint, Registry};
use rkube_failure::Failure;
use toml::{Table, Value};

use super::{
    check_bundle, check_identity, check_name, check_url, io_failure, read_text, with_version, wrong,
};

/// The directory of registries without one of their own.
const DEFAULT: &str = "_default";
/// The fields of an endpoint.
const FIELDS: [&str; 7] = [
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
];

/// Reads all directories of registries.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, Registry>, Failure> {
    let mut all = BTreeMap::new();
    let entries = std::fs::read_dir(dir).map_err(|e| io_failure("read", dir, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| io_failure("read", dir, &e))?.path();
        if !path.is_dir() {
            continue;
        }
        let folder = path.file_name().unwrap_or_default().to_string_lossy();
        let name = match folder.as_ref() {
            DEFAULT => ANY.to_owned(),
            folder => registry_name(folder),
        };
        if name != ANY {
            check_name(&name).map_err(|why| wrong(&path, why))?;
        }
        let file = path.join("hosts.toml");
        let registry = match file.exists() {
            true => parse(&read_text(&file)?, &path).map_err(|why| wrong(&file, why))?,
            false => certificates(&path)?,
        };
        all.insert(name, registry);
    }
    Ok(all)
}

/// Returns the registry of a directory. Where file systems permit no colon, `_` stands for it:
/// `registry.example_5000_`.
fn registry_name(folder: &str) -> String {
    let port = folder
        .strip_suffix('_')
        .and_then(|rest| rest.rsplit_once('_'));
    match port {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{host}:{port}"),
        _ => folder.to_owned(),
    }
}

/// Returns the settings of a directory that has certificates only: `*.crt` are trusted, `*.cert`
/// and `*.key` are shown.
fn certificates(dir: &Path) -> Result<Registry, Failure> {
    let mut server = Endpoint::default();
    let entries = std::fs::read_dir(dir).map_err(|e| io_failure("read", dir, &e))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| io_failure("read", dir, &e))?.path());
    }
    paths.sort();
    for path in &paths {
        let extension = path.extension().and_then(|e| e.to_str());
        if extension == Some("key") && !paths.contains(&path.with_extension("cert")) {
            return Err(wrong(path, "there is no certificate (.cert) for this key"));
        }
    }
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => {
                let text = read_text(&path)?;
                check_bundle(text.as_bytes()).map_err(|why| wrong(&path, why))?;
                server.ca.push(text);
            }
            Some("cert") => {
                if server.identity.is_some() {
                    return Err(wrong(&path, "only one client certificate is possible"));
                }
                let pair = (read_text(&path)?, read_text(&path.with_extension("key"))?);
                check_identity(&pair.0, &pair.1).map_err(|why| wrong(&path, why))?;
                server.identity = Some(pair);
            }
            _ => {}
        }
    }
    Ok(Registry {
        mirrors: Vec::new(),
        server: Some(server),
    })
}

/// Parses a file. `dir` is where its relative paths begin.
pub(super) fn parse(text: &str, dir: &Path) -> Result<Registry, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut server = endpoint(&table, dir, &["server", "host"])?;
    match table.get("server") {
        Some(Value::String(text)) if !text.is_empty() => {
            server.url = url(text, &table).map_err(|why| format!("server: {why}"))?;
        }
        Some(Value::String(_)) | None => {}
        Some(_) => return Err("server: it must be a string".to_owned()),
    }
    let mut mirrors = Vec::new();
    match table.get("host") {
        Some(Value::Table(hosts)) => {
            for (name, settings) in hosts {
                let place = |why: String| format!("host.\"{name}\": {why}");
                let Value::Table(settings) = settings else {
                    return Err(place("it must be a table".to_owned()));
                };
                let mut mirror = endpoint(settings, dir, &[]).map_err(place)?;
                mirror.url = url(name, settings).map_err(place)?;
                mirrors.push(mirror);
            }
        }
        None => {}
        Some(_) => return Err("host: it must be a table".to_owned()),
    }
    let server = (server != Endpoint::default()).then_some(server);
    Ok(Registry { mirrors, server })
}

/// Returns the URL with the path before repositories.
fn url(text: &str, settings: &Table) -> Result<String, String> {
    let url = check_url(text)?;
    Ok(match settings.get("override_path") {
        Some(Value::Boolean(true)) => url.trim_end_matches('/').to_owned(),
        _ => with_version(&url),
    })
}

/// Returns what a table says about an endpoint. `others` are fields that are read elsewhere.
fn endpoint(table: &Table, dir: &Path, others: &[&str]) -> Result<Endpoint, String> {
    let unknown =
        |key: &&String| !FIELDS.contains(&key.as_str()) && !others.contains(&key.as_str());
    if let Some(key) = table.keys().find(unknown) {
        return Err(format!("unknown field {key}"));
    }
    let mut endpoint = Endpoint::default();
    if let Some(value) = table.get("capabilities") {
        (endpoint.resolve, endpoint.pull, endpoint.push) = (false, false, false);
        for capability in strings(value).ok_or("capabilities: it must be a list of strings")? {
            match capability {
                "resolve" => endpoint.resolve = true,
                "pull" => endpoint.pull = true,
                "push" => endpoint.push = true,
                other => return Err(format!("unknown capability {other}")),
            }
        }
    }
    endpoint.skip_verify = boolean(table, "skip_verify")?;
    boolean(table, "override_path")?;
    let read = |path: &str| {
        let path = dir.join(path);
        std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    if let Some(value) = table.get("ca") {
        for path in strings(value).ok_or("ca: it must be a path or a list of paths")? {
            let text = read(path)?;
            check_bundle(text.as_bytes()).map_err(|why| format!("ca: {path}: {why}"))?;
            endpoint.ca.push(text);
        }
    }
    if let Some(value) = table.get("client") {
        endpoint.identity = client(value, read)?;
    }
    if let Some(value) = table.get("header") {
        let Value::Table(headers) = value else {
            return Err("header: it must be a table".to_owned());
        };
        for (name, value) in headers {
            let values = strings(value).ok_or("header: values must be strings")?;
            let pairs = values.into_iter().map(|v| (name.clone(), v.to_owned()));
            endpoint.headers.extend(pairs);
        }
    }
    if let Some(value) = table.get("dial_timeout") {
        let text = value.as_str().unwrap_or_default();
        let millis = duration(text).ok_or("dial_timeout: it must be a duration such as 3s")?;
        endpoint.dial_timeout_millis = Some(millis).filter(|millis| *millis > 0);
    }
    Ok(endpoint)
}

/// Returns the client certificate and key: one file with both, or pairs, of which one is possible.
fn client(
    value: &Value,
    read: impl Fn(&str) -> Result<String, String>,
) -> Result<Option<(String, String)>, String> {
    let pairs: Vec<(&str, &str)> = match value {
        Value::String(path) => vec![(path, path)],
        Value::Array(entries) => entries
            .iter()
            .map(|entry| match entry {
                Value::String(path) => Ok((path.as_str(), path.as_str())),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(both)] => Ok((both.as_str(), both.as_str())),
                    // containerd takes an empty key for a file with both.
                    [Value::String(c), Value::String(k)] if k.is_empty() => {
                        Ok((c.as_str(), c.as_str()))
                    }
                    [Value::String(c), Value::String(k)] => Ok((c.as_str(), k.as_str())),
                    _ => Err("client: it must be pairs of paths".to_owned()),
                },
                _ => Err("client: it must be a path or a list".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err("client: it must be a path or a list".to_owned()),
    };
    let [(certificate, key)] = pairs.as_slice() else {
        return match pairs.is_empty() {
            true => Ok(None),
            false => Err("client: only one certificate is possible".to_owned()),
        };
    };
    let (certificate, key) = (read(certificate)?, read(key)?);
    check_identity(&certificate, &key).map_err(|why| format!("client: {why}"))?;
    Ok(Some((certificate, key)))
}

/// Returns a string or a list of strings.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(all) => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn boolean(table: &Table, key: &str) -> Result<bool, String> {
    match table.get(key) {
        None => Ok(false),
        Some(Value::Boolean(on)) => Ok(*on),
        Some(_) => Err(format!("{key}: it must be true or false")),
    }
}

/// Parses a duration of one unit, as `3s` and `500ms`. Returns milliseconds.
fn duration(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
