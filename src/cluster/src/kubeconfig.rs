//! Edits the user's kubeconfig under a lock.
//!
//! The file is edited as an untyped tree, so that unknown fields and entries are kept. The lock is
//! that of client-go: the file `<file>.lock`, created exclusively.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_failure::{Failure, Kind, Source};
use serde_yaml::{Mapping, Value};

use crate::files::{home_dir, io_failure, owned, write_durable};
use crate::sudo::act_for_owner_of;

/// The time to wait for the lock of another program.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// A lock older than this was left by a program that died.
const STALE_LOCK_AGE: Duration = Duration::from_secs(60);

/// The entries of a profile in a kubeconfig.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of cluster, user and context.
    pub name: String,
    /// URL of the API server, `https://…`.
    pub server: String,
    /// The certificate of the CA, PEM.
    pub ca: String,
    /// The administrator's certificate, PEM.
    pub certificate: String,
    /// The administrator's key, PEM.
    pub key: String,
}

impl Entry {
    /// Returns the lists of a kubeconfig, the field of their items, and the entry's value of each.
    fn parts(&self) -> [(&'static str, &'static str, Mapping); 3] {
        let cluster = map([
            ("certificate-authority-data", STANDARD.encode(&self.ca)),
            ("server", self.server.clone()),
        ]);
        let user = map([
            (
                "client-certificate-data",
                STANDARD.encode(&self.certificate),
            ),
            ("client-key-data", STANDARD.encode(&self.key)),
        ]);
        let context = map([("cluster", self.name.clone()), ("user", self.name.clone())]);
        [
            ("clusters", "cluster", cluster),
            ("users", "user", user),
            ("contexts", "context", context),
        ]
    }

    /// Returns a kubeconfig of this entry alone.
    pub(crate) fn to_yaml(&self) -> Result<String, Failure> {
        let mut config = map([
            ("apiVersion", "v1".to_owned()),
            ("kind", "Config".to_owned()),
            ("current-context", self.name.clone()),
        ]);
        for (list, field, value) in self.parts() {
            let failed = |why: String| Failure::new(Source::Program, Kind::Error, why);
            set_named(&mut config, list, &self.name, field, value).map_err(failed)?;
        }
        crate::yaml::to_string(&config).map_err(|e| {
            let message = format!("cannot write a kubeconfig: {e}");
            Failure::new(Source::Program, Kind::Error, message)
        })
    }
}

/// A kubeconfig file.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    path: PathBuf,
}

/// Returns the file that kubectl would write to: the first existing file in `$KUBECONFIG`, its
/// first file if none exists, or `~/.kube/config`.
pub fn default_path() -> Result<PathBuf, Failure> {
    if let Some(list) = std::env::var_os("KUBECONFIG") {
        let paths: Vec<PathBuf> = std::env::split_paths(&list)
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        if let Some(path) = paths.iter().find(|p| p.exists()).or(paths.first()) {
            return Ok(path.clone());
        }
    }
    home_dir()
        .map(|home| home.join(".kube/config"))
        .ok_or_else(|| {
            Failure::new(
                Source::Program,
                Kind::Config,
                "the home directory is not known",
            )
            .advise("set HOME or KUBECONFIG")
        })
}

struct Lock(PathBuf);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Kubeconfig {
    /// Returns the file at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds or replaces the entry's cluster, user and context. If `make_current` is set, makes the
    /// context the current one.
    pub(crate) fn put(&self, entry: &Entry, make_current: bool) -> Result<(), Failure> {
        self.edit(|config| {
            let [(_, _, cluster), (_, _, user), (_, _, mut context)] = entry.parts();
            set_named(config, "clusters", &entry.name, "cluster", cluster)?;
            set_named(config, "users", &entry.name, "user", user)?;
            // Keeps a namespace that the user has set for the context.
            if let Some(namespace) = get_named(config, "contexts", &entry.name)
                .and_then(|c| c.get("context"))
                .and_then(|c| c.get("namespace"))
            {
                context.insert("namespace".into(), namespace.clone());
            }
            set_named(config, "contexts", &entry.name, "context", context)?;
            if make_current {
                config.insert("current-context".into(), entry.name.clone().into());
            }
            Ok(())
        })
    }

