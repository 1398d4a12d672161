//! Facts of upstream's `policy_test.go`: two NUMA nodes.

use super::*;

fn mask(nodes: &[usize]) -> Option<NumaMask> {
    (!nodes.is_empty()).then(|| NumaMask::of(nodes.iter().copied()))
}

fn hint(nodes: &[usize], preferred: bool) -> Hint {
    Hint {
        affinity: mask(nodes),
        preferred,
    }
}

/// A provider with one resource.
fn provider(name: &str, list: Option<Vec<Hint>>) -> Hints {
    Hints::from([(name.to_owned(), list)])
}

fn merged(policy: Policy, hints: &[Hints]) -> (Option<NumaMask>, bool, bool) {
    let settings = TopologySettings {
        policy,
        ..TopologySettings::default()
    };
    let nodes = [(0, vec![10, 21]), (1, vec![21, 10])];
    let Merged { hint, admit } = merge(&settings, &nodes, hints);
    (hint.affinity, hint.preferred, admit)
}

#[test]
fn hints_are_merged_to_the_narrowest() {
    use Policy::{BestEffort, Restricted, SingleNumaNode};
    let both = || {
        Some(vec![
            hint(&[0], true),
            hint(&[1], true),
            hint(&[0, 1], false),
        ])
    };
    type Merged<'a> = (&'a [usize], bool);
    let cases: [(Vec<Hints>, Merged<'_>, Merged<'_>); 7] = [
        (vec![Hints::new()], (&[0, 1], true), (&[], true)),
        (vec![provider("r", None)], (&[0, 1], true), (&[], true)),
        (
            vec![provider("r", Some(vec![]))],
            (&[0, 1], false),
            (&[], false),
        ),
        (
            vec![provider("r", Some(vec![hint(&[0], true)]))],
            (&[0], true),
            (&[0], true),
        ),
        (
            vec![
                provider("a", both()),
                provider("b", Some(vec![hint(&[1], true), hint(&[0, 1], false)])),
            ],
            (&[1], true),
            (&[1], true),
        ),
        // No common node: all nodes, not preferred.
        (
            vec![
                provider("a", Some(vec![hint(&[0], true)])),
                provider("b", Some(vec![hint(&[1], true)])),
            ],
            (&[0, 1], false),
            (&[], false),
        ),
        // One resource needs both nodes, the other one of them.
        (
            vec![
                provider("a", both()),
                provider("b", Some(vec![hint(&[0, 1], true)])),
            ],
            (&[0, 1], false),
            (&[], false),
        ),
    ];
    for (hints, (nodes, preferred), (single, single_admitted)) in cases {
        assert_eq!(
            merged(BestEffort, &hints),
            (mask(nodes), preferred, true),
            "{hints:?}"
        );
        assert_eq!(
            merged(Restricted, &hints),
            (mask(nodes), preferred, preferred)
        );
        let got = merged(SingleNumaNode, &hints);
        assert_eq!((got.0, got.2), (mask(single), single_admitted), "{hints:?}");
    }
}

#[test]
fn distances_count_if_they_shall() {
    let nodes = [
        (0, vec![10, 31, 12, 31]),
        (1, vec![31, 10, 31, 31]),
        (2, vec![12, 31, 10, 31]),
        (3, vec![31, 31, 31, 10]),
    ];
    let hints = [provider(
        "r",
        Some(vec![hint(&[0, 1], true), hint(&[0, 2], true)]),
    )];
    for (closest, expected) in [(false, &[0, 1]), (true, &[0, 2])] {
        let settings = TopologySettings {
            policy: Policy::BestEffort,
            prefer_closest: closest,
            ..TopologySettings::default()
        };
        assert_eq!(
            merge(&settings, &nodes, &hints).hint.affinity,
            mask(expected)
        );
    }
}

/// A device manager that has devices on one NUMA node.
struct Devices(usize, Vec<Hint>);

impl HintProvider for Devices {
    fn hints(&self, _: &PodDemand, _: &ContainerDemand) -> Hints {
        provider("example.com/device", Some(vec![hint(&[self.0], true)]))
    }

    fn pod_hints(&self, _: &PodDemand) -> Hints {
        provider("example.com/device", Some(vec![hint(&[1 - self.0], true)]))
    }

    fn allocate(
        &mut self,
        _: &PodDemand,
        _: &ContainerDemand,
        hint: Hint,
    ) -> Result<(), Rejection> {
        self.1.push(hint);
        Ok(())
    }
}

#[test]
fn the_scope_decides_who_is_asked() {
    use crate::pods::{Role, testing::pod};
    let node = |id| NumaNode {
        id,
        distances: vec![10],
        ..NumaNode::default()
    };
    let p = pod("p", &[("a", Role::Main, 1, 0), ("b", Role::Main, 1, 0)]);
    for (policy, scope, expected) in [
        (Policy::None, Scope::Container, Hint::default()),
        (Policy::Restricted, Scope::Container, hint(&[1], true)),
        (Policy::Restricted, Scope::Pod, hint(&[0], true)),
    ] {
        let settings = TopologySettings {
            policy,
            scope,
            ..TopologySettings::default()
        };
        let manager = TopologyManager::new(settings, &[node(0), node(1)]).unwrap();
        let mut devices = Devices(1, Vec::new());
        manager.admit(&p, &mut [&mut devices]).unwrap();
        assert_eq!(devices.1, [expected; 2]);
    }
    let settings = TopologySettings {
        policy: Policy::BestEffort,
        ..TopologySettings::default()
    };
    let many: Vec<NumaNode> = (0..9).map(node).collect();
    assert_eq!(
        TopologyManager::new(settings, &many).unwrap_err(),
        "unsupported on machines with more than 8 NUMA Nodes"
    );
}
