//! The content of a node's root file system, common to all drivers.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rkube_cgroups::Hierarchy;
use rkube_config::paths::USR_LINKS;

use crate::cgroup;

/// Creates the directories and files of a root file system before anything is mounted in it.
pub fn skeleton(lower: &Path) -> anyhow::Result<()> {
    for (name, mode) in [
        ("dev", 0o755),
        ("etc/kubernetes/manifests", 0o755),
        ("etc/rkube", 0o755),
        ("etc/ssl/certs", 0o755),
        ("home", 0o755),
        ("mnt", 0o755),
        ("opt", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("var/lib", 0o755),
        ("var/log", 0o755),
        ("var/tmp", 0o1777),
    ] {
        make_dir(&lower.join(name), mode)?;
    }
    for (name, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
        ("etc/os-release", OS_RELEASE),
        (
            "etc/profile",
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\u@\\h:\\w\\$ '\n",
        ),
    ] {
        let path = lower.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    link("../proc/self/mounts", &lower.join("etc/mtab"))?;
    link("../run", &lower.join("var/run"))?;
    Ok(())
}

/// Copies the host's trusted CA certificates to the node, which cannot see the rest of the
/// host's `/etc`.
pub fn roots_of_trust(lower: &Path) -> anyhow::Result<()> {
    for bundle in [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
    ] {
        if Path::new(bundle).is_file() {
            let copy = lower.join("etc/ssl/certs/ca-certificates.crt");
            fs::copy(bundle, &copy)
                .with_context(|| format!("cannot copy {bundle} to {}", copy.display()))?;
            break;
        }
    }
    Ok(())
}

const OS_RELEASE: &str = concat!(
    "ID=rkube\nNAME=\"rkube node\"\nPRETTY_NAME=\"rkube ",
    env!("CARGO_PKG_VERSION"),
    "\"\nVERSION_ID=\"",
    env!("CARGO_PKG_VERSION"),
    "\"\n"
);

/// Mounts `/proc`, `/sys` with the control groups, `/dev`, `/run` and `/tmp`.
pub fn special(root: &Path, hierarchies: &[Hierarchy]) -> anyhow::Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_on("proc", root, "proc", quiet, None)?;
    mount_on("sysfs", root, "sys", quiet, None)?;
    cgroup::mount_all(hierarchies, root)?;
    // Optional: the kernel may lack BPF.
    let bpf = root.join("sys/fs/bpf");
    if bpf.is_dir() {
        let _ = mount(Some("bpf"), &bpf, Some("bpf"), quiet, Some("mode=700"));
    }
    mount_on(
        "tmpfs",
        root,
        "dev",
        MsFlags::MS_NOSUID,
        Some("mode=755,size=64m"),
    )?;
    devices(&root.join("dev"))?;
    device_file_systems(root)?;
    temporary(root)
}

/// Mounts the file systems of terminals, shared memory and message queues in `/dev`.
pub(crate) fn device_file_systems(root: &Path) -> anyhow::Result<()> {
    for (kind, place, options) in [
        (
            "devpts",
            "dev/pts",
            Some("newinstance,ptmxmode=0666,mode=620,gid=5"),
        ),
        ("tmpfs", "dev/shm", Some("mode=1777")),
        ("mqueue", "dev/mqueue", None),
    ] {
        make_dir(&root.join(place), 0o755)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount_on(kind, root, place, flags, options)?;
    }
    Ok(())
}

/// Makes the symbolic links that programs expect in `/dev`.
pub(crate) fn device_links(dev: &Path) -> anyhow::Result<()> {
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        link(target, &dev.join(name))?;
    }
    Ok(())
}

/// Mounts `/run` and `/tmp`.
pub(crate) fn temporary(root: &Path) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (place, options) in [("run", "mode=755"), ("tmp", "mode=1777")] {
        mount_on("tmpfs", root, place, flags, Some(options))?;
    }
    Ok(())
}

/// Mounts a file system at `place` below `root`.
pub(crate) fn mount_on(
    kind: &str,
    root: &Path,
    place: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> anyhow::Result<()> {
    mount(Some(kind), &root.join(place), Some(kind), flags, options)
        .with_context(|| format!("cannot mount {kind} on /{place} of the node"))
}

/// Creates the character devices that programs expect.
fn devices(dev: &Path) -> anyhow::Result<()> {
    let nodes = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
    ];
    for (name, major, minor) in nodes {
        let path = dev.join(name);
        mknod(
            &path,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major, minor),
        )
        .with_context(|| format!("cannot make /dev/{name} of the node"))?;
        // mknod obeys the umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    make_dir(&dev.join("net"), 0o755)?;
    mknod(
        &dev.join("net/tun"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(10, 200),
    )
    .context("cannot make /dev/net/tun of the node")?;
    device_links(dev)
}

/// Bind-mounts the host's programs and libraries (`/usr` and the directories that belong to
/// it) read-only, with a separate `/usr/local`.
pub fn tool_box(host: &Path, root: &Path) -> anyhow::Result<()> {
    bind(&host.join("usr"), &root.join("usr"), true)?;
    // The node has a separate /usr/local, because the host's may contain anything.
    let local = root.join("usr/local");
    if local.is_dir() {
        mount(
            Some("tmpfs"),
            &local,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )
        .context("cannot mount /usr/local of the node")?;
        make_dir(&local.join("bin"), 0o755)?;
        make_dir(&local.join("sbin"), 0o755)?;
    } else {
        anyhow::bail!(
            "the host has no /usr/local to put the node's own programs in; make that directory"
        );
    }
    for name in USR_LINKS {
        let source = host.join(name);
        match fs::symlink_metadata(&source) {
            Ok(m) if m.file_type().is_symlink() => {
                link(fs::read_link(&source)?, &root.join(name))?;
            }
            Ok(m) if m.is_dir() => {
                make_dir(&root.join(name), 0o755)?;
                bind(&source, &root.join(name), true)?;
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Creates the links into `/usr` that most distributions have, unless they exist.
pub fn complete_links(root: &Path) -> anyhow::Result<()> {
    for name in USR_LINKS {
        if root.join("usr").join(name).is_dir() && fs::symlink_metadata(root.join(name)).is_err() {
            link(Path::new("usr").join(name), &root.join(name))?;
        }
    }
    Ok(())
}

/// Bind-mounts a directory without the mounts below it, because a read-only remount would
/// not apply to them.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> anyhow::Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))?;
    if read_only {
        let flags = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
            .with_context(|| format!("cannot make {} read-only", target.display()))?;
    }
    Ok(())
}

/// Bind-mounts a file read-only. Creates the target.
pub fn bind_file(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::write(target, b"").with_context(|| format!("cannot make {}", target.display()))?;
    bind(source, target, true)
}

/// Changes the flags of the mount at `path`, such as its propagation.
pub fn bind_flags(path: &Path, flags: MsFlags) -> anyhow::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot change the mount propagation of {}", path.display()))
}

/// Creates a directory and its parents. Sets the directory's mode regardless of the umask.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    rkube_fsutil::make_dir(path, mode).with_context(|| format!("cannot make {}", path.display()))
}

/// Creates a symbolic link at `path` unless the path exists.
pub(crate) fn link(target: impl AsRef<Path>, path: &Path) -> anyhow::Result<()> {
    match symlink(target.as_ref(), path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).with_context(|| format!("cannot link {}", path.display()))
        }
        _ => Ok(()),
    }
}
