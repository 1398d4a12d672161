//! The registry of images that all clusters of a home share.
//!
//! A process of its own serves it on the host. This module keeps its settings and makes it known to a
//! cluster: to the nodes by a file, which the container runtime reads with each pull, and to tools and
//! pods by the objects of the addon `registry`.

use std::fs::{self, TryLockError};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use rkube_config::{REGISTRY_NAME, paths};
use rkube_drivers::NodeState;
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};

use crate::addons::{self, Addon, Origin};
use crate::files::{Home, Lock, io_failure, make_private_dir, write_durable, write_private};
use crate::pki::Pki;
use crate::profile::Profile;
use crate::sudo::act_for_owner_of;
use crate::{Progress, access, files};

/// The name of the addon.
pub const ADDON: &str = "registry";
/// The file of a profile that says whether the cluster knows the registry: its port, or [`OFF`].
const MARKER: &str = "registry";
/// The port of the service besides port 80, in the addon's objects.
const SECOND_PORT: &str = "  - name: registry\n    port: ${PORT}\n    targetPort: ${PORT}\n";
/// Its endpoint.
const SECOND_ENDPOINT: &str = "- name: registry\n  port: ${PORT}\n";
/// The content of the marker of a cluster whose addon was disabled.
const OFF: &str = "off";

/// The settings of the registry, as stored in `registry.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistrySettings {
    /// The port on the loopback of the host, and at the clusters' gateways.
    pub port: u16,
    /// How users prove who they are; without, everybody may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// Maximum size of a blob, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_blob: Option<u64>,
    /// The secret of the commands that control the process.
    pub control: String,
}

impl RegistrySettings {
    /// Reads the settings; `None` if there is no registry.
    pub fn load(home: &Home) -> Result<Option<Self>, Failure> {
        let path = settings_file(home);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| io_failure("read", &path, &e))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let why = format!("{} is damaged: {e}", path.display());
            Failure::new(Source::Program, Kind::Config, why)
                .advise("remove the registry with: rkube registry delete")
        })
    }

    /// Writes the settings.
    pub fn save(&self, home: &Home) -> Result<(), Failure> {
        make_private_dir(&registry_dir(home))?;
        let text = serde_json::to_vec(self).map_err(|e| {
            let why = format!("cannot write the registry's settings: {e}");
            Failure::new(Source::Program, Kind::Error, why)
        })?;
        write_durable(&settings_file(home), &text, 0o600)
    }
}

/// Returns the directory of the registry: its settings, and `storage`.
pub fn registry_dir(home: &Home) -> PathBuf {
    home.root().join("registry")
}

fn settings_file(home: &Home) -> PathBuf {
    registry_dir(home).join("registry.json")
}

/// Takes the lock of the serving process; `None` if another one keeps it.
pub fn registry_lock(home: &Home) -> Result<Option<Lock>, Failure> {
    let path = registry_dir(home).join("lock");
    match Lock::take(open_lock(&path)?) {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(io_failure("lock", &path, &e)),
    }
}

/// The right to create, start and delete the registry, which one command at a time has. Its file is
/// removed with it.
pub struct RegistryAdmin {
    home: Home,
    path: PathBuf,
    lock: Option<Lock>,
}

impl Drop for RegistryAdmin {
    fn drop(&mut self) {
        // While the lock is held, so that the file of another command is never removed. If it stays,
        // the next command uses it.
        let _ = fs::remove_file(&self.path);
        drop(self.lock.take());
        self.home.tidy();
    }
}

/// Takes the right to change the registry; `None` if another command has it.
pub fn registry_admin(home: &Home) -> Result<Option<RegistryAdmin>, Failure> {
    make_private_dir(home.root())?;
    let path = home.root().join(".registry.lock");
    let lock = match take(&path) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(None),
        // The other command has just removed the home with its last file.
        Err(_) if !home.root().exists() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let admin = RegistryAdmin {
        home: home.clone(),
        path,
        lock: Some(lock),
    };
    Ok(Some(admin))
}

/// Locks a file that its holder removes; `None` if another process has it.
fn take(path: &std::path::Path) -> Result<Option<Lock>, Failure> {
    let file = open_lock(path)?;
    #[cfg(unix)]
    let opened = file.metadata().map_err(|e| io_failure("read", path, &e))?;
    let lock = match Lock::take(file) {
        Ok(lock) => lock,
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(io_failure("lock", path, &e)),
    };
    // It may have been removed between the two steps, and then others lock another file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        match fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(lock))
}

fn open_lock(path: &std::path::Path) -> Result<fs::File, Failure> {
    let _owner = act_for_owner_of(path);
    fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| io_failure("open", path, &e))
}

/// Takes the settings away, so that the serving process ends.
pub fn withdraw_registry(home: &Home) -> Result<(), Failure> {
    let path = settings_file(home);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_failure("remove", &path, &e)),
        _ => Ok(()),
    }
}

