//! Volumes of persistent volume claims.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PersistentVolumeSpec;
use kube::Api;
use rkube_config::paths;

use super::local::host_path;
use super::ownership::give_to_group;
use super::types::{Operation, Problem, Source, Use, fs_group, problem};
use crate::kinds::*;

/// Annotation with the name of a volume's provisioner.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Name of rkube's own provisioner.
const OWN_PROVISIONER: &str = "rkube.io/hostpath";
/// Mode of the directories of rkube's own provisioner. Containers may run as any user.
const OWN_MODE: u32 = 0o777;

/// A claim that a pod uses.
pub(super) struct Claim<'a> {
    pub name: &'a str,
    /// Whether the pod only reads the volume.
    pub read_only: bool,
    /// Whether the claim is one that was made for the pod, from an `ephemeral` volume.
    pub made_for_pod: bool,
    pub use_: Use,
}

impl Claim<'_> {
    /// Returns the path of the volume that is bound to the claim.
    ///
    /// # Errors
    ///
    /// Fails if the claim is not bound or not the pod's. Also fails if rkube cannot mount its volume
    /// in the way that the pod uses it.
    pub(super) async fn set_up(&self, client: &kube::Client, pod: &Pod) -> Result<Source, Problem> {
        let name = self.name;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), pod.namespace());
        let found = claims
            .get_opt(name)
            .await
            .map_err(problem)?
            .ok_or_else(|| problem(format!("persistentvolumeclaim {name:?} not found")))?;
        if self.made_for_pod {
            check_owner(&found, pod).map_err(problem)?;
        }
        let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let volume = found
            .spec
            .as_ref()
            .and_then(|s| s.volume_name.clone())
            .filter(|n| bound && !n.is_empty())
            .ok_or_else(|| problem(format!("PVC {}/{name} is not bound", pod.namespace())))?;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let volume = volumes.get(&volume).await.map_err(|e| {
            problem(format!(
                "failed to fetch PV {volume:?} from API server: {e}"
            ))
        })?;
        self.mount(&volume, pod).await
    }

    async fn mount(&self, volume: &PersistentVolume, pod: &Pod) -> Result<Source, Problem> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let empty = PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        self.check_mode(name, spec)?;
        let path = volume_path(spec, name)?;
        check_options(spec)?;
        let read_only = self.read_only || only_read(spec);
        let own = is_own(volume, &path);
        // As upstream, files on the node keep their groups; only storage that the node made gets the group.
        let group = fs_group(pod).filter(|_| !read_only && (own || spec.local.is_some()));
        let on_root_mismatch = on_root_mismatch(pod);
        let (at, source) = (path.clone(), spec.host_path.clone());
        tokio::task::spawn_blocking(move || {
            if own && !at.exists() {
                rkube_directory(&at)?;
            }
            if let Some(source) = &source {
                host_path(source)?;
            } else if !at.exists() {
                return Err(std::io::Error::other(format!(
                    "path {:?} does not exist",
                    at.display()
                )));
            }
            group.map_or(Ok(()), |group| give_to_group(&at, group, on_root_mismatch))
        })
        .await
        .map_err(problem)?
        .map_err(problem)?;
        Ok(Source::Path { path, read_only })
    }

    /// Checks that the pod uses the volume as its mode allows.
    fn check_mode(&self, name: &str, spec: &PersistentVolumeSpec) -> Result<(), Problem> {
        let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
        let block = mode == "Block";
        let wrong = |place: &str| {
            problem(format!(
                "volume {name} has volumeMode {mode}, but is specified in {place}"
            ))
        };
        if self.use_.mount && block {
            return Err(wrong("volumeMounts"));
        }
        if self.use_.device && !block {
            return Err(wrong("volumeDevices"));
        }
        if block {
            return Err(Problem {
                operation: Operation::MapDevice,
                ..problem("rkube does not support raw block volumes")
            });
        }
        Ok(())
    }
}

