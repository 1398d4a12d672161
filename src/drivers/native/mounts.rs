//! The file systems of a native node, made from inside its own namespaces.
//!
//! The root is an overlay of a small skeleton; the host's `/usr` is there
//! read-only as a tool box, and nothing else of the host can be seen.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};
use rkube_config::paths;

use super::cgroup::{self, Hierarchy};
use super::sandbox::SandboxSpec;

/// Places of the tool box besides `/usr`, links into it on most distributions.
const USR_LINKS: [&str; 5] = ["bin", "sbin", "lib", "lib64", "lib32"];

/// Builds the node's file systems and makes them the root of this process.
pub fn enter(spec: &SandboxSpec, hierarchies: &[Hierarchy]) -> anyhow::Result<()> {
    // Nothing that is mounted here may reach the host.
    bind_flags(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;

    let root = spec.dir.join("root");
    let lower = spec.dir.join("skeleton");
    let (upper, work) = (spec.dir.join("upper"), spec.dir.join("work"));
    for folder in [&root, &lower, &upper, &work] {
        make_dir(folder, 0o755)?;
    }
    rkube_init::skeleton(&lower)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        escape(&lower)?,
        escape(&upper)?,
        escape(&work)?
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot mount the node's root on {}", root.display()))?;

    special(&root, hierarchies)?;
    tool_box(&root)?;

    bind(&spec.etc, &root.join("etc/rkube"), true)?;
    let binary = root.join(rel(paths::BINARY));
    bind_file(&spec.binary, &binary)?;
    for (source, place, mode) in [
        (spec.dir.join("state"), paths::STATE, 0o700),
        (spec.images.clone(), paths::IMAGES, 0o700),
        (spec.dir.join("log"), "/var/log", 0o755),
    ] {
        make_dir(&source, mode)?;
        let target = root.join(rel(place));
        make_dir(&target, mode)?;
        bind(&source, &target, false)?;
    }

    chdir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the host's root")?;
    chdir("/").context("cannot enter the new root")?;
    // Containers may ask for mounts that propagate; they need a shared parent.
    bind_flags(Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC)
}

fn rel(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Overlay separates its options by commas and its layers by colons.
fn escape(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace(':', "\\:"))
}

fn special(root: &Path, hierarchies: &[Hierarchy]) -> anyhow::Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_on("proc", root, "proc", quiet, None)?;
    mount_on("sysfs", root, "sys", quiet, None)?;
    cgroup::mount_all(hierarchies, root)?;
    // Only for programs that look for it; a kernel without BPF does as well.
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
        mount_on(
            kind,
            root,
            place,
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            options,
        )?;
    }
    mount_on(
        "tmpfs",
        root,
        "run",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )?;
    mount_on(
        "tmpfs",
        root,
        "tmp",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )?;
    Ok(())
}

fn mount_on(
    kind: &str,
    root: &Path,
    place: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> anyhow::Result<()> {
    mount(Some(kind), &root.join(place), Some(kind), flags, options)
        .with_context(|| format!("cannot mount {kind} on /{place} of the node"))
}

/// Character devices that programs expect everywhere.
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

/// The host's programs and libraries, read-only.
fn tool_box(root: &Path) -> anyhow::Result<()> {
    bind(Path::new("/usr"), &root.join("usr"), true)?;
    // /usr/local is the node's own: the host's may hold anything.
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
            "the host has no /usr/local to put the node's own programs in; make that folder"
        );
    }
    for name in USR_LINKS {
        let host = Path::new("/").join(name);
        match fs::symlink_metadata(&host) {
            Ok(m) if m.file_type().is_symlink() => link(fs::read_link(&host)?, &root.join(name))?,
            Ok(m) if m.is_dir() => {
                make_dir(&root.join(name), 0o755)?;
                bind(&host, &root.join(name), true)?;
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Bind-mounts a folder; with its own mounts only where it is writable, since
/// a read-only remount reaches just the top one.
fn bind(source: &Path, target: &Path, read_only: bool) -> anyhow::Result<()> {
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

fn bind_file(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::write(target, b"").with_context(|| format!("cannot make {}", target.display()))?;
    bind(source, target, true)
}

fn bind_flags(path: &Path, flags: MsFlags) -> anyhow::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot change the mount propagation of {}", path.display()))
}

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {}", path.display()))
}

fn link(target: impl AsRef<Path>, path: &Path) -> anyhow::Result<()> {
    match symlink(target.as_ref(), path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).with_context(|| format!("cannot link {}", path.display()))
        }
        _ => Ok(()),
    }
}
