//! The Container Device Interface: files that say what a container needs for a device.
//!
//! Specifications are read from [`DIRS`] with each use, so that those that a plugin has just written
//! count. Source: the interface's specification, versions 0.3.0 to 1.0.0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[cfg(test)]
mod tests;

/// The directories of specifications; later ones take precedence.
pub const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The versions that are understood.
const VERSIONS: [&str; 7] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0",
];
/// Largest file in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A specification: devices of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "read so that it is a known field")]
    annotations: BTreeMap<String, String>,
    devices: Vec<SpecDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecDevice {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "read so that it is a known field")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// Changes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// Device files.
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Programs to run in the container's life.
    pub hooks: Vec<Hook>,
    /// Classes of Intel's Resource Director Technology.
    pub intel_rdt: Option<serde_yaml::Value>,
    /// Groups of the container's processes.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the node; `path` if empty.
    pub host_path: String,
    /// `b` for a block device, `c` or `u` for a character device, `p` for a pipe; what the node has
    /// if empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number; what the node has if it is 0.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Mode; what the node has if absent.
    pub file_mode: Option<u32>,
    /// Allowed access, of `r`, `w` and `m`; all if empty.
    pub permissions: String,
    /// Owner; what the node has if absent.
    pub uid: Option<u32>,
    /// Group; what the node has if absent.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mount {
    /// Path on the node.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Type of the file system; a bind mount if empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hook {
    /// When it runs.
    pub hook_name: String,
    /// Its path.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its variables.
    pub env: Vec<String>,
    /// Its time limit in seconds.
    pub timeout: Option<i64>,
}

impl Edits {
    fn append(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.hooks.extend_from_slice(&other.hooks);
        self.additional_gids
            .extend_from_slice(&other.additional_gids);
        if other.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&other.intel_rdt);
        }
    }
}

/// Checks the parts of a device's qualified name, `vendor/class=name`.
///
/// # Errors
///
/// Returns what is wrong.
pub fn parse_name(name: &str) -> Result<(&str, &str), String> {
    let invalid = |why: &str| format!("invalid CDI device name {name:?}: {why}");
    let (kind, device) = name.split_once('=').ok_or_else(|| invalid("no \"=\""))?;
    check_kind(kind).map_err(|e| invalid(&e))?;
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let ends_well = |c: char| c.is_ascii_alphanumeric();
    if !device.starts_with(ends_well) || !device.ends_with(ends_well) || !device.chars().all(inner)
    {
        return Err(invalid("no valid name"));
    }
    Ok((kind, device))
}

/// Checks a kind, `vendor/class`.
fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or("no \"/\" in the kind")?;
    let is_word = |word: &str, inner: &[char]| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.ends_with(|c: char| c.is_ascii_alphanumeric())
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || inner.contains(&c))
    };
    if !is_word(vendor, &['_', '-', '.']) {
        return Err(format!("invalid vendor {vendor:?}"));
    }
    if !is_word(class, &['_', '-']) {
        return Err(format!("invalid class {class:?}"));
    }
    Ok(())
}

fn parse(text: &str) -> Result<Spec, String> {
    let spec: Spec = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let version = spec.cdi_version.trim_start_matches('v');
    if !VERSIONS.contains(&version) {
        return Err(format!(
            "version {:?} is not understood; known are {}",
            spec.cdi_version,
            VERSIONS.join(", ")
        ));
    }
    check_kind(&spec.kind)?;
    for device in &spec.devices {
        parse_name(&format!("{}={}", spec.kind, device.name))?;
    }
    Ok(spec)
}

/// The specifications of a node.
#[derive(Debug, Default)]
pub struct Registry {
    /// Specifications with their directory's rank.
    specs: Vec<(usize, Spec)>,
    /// Files that are not used, and why.
    pub errors: Vec<String>,
}

impl Registry {
    /// Reads the specifications of directories, which may be missing. Damaged files are left out
    /// and named in `errors`.
    pub fn read<P: AsRef<Path>>(dirs: &[P]) -> Self {
        let mut registry = Self::default();
        for (rank, dir) in dirs.iter().enumerate() {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                let extension = file.extension().and_then(|e| e.to_str());
                if matches!(extension, Some("json" | "yaml")) {
                    match read_file(&file) {
                        Ok(spec) => registry.specs.push((rank, spec)),
                        Err(e) => registry.errors.push(format!("{}: {e}", file.display())),
                    }
                }
            }
        }
        registry
    }

    /// Returns the specification with a device, and the device. There is none if two files of one
    /// directory have it.
    fn find(&self, name: &str) -> Option<(usize, &SpecDevice)> {
        let (kind, device) = parse_name(name).ok()?;
        let of_kind = self
            .specs
            .iter()
            .enumerate()
            .filter(|(_, (_, spec))| spec.kind == kind);
        let found: Vec<(usize, usize, &SpecDevice)> = of_kind
            .flat_map(|(at, (rank, spec))| spec.devices.iter().map(move |d| (at, *rank, d)))
            .filter(|(_, _, d)| d.name == device)
            .collect();
        let best = found.iter().map(|(_, rank, _)| *rank).max()?;
        let mut best = found.into_iter().filter(|(_, rank, _)| *rank == best);
        let (at, _, device) = best.next()?;
        best.next().is_none().then_some((at, device))
    }

    /// Returns the changes for a container with these devices: those of each specification once,
    /// then those of its devices.
    ///
    /// # Errors
    ///
    /// Returns the container runtimes' message if there are unknown devices.
    pub fn edits(&self, names: &[String]) -> Result<Edits, String> {
        let mut edits = Edits::default();
        let mut used = BTreeSet::new();
        let mut unknown: Vec<&str> = Vec::new();
        for name in names {
            let Some((at, device)) = self.find(name) else {
                unknown.push(name);
                continue;
            };
            if used.insert(at) {
                edits.append(&self.specs[at].1.container_edits);
            }
            edits.append(&device.container_edits);
        }
        if unknown.is_empty() {
            return Ok(edits);
        }
        let mut message = format!(
            "CDI device injection failed: unresolvable CDI devices {}",
            unknown.join(", ")
        );
        if !self.errors.is_empty() {
            message = format!("{message} (not used: {})", self.errors.join("; "));
        }
        Err(message)
    }
}

fn read_file(path: &Path) -> Result<Spec, String> {
    use std::io::Read as _;
    // A pipe would not end, and neither does what a link to a device leads to.
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("more than {MAX_FILE} bytes"));
    }
    parse(&text)
}
