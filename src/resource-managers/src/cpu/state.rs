//! The state of the CPU manager and its file, `cpu_manager_state`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StaticPolicy;
use crate::checkpoint::{State, go_map};
use crate::cpuset::CpuSet;
use crate::machine::Cpus;

/// The CPUs of containers, in the kubelet's form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    #[serde(rename = "policyName")]
    policy: String,
    /// The CPUs that containers without own ones share.
    #[serde(rename = "defaultCpuSet", alias = "defaultCPUSet")]
    pub default: CpuSet,
    /// The CPUs that containers have alone: by pod UID and container name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

impl State for CpuState {
    const MANAGER: &'static str = "CPU manager";
    const FILE: &'static str = "cpu_manager_state";
    const PREFIX: &'static str = "";

    fn hashed(&self) -> String {
        let entries = go_map(self.entries.iter().map(|(uid, containers)| {
            let containers = containers
                .iter()
                .map(|(name, cpus)| (name, cpus.to_string()));
            (uid, go_map(containers))
        }));
        format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy, self.default
        )
    }

    fn policy(&self) -> &str {
        &self.policy
    }
}

impl CpuState {
    /// Returns the state in which nothing is given to anybody.
    pub fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            ..Self::default()
        }
    }

    /// Returns the CPUs that a container has alone.
    pub fn of(&self, uid: &str, name: &str) -> Option<&CpuSet> {
        self.entries.get(uid)?.get(name)
    }

    /// Checks that the state fits the machine and the policy; fills an empty one.
    ///
    /// # Errors
    ///
    /// Returns upstream's message.
    pub(super) fn validate(&mut self, cpus: &Cpus, policy: &StaticPolicy) -> Result<(), String> {
        let reserved = &policy.reserved;
        let strict = policy.options.strict_reservation;
        let all = match strict {
            true => cpus.all().difference(reserved),
            false => cpus.all(),
        };
        if self.default.is_empty() {
            if !self.entries.is_empty() {
                return Err("default cpuset cannot be empty".into());
            }
            self.default = all;
            return Ok(());
        }
        let shared = reserved.intersection(&self.default);
        if strict && !shared.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: \"{shared}\" are present in defaultCpuSet: \"{}\"",
                self.default
            ));
        }
        if !strict && shared != *reserved {
            return Err(format!(
                "not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{}\"",
                self.default
            ));
        }
        let mut known = self.default.clone();
        for (uid, containers) in &self.entries {
            for (name, own) in containers {
                if !self.default.intersection(own).is_empty() {
                    return Err(format!(
                        "pod: {uid}, container: {name} cpuset: \"{own}\" overlaps with default cpuset \"{}\"",
                        self.default
                    ));
                }
                known = known.union(own);
            }
        }
        if known != all {
            return Err(format!(
                "current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{known}\""
            ));
        }
        Ok(())
    }
}