/// Returns the address at which the nodes of a cluster reach the host.
fn gateway(profile: &Profile) -> Ipv4Addr {
    match profile.driver.as_str() {
        "qemu" => rkube_drivers::QEMU_HOST,
        _ => network_gateway(profile),
    }
}

pub(crate) fn network_gateway(profile: &Profile) -> Ipv4Addr {
    let mut hosts = profile.node_cidr.hosts();
    hosts.next().unwrap_or(profile.node_cidr.network())
}

/// Returns the address of the host in the cluster's own network, at which the registry listens for its
/// nodes; `None` if they reach the loopback.
pub fn registry_listens(profile: &Profile) -> Option<Ipv4Addr> {
    (profile.driver != "qemu").then(|| network_gateway(profile))
}

/// Returns the port of the host's loopback that virtual machines must reach.
pub(crate) fn loopback_port(home: &Home, driver: &str) -> Option<u16> {
    if driver != "qemu" {
        return None;
    }
    // A damaged file is reported by the commands about the registry.
    RegistrySettings::load(home).ok()?.map(|s| s.port)
}

/// Returns the paths of the certificate and the key with which the registry serves TLS to a cluster.
pub fn registry_certificate(home: &Home, profile: &str) -> (PathBuf, PathBuf) {
    let pki = home.profile_dir(profile).join("pki");
    (pki.join("registry.crt"), pki.join("registry.key"))
}

/// Whether a cluster is to know the registry, which it is unless its addon was disabled.
fn marker(home: &Home, profile: &str) -> Option<String> {
    let path = home.profile_dir(profile).join(MARKER);
    fs::read_to_string(path).ok()
}

fn mark(home: &Home, profile: &str, text: &str) -> Result<(), Failure> {
    write_private(&home.profile_dir(profile).join(MARKER), text.as_bytes())
}

/// Whether the addon of the registry was disabled in a cluster.
pub fn registry_is_off(home: &Home, profile: &str) -> bool {
    marker(home, profile).as_deref() == Some(OFF)
}

/// Whether a cluster was told of a registry.
pub fn registry_is_known(home: &Home, profile: &str) -> bool {
    marker(home, profile).is_some_and(|text| text != OFF)
}

/// Makes the registry known to a running cluster.
pub async fn attach_registry(
    home: &Home,
    profile: &Profile,
    settings: &RegistrySettings,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    {
        let _lock = home.lock(&profile.name)?;
        let pki = Pki::open(&home.profile_dir(&profile.name).join("pki"))?;
        pki.issue_registry(network_gateway(profile), &names(profile))?;
    }
    // The process listens for clusters that know it, so it begins while the addon is enabled.
    let port = settings.port.to_string();
    mark(home, &profile.name, &port)?;
    tell_nodes(home, profile, port.as_bytes()).await?;
    let addon = addons::find(home, ADDON)?;
    addons::enable(home, profile, &addon, progress).await
}

/// Makes a running cluster forget the registry. With `off`, also after the next start.
pub async fn detach_registry(
    home: &Home,
    profile: &Profile,
    off: bool,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    if off {
        // First, so that the registry is not served to the cluster if the rest fails.
        mark(home, &profile.name, OFF)?;
    }
    tell_nodes(home, profile, b"").await?;
    match addons::disable(home, profile, ADDON, progress).await {
        // It was disabled before.
        Err(failure) if failure.kind == Kind::NotFound => {}
        other => other?,
    }
    if off {
        return Ok(());
    }
    let path = home.profile_dir(&profile.name).join(MARKER);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_failure("remove", &path, &e)),
        _ => Ok(()),
    }
}

/// Tells the running nodes of a cluster the registry's port. They keep it when they are stopped.
pub async fn tell_nodes(home: &Home, profile: &Profile, port: &[u8]) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    let running = profile.nodes.iter().zip(states);
    let running = running.filter(|(_, state)| *state == NodeState::Running);
    let command = format!("rkube ctl file write --mode 644 {}", paths::REGISTRY_PORT);
    for (node, _) in running {
        let output = tokio::io::sink();
        let told = access::on_node(home, profile, node, &command, Some(port), output);
        let (code, error) = told.await?;
        if code != 0 {
            let why = format!(
                "cannot tell the node {} of the registry: {error}",
                node.name
            );
            return Err(Failure::new(Source::Guest, Kind::Error, why));
        }
    }
    Ok(())
}

/// Returns the names of the registry in a cluster.
pub fn names(profile: &Profile) -> Vec<String> {
    let short = format!("{ADDON}.kube-system");
    let service = format!("{short}.svc");
    let full = format!("{service}.{}", profile.dns_domain);
    vec![REGISTRY_NAME.to_owned(), short, service, full]
}

