//! The options of the managers, as the kubelet's command line has them.

use std::collections::BTreeMap;
use std::time::Duration;

use rkube_api::quantity::{Format, Quantity};
use rkube_config::ResourceOptions;

use crate::cpu::{self, CpuOptions};
use crate::cpuset::CpuSet;
use crate::memory::{self, Reserved};
use crate::topology::{MAX_NUMA_NODES, Policy, Scope, TopologySettings};

/// Resources that no pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// CPU in milli-CPUs.
    pub cpu_millis: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub storage: i64,
    /// Processes.
    pub pids: i64,
}

impl Reservation {
    /// Parses a list such as `cpu=500m,memory=1Gi`.
    fn parse(option: &str, text: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (name, value) in pairs(text)? {
            let fail = |e: String| format!("--{option} value failed to parse: {e}");
            let amount = Quantity::parse(&value).map_err(|e| {
                fail(format!(
                    "failed to parse quantity {value:?} for {name:?} resource: {e}"
                ))
            })?;
            if amount.sign() < 0 {
                return Err(fail(format!(
                    "resource quantity for {name:?} cannot be negative: {value}"
                )));
            }
            match name.as_str() {
                "cpu" => parsed.cpu_millis = amount.milli_value(),
                "memory" => parsed.memory = amount.value(),
                "ephemeral-storage" => parsed.storage = amount.value(),
                "pid" => parsed.pids = amount.value(),
                _ => return Err(fail(format!("cannot reserve {name:?} resource"))),
            }
        }
        Ok(parsed)
    }

    /// Returns the sum of two reservations.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
            pids: self.pids.saturating_add(other.pids),
        }
    }

    /// Returns what the kubelet's configuration says of the reservation.
    pub fn describe(self) -> BTreeMap<&'static str, String> {
        let cpu = Quantity::from_milli(self.cpu_millis, Format::DecimalSi).to_string();
        [
            ("cpu", self.cpu_millis, cpu),
            (
                "memory",
                self.memory,
                bytes_text(self.memory.unsigned_abs()),
            ),
            (
                "ephemeral-storage",
                self.storage,
                bytes_text(self.storage.unsigned_abs()),
            ),
            ("pid", self.pids, self.pids.to_string()),
        ]
        .into_iter()
        .filter(|(_, amount, _)| *amount > 0)
        .map(|(name, _, text)| (name, text))
        .collect()
    }
}

/// Returns bytes as a quantity.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    Quantity::new(bytes, Format::BinarySi).to_string()
}

/// Parses `a=1,b=2`.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    text.split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(format!("malformed pair, expect string=string: {pair:?}")),
        })
        .collect()
}

/// The options of all managers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the CPU manager's policy is `static`.
    pub cpu_static: bool,
    /// The options of this policy.
    pub cpu_options: CpuOptions,
    /// Time between two looks whether containers have the CPUs that they should have.
    pub reconcile: Duration,
    /// Whether the memory manager's policy is `Static`.
    pub memory_static: bool,
    /// The reserved memory of NUMA nodes.
    pub reserved_memory: Reserved,
    /// The settings of the topology manager.
    pub topology: TopologySettings,
    /// Resources for the system.
    pub system: Reservation,
    /// Resources for the node agent.
    pub kube: Reservation,
    /// CPUs for both.
    pub reserved_cpus: CpuSet,
    /// Whether the control group of all pods has limits.
    pub enforce_pods: bool,
    /// Whether burstable pods may swap.
    pub limited_swap: bool,
}

