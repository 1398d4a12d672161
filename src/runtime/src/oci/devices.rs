//! Devices of the node that containers may use.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rkube_cgroups::devices::DeviceRule;
use serde_json::{Value, json};

use crate::error::{Context, Result, RuntimeError};
use crate::spec::Device;

/// Names in /dev that belong to each container and are not copied from the node.
const OWN: &[&str] = &[
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    "ptmx",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// The device nodes and device rules of a container.
#[derive(Default)]
pub struct Devices {
    /// Device nodes to create (`linux.devices`).
    pub nodes: Vec<Value>,
    /// Device rules for cgroup v1 (`linux.resources.devices`).
    pub rules: Vec<Value>,
    /// Devices allowed in addition to the default ones, for cgroup v2; `None` for all devices.
    pub allowed: Option<Vec<DeviceRule>>,
}

impl Devices {
    /// Returns no devices besides the default ones, which the launcher adds.
    pub fn restricted() -> Self {
        Self {
            nodes: Vec::new(),
            rules: vec![json!({"allow": false, "access": "rwm"})],
            allowed: Some(Vec::new()),
        }
    }

    /// Returns all devices in the node's /dev, for privileged containers.
    pub fn all() -> Result<Self> {
        let mut devices = Self {
            nodes: Vec::new(),
            rules: Vec::new(),
            allowed: None,
        };
        let dev = Path::new("/dev");
        devices
            .walk(dev, dev, "rwm", &|name| OWN.contains(&name))
            .context(|| "cannot list /dev".into())?;
        // A new group may use what its parent may. It cannot have more, so "all" would be refused on
        // nodes that are restricted themselves.
        devices.rules.clear();
        Ok(devices)
    }

    /// Adds a device, or all devices in a directory. Fails if there is none.
    pub fn add(&mut self, device: &Device) -> Result<()> {
        let permissions = if device.permissions.is_empty() {
            "rwm"
        } else {
            device.permissions.as_str()
        };
        if permissions
            .bytes()
            .any(|b| !matches!(b, b'r' | b'w' | b'm'))
        {
            return Err(RuntimeError::Invalid(format!(
                "device permissions {permissions:?} are not of r, w and m"
            )));
        }
        let target = if device.container_path.as_os_str().is_empty() {
            &device.host_path
        } else {
            &device.container_path
        };
        // It takes the place of the node's device that a privileged container has there.
        self.nodes.retain(|node| node["path"] != json!(target));
        let before = self.nodes.len();
        if let Some((block, major, minor)) = device.numbers {
            let kind = if block { "b" } else { "c" };
            let node = json!({
                "path": target, "type": kind, "major": major, "minor": minor,
                "fileMode": device.mode.unwrap_or(0o666),
                "uid": device.uid.unwrap_or(0), "gid": device.gid.unwrap_or(0),
            });
            self.push(node, (block, major, minor), permissions);
            return Ok(());
        }
        let source = fs::canonicalize(&device.host_path)
            .context(|| format!("cannot find device {}", device.host_path.display()))?;
        self.walk(&source, target, permissions, &|_| false)
            .context(|| format!("cannot read device {}", source.display()))?;
        if self.nodes.len() == before {
            return Err(RuntimeError::Invalid(format!(
                "{} is not a device",
                device.host_path.display()
            )));
        }
        let given = [
            ("fileMode", device.mode),
            ("uid", device.uid),
            ("gid", device.gid),
        ];
        for node in &mut self.nodes[before..] {
            for (field, value) in given {
                if let Some(value) = value {
                    node[field] = json!(value);
                }
            }
        }
        Ok(())
    }

    /// Adds a device node and the rules that allow its use.
    fn push(&mut self, node: Value, (block, major, minor): (bool, u32, u32), access: &str) {
        let kind = if block { "b" } else { "c" };
        self.nodes.push(node);
        if let Some(allowed) = &mut self.allowed {
            allowed.push(DeviceRule {
                block,
                major: Some(major),
                minor: Some(minor),
                access: access.to_string(),
            });
        }
        self.rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": access,
        }));
    }

    /// Adds the devices at or below `source`. Other files are ignored.
    fn walk(
        &mut self,
        source: &Path,
        target: &Path,
        access: &str,
        skip: &dyn Fn(&str) -> bool,
    ) -> io::Result<()> {
        let metadata = fs::symlink_metadata(source)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(source)? {
                let entry = entry?;
                let name = entry.file_name();
                if skip(&name.to_string_lossy()) {
                    continue;
                }
                match self.walk(&entry.path(), &target.join(&name), access, skip) {
                    // The device was removed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            return Ok(());
        }
        let kind = if kind.is_char_device() {
            "c"
        } else if kind.is_block_device() {
            "b"
        } else {
            return Ok(());
        };
        let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let path: PathBuf = target.to_path_buf();
        let node = json!({
            "path": path, "type": kind, "major": major, "minor": minor,
            "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
        });
        self.push(node, (kind == "b", major, minor), access);
        Ok(())
    }
}
