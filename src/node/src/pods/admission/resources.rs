//! Resources that pods ask for and nodes have.

use std::collections::BTreeMap;

use rkube_component_helpers::resource;

use super::super::qos;
use super::super::reason::Reason;
use super::refuse;
use crate::allocatable::Allocatable;
use crate::kinds::*;

/// Effective resource requests of a pod: milli-CPUs, and memory and storage in bytes.
#[derive(Clone, Default)]
pub(crate) struct Needs {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    /// Huge pages: resource name and total size in bytes.
    pub hugepages: BTreeMap<String, i64>,
}

impl Needs {
    /// Returns all requests by resource name, with the pod itself.
    pub(super) fn by_name(self) -> BTreeMap<String, i64> {
        let ordinary = [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("ephemeral-storage", self.storage),
            ("pods", 1),
        ];
        let ordinary = ordinary.map(|(name, amount)| (name.to_owned(), amount));
        ordinary.into_iter().chain(self.hugepages).collect()
    }

    /// Returns the sum of two pods' requests; saturates.
    fn plus(mut self, other: Self) -> Self {
        for (name, bytes) in other.hugepages {
            let sum = self.hugepages.entry(name).or_default();
            *sum = sum.saturating_add(bytes);
        }
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
            hugepages: self.hugepages,
        }
    }
}

/// Returns the pod's effective requests, computed as the scheduler does. A missing request defaults
/// to the limit.
pub(crate) fn needs(pod: &Pod) -> Needs {
    let all = resource::pod_requests_with(pod.spec(), |container| {
        qos::requests_or_limits(container.resources.as_ref())
    });
    Needs {
        cpu: all.get("cpu").map_or(0, |q| q.milli_value()),
        memory: all.get("memory").map_or(0, |q| q.value()),
        storage: all.get("ephemeral-storage").map_or(0, |q| q.value()),
        hugepages: all
            .0
            .iter()
            .filter(|(name, _)| resource::is_hugepages(name))
            .map(|(name, amount)| (name.clone(), amount.value()))
            .collect(),
    }
}

/// Error returned when a node has too little of a resource.
pub(crate) struct InsufficientResource {
    pub resource: String,
    /// How much is missing.
    pub missing: i64,
    pub message: String,
}

impl InsufficientResource {
    /// Returns the reason and message of the pod's event.
    pub(super) fn reason(&self) -> Reason {
        refuse(&format!("OutOf{}", self.resource), &self.message)
    }
}

#[cfg(test)]
pub(super) fn fits(pod: &Pod, others: &[&Pod], a: &Allocatable) -> Result<(), Reason> {
    check_resources(pod, others, a).map_err(|e| e.reason())
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> InsufficientResource {
    InsufficientResource {
        resource: resource.to_owned(),
        missing: used.saturating_add(requested).saturating_sub(capacity),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

/// Returns the extended resources that the node has too little of. Those that it does not offer are
/// resources of the cluster, or come with claims.
pub(super) fn extended(
    pod: &Pod,
    others: &[&Pod],
    offered: &BTreeMap<String, i64>,
) -> Vec<InsufficientResource> {
    if offered.is_empty() {
        return Vec::new();
    }
    let amounts = |pod: &Pod| {
        resource::pod_requests_with(pod.spec(), |container| {
            qos::requests_or_limits(container.resources.as_ref())
        })
    };
    let wanted = amounts(pod);
    let others: Vec<_> = others.iter().map(|pod| amounts(pod)).collect();
    let short = offered.iter().filter_map(|(name, capacity)| {
        let amount = wanted.get(name).map_or(0, |q| q.value());
        let used = others
            .iter()
            .map(|all| all.get(name).map_or(0, |q| q.value()))
            .fold(0, i64::saturating_add);
        let is_short = amount > 0 && used.saturating_add(amount) > *capacity;
        is_short.then(|| out_of(name, amount, used, *capacity))
    });
    short.collect()
}

/// Checks that the node's free resources cover the requests of `pod`; `others` are the node's other
/// pods.
pub(crate) fn check_resources(
    pod: &Pod,
    others: &[&Pod],
    a: &Allocatable,
) -> Result<(), InsufficientResource> {
    shortages(pod, others, a)
        .into_iter()
        .next()
        .map_or(Ok(()), Err)
}

/// Returns the resources that the node has too little of.
pub(super) fn shortages(pod: &Pod, others: &[&Pod], a: &Allocatable) -> Vec<InsufficientResource> {
    let mut short = Vec::new();
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > a.pods {
        short.push(out_of("pods", 1, count, a.pods));
    }
    let wanted = needs(pod);
    let used = others
        .iter()
        .map(|p| needs(p))
        .fold(Needs::default(), Needs::plus);
    let hugepages = wanted.hugepages.iter().map(|(name, bytes)| {
        let offered = a.hugepages.iter().find(|(n, _)| n == name);
        let taken = used.hugepages.get(name).copied().unwrap_or(0);
        (name.as_str(), *bytes, taken, offered.map_or(0, |(_, b)| *b))
    });
    let ordinary = [
        ("cpu", wanted.cpu, used.cpu, a.cpu_millis),
        ("memory", wanted.memory, used.memory, a.memory),
        ("ephemeral-storage", wanted.storage, used.storage, a.storage),
    ];
    for (name, wanted, used, capacity) in ordinary.into_iter().chain(hugepages) {
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            short.push(out_of(name, wanted, used, capacity));
        }
    }
    short
}