    /// Removes the cluster, the user and the context with that name.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        if !self.path.exists() {
            return Ok(());
        }
        self.edit(|config| {
            for list in ["clusters", "users", "contexts"] {
                if let Some(Value::Sequence(items)) = config.get_mut(list) {
                    items.retain(|item| item.get("name").and_then(Value::as_str) != Some(name));
                }
            }
            if config.get("current-context").and_then(Value::as_str) == Some(name) {
                config.insert("current-context".into(), "".into());
            }
            Ok(())
        })
    }

    /// Sets the namespace of the context `name`, which must exist.
    pub fn set_namespace(&self, name: &str, namespace: &str) -> Result<(), Failure> {
        self.edit(|config| {
            let entry = get_named(config, "contexts", name)
                .and_then(|entry| entry.get("context"))
                .and_then(Value::as_mapping)
                .cloned();
            let mut context = entry.ok_or_else(|| format!("it has no context '{name}'"))?;
            context.insert("namespace".into(), namespace.into());
            set_named(config, "contexts", name, "context", context)
        })
    }

    /// Makes a context the current one. Returns false, without a change, if there is none of that
    /// name.
    pub fn use_context(&self, name: &str) -> Result<bool, Failure> {
        if get_named(&self.read()?, "contexts", name).is_none() {
            return Ok(false);
        }
        self.edit(|config| {
            config.insert("current-context".into(), name.into());
            Ok(())
        })?;
        Ok(true)
    }

    /// Returns the name of the current context, if one is set.
    pub fn current_context(&self) -> Option<String> {
        let config = self.read().ok()?;
        let name = config.get("current-context")?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Whether the entry exists and refers to `server`.
    pub fn has(&self, name: &str, server: &str) -> bool {
        let Ok(config) = self.read() else {
            return false;
        };
        get_named(&config, "clusters", name)
            .and_then(|c| c.get("cluster")?.get("server")?.as_str())
            .is_some_and(|s| s == server)
            && get_named(&config, "contexts", name).is_some()
    }

    fn read(&self) -> Result<Mapping, Failure> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(io_failure("read", &self.path, &e)),
        };
        let damaged = |why: String| {
            Failure::new(Source::Program, Kind::Config, format!("{} is not a kubeconfig: {why}", self.path.display()))
                .advise("repair or move that file, or choose another one with KUBECONFIG; rkube has not changed it")
        };
        match crate::yaml::ordered(&text).map_err(|e| damaged(e.to_string()))? {
            Value::Null => Ok(Mapping::new()),
            Value::Mapping(config) => Ok(config),
            _ => Err(damaged("it is not a mapping".into())),
        }
    }

    fn edit(&self, change: impl FnOnce(&mut Mapping) -> Result<(), String>) -> Result<(), Failure> {
        if let Some(dir) = self
            .path
            .parent()
            .filter(|d| !d.as_os_str().is_empty() && !d.exists())
        {
            crate::files::make_private_dir(dir)?;
        }
        // Also applies to the target of a symbolic link.
        let _owner = act_for_owner_of(&self.path);
        let _lock = self.lock()?;
        // Writes to the target of a symbolic link, so that the link is kept.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut config = self.read()?;
        for (key, value) in [("apiVersion", "v1"), ("kind", "Config")] {
            if !config.contains_key(key) {
                config.insert(key.into(), value.into());
            }
        }
        change(&mut config).map_err(|why| {
            Failure::new(
                Source::Program,
                Kind::Config,
                format!("{} is not a kubeconfig: {why}", path.display()),
            )
            .advise("repair or move that file; rkube has not changed it")
        })?;
        let text = crate::yaml::to_string(&config).map_err(|e| {
            Failure::new(
                Source::Program,
                Kind::Error,
                format!("cannot write {}: {e}", path.display()),
            )
        })?;
        // Keeps the mode, which the user may have changed.
        let mode = crate::files::mode(&path).unwrap_or(0o600);
        write_durable(&path, text.as_bytes(), mode)
    }

    fn lock(&self) -> Result<Lock, Failure> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match owned(File::options().create_new(true).write(true), 0o600).open(&path) {
                Ok(_) => return Ok(Lock(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    let age = std::fs::metadata(&path)
                        .and_then(|m| m.modified())
                        .ok()
                        .and_then(|t| t.elapsed().ok());
                    if age.is_some_and(|age| age > STALE_LOCK_AGE) {
                        let _ = std::fs::remove_file(&path);
                    } else if Instant::now() > deadline {
                        return Err(Failure::new(
                            Source::Program,
                            Kind::Conflict,
                            format!("{} is locked by another program", self.path.display()),
                        )
                        .advise(format!(
                            "if no other program is using it, remove {}",
                            path.display()
                        )));
                    } else {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                Err(e) => return Err(io_failure("create", &path, &e)),
            }
        }
    }
}