/// Returns the addon as a cluster needs it: that of the registry gets its port and address.
pub(crate) fn completed(home: &Home, profile: &Profile, addon: &Addon) -> Result<Addon, Failure> {
    let Origin::BuiltIn(files) = &addon.origin else {
        return Ok(addon.clone());
    };
    if addon.name != ADDON {
        return Ok(addon.clone());
    }
    let settings = RegistrySettings::load(home)?.ok_or_else(none)?;
    let values = [
        ("${PORT}", settings.port.to_string()),
        ("${GATEWAY}", gateway(profile).to_string()),
        ("${DOMAIN}", profile.dns_domain.clone()),
    ];
    let complete = |text: &str| {
        let text = match settings.port {
            // A service has a port once, whatever its names are.
            80 => text.replace(SECOND_PORT, "").replace(SECOND_ENDPOINT, ""),
            _ => text.to_owned(),
        };
        let replace = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        values.iter().fold(text, replace)
    };
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), complete(text)));
    Ok(Addon {
        origin: Origin::Completed(files.collect()),
        ..addon.clone()
    })
}

/// Returns the failure of a command that needs a registry.
pub fn none() -> Failure {
    Failure::new(Source::Program, Kind::NotFound, "there is no registry")
        .advise("create one with: rkube registry create")
}

/// Removes the registry's directory, when its process has ended.
pub fn remove_registry(home: &Home) -> Result<(), Failure> {
    files::remove_tree(&registry_dir(home))?;
    home.tidy();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(driver: &str) -> Profile {
        serde_json::from_value(serde_json::json!({
            "format": 1, "name": "c", "driver": driver, "created": "",
            "nodeCidr": "192.168.58.0/24", "podCidr": "10.244.0.0/16",
            "serviceCidr": "10.96.0.0/12", "dnsDomain": "cluster.local",
            "nodes": [{"name": "c", "ip": "192.168.58.2", "podCidr": "10.244.0.0/24"}],
        }))
        .unwrap()
    }

    #[test]
    fn the_addon_gets_the_port_and_the_address_of_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let addon = addons::find(&home, ADDON).unwrap();
        let without = completed(&home, &profile("native"), &addon).unwrap_err();
        assert_eq!(without.kind, Kind::NotFound);
        let settings = RegistrySettings {
            port: 5007,
            auth: None,
            max_blob: None,
            control: "x".to_owned(),
        };
        settings.save(&home).unwrap();
        assert_eq!(RegistrySettings::load(&home).unwrap(), Some(settings));
        for (driver, address, listens, loopback) in [
            ("native", "192.168.58.1", true, None),
            ("docker", "192.168.58.1", true, None),
            ("qemu", "192.0.2.2", false, Some(5007)),
        ] {
            let profile = profile(driver);
            let addon = completed(&home, &profile, &addon).unwrap();
            let Origin::Completed(files) = &addon.origin else {
                panic!("{:?}", addon.origin);
            };
            let (_, text) = files
                .iter()
                .find(|(name, _)| name == "registry.yaml")
                .unwrap();
            let objects = text.split_once("\n").unwrap().1;
            assert!(!objects.contains("${"), "{text}");
            assert!(text.contains("host: \"localhost:5007\""), "{text}");
            assert!(
                text.contains(&format!("addresses: [\"{address}\"]")),
                "{text}"
            );
            assert!(text.contains("registry.kube-system.svc.cluster.local:5007"));
            assert_eq!(registry_listens(&profile).is_some(), listens);
            assert_eq!(loopback_port(&home, driver), loopback);
        }
        let settings = RegistrySettings {
            port: 80,
            auth: None,
            max_blob: None,
            control: "x".to_owned(),
        };
        settings.save(&home).unwrap();
        let addon = completed(&home, &profile("native"), &addon).unwrap();
        let Origin::Completed(files) = &addon.origin else {
            panic!("{:?}", addon.origin);
        };
        assert!(
            files
                .iter()
                .all(|(_, text)| !text.contains("name: registry\n    port"))
        );
        assert!(
            files
                .iter()
                .all(|(_, text)| text.matches("port: 80\n").count() <= 2)
        );
        withdraw_registry(&home).unwrap();
        assert_eq!(RegistrySettings::load(&home).unwrap(), None);
    }

    #[test]
    fn one_command_changes_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        let admin = registry_admin(&home).unwrap();
        assert!(admin.is_some());
        assert!(registry_admin(&home).unwrap().is_none());
        drop(admin);
        // Nothing is left of it.
        assert!(!home.root().exists());
        assert!(registry_admin(&home).unwrap().is_some());
    }

    #[test]
    fn one_process_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        make_private_dir(&registry_dir(&home)).unwrap();
        let lock = registry_lock(&home).unwrap();
        assert!(lock.is_some());
        assert!(registry_lock(&home).unwrap().is_none());
        drop(lock);
        assert!(registry_lock(&home).unwrap().is_some());
    }
}
