//! Facts of upstream's `policy_static_test.go`, `topology_hints_test.go` and
//! `state_checkpoint_test.go`.

use super::*;
use crate::checkpoint::State as _;
use crate::machine::testing::{dual_socket_ht, dual_socket_no_ht, single_socket_ht};
use crate::pods::testing::pod;
use crate::topology::HintProvider as _;

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

/// Returns a manager with these CPUs free and one reserved, in a new directory.
fn manager(cpus: &Cpus, options: CpuOptions, shared: &str) -> (CpuManager, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let policy = StaticPolicy::new(cpus, options, &CpuSet::new(), 1).unwrap();
    let mut manager = CpuManager::start(cpus.clone(), Some(policy), dir.path()).unwrap();
    manager.state.default = set(shared);
    (manager, dir)
}

fn allocate(manager: &mut CpuManager, pod: &PodDemand) -> Result<(), Rejection> {
    pod.containers
        .iter()
        .try_for_each(|c| manager.allocate(pod, c, Hint::default()))
}

#[test]
fn guaranteed_pods_get_whole_cpus() {
    let (single, dual, no_ht) = (single_socket_ht(), dual_socket_ht(), dual_socket_no_ht());
    for (cpus, shared, millis, own) in [
        (&single, "0-7", 1000, Some("4")),
        (&single, "0-7", 2000, Some("1,5")),
        (&single, "0-7", 977, None),
        (&dual, "0-11", 6000, Some("1,3,5,7,9,11")),
        (&dual, "0,2,4,6,8,10", 4000, Some("2,4,8,10")),
        (&no_ht, "0-7", 4000, Some("4-7")),
        (&no_ht, "0,1,3,4,6,7", 2000, Some("1,3")),
    ] {
        let (mut m, _dir) = manager(cpus, CpuOptions::default(), shared);
        allocate(&mut m, &pod("p", &[("c", Role::Main, millis, 0)])).unwrap();
        assert_eq!(
            m.exclusive("p", "c"),
            own.map(set).as_ref(),
            "{millis} of {shared}"
        );
        let left = set(shared).difference(&own.map(set).unwrap_or_default());
        assert_eq!(m.shared(), &left);
        m.release("p").unwrap();
        assert_eq!(m.shared(), &set(shared));
    }
    let (mut m, _dir) = manager(&single, CpuOptions::default(), "0,7");
    let error = allocate(&mut m, &pod("p", &[("c", Role::Main, 2000, 0)])).unwrap_err();
    assert!(
        error.message.contains("requested=2, available=1"),
        "{}",
        error.message
    );
    let mut level = pod("p", &[("c", Role::Main, 1000, 0)]);
    level.pod_level = true;
    allocate(&mut m, &level).unwrap();
    assert_eq!(
        m.exclusive("p", "c"),
        None,
        "the gate of pod-level managers is off"
    );
}

#[test]
fn cores_are_whole_if_they_must_be() {
    let single = single_socket_ht();
    let full = CpuOptions {
        full_cores_only: true,
        ..CpuOptions::default()
    };
    for (shared, millis, message) in [
        (
            "0-7",
            1000,
            "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2",
        ),
        (
            "0-7",
            8000,
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2",
        ),
    ] {
        let (mut m, _dir) = manager(&single, full, shared);
        let error = allocate(&mut m, &pod("p", &[("c", Role::Main, millis, 0)])).unwrap_err();
        assert_eq!(
            (error.reason, error.message.as_str()),
            ("SMTAlignmentError", message)
        );
    }
    let (mut m, _dir) = manager(&single, full, "0-7");
    allocate(&mut m, &pod("p", &[("c", Role::Main, 6000, 0)])).unwrap();
    assert_eq!(m.shared(), &set("0,4"));
}

#[test]
fn init_containers_leave_their_cpus_to_the_next() {
    let (mut m, _dir) = manager(&single_socket_ht(), CpuOptions::default(), "0-7");
    let p = pod(
        "p",
        &[
            ("i", Role::Init, 4000, 0),
            ("s", Role::Sidecar, 2000, 0),
            ("a", Role::Main, 2000, 0),
            ("b", Role::Main, 1000, 0),
        ],
    );
    allocate(&mut m, &p).unwrap();
    let of = |name: &str| m.exclusive("p", name).unwrap().clone();
    assert!(of("s").is_subset(&of("i")) && of("a").is_subset(&of("i")));
    let long_running = [of("s"), of("a"), of("b")];
    assert_eq!(
        long_running
            .iter()
            .fold(CpuSet::new(), |all, c| all.union(c))
            .len(),
        5
    );
    assert_eq!(m.shared().len(), 3);
    // Another look changes nothing.
    let before = m.state.clone();
    allocate(&mut m, &p).unwrap();
    assert_eq!(m.state, before);
    m.release("p").unwrap();
    assert_eq!(m.shared(), &set("0-7"));
}