fn map<const N: usize>(fields: [(&str, String); N]) -> Mapping {
    fields
        .into_iter()
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

fn get_named<'a>(config: &'a Mapping, list: &str, name: &str) -> Option<&'a Value> {
    config
        .get(list)?
        .as_sequence()?
        .iter()
        .find(|i| i.get("name").and_then(Value::as_str) == Some(name))
}

fn set_named(
    config: &mut Mapping,
    list: &str,
    name: &str,
    field: &str,
    value: Mapping,
) -> Result<(), String> {
    let items = config.entry(list.into()).or_insert(Value::Null);
    if items.is_null() {
        *items = Value::Sequence(Vec::new());
    }
    let Value::Sequence(items) = items else {
        return Err(format!("'{list}' is not a list"));
    };
    let mut item = Mapping::new();
    item.insert(field.into(), Value::Mapping(value));
    item.insert("name".into(), name.into());
    match items
        .iter_mut()
        .find(|i| i.get("name").and_then(Value::as_str) == Some(name))
    {
        Some(old) => *old = Value::Mapping(item),
        None => items.push(Value::Mapping(item)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            server: "https://192.168.58.2:8443".into(),
            ca: "CA".into(),
            certificate: "C".into(),
            key: "K".into(),
        }
    }

    #[test]
    fn others_entries_survive_and_ours_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let theirs = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\ncurrent-context: prod\n\
                      clusters:\n- name: prod\n  cluster: {server: 'https://prod', x-unknown: 1}\n\
                      contexts:\n- name: prod\n  context: {cluster: prod, user: me}\nusers:\n- name: me\n  user: {token: t}\n";
        std::fs::write(&path, theirs).unwrap();
        let file = Kubeconfig::at(&path);
        file.put(&entry("rkube"), true).unwrap();
        assert!(file.has("rkube", "https://192.168.58.2:8443"));
        let now: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(now["current-context"], "rkube");
        assert_eq!(now["clusters"][0]["cluster"]["x-unknown"], 1);
        assert_eq!(now["preferences"]["colors"], true);
        file.put(&entry("rkube"), true).unwrap();
        file.remove("rkube").unwrap();
        let now: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(now["clusters"].as_sequence().unwrap().len(), 1);
        assert_eq!(now["current-context"], "");
        assert!(!path.with_extension("lock").exists());
    }

    #[test]
    fn words_of_yaml_1_1_keep_their_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text =
            "clusters:\n- name: other\n  cluster: {insecure-skip-tls-verify: yes, server: 'on'}\n";
        std::fs::write(&path, text).unwrap();
        Kubeconfig::at(&path).put(&entry("a"), true).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("insecure-skip-tls-verify: true\n"), "{text}");
        assert!(text.contains("server: 'on'\n"), "{text}");
    }

    #[test]
    fn an_entry_alone_is_a_kubeconfig() {
        let text = entry("kind-a").to_yaml().unwrap();
        let config: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(config["current-context"], "kind-a");
        assert_eq!(config["contexts"][0]["context"]["cluster"], "kind-a");
        let server = &config["clusters"][0]["cluster"]["server"];
        assert_eq!(server, "https://192.168.58.2:8443");
    }

    #[test]
    fn a_context_keeps_its_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let file = Kubeconfig::at(dir.path().join("config"));
        file.put(&entry("a"), true).unwrap();
        let text = std::fs::read_to_string(file.path())
            .unwrap()
            .replace("cluster: a\n", "cluster: a\n    namespace: dev\n");
        std::fs::write(file.path(), text).unwrap();
        file.put(&entry("a"), true).unwrap();
        assert!(
            std::fs::read_to_string(file.path())
                .unwrap()
                .contains("namespace: dev")
        );
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for text in ["- a\n", "clusters: 7\n", "{\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                Kubeconfig::at(&path)
                    .put(&entry("a"), true)
                    .unwrap_err()
                    .exit_code(),
                18
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_new_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = Kubeconfig::at(dir.path().join("new/config"));
        file.put(&entry("a"), true).unwrap();
        #[cfg(unix)]
        assert_eq!(crate::files::mode(file.path()), Some(0o600));
    }
}
