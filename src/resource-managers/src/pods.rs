//! What the managers need to know of a pod.

use std::collections::BTreeMap;

/// The part that a container has in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An init container, which ends before the next container starts.
    Init,
    /// A restartable init container, which runs as long as the pod.
    Sidecar,
    /// A main container.
    Main,
}

/// The requests of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerDemand {
    /// The container's name.
    pub name: String,
    /// The container's part.
    pub role: Role,
    /// Request of CPU in milli-CPUs.
    pub cpu_millis: i64,
    /// Requests of memory and huge pages in bytes, by resource name.
    pub memory: BTreeMap<String, u64>,
}

/// The requests of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDemand {
    /// The pod's UID.
    pub uid: String,
    /// Whether the pod is of the class Guaranteed.
    pub guaranteed: bool,
    /// Whether the pod has requests or limits of its own. Such a pod gets nothing of its own: the
    /// gate `PodLevelResourceManagers` is off by default.
    pub pod_level: bool,
    /// The init containers, then the main ones, in the pod's order.
    pub containers: Vec<ContainerDemand>,
}

impl PodDemand {
    /// Returns the number of CPUs that a container asks for alone; 0 if it shares.
    pub(crate) fn exclusive_cpus(&self, container: &ContainerDemand) -> usize {
        let millis = container.cpu_millis;
        if !self.guaranteed || millis % 1000 != 0 {
            return 0;
        }
        usize::try_from(millis / 1000).unwrap_or(0)
    }

    /// Returns the number of CPUs that the containers have at most alone at one time.
    pub(crate) fn most_exclusive_cpus(&self) -> usize {
        let (mut sidecars, mut init, mut main) = (0, 0, 0);
        for container in &self.containers {
            let cpus = self.exclusive_cpus(container);
            match container.role {
                Role::Sidecar => sidecars += cpus,
                Role::Init => init = init.max(sidecars + cpus),
                Role::Main => main += cpus,
            }
        }
        init.max(main + sidecars)
    }

    /// Returns the memory and huge pages that the containers have at most at one time. As upstream,
    /// only what a main container requests counts.
    pub(crate) fn most_memory(&self) -> BTreeMap<String, u64> {
        let mut sidecars: BTreeMap<&str, u64> = BTreeMap::new();
        let mut init: BTreeMap<&str, u64> = BTreeMap::new();
        let mut main: BTreeMap<&str, u64> = BTreeMap::new();
        for container in &self.containers {
            for (name, bytes) in &container.memory {
                let running = sidecars.entry(name).or_default();
                match container.role {
                    Role::Sidecar => *running += bytes,
                    Role::Init => {
                        let most = init.entry(name).or_default();
                        *most = (*most).max(*running + bytes);
                    }
                    Role::Main => *main.entry(name).or_default() += bytes,
                }
            }
        }
        main.into_iter()
            .map(|(name, bytes)| {
                let of = |map: &BTreeMap<&str, u64>| map.get(name).copied().unwrap_or(0);
                (name.to_owned(), (bytes + of(&sidecars)).max(of(&init)))
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns a guaranteed pod of containers with these CPUs and bytes of memory.
    pub(crate) fn pod(uid: &str, containers: &[(&str, Role, i64, u64)]) -> PodDemand {
        PodDemand {
            uid: uid.into(),
            guaranteed: true,
            pod_level: false,
            containers: containers
                .iter()
                .map(|(name, role, millis, bytes)| ContainerDemand {
                    name: (*name).into(),
                    role: *role,
                    cpu_millis: *millis,
                    memory: [("memory".to_owned(), *bytes)]
                        .into_iter()
                        .filter(|(_, bytes)| *bytes > 0)
                        .collect(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pod;
    use super::*;

    #[test]
    fn whole_cpus_of_guaranteed_pods_are_exclusive() {
        let mut p = pod(
            "p",
            &[("a", Role::Main, 2000, 0), ("b", Role::Main, 1500, 0)],
        );
        assert_eq!(
            p.containers
                .iter()
                .map(|c| p.exclusive_cpus(c))
                .collect::<Vec<_>>(),
            [2, 0]
        );
        p.guaranteed = false;
        assert_eq!(p.most_exclusive_cpus(), 0);
    }

    #[test]
    fn init_containers_run_beside_the_sidecars_before_them() {
        let p = pod(
            "p",
            &[
                ("i1", Role::Init, 4000, 40),
                ("s1", Role::Sidecar, 1000, 10),
                ("i2", Role::Init, 4000, 40),
                ("s2", Role::Sidecar, 1000, 10),
                ("m", Role::Main, 2000, 20),
            ],
        );
        assert_eq!(p.most_exclusive_cpus(), 5);
        assert_eq!(p.most_memory()["memory"], 50);
    }
}