#[test]
fn states_must_fit() {
    let cpus = dual_socket_ht();
    let check = |strict, shared: &str, own: &[&str]| {
        let options = CpuOptions {
            strict_reservation: strict,
            ..CpuOptions::default()
        };
        let policy = StaticPolicy::new(&cpus, options, &set("0,6"), 2).unwrap();
        let mut state = CpuState::new(STATIC);
        state.default = set(shared);
        for (i, own) in own.iter().enumerate() {
            let of_pod = state.entries.entry("p".into()).or_default();
            of_pod.insert(format!("c{i}"), set(own));
        }
        state.validate(&cpus, &policy).map(|()| state.default)
    };
    assert_eq!(check(false, "", &[]), Ok(set("0-11")));
    assert_eq!(check(true, "", &[]), Ok(set("1-5,7-11")));
    assert_eq!(check(true, "1-5,7", &["8-11"]), Ok(set("1-5,7")));
    assert_eq!(
        check(false, "0,1", &[]).unwrap_err(),
        "not all reserved cpus: \"0,6\" are present in defaultCpuSet: \"0-1\""
    );
    assert_eq!(
        check(true, "0-5,7-11", &[]).unwrap_err(),
        "some of strictly reserved cpus: \"0\" are present in defaultCpuSet: \"0-5,7-11\""
    );
    assert_eq!(
        check(false, "0-11", &["2"]).unwrap_err(),
        "pod: p, container: c0 cpuset: \"2\" overlaps with default cpuset \"0-11\""
    );
    assert_eq!(
        check(false, "0-9", &["10"]).unwrap_err(),
        "current set of available CPUs \"0-11\" doesn't match with CPUs in state \"0-10\""
    );
    assert_eq!(
        check(false, "", &["1"]).unwrap_err(),
        "default cpuset cannot be empty"
    );
}

#[test]
fn checksums_are_the_kubelets() {
    let dir = tempfile::tempdir().unwrap();
    for (text, default) in [
        (
            r#"{"policyName":"none","defaultCPUSet":"4-6","entries":{},"checksum":354655845}"#,
            "4-6",
        ),
        (
            r#"{"policyName":"none","defaultCPUSet":"1-3","entries":{"pod":{"container1":"4-6","container2":"1-3"}},"checksum":3610638499}"#,
            "1-3",
        ),
    ] {
        std::fs::write(dir.path().join(CpuState::FILE), text).unwrap();
        let state = checkpoint::read::<CpuState>(dir.path(), NONE)
            .unwrap()
            .unwrap();
        assert_eq!(state.default, set(default));
        checkpoint::write(dir.path(), &state).unwrap();
        assert_eq!(
            checkpoint::read::<CpuState>(dir.path(), NONE).unwrap(),
            Some(state)
        );
    }
}

#[test]
fn hints_name_the_numa_nodes_with_enough_cpus() {
    let hints = |shared: &str, millis| {
        let (m, _dir) = manager(&dual_socket_ht(), CpuOptions::default(), shared);
        let p = pod("p", &[("c", Role::Main, millis, 0)]);
        assert_eq!(m.hints(&p, &p.containers[0]), m.pod_hints(&p));
        let mut hints = m.hints(&p, &p.containers[0]);
        let list = hints.remove("cpu")??;
        let text = |h: Hint| (h.affinity.unwrap().nodes().collect::<Vec<_>>(), h.preferred);
        Some(list.into_iter().map(text).collect::<Vec<_>>())
    };
    assert_eq!(
        hints("0-11", 2000),
        Some(vec![(vec![0], true), (vec![1], true), (vec![0, 1], false)])
    );
    assert_eq!(hints("0-11", 7000), Some(vec![(vec![0, 1], true)]));
    // CPU 0 is reserved.
    assert_eq!(hints("0,2,4,6,8,10", 6000), Some(vec![]));
    assert_eq!(hints("0-11", 12_000), Some(vec![]));
    assert_eq!(hints("0-11", 500), None);
}
