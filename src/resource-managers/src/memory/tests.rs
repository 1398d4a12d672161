//! Facts of upstream's `policy_static_test.go` and `state_checkpoint_test.go` of the memory manager.

use super::*;
use crate::checkpoint::State as _;
use crate::pods::testing::pod;
use crate::topology::HintProvider as _;

const GB: u64 = 1 << 30;

fn nodes(count: usize) -> Vec<NumaNode> {
    let node = |id| NumaNode {
        id,
        memory: 5 * GB / 2,
        hugepages: [("hugepages-1Gi".to_owned(), GB)].into(),
        ..NumaNode::default()
    };
    (0..count).map(node).collect()
}

/// A manager of NUMA nodes with 1 GiB of memory and of huge pages each.
fn manager(count: usize) -> (MemoryManager, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let reserved: Reserved = (0..count)
        .map(|id| ((id, "memory".to_owned()), GB / 2))
        .collect();
    let manager = MemoryManager::start(&nodes(count), Some(&reserved), dir.path()).unwrap();
    (manager, dir)
}

fn allocate(m: &mut MemoryManager, p: &PodDemand, hint: Hint) -> Result<(), String> {
    p.containers
        .iter()
        .try_for_each(|c| m.allocate(p, c, hint))
        .map_err(|e| e.message)
}

#[test]
fn memory_comes_from_the_hinted_nodes() {
    let (mut m, dir) = manager(2);
    let hint = Hint {
        affinity: Some(NumaMask::of([1])),
        preferred: true,
    };
    let mut p = pod("p", &[("c", Role::Main, 0, GB / 2)]);
    p.containers[0].memory.insert("hugepages-1Gi".into(), GB);
    allocate(&mut m, &p, hint).unwrap();
    assert_eq!(m.nodes_of("p", "c"), NumaMask::of([1]));
    let table = |m: &MemoryManager, name: &str| {
        let t = &m.state.machine[&1].memory[name];
        (t.reserved, t.free)
    };
    assert_eq!(table(&m, "memory"), (GB / 2, GB / 2));
    assert_eq!(table(&m, "hugepages-1Gi"), (GB, 0));
    assert_eq!(m.state.machine[&1].number_of_assignments, 2);
    assert_eq!(m.allocatable().len(), 4);
    // The state is that of the machine after a restart.
    let reserved: Reserved = (0..2)
        .map(|id| ((id, "memory".to_owned()), GB / 2))
        .collect();
    let again = MemoryManager::start(&nodes(2), Some(&reserved), dir.path()).unwrap();
    assert_eq!(again.blocks("p", "c"), m.blocks("p", "c"));
    assert!(MemoryManager::start(&nodes(1), Some(&reserved), dir.path()).is_err());
    assert!(m.release("p").unwrap());
    assert_eq!(table(&m, "memory"), (0, GB));
    assert_eq!(m.state.machine[&1].number_of_assignments, 0);
}

#[test]
fn groups_of_nodes_are_not_mixed() {
    let (mut m, _dir) = manager(3);
    allocate(
        &mut m,
        &pod("big", &[("c", Role::Main, 0, 3 * GB / 2)]),
        Hint::default(),
    )
    .unwrap();
    assert_eq!(m.nodes_of("big", "c"), NumaMask::of([0, 1]));
    assert_eq!(m.state.machine[&0].cells, [0, 1]);
    // A node of the group gives nothing alone.
    allocate(
        &mut m,
        &pod("one", &[("c", Role::Main, 0, GB / 4)]),
        Hint::default(),
    )
    .unwrap();
    assert_eq!(m.nodes_of("one", "c"), NumaMask::of([2]));
    let error = allocate(
        &mut m,
        &pod("no", &[("c", Role::Main, 0, 2 * GB)]),
        Hint::default(),
    );
    assert_eq!(
        error.unwrap_err(),
        "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected"
    );
    m.release("big").unwrap();
    assert_eq!(m.state.machine[&0].cells, [0]);
}

#[test]
fn a_hint_that_is_too_small_is_extended() {
    let (mut m, _dir) = manager(2);
    let hint = |preferred| Hint {
        affinity: Some(NumaMask::of([1])),
        preferred,
    };
    allocate(
        &mut m,
        &pod("p", &[("c", Role::Main, 0, 3 * GB / 2)]),
        hint(true),
    )
    .unwrap();
    assert_eq!(m.nodes_of("p", "c"), NumaMask::of([0, 1]));
}

#[test]
fn init_containers_leave_their_memory_to_the_next() {
    let (mut m, _dir) = manager(1);
    let p = pod(
        "p",
        &[
            ("i", Role::Init, 0, GB / 2),
            ("s", Role::Sidecar, 0, GB / 4),
            ("c", Role::Main, 0, 3 * GB / 4),
        ],
    );
    allocate(&mut m, &p, Hint::default()).unwrap();
    let table = &m.state.machine[&0].memory["memory"];
    assert_eq!((table.reserved, table.free), (GB, 0));
    assert_eq!(m.blocks("p", "i")[0].size, 0, "others have taken it over");
    m.started(&p, "c").unwrap();
    assert!(m.blocks("p", "i").is_empty());
    m.release("p").unwrap();
    let node = &m.state.machine[&0];
    assert_eq!(
        (node.memory["memory"].free, node.number_of_assignments),
        (GB, 0)
    );
}

#[test]
fn hints_name_the_numa_nodes_with_enough_memory() {
    let (mut m, _dir) = manager(2);
    let of = |m: &MemoryManager, uid: &str, bytes| {
        let p = pod(uid, &[("c", Role::Main, 0, bytes)]);
        assert_eq!(m.hints(&p, &p.containers[0]), m.pod_hints(&p));
        let list = m.hints(&p, &p.containers[0]).remove("memory").flatten()?;
        let text = |h: Hint| (h.affinity.unwrap().nodes().collect::<Vec<_>>(), h.preferred);
        Some(list.into_iter().map(text).collect::<Vec<_>>())
    };
    assert_eq!(
        of(&m, "p", GB),
        Some(vec![(vec![0], true), (vec![1], true), (vec![0, 1], false)])
    );
    assert_eq!(of(&m, "p", 2 * GB), Some(vec![(vec![0, 1], true)]));
    assert_eq!(of(&m, "p", 3 * GB), None);
    allocate(
        &mut m,
        &pod("p", &[("c", Role::Main, 0, GB)]),
        Hint::default(),
    )
    .unwrap();
    assert_eq!(
        of(&m, "p", GB),
        Some(vec![(vec![0], true)]),
        "it keeps what it has"
    );
    assert_eq!(of(&m, "q", GB), Some(vec![(vec![1], true)]));
    let mut burstable = pod("b", &[("c", Role::Main, 0, 1)]);
    burstable.guaranteed = false;
    assert!(m.pod_hints(&burstable).is_empty());
}

#[test]
fn checksums_are_the_kubelets() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#;
    std::fs::write(dir.path().join(MemoryState::FILE), text).unwrap();
    let state = checkpoint::read::<MemoryState>(dir.path(), "static")
        .unwrap()
        .unwrap();
    assert_eq!(state.machine[&0].memory["memory"].free, 1024);
    let error = checkpoint::read::<MemoryState>(dir.path(), STATIC)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[memorymanager] configured policy \"Static\" differs from state checkpoint policy \"static\", please drain this node and delete the memory manager checkpoint file"),
        "{error}"
    );
}
