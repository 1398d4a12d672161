//! The configuration of an image that is being built.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{BuildError, Result};
use crate::instruction::{CommandLine, Healthcheck};

/// `PATH` of images that start from nothing.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration document of an image. Unknown fields are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are those of the OCI image specification"
)]
pub struct Document {
    pub architecture: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub config: Process,
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<History>,
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

/// The instruction that made a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are those of the OCI image specification"
)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The default process and metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of the OCI image specification"
)]
pub struct Process {
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub user: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub exposed_ports: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub volumes: BTreeMap<String, Value>,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub working_dir: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Deserializes `null` as the default.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    /// Returns the configuration of `FROM scratch`.
    pub fn empty(architecture: &str) -> Self {
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            config: Process {
                env: vec![format!("PATH={DEFAULT_PATH}")],
                working_dir: "/".into(),
                ..Process::default()
            },
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: Vec::new(),
            },
            ..Self::default()
        }
    }

    /// Adds an entry to the history.
    pub fn note(&mut self, created_by: String, created: Option<String>, layer: bool) {
        self.history.push(History {
            created,
            author: None,
            created_by: Some(created_by),
            comment: Some("buildkit.dockerfile.v0".into()),
            empty_layer: !layer,
        });
    }
}

impl Process {
    /// Sets a variable, in the place of one of that name.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let line = format!("{name}={value}");
        let same = |line: &&mut String| line.split('=').next() == Some(name);
        match self.env.iter_mut().find(same) {
            Some(old) => *old = line,
            None => self.env.push(line),
        }
    }

    /// Returns the value of a variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|line| match line.split_once('=') {
            Some((n, value)) => (n == name).then_some(value),
            None => (line == name).then_some(""),
        })
    }

    /// Returns a command line as the program and its arguments.
    pub fn words(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    /// Returns the shell and its option.
    pub fn shell(&self) -> Vec<String> {
        match &self.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".into(), "-c".into()],
        }
    }

    /// Returns an absolute path for one that is relative to the working directory. A slash at the
    /// end stays.
    pub fn absolute(&self, path: &str) -> String {
        let directory = path.ends_with('/') || path == "." || path.ends_with("/.");
        let joined = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.working_dir),
        };
        let mut clean = crate::pattern::clean(&format!("/{joined}"));
        if directory && clean != "/" {
            clean.push('/');
        }
        clean
    }

    /// Adds ports, each a number or a range with an optional protocol.
    ///
    /// # Errors
    ///
    /// A message, if a port is malformed.
    pub fn expose(&mut self, ports: &[String]) -> Result<()> {
        for text in ports {
            let bad = || BuildError::new(format!("invalid containerPort: {text}"));
            let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let protocol = protocol.to_lowercase();
            if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
                return Err(BuildError::new(format!("invalid proto: {protocol}")));
            }
            // With a published port, only the container's counts.
            let range = range.rsplit(':').next().unwrap_or(range);
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let low: u16 = low.parse().map_err(|_| bad())?;
            let high: u16 = high.parse().map_err(|_| bad())?;
            if low > high {
                return Err(bad());
            }
            for port in low..=high {
                self.exposed_ports
                    .insert(format!("{port}/{protocol}"), json!({}));
            }
        }
        Ok(())
    }

    /// Sets the health check.
    ///
    /// # Errors
    ///
    /// A message, if a duration or a number is malformed.
    pub fn check(&mut self, check: &Healthcheck) -> Result<()> {
        let mut out = Map::new();
        let test = match &check.command {
            None => json!(["NONE"]),
            Some(CommandLine::Shell(text)) => json!(["CMD-SHELL", text]),
            Some(CommandLine::Exec(words)) => {
                let mut test = vec!["CMD".to_owned()];
                test.extend(words.iter().cloned());
                json!(test)
            }
        };
        out.insert("Test".into(), test);
        for (flag, key) in [
            ("interval", "Interval"),
            ("timeout", "Timeout"),
            ("start-period", "StartPeriod"),
            ("start-interval", "StartInterval"),
        ] {
            if let Some(text) = check.options.get(flag) {
                let value = duration(text).ok_or_else(|| {
                    BuildError::new(format!("invalid duration {text:?} of --{flag}"))
                })?;
                if value != 0 && value < 1_000_000 {
                    return Err(BuildError::new(format!(
                        "Interval {flag:?} cannot be less than 1ms"
                    )));
                }
                out.insert(key.into(), json!(value));
            }
        }
        if let Some(text) = check.options.get("retries") {
            let retries: u32 = text
                .parse()
                .map_err(|_| BuildError::new(format!("invalid number {text:?} of --retries")))?;
            out.insert("Retries".into(), json!(retries));
        }
        self.healthcheck = Some(Value::Object(out));
        Ok(())
    }
}

/// Parses a duration of Go, such as `1m30s`, to nanoseconds.
fn duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let scale = match &after[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &after[unit..];
    }
    (!text.is_empty()).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_documents_are_kept() {
        let text = json!({
            "architecture": "amd64", "os": "linux", "variant": "v1",
            "config": {"Cmd": null, "Env": ["A=b"], "ArgsEscaped": true, "Volumes": null, "OnBuild": null},
            "rootfs": {"type": "layers", "diff_ids": null}, "history": null,
        });
        let document: Document = serde_json::from_value(text).unwrap();
        assert_eq!(document.config.env("A"), Some("b"));
        let again = serde_json::to_value(&document).unwrap();
        assert_eq!(again["config"]["ArgsEscaped"], true);
        assert_eq!(again["variant"], "v1");
    }

    #[test]
    fn variables_paths_and_ports() {
        let mut process = Document::empty("amd64").config;
        process.set_env("A", "1");
        process.set_env("PATH", "/x");
        process.set_env("A", "2=3");
        assert_eq!(process.env, ["PATH=/x", "A=2=3"]);
        process.working_dir = "/app".into();
        for (path, expected) in [
            (".", "/app/"),
            ("./", "/app/"),
            ("x", "/app/x"),
            ("x/", "/app/x/"),
            ("/y/../z", "/z"),
            ("/", "/"),
            ("..", "/"),
            ("../../../e", "/e"),
        ] {
            assert_eq!(process.absolute(path), expected, "{path}");
        }
        process.expose(&["80".into(), "1-2/UDP".into()]).unwrap();
        let ports: Vec<&String> = process.exposed_ports.keys().collect();
        assert_eq!(ports, ["1/udp", "2/udp", "80/tcp"]);
        for bad in ["x", "0x1", "70000", "2-1", "1/icmp"] {
            assert!(process.expose(&[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Some(90_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        for bad in ["", "5", "s", "1x", "-1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