/// Creates the directory of a volume of rkube's own provisioner.
fn rkube_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(OWN_MODE))
}

/// Checks that a claim was made for a pod. Another claim may have the name of one.
fn check_owner(claim: &PersistentVolumeClaim, pod: &Pod) -> Result<(), String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let controller = owners.into_iter().find(|o| o.controller == Some(true));
    if controller.is_some_and(|o| o.uid == pod.uid()) {
        return Ok(());
    }
    Err(format!(
        "PVC {0}/{1} was not created for pod {0}/{2} (pod is not owner)",
        pod.namespace(),
        claim.metadata.name.as_deref().unwrap_or_default(),
        pod.name()
    ))
}

/// Refuses mount options: a directory of the node is mounted as it is.
fn check_options(spec: &PersistentVolumeSpec) -> Result<(), Problem> {
    match spec.mount_options.as_deref() {
        None | Some([]) => Ok(()),
        Some(_) => Err(Problem {
            operation: Operation::MountOptions,
            ..problem("Mount options are not supported for this volume type")
        }),
    }
}

/// Returns whether a volume can only be read.
fn only_read(spec: &PersistentVolumeSpec) -> bool {
    let modes = spec.access_modes.as_ref();
    modes.is_some_and(|modes| modes.iter().all(|m| m == "ReadOnlyMany"))
}

/// Returns whether rkube's provisioner made the volume, in the directory for its volumes.
fn is_own(volume: &PersistentVolume, path: &Path) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    let provisioner = annotations.and_then(|a| a.get(PROVISIONED_BY));
    let steps: Vec<_> = path
        .strip_prefix(paths::VOLUMES)
        .into_iter()
        .flat_map(Path::components)
        .collect();
    provisioner.is_some_and(|p| p == OWN_PROVISIONER)
        && matches!(steps[..], [std::path::Component::Normal(_)])
}

/// Returns whether the pod's `fsGroupChangePolicy` is `OnRootMismatch`.
fn on_root_mismatch(pod: &Pod) -> bool {
    let context = pod.spec().security_context.as_ref();
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    policy == Some("OnRootMismatch")
}

