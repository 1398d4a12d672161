//! The kernel that the machines boot.

use std::fs;
use std::path::{Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};

use super::modules::Modules;
use crate::types::ClusterPlan;

/// Advice if no suitable kernel is found.
const ADVICE: &str = "install one made for virtual machines (Debian: linux-image-cloud-amd64, \
     Ubuntu: linux-image-virtual, Fedora: kernel-core), or name one with --kernel and --modules";

/// A kernel image and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Path of the kernel image.
    pub image: PathBuf,
    /// A directory like `/lib/modules/6.1.0`.
    pub modules: PathBuf,
}

fn failure(kind: Kind, message: String) -> Failure {
    Failure::new(Source::Host, kind, message).advise(ADVICE)
}

/// Returns the kernel that the user named, otherwise the best one that is installed.
pub fn find(plan: &ClusterPlan) -> Result<Kernel, Failure> {
    let found = match plan.machine.kernel.as_deref() {
        Some(image) if !image.is_file() => {
            return Err(failure(
                Kind::NotFound,
                format!("there is no kernel {}", image.display()),
            ));
        }
        Some(image) => Kernel {
            modules: match plan.machine.modules.clone() {
                Some(dir) => dir,
                None => modules_of(image).ok_or_else(|| {
                    failure(
                        Kind::NotFound,
                        format!(
                            "the modules of the kernel {} are not found beside it",
                            image.display()
                        ),
                    )
                })?,
            },
            image: image.to_owned(),
        },
        None => best(Path::new("/boot")).ok_or_else(|| {
            failure(
                Kind::NotFound,
                "there is no kernel with modules in /boot and /lib/modules".into(),
            )
        })?,
    };
    check(&found)?;
    Ok(found)
}

/// Fails unless the kernel can be read and has all modules that a node needs.
fn check(kernel: &Kernel) -> Result<(), Failure> {
    if let Err(e) = fs::File::open(&kernel.image) {
        let kind = match e.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Permission,
            _ => Kind::NotFound,
        };
        return Err(Failure::new(
            Source::Host,
            kind,
            format!("cannot read the kernel {}: {e}", kernel.image.display()),
        )
        .advise(if kind == Kind::Permission {
            "make a copy that you may read and name it with --kernel"
        } else {
            ADVICE
        }));
    }
    let modules =
        Modules::open(&kernel.modules).map_err(|e| failure(Kind::NotFound, format!("{e:#}")))?;
    let missing = modules.missing();
    if missing.is_empty() {
        return Ok(());
    }
    Err(failure(
        Kind::Unsupported,
        format!(
            "the kernel {} lacks what a node needs: {}",
            kernel.image.display(),
            missing.join(", ")
        ),
    ))
}

/// Finds the modules of `vmlinuz-RELEASE`: `lib/modules/RELEASE` next to the image or next to its
/// directory.
fn modules_of(image: &Path) -> Option<PathBuf> {
    let release = image.file_name()?.to_str()?.split_once('-')?.1;
    let boot = image.parent()?;
    [boot, boot.parent()?]
        .into_iter()
        .flat_map(|root| {
            ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(release))
        })
        .find(|dir| dir.join("modules.builtin").exists())
}

/// Returns the newest kernel in a directory whose modules exist. Prefers kernels made for virtual
/// machines.
fn best(boot: &Path) -> Option<Kernel> {
    let mut found: Vec<(bool, Vec<u64>, Kernel)> = fs::read_dir(boot)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let release = ["vmlinuz-", "vmlinux-", "Image-"]
                .iter()
                .find_map(|p| name.strip_prefix(p))?;
            let image = entry.path();
            let modules = modules_of(&image)?;
            let made_for_it = ["cloud", "virtual", "kvm"]
                .iter()
                .any(|w| release.contains(w));
            Some((made_for_it, numbers(release), Kernel { image, modules }))
        })
        .collect();
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    found.pop().map(|(_, _, kernel)| kernel)
}

/// Returns the numbers in a release's name, by which releases are compared.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_for_machines_wins() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("boot")).unwrap();
        for release in [
            "6.1.0-9-cloud-amd64",
            "6.1.0-10-cloud-amd64",
            "6.12.0-amd64",
        ] {
            fs::write(root.join("boot").join(format!("vmlinuz-{release}")), "").unwrap();
            let modules = root.join("lib/modules").join(release);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("modules.builtin"), "").unwrap();
        }
        // A kernel without modules is not a candidate.
        fs::write(root.join("boot/vmlinuz-9.9-cloud"), "").unwrap();
        let found = best(&root.join("boot")).unwrap();
        assert!(found.image.ends_with("vmlinuz-6.1.0-10-cloud-amd64"));
        assert!(found.modules.ends_with("lib/modules/6.1.0-10-cloud-amd64"));
        let failure = check(&found).unwrap_err();
        assert_eq!(failure.kind, Kind::Unsupported);
        assert!(failure.message.contains("veth"), "{}", failure.message);
        assert!(best(&root.join("nowhere")).is_none());
    }
}