impl Settings {
    /// Parses the options.
    ///
    /// # Errors
    ///
    /// Returns upstream's message for the first option that is invalid, or that does not go with the
    /// others.
    pub fn parse(options: &ResourceOptions) -> Result<Self, String> {
        if let Some(name) = options
            .values
            .keys()
            .find(|n| !ResourceOptions::NAMES.contains(&n.as_str()))
        {
            return Err(format!("unknown flag: --{name}"));
        }
        let cpu_static = match options.get("cpu-manager-policy") {
            "" | cpu::NONE => false,
            cpu::STATIC => true,
            other => return Err(format!("unknown policy: {other:?}")),
        };
        let cpu_map = pairs(options.get("cpu-manager-policy-options"))?;
        let cpu_options = CpuOptions::parse(&cpu_map)?;
        if !cpu_static && !cpu_map.is_empty() {
            let list: Vec<String> = cpu_map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            return Err(format!(
                "new none policy error: None policy: received unsupported options=map[{}]",
                list.join(" ")
            ));
        }
        let memory_static = match options.get("memory-manager-policy") {
            "" | memory::NONE => false,
            memory::STATIC => true,
            "BestEffort" => {
                return Err("policy \"BestEffort\" is not available for platform \"linux\"".into());
            }
            other => return Err(format!("unknown policy: {other:?}")),
        };
        let settings = Self {
            cpu_static,
            cpu_options,
            reconcile: reconcile(options.get("cpu-manager-reconcile-period"))?,
            memory_static,
            reserved_memory: reserved_memory(options.get("reserved-memory"))?,
            topology: topology(options)?,
            system: Reservation::parse("system-reserved", options.get("system-reserved"))?,
            kube: Reservation::parse("kube-reserved", options.get("kube-reserved"))?,
            reserved_cpus: CpuSet::parse(options.get("reserved-cpus"))
                .map_err(|e| format!("unable to parse reserved-cpus list: {e}"))?,
            enforce_pods: enforcement(options.get("enforce-node-allocatable"))?,
            limited_swap: match options.get("memory-swap.swap-behavior") {
                "" | "NoSwap" => false,
                "LimitedSwap" => true,
                other => {
                    return Err(format!(
                        "invalid configuration: memorySwap.swapBehavior {other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""
                    ));
                }
            },
        }
        .with_reserved_cpus();
        if settings.cpu_static && settings.reserved().cpu_millis == 0 {
            return Err(
                "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                    .into(),
            );
        }
        Ok(settings)
    }

    /// Lets the list of reserved CPUs take the place of the amounts.
    fn with_reserved_cpus(mut self) -> Self {
        if !self.reserved_cpus.is_empty() {
            let count = i64::try_from(self.reserved_cpus.len()).unwrap_or(i64::MAX);
            self.system.cpu_millis = count.saturating_mul(1000);
            self.kube.cpu_millis = 0;
        }
        self
    }

    /// Returns all that is reserved for the system and the agent.
    pub fn reserved(&self) -> Reservation {
        self.system.plus(self.kube)
    }

    /// Returns the name of the CPU manager's policy.
    pub fn cpu_policy(&self) -> &'static str {
        if self.cpu_static {
            cpu::STATIC
        } else {
            cpu::NONE
        }
    }

    /// Returns the name of the memory manager's policy.
    pub fn memory_policy(&self) -> &'static str {
        if self.memory_static {
            memory::STATIC
        } else {
            memory::NONE
        }
    }

    /// Returns the name of the topology manager's policy.
    pub fn topology_policy(&self) -> &'static str {
        let mut names = Policy::NAMES.iter();
        names
            .find(|(_, p)| *p == self.topology.policy)
            .map_or("none", |(name, _)| name)
    }

    /// Returns the name of the topology manager's scope.
    pub fn topology_scope(&self) -> &'static str {
        match self.topology.scope {
            Scope::Container => "container",
            Scope::Pod => "pod",
        }
    }
}

fn reconcile(text: &str) -> Result<Duration, String> {
    match text {
        "" => Ok(Duration::from_secs(10)),
        text => rkube_api::duration::parse(text)
            .filter(|d| !d.is_zero())
            .ok_or_else(|| {
                format!("--cpu-manager-reconcile-period: {text:?} is no positive duration")
            }),
    }
}