fn volume_path(spec: &PersistentVolumeSpec, name: &str) -> Result<PathBuf, Problem> {
    if let Some(source) = &spec.host_path {
        return Ok(PathBuf::from(&source.path));
    }
    if let Some(source) = &spec.local {
        return Ok(PathBuf::from(&source.path));
    }
    Err(problem(format!(
        "rkube supports persistent volumes of type hostPath and local, and {name:?} is of another"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HostPathVolumeSource, LocalVolumeSource, PodSecurityContext};

    fn host_volume(path: &str) -> PersistentVolumeSpec {
        PersistentVolumeSpec {
            host_path: Some(HostPathVolumeSource {
                path: path.into(),
                type_: None,
            }),
            ..Default::default()
        }
    }

    fn claim(use_: Use) -> Claim<'static> {
        Claim {
            name: "c",
            read_only: false,
            made_for_pod: false,
            use_,
        }
    }

    #[test]
    fn persistent_volumes_are_paths() {
        let mut spec = PersistentVolumeSpec::default();
        assert_eq!(
            volume_path(&spec, "pv").unwrap_err().reason,
            "rkube supports persistent volumes of type hostPath and local, and \"pv\" is of another"
        );
        spec.local = Some(LocalVolumeSource {
            path: "/l".into(),
            ..Default::default()
        });
        assert_eq!(volume_path(&spec, "pv").unwrap(), Path::new("/l"));
        assert_eq!(
            volume_path(&host_volume("/h"), "pv").unwrap(),
            Path::new("/h")
        );
    }

    #[test]
    fn a_volume_is_used_as_its_mode_says() {
        let (mount, device) = (
            Use {
                mount: true,
                device: false,
            },
            Use {
                mount: false,
                device: true,
            },
        );
        for (mode, use_, message) in [
            (None, mount, None),
            (Some("Filesystem"), mount, None),
            (
                Some("Block"),
                mount,
                Some((
                    "FailedMount",
                    "volume pv has volumeMode Block, but is specified in volumeMounts",
                )),
            ),
            (
                None,
                device,
                Some((
                    "FailedMount",
                    "volume pv has volumeMode Filesystem, but is specified in volumeDevices",
                )),
            ),
            (
                Some("Block"),
                device,
                Some((
                    "FailedMapVolume",
                    "rkube does not support raw block volumes",
                )),
            ),
        ] {
            let spec = PersistentVolumeSpec {
                volume_mode: mode.map(Into::into),
                ..host_volume("/h")
            };
            let answer = claim(use_).check_mode("pv", &spec).err();
            let answer = answer.as_ref().map(|p| (p.event(), p.reason.as_str()));
            assert_eq!(answer, message, "{mode:?} {use_:?}");
        }
    }

    #[test]
    fn mount_options_are_refused() {
        let mut spec = host_volume("/h");
        assert!(check_options(&spec).is_ok());
        spec.mount_options = Some(vec![]);
        assert!(check_options(&spec).is_ok());
        spec.mount_options = Some(vec!["noexec".into()]);
        let mut refused = check_options(&spec).unwrap_err();
        refused.volume = "v".into();
        assert_eq!(
            refused.to_string(),
            "MountVolume.MountOptionSupport check failed for volume \"v\" : Mount options are not supported for this volume type"
        );
    }

    #[test]
    fn a_claim_of_another_is_not_the_pods() {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let claim = |owner: Option<(&str, bool)>| PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some("p-v".into()),
                namespace: Some("ns".into()),
                owner_references: owner.map(|(uid, controller)| {
                    vec![OwnerReference {
                        uid: uid.into(),
                        controller: Some(controller),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        assert_eq!(check_owner(&claim(Some(("u", true))), &pod), Ok(()));
        for owner in [None, Some(("other", true)), Some(("u", false))] {
            assert_eq!(
                check_owner(&claim(owner), &pod).unwrap_err(),
                "PVC ns/p-v was not created for pod ns/p (pod is not owner)"
            );
        }
    }

    #[test]
    fn own_volumes_are_those_of_the_provisioner() {
        let volume = |by: Option<&str>| PersistentVolume {
            metadata: ObjectMeta {
                annotations: by.map(|by| [(PROVISIONED_BY.to_owned(), by.to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let inside = format!("{}/pvc-1", paths::VOLUMES);
        for (by, path, own) in [
            (Some(OWN_PROVISIONER), inside.as_str(), true),
            (Some("other"), &inside, false),
            (None, &inside, false),
            (Some(OWN_PROVISIONER), "/etc", false),
            (Some(OWN_PROVISIONER), paths::VOLUMES, false),
            (Some(OWN_PROVISIONER), &format!("{inside}/../../x"), false),
        ] {
            assert_eq!(is_own(&volume(by), Path::new(path)), own, "{by:?} {path}");
        }
    }

    #[test]
    fn policies_and_modes_are_read() {
        let pod = |policy: &str| Pod {
            spec: Some(PodSpec {
                security_context: Some(PodSecurityContext {
                    fs_group_change_policy: Some(policy.into()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(on_root_mismatch(&pod("OnRootMismatch")));
        assert!(!on_root_mismatch(&pod("Always")));
        assert!(!on_root_mismatch(&Pod::default()));
        let spec = |modes: &[&str]| PersistentVolumeSpec {
            access_modes: Some(modes.iter().map(|m| (*m).to_owned()).collect()),
            ..Default::default()
        };
        assert!(only_read(&spec(&["ReadOnlyMany"])));
        assert!(!only_read(&spec(&["ReadOnlyMany", "ReadWriteOnce"])));
        assert!(!only_read(&PersistentVolumeSpec::default()));
    }
}
