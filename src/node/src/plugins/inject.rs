//! Puts what plugins say into the specification of a container.

use rkube_plugins::cdi::{self, DeviceNode, Edits};
use rkube_plugins::devices::Options;
use rkube_runtime::{ContainerSpec, Device, Hook, Mount, MountPropagation};

/// Hooks of the Container Device Interface that the runtime runs.
const HOOKS: [&str; 4] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
];

/// Adds what the devices of a container need: first what device plugins say, then what the
/// specifications of the Container Device Interface say about `claimed` and the plugins' devices.
///
/// # Errors
///
/// Returns the message of the container's status if a device is not known, or needs what the runtime
/// cannot do.
pub(crate) fn inject(
    spec: &mut ContainerSpec,
    options: Options,
    claimed: Vec<String>,
) -> Result<(), String> {
    // The pod's own variables and mounts come later and win.
    let own = std::mem::take(&mut spec.env);
    spec.env = options.env.into_iter().chain(own).collect();
    let mounts = options.mounts.into_iter().map(|mount| Mount {
        read_only: mount.read_only,
        ..Mount::bind(mount.host, mount.container)
    });
    let own = std::mem::take(&mut spec.mounts);
    spec.mounts = mounts.chain(own).collect();
    spec.devices
        .extend(options.devices.into_iter().map(|device| Device {
            host_path: device.host.into(),
            container_path: device.container.into(),
            permissions: device.permissions,
            ..Default::default()
        }));
    let mut names = options.cdi;
    for (name, value) in options.annotations {
        // The older way to name devices of the interface.
        if name.starts_with("cdi.k8s.io/") {
            names.extend(value.split(',').map(str::to_owned));
        }
        spec.annotations.entry(name).or_insert(value);
    }
    names.extend(claimed);
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    if names.is_empty() {
        return Ok(());
    }
    let edits = cdi::Registry::read(&cdi::DIRS).edits(&names)?;
    apply(spec, edits)
}

fn apply(spec: &mut ContainerSpec, edits: Edits) -> Result<(), String> {
    let refuse = |what: String| Err(format!("CDI device injection failed: {what}"));
    if edits.intel_rdt.is_some() {
        return refuse("this node cannot set classes of Intel RDT".into());
    }
    for variable in &edits.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        spec.env.retain(|(known, _)| known != name);
        spec.env.push((name.to_owned(), value.to_owned()));
    }
    for node in edits.device_nodes {
        spec.devices.push(device(node)?);
    }
    for mount in edits.mounts {
        spec.mounts.push(bind(&mount)?);
    }
    for hook in edits.hooks {
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            return refuse(format!(
                "hook {:?} of {} is not supported, only {}",
                hook.hook_name,
                hook.path,
                HOOKS.join(", ")
            ));
        }
        spec.hooks.push(Hook {
            stage: hook.hook_name,
            path: hook.path.into(),
            args: hook.args,
            env: hook.env,
            timeout: hook.timeout,
        });
    }
    spec.security
        .supplemental_groups
        .extend(edits.additional_gids);
    Ok(())
}

fn device(node: DeviceNode) -> Result<Device, String> {
    let path = node.path;
    let invalid = |why: &str| format!("CDI device injection failed: device node {path:?}: {why}");
    let kind = match node.kind.as_str() {
        "" => None,
        "b" => Some(true),
        "c" | "u" => Some(false),
        other => return Err(invalid(&format!("type {other:?} is not supported"))),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid("invalid number"));
    let numbers = match (kind, node.major) {
        (_, 0) => None,
        (kind, major) => Some((kind.unwrap_or(false), number(major)?, number(node.minor)?)),
    };
    let host = if node.host_path.is_empty() {
        &path
    } else {
        &node.host_path
    };
    Ok(Device {
        host_path: host.into(),
        container_path: path.clone().into(),
        permissions: node.permissions,
        // Without a type, the node's file says what it is.
        numbers: numbers.filter(|_| kind.is_some()),
        mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    })
}