fn topology(options: &ResourceOptions) -> Result<TopologySettings, String> {
    let policy = match options.get("topology-manager-policy") {
        "" => Policy::None,
        text => {
            let known = Policy::NAMES.iter().find(|(name, _)| *name == text);
            known.map(|(_, policy)| *policy).ok_or_else(|| {
                format!(
                    "invalid configuration: topologyManagerPolicy (--topology-manager-policy) {text:?} must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]"
                )
            })?
        }
    };
    let scope = match options.get("topology-manager-scope") {
        "" | "container" => Scope::Container,
        "pod" => Scope::Pod,
        text => {
            return Err(format!(
                "invalid configuration: topologyManagerScope (--topology-manager-scope) {text:?} must be one of: \"container\", or \"pod\""
            ));
        }
    };
    let mut settings = TopologySettings {
        policy,
        scope,
        ..TopologySettings::default()
    };
    for (name, value) in pairs(options.get("topology-manager-policy-options"))? {
        match name.as_str() {
            "prefer-closest-numa-nodes" => {
                settings.prefer_closest = cpu::parse_bool(&value).ok_or_else(|| {
                    format!("bad value for option {name:?}: strconv.ParseBool: parsing {value:?}: invalid syntax")
                })?;
            }
            "max-allowable-numa-nodes" => {
                settings.max_numa_nodes = value.parse().map_err(|_| {
                    format!("unable to convert policy option to integer {name:?}: strconv.Atoi: parsing {value:?}: invalid syntax")
                })?;
                if settings.max_numa_nodes < MAX_NUMA_NODES {
                    return Err(format!(
                        "the minimum value of {name:?} should not be less than {MAX_NUMA_NODES}"
                    ));
                }
            }
            _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
        }
    }
    Ok(settings)
}

/// Parses `0:memory=1Gi,hugepages-2Mi=64Mi;1:memory=1Gi`.
fn reserved_memory(text: &str) -> Result<Reserved, String> {
    let mut all = Reserved::new();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let invalid = || {
            format!(
                "invalid reserved memory {part:?}: expected NUMA-NODE:TYPE=AMOUNT[,TYPE=AMOUNT]"
            )
        };
        let (node, limits) = part.split_once(':').ok_or_else(invalid)?;
        let node: usize = node.trim().parse().map_err(|_| invalid())?;
        for limit in limits.split(',') {
            let (name, value) = limit.split_once('=').ok_or_else(invalid)?;
            if name != "memory" && !name.starts_with("hugepages-") {
                return Err(format!(
                    "invalid configuration: the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
                ));
            }
            let amount = Quantity::parse(value).map_err(|_| invalid())?;
            let bytes = u64::try_from(amount.value()).unwrap_or(0);
            if bytes == 0 {
                return Err(format!(
                    "invalid configuration: reserved memory may not be zero for NUMA node {node} and resource {name:?}"
                ));
            }
            if all.insert((node, name.to_owned()), bytes).is_some() {
                return Err(format!(
                    "invalid configuration: the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"
                ));
            }
        }
    }
    Ok(all)
}

