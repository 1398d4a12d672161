//! Device nodes of the node, given to containers.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::device_filter::DeviceRule;
use crate::error::{Context, Result, RuntimeError};
use crate::spec::Device;

/// Directories and files of /dev that are each container's own.
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

/// Nodes to make, and rules of the device cgroup.
#[derive(Default)]
pub struct Devices {
    /// `linux.devices`.
    pub nodes: Vec<Value>,
    /// `linux.resources.devices`, for v1.
    pub rules: Vec<Value>,
    /// The devices that may be used besides the default ones, for v2; none for
    /// all of the node's.
    pub allowed: Option<Vec<DeviceRule>>,
}

impl Devices {
    /// Nothing but the defaults, which the launcher adds.
    pub fn restricted() -> Self {
        Self {
            nodes: Vec::new(),
            rules: vec![json!({"allow": false, "access": "rwm"})],
            allowed: Some(Vec::new()),
        }
    }

    /// Everything in the node's /dev.
    pub fn all() -> Result<Self> {
        let mut devices = Self {
            nodes: Vec::new(),
            rules: vec![json!({"allow": true, "access": "rwm"})],
            allowed: None,
        };
        let dev = Path::new("/dev");
        devices
            .walk(dev, dev, "rwm", &|name| OWN.contains(&name))
            .context(|| "cannot list /dev".into())?;
        devices.rules.truncate(1);
        Ok(devices)
    }

    /// Adds one device, or all in a directory.
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
        let source = fs::canonicalize(&device.host_path)
            .context(|| format!("cannot find device {}", device.host_path.display()))?;
        let target = if device.container_path.as_os_str().is_empty() {
            &device.host_path
        } else {
            &device.container_path
        };
        let before = self.nodes.len();
        self.walk(&source, target, permissions, &|_| false)
            .context(|| format!("cannot read device {}", source.display()))?;
        if self.nodes.len() == before {
            return Err(RuntimeError::Invalid(format!(
                "{} is not a device",
                device.host_path.display()
            )));
        }
        Ok(())
    }

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
                    // Devices come and go.
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
        self.nodes.push(json!({
            "path": path, "type": kind, "major": major, "minor": minor,
            "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
        }));
        if let Some(allowed) = &mut self.allowed {
            allowed.push(DeviceRule {
                block: kind == "b",
                major: Some(major),
                minor: Some(minor),
                access: access.to_string(),
            });
        }
        self.rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": access,
        }));
        Ok(())
    }
}
