//! The file systems of a node that is a virtual machine.
//!
//! The root is the state disk itself, without an overlay: containers keep overlay layers on
//! it, which an overlay cannot hold. It replaces the initramfs by a move and `chroot`,
//! because `pivot_root` does not work on an initramfs.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use rkube_config::paths;

use crate::rootfs::{self, link, make_dir, mount_on};
use rkube_config::machine::{TOOL_BOX_TAG, TOOLS};

const QUIET: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Mounts the file systems that the initramfs needs to load modules and find devices.
pub fn early() -> anyhow::Result<()> {
    for (kind, place, flags) in [
        ("proc", "/proc", QUIET),
        ("sysfs", "/sys", QUIET),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID),
    ] {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), flags, None::<&str>)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    Ok(())
}

/// Prepares the root file system and its mounts, without the node's identity and tools.
pub fn root(root: &Path) -> anyhow::Result<()> {
    rootfs::skeleton(root)?;
    // From the initramfs, which has a copy of the host's certificates.
    rootfs::roots_of_trust(root)?;
    mount_on("proc", root, "proc", QUIET, None)?;
    mount_on("sysfs", root, "sys", QUIET, None)?;
    mount_on("cgroup2", root, "sys/fs/cgroup", QUIET, Some("nsdelegate"))?;
    // Optional: the kernel may lack them.
    for (kind, place, options) in [
        ("bpf", "sys/fs/bpf", Some("mode=700")),
        ("securityfs", "sys/kernel/security", None),
    ] {
        if root.join(place).is_dir() {
            let _ = mount_on(kind, root, place, QUIET, options);
        }
    }
    mount_on("devtmpfs", root, "dev", MsFlags::MS_NOSUID, None)?;
    rootfs::device_file_systems(root)?;
    // devtmpfs' ptmx belongs to the initial instance of devpts, not to the one mounted here.
    let _ = fs::remove_file(root.join("dev/ptmx"));
    rootfs::device_links(&root.join("dev"))?;
    rootfs::temporary(root)?;
    for (place, mode) in [(paths::STATE, 0o700), (paths::IMAGES, 0o700)] {
        make_dir(&root.join(rel(place)), mode)?;
    }
    Ok(())
}

/// Unpacks the node's `/etc/rkube`, a tar archive, to a read-only tmpfs.
pub fn identity(root: &Path, archive: &[u8]) -> anyhow::Result<()> {
    let place = root.join("etc/rkube");
    make_dir(&place, 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        &place,
        Some("tmpfs"),
        flags,
        Some("mode=700,size=4m"),
    )
    .context("cannot mount /etc/rkube")?;
    tar::Archive::new(archive)
        .unpack(&place)
        .context("cannot unpack the node's identity")?;
    mount(
        None::<&str>,
        &place,
        None::<&str>,
        flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        None::<&str>,
    )
    .context("cannot make /etc/rkube read-only")
}

/// Makes programs available for users and scripts: the host's `/usr` if the kernel can
/// mount it, else the tools of the initramfs. Also mounts the rkube binary.
pub fn tools(root: &Path) -> anyhow::Result<()> {
    let usr = root.join("usr");
    let shared = [
        (
            "9p",
            "trans=virtio,version=9p2000.L,cache=loose,msize=512000",
        ),
        ("virtiofs", ""),
    ]
    .into_iter()
    .any(|(kind, options)| {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some(TOOL_BOX_TAG), &usr, Some(kind), flags, Some(options)).is_ok()
    });
    let local = usr.join("local");
    if shared {
        // The node has a separate /usr/local, because the host's may contain anything.
        mount(
            Some("tmpfs"),
            &local,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )
        .context("cannot mount /usr/local; the host's /usr has no such directory")?;
        for name in ["bin", "sbin", "lib", "lib64", "lib32"] {
            if usr.join(name).is_dir() {
                link(Path::new("usr").join(name), &root.join(name))?;
            }
        }
    } else {
        for name in ["bin", "sbin"] {
            make_dir(&usr.join(name), 0o755)?;
            link(Path::new("usr").join(name), &root.join(name))?;
        }
        bring_tools(&usr.join("bin"))?;
    }
    for name in ["bin", "sbin"] {
        make_dir(&local.join(name), 0o755)?;
    }
    let binary = root.join(rel(paths::BINARY));
    rootfs::bind_file(Path::new("/init"), &binary)
}

/// Bind-mounts the initramfs' busybox, if it has one, and links all of its applets to it.
fn bring_tools(bin: &Path) -> anyhow::Result<()> {
    let busybox = Path::new(TOOLS).join("busybox");
    if !busybox.exists() {
        return Ok(());
    }
    rootfs::bind_file(&busybox, &bin.join("busybox"))?;
    let listed = std::process::Command::new(&busybox)
        .arg("--list")
        .output()
        .context("cannot run busybox")?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        if !name.is_empty() && name != "busybox" {
            link("busybox", &bin.join(name))?;
        }
    }
    Ok(())
}

/// Makes `root` the root file system of this process.
pub fn enter(root: &Path) -> anyhow::Result<()> {
    chdir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("cannot move the node's root into place")?;
    chroot(".").context("cannot change the root")?;
    chdir("/").context("cannot enter the new root")?;
    // Containers may request mount propagation, which needs a shared parent mount.
    rootfs::bind_flags(Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC)
}

/// Writes a random machine ID unless the disk has one. It is kept for the disk's lifetime.
pub fn machine_id() -> anyhow::Result<()> {
    let path = Path::new("/etc/machine-id");
    if path.exists() {
        return Ok(());
    }
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context("cannot read a random number")?
        .replace('-', "");
    let mut file = fs::File::create(path).context("cannot make /etc/machine-id")?;
    file.write_all(uuid.as_bytes())
        .context("cannot write /etc/machine-id")
}

/// Remounts the disk read-only before power-off. On failure, which is reported unless the
/// disk is busy, the journal keeps it consistent.
pub fn leave() {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(e) = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        && e != nix::errno::Errno::EBUSY
    {
        rkube_fsutil::say!("init: cannot make the disk read-only: {e}");
    }
}

/// Makes an absolute path relative to the root.
fn rel(path: &str) -> &str {
    path.trim_start_matches('/')
}