fn bind(mount: &cdi::Mount) -> Result<Mount, String> {
    let invalid = |why: String| {
        format!(
            "CDI device injection failed: mount {:?}: {why}",
            mount.container_path
        )
    };
    if !matches!(mount.kind.as_str(), "" | "bind" | "none") {
        return Err(invalid(format!(
            "type {:?} is not supported, only bind mounts",
            mount.kind
        )));
    }
    let mut bind = Mount {
        non_recursive: true,
        ..Mount::bind(&mount.host_path, &mount.container_path)
    };
    for option in &mount.options {
        match option.as_str() {
            "rbind" => bind.non_recursive = false,
            "ro" => bind.read_only = true,
            "rslave" | "slave" => bind.propagation = MountPropagation::HostToContainer,
            "rshared" | "shared" => bind.propagation = MountPropagation::Bidirectional,
            // What bind mounts of this runtime are anyway, or restrictions that a device's own
            // files do not depend on.
            "bind" | "rw" | "private" | "rprivate" | "nosuid" | "nodev" | "noexec" | "relatime" => {
            }
            other => return Err(invalid(format!("option {other:?} is not supported"))),
        }
    }
    Ok(bind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkube_plugins::devices::{DeviceFile, HostMount};

    #[test]
    fn the_pod_wins_over_device_plugins_and_cdi_over_the_pod() {
        let mut spec = ContainerSpec {
            env: vec![("A".into(), "pod".into())],
            ..Default::default()
        };
        let options = Options {
            env: [("A".to_owned(), "plugin".to_owned())].into(),
            devices: vec![DeviceFile {
                host: "/dev/x".into(),
                container: "/dev/y".into(),
                permissions: "r".into(),
            }],
            mounts: vec![HostMount {
                host: "/lib/x".into(),
                container: "/x".into(),
                read_only: true,
            }],
            ..Default::default()
        };
        inject(&mut spec, options, Vec::new()).unwrap();
        assert_eq!(spec.env.last().unwrap().1, "pod");
        assert!(spec.mounts[0].read_only);
        assert_eq!(spec.devices[0].container_path.to_str(), Some("/dev/y"));
        let edits = Edits {
            env: vec!["A=cdi".into(), "B".into()],
            additional_gids: vec![7],
            ..Default::default()
        };
        apply(&mut spec, edits).unwrap();
        assert_eq!(
            spec.env,
            [
                ("A".to_owned(), "cdi".to_owned()),
                ("B".to_owned(), String::new())
            ]
        );
        assert_eq!(spec.security.supplemental_groups, [7]);
        let unknown = inject(&mut spec, Options::default(), vec!["e.com/none=x".into()]);
        assert_eq!(
            unknown.unwrap_err(),
            "CDI device injection failed: unresolvable CDI devices e.com/none=x"
        );
    }

    #[test]
    fn what_the_runtime_cannot_do_is_refused() {
        let apply = |edits| apply(&mut ContainerSpec::default(), edits);
        let hook = |name: &str| cdi::Hook {
            hook_name: name.into(),
            path: "/bin/x".into(),
            ..Default::default()
        };
        assert!(
            apply(Edits {
                hooks: vec![hook("createContainer")],
                ..Default::default()
            })
            .is_ok()
        );
        for (edits, word) in [
            (
                Edits {
                    hooks: vec![hook("poststop")],
                    ..Default::default()
                },
                "poststop",
            ),
            (
                Edits {
                    intel_rdt: Some(Default::default()),
                    ..Default::default()
                },
                "Intel",
            ),
            (
                Edits {
                    device_nodes: vec![DeviceNode {
                        kind: "p".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                "type \"p\"",
            ),
            (
                Edits {
                    mounts: vec![cdi::Mount {
                        kind: "tmpfs".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                "only bind mounts",
            ),
        ] {
            let error = apply(edits).unwrap_err();
            assert!(
                error.starts_with("CDI device injection failed: ") && error.contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn device_nodes_may_have_their_own_numbers() {
        let node = |kind: &str, major| DeviceNode {
            path: "/dev/a".into(),
            kind: kind.into(),
            major,
            minor: 3,
            file_mode: Some(0o600),
            ..Default::default()
        };
        assert_eq!(device(node("c", 1)).unwrap().numbers, Some((false, 1, 3)));
        assert_eq!(device(node("b", 7)).unwrap().numbers, Some((true, 7, 3)));
        assert_eq!(device(node("", 0)).unwrap().numbers, None);
        assert_eq!(device(node("", 0)).unwrap().mode, Some(0o600));
        assert!(device(node("c", -1)).is_err());
    }
}