/// Returns whether the limits of pods are enforced. What a node's own processes use is not: they
/// share a control group that no option names.
fn enforcement(text: &str) -> Result<bool, String> {
    let all: Vec<&str> = text.split(',').filter(|t| !t.is_empty()).collect();
    for key in &all {
        match *key {
            "pods" => {}
            "none" if all.len() > 1 => {
                return Err("invalid configuration: enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when \"none\" is specified".into());
            }
            "none" => return Ok(false),
            "system-reserved" | "system-reserved-compressible" => {
                return Err("invalid configuration: systemReservedCgroup (--system-reserved-cgroup) must be specified when \"system-reserved\" or \"system-reserved-compressible\" included in enforceNodeAllocatable (--enforce-node-allocatable)".into());
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                return Err("invalid configuration: kubeReservedCgroup (--kube-reserved-cgroup) must be specified when \"kube-reserved\" or \"kube-reserved-compressible\" included in enforceNodeAllocatable (--enforce-node-allocatable)".into());
            }
            other => {
                return Err(format!(
                    "invalid configuration: option {other:?} specified for enforceNodeAllocatable (--enforce-node-allocatable). Valid options are \"pods\" or \"none\" here"
                ));
            }
        }
    }
    if all.len() > 1 {
        return Err("invalid configuration: duplicated enforcements \"pods\" in enforceNodeAllocatable (--enforce-node-allocatable)".into());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Settings, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Settings::parse(&ResourceOptions {
            values: options.iter().map(owned).collect(),
        })
    }

    #[test]
    fn nothing_is_reserved_by_default() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.reserved(), Reservation::default());
        assert!(settings.enforce_pods && !settings.cpu_static && !settings.limited_swap);
        let names = (
            settings.cpu_policy(),
            settings.memory_policy(),
            settings.topology_policy(),
        );
        assert_eq!(names, ("none", "None", "none"));
        assert_eq!(settings.reconcile, Duration::from_secs(10));
    }

    #[test]
    fn options_are_read_as_on_the_kubelets_command_line() {
        let settings = parse(&[
            ("cpu-manager-policy", "static"),
            ("system-reserved", "cpu=500m,memory=1Gi,pid=100"),
            ("kube-reserved", "cpu=1,ephemeral-storage=1Gi"),
            (
                "reserved-memory",
                "0:memory=1Gi,hugepages-2Mi=64Mi;1:memory=2Gi",
            ),
            ("topology-manager-policy", "single-numa-node"),
            ("topology-manager-scope", "pod"),
            (
                "topology-manager-policy-options",
                "max-allowable-numa-nodes=9,prefer-closest-numa-nodes=true",
            ),
        ])
        .unwrap();
        assert_eq!(settings.reserved().cpu_millis, 1500);
        assert_eq!(settings.system.describe()["cpu"], "500m");
        assert_eq!(settings.kube.describe()["ephemeral-storage"], "1Gi");
        assert_eq!(
            settings.reserved_memory[&(0, "hugepages-2Mi".into())],
            64 << 20
        );
        assert_eq!(settings.reserved_memory[&(1, "memory".into())], 2 << 30);
        assert_eq!(
            (settings.topology_policy(), settings.topology_scope()),
            ("single-numa-node", "pod")
        );
        assert_eq!(
            (
                settings.topology.max_numa_nodes,
                settings.topology.prefer_closest
            ),
            (9, true)
        );
        // A list of CPUs is what counts.
        let listed = parse(&[("reserved-cpus", "0-1,4"), ("kube-reserved", "cpu=2")]).unwrap();
        assert_eq!(
            (listed.system.cpu_millis, listed.kube.cpu_millis),
            (3000, 0)
        );
    }

    #[test]
    fn mistakes_are_named_as_upstream_names_them() {
        for (options, message) in [
            (
                &[("cpu-manager-policy", "dynamic")][..],
                "unknown policy: \"dynamic\"",
            ),
            (
                &[("cpu-manager-policy", "static")],
                "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero",
            ),
            (
                &[("cpu-manager-policy-options", "full-pcpus-only=true")],
                "new none policy error: None policy: received unsupported options=map[full-pcpus-only:true]",
            ),
            (
                &[("system-reserved", "gpu=1")],
                "--system-reserved value failed to parse: cannot reserve \"gpu\" resource",
            ),
            (
                &[("kube-reserved", "cpu=-1")],
                "--kube-reserved value failed to parse: resource quantity for \"cpu\" cannot be negative: -1",
            ),
            (
                &[("kube-reserved", "cpu")],
                "malformed pair, expect string=string: \"cpu\"",
            ),
            (
                &[("reserved-memory", "0:memory=0")],
                "invalid configuration: reserved memory may not be zero for NUMA node 0 and resource \"memory\"",
            ),
            (
                &[("reserved-memory", "0:memory=1;0:memory=1")],
                "invalid configuration: the reserved memory has a duplicate value for NUMA node 0 and resource \"memory\"",
            ),
            (
                &[(
                    "topology-manager-policy-options",
                    "max-allowable-numa-nodes=4",
                )],
                "the minimum value of \"max-allowable-numa-nodes\" should not be less than 8",
            ),
            (
                &[("enforce-node-allocatable", "pods,none")],
                "invalid configuration: enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when \"none\" is specified",
            ),
        ] {
            assert_eq!(parse(options).unwrap_err(), message, "{options:?}");
        }
        for bad in [
            ("reserved-cpus", "0-"),
            ("reserved-memory", "memory=1"),
            ("topology-manager-policy", "x"),
            ("topology-manager-scope", "x"),
            ("memory-manager-policy", "BestEffort"),
            ("memory-swap.swap-behavior", "UnlimitedSwap"),
            ("enforce-node-allocatable", "system-reserved"),
            ("cpu-manager-reconcile-period", "0s"),
            ("x", "y"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
        assert!(
            !parse(&[("enforce-node-allocatable", "none")])
                .unwrap()
                .enforce_pods
        );
    }
}
