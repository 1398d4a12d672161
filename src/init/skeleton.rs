//! What every node's root holds, whatever the driver.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::Context;

/// What a root file system needs before anything is mounted into it.
pub fn skeleton(root: &Path) -> anyhow::Result<()> {
    for (name, mode) in [
        ("dev", 0o755),
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
        make_dir(&root.join(name), mode)?;
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
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    link("../proc/self/mounts", &root.join("etc/mtab"))?;
    link("../run", &root.join("var/run"))?;
    // Roots of trust for registries; the rest of the host's /etc stays hidden.
    for bundle in [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
    ] {
        if Path::new(bundle).is_file() {
            let copy = root.join("etc/ssl/certs/ca-certificates.crt");
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

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {}", path.display()))
}

fn link(target: &str, path: &Path) -> anyhow::Result<()> {
    match symlink(target, path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).with_context(|| format!("cannot link {}", path.display()))
        }
        _ => Ok(()),
    }
}
