//! Events about changes of the node, as the kubelet's `nodestatus` setters record them.

use std::collections::BTreeMap;

use crate::kinds::*;

/// What the events so far said about the node.
#[derive(Default)]
pub(super) struct Told {
    /// The status of conditions by type.
    conditions: BTreeMap<String, String>,
    unschedulable: bool,
}

impl Told {
    /// Returns the reasons of the events about what has changed.
    pub(super) fn changes(&mut self, node: &Node) -> Vec<&'static str> {
        let conditions = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut reasons = Vec::new();
        for condition in conditions {
            let Some(reason) = reason(&condition.type_, &condition.status) else {
                continue;
            };
            let status = condition.status.clone();
            let before = self.conditions.insert(condition.type_.clone(), status);
            if before.as_ref() != Some(&condition.status) {
                reasons.push(reason);
            }
        }
        let spec = node.spec.as_ref();
        let unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        if std::mem::replace(&mut self.unschedulable, unschedulable) != unschedulable {
            reasons.push(match unschedulable {
                true => "NodeNotSchedulable",
                false => "NodeSchedulable",
            });
        }
        reasons
    }
}

/// Returns the reason of the event about a condition; `None` if it has none, or if another component
/// set the status.
fn reason(type_: &str, status: &str) -> Option<&'static str> {
    Some(match (type_, status) {
        ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
        ("MemoryPressure", "False") => "NodeHasSufficientMemory",
        ("DiskPressure", "True") => "NodeHasDiskPressure",
        ("DiskPressure", "False") => "NodeHasNoDiskPressure",
        ("PIDPressure", "True") => "NodeHasInsufficientPID",
        ("PIDPressure", "False") => "NodeHasSufficientPID",
        ("Ready", "True") => "NodeReady",
        _ => return None,
    })
}

/// Returns the ID of the machine's present boot if the API still has that of another one.
pub(super) fn rebooted<'a>(known: &Node, present: &'a Node) -> Option<&'a str> {
    fn id(node: &Node) -> Option<&str> {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        Some(info.boot_id.as_str()).filter(|id| !id.is_empty())
    }
    let present = id(present)?;
    id(known).filter(|known| *known != present).map(|_| present)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};

    use super::*;

    fn node(conditions: &[(&str, &str)], unschedulable: bool, boot: &str) -> Node {
        let conditions = conditions.iter().map(|(type_, status)| NodeCondition {
            type_: (*type_).into(),
            status: (*status).into(),
            ..Default::default()
        });
        Node {
            spec: Some(NodeSpec {
                unschedulable: unschedulable.then_some(true),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                conditions: Some(conditions.collect()),
                node_info: Some(NodeSystemInfo {
                    boot_id: boot.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn each_change_has_one_event() {
        let calm = [
            ("MemoryPressure", "False"),
            ("DiskPressure", "False"),
            ("PIDPressure", "False"),
            ("Ready", "True"),
            ("NetworkUnavailable", "False"),
        ];
        let mut told = Told::default();
        let all = [
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID",
            "NodeReady",
        ];
        assert_eq!(told.changes(&node(&calm, false, "")), all);
        assert!(told.changes(&node(&calm, false, "")).is_empty());
        assert_eq!(told.changes(&node(&calm, true, "")), ["NodeNotSchedulable"]);
        assert_eq!(told.changes(&node(&calm, false, "")), ["NodeSchedulable"]);
        let tight = [("MemoryPressure", "True"), ("DiskPressure", "True")];
        let reasons = ["NodeHasInsufficientMemory", "NodeHasDiskPressure"];
        assert_eq!(told.changes(&node(&tight, false, "")), reasons);
        // The node controller's status is not the node's.
        assert!(
            told.changes(&node(&[("Ready", "Unknown")], false, ""))
                .is_empty()
        );
    }

    #[test]
    fn reboots_are_noticed() {
        let with = |boot| node(&[], false, boot);
        assert_eq!(rebooted(&with("a"), &with("b")), Some("b"));
        for (known, present) in [("a", "a"), ("", "b"), ("a", "")] {
            assert_eq!(rebooted(&with(known), &with(present)), None);
        }
    }
}
