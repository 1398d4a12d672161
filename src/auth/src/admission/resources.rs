//! Lists of resource amounts and what a pod asks for.

use std::collections::BTreeMap;

use rkube_api::Object;
use rkube_api::quantity::Quantity;

use crate::tree;

/// Amounts by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResourceList(pub(super) BTreeMap<String, Quantity>);

impl ResourceList {
    /// The list at a path of an object. What is no quantity is left out;
    /// validation reports it.
    pub(super) fn at(object: &Object, path: &[&str]) -> ResourceList {
        let entries = tree::entries(object, path);
        ResourceList(
            entries
                .filter_map(|(k, v)| Some((k.to_owned(), Quantity::from_value(v).ok()?)))
                .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub(super) fn set(&mut self, name: &str, amount: Quantity) {
        self.0.insert(name.to_owned(), amount);
    }

    /// Adds each amount of another list.
    pub(super) fn add(&mut self, other: &ResourceList) {
        for (name, amount) in &other.0 {
            self.0
                .entry(name.clone())
                .and_modify(|own| *own = own.add(*amount))
                .or_insert(*amount);
        }
    }

    /// This list less another; where this has none, the other's is negative.
    pub(super) fn minus(&self, other: &ResourceList) -> ResourceList {
        let mut rest = self.clone();
        for (name, amount) in &other.0 {
            rest.0
                .entry(name.clone())
                .and_modify(|own| *own = own.sub(*amount))
                .or_insert_with(|| amount.neg());
        }
        rest
    }

    /// The larger of each amount.
    pub(super) fn max(&mut self, other: &ResourceList) {
        for (name, amount) in &other.0 {
            self.0
                .entry(name.clone())
                .and_modify(|own| *own = (*own).max(*amount))
                .or_insert(*amount);
        }
    }

    pub(super) fn to_object(&self) -> Object {
        self.0
            .iter()
            .map(|(name, amount)| (name.clone(), Object::from(amount.to_string())))
            .collect()
    }
}

/// What a pod's containers ask for together (`requests` or `limits`): the sum
/// of those that run at the same time, and no less than any init container
/// with the sidecars before it; amounts for the whole pod take their place.
pub(super) fn of_pod(pod: &Object, field: &str) -> ResourceList {
    let mut total = ResourceList::default();
    for container in tree::items(pod, &["spec", "containers"]) {
        total.add(&ResourceList::at(container, &["resources", field]));
    }
    let mut sidecars = ResourceList::default();
    let mut initial = ResourceList::default();
    for container in tree::items(pod, &["spec", "initContainers"]) {
        let own = ResourceList::at(container, &["resources", field]);
        if tree::text(container, &["restartPolicy"]) == "Always" {
            total.add(&own);
            sidecars.add(&own);
            initial.max(&sidecars);
        } else {
            let mut together = own;
            together.add(&sidecars);
            initial.max(&together);
        }
    }
    total.max(&initial);
    for (name, amount) in ResourceList::at(pod, &["spec", "resources", field]).0 {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            total.0.insert(name, amount);
        }
    }
    total
}
