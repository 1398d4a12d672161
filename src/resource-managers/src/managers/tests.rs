use super::*;
use crate::machine::NumaNode;
use crate::machine::testing::{dual_socket_ht, single_socket_ht};
use crate::pods::Role;
use crate::pods::testing::pod;
use rkube_config::ResourceOptions;

fn settings(options: &[(&str, &str)]) -> Settings {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let values = options.iter().map(owned).collect();
    Settings::parse(&ResourceOptions { values }).unwrap()
}

fn machine() -> Machine {
    let node = |id| NumaNode {
        id,
        memory: 1 << 30,
        distances: vec![10, 20],
        ..NumaNode::default()
    };
    Machine {
        cpus: dual_socket_ht(),
        nodes: vec![node(0), node(1)],
    }
}

const STATIC: [(&str, &str); 5] = [
    ("cpu-manager-policy", "static"),
    ("system-reserved", "cpu=500m,memory=100Mi"),
    ("memory-manager-policy", "Static"),
    ("reserved-memory", "0:memory=200Mi"),
    ("topology-manager-policy", "single-numa-node"),
];

fn start(options: &[(&str, &str)], dir: &Path) -> Result<Managers, StartError> {
    Managers::start(&settings(options), &machine(), 100 << 20, dir)
}

#[test]
fn a_pod_has_its_resources_on_one_numa_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = start(&STATIC, dir.path()).unwrap();
    let big = pod("big", &[("c", Role::Main, 6000, 900 << 20)]);
    all.admit(&big).unwrap();
    assert_eq!(
        all.cpus_of("big", "c"),
        Some(CpuSet::parse("1,3,5,7,9,11").unwrap())
    );
    assert_eq!(all.memory_nodes_of("big", "c"), NumaMask::of([1]));
    assert!(all.has_exclusive_cpus("big", "c") && !all.has_exclusive_cpus("other", "c"));
    assert_eq!(
        all.cpus_of("other", "c"),
        Some(CpuSet::parse("0,2,4,6,8,10").unwrap())
    );
    // Of the CPUs of node 0 one is reserved.
    let apart = pod("apart", &[("c", Role::Main, 6000, 1 << 20)]);
    let refused = all.admit(&apart).unwrap_err();
    assert_eq!(refused.reason, "TopologyAffinityError");
    assert_eq!(
        refused.message,
        "Resources cannot be allocated with Topology locality"
    );
    // What was given is known after a restart, and is given back once.
    drop(all);
    let mut all = start(&STATIC, dir.path()).unwrap();
    assert_eq!(all.cpus_of("big", "c").unwrap().len(), 6);
    assert!(all.retain(|uid| uid != "big").unwrap());
    assert!(!all.retain(|_| false).unwrap());
    assert_eq!(all.cpu().shared().len(), 12);
    assert_eq!(all.memory_nodes_of("big", "c"), NumaMask::default());
}

#[test]
fn another_policy_refuses_the_state() {
    let dir = tempfile::tempdir().unwrap();
    start(&[], dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("cpu_manager_state")).unwrap();
    // As the kubelet writes it.
    assert_eq!(
        text,
        r#"{"checksum":1353318690,"defaultCpuSet":"","policyName":"none"}"#
    );
    let error = start(&STATIC, dir.path()).err().unwrap().to_string();
    assert_eq!(
        error,
        format!(
            "could not restore state from checkpoint: configured policy \"static\" differs from state checkpoint policy \"none\", please drain this node and delete the CPU manager checkpoint file {:?} before restarting Kubelet",
            dir.path().join("cpu_manager_state")
        )
    );
    std::fs::write(dir.path().join("cpu_manager_state"), &text[..9]).unwrap();
    let error = start(&[], dir.path()).err().unwrap().to_string();
    assert!(error.contains("unexpected end of JSON input"), "{error}");
    std::fs::write(
        dir.path().join("cpu_manager_state"),
        text.replace("13533", "23533"),
    )
    .unwrap();
    let error = start(&[], dir.path()).err().unwrap().to_string();
    assert!(error.contains("checkpoint is corrupted"), "{error}");
}

#[test]
fn settings_must_fit_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let fail = |options: &[(&str, &str)]| start(options, dir.path()).err().unwrap().to_string();
    assert_eq!(
        fail(&[("reserved-cpus", "0,12")]),
        "reserved-cpus: 0,12 is not a subset of online-cpus: 0-11"
    );
    assert_eq!(
        fail(&[
            ("cpu-manager-policy", "static"),
            ("system-reserved", "cpu=13")
        ]),
        "new static policy error: [cpumanager] unable to reserve the required amount of CPUs (size of  did not equal 13)"
    );
    let memory = |reserved| {
        fail(&[
            ("memory-manager-policy", "Static"),
            ("system-reserved", "memory=100Mi"),
            ("reserved-memory", reserved),
        ])
    };
    assert_eq!(
        memory("0:memory=100Mi"),
        "the total amount \"100Mi\" of type \"memory\" is not equal to the value \"200Mi\" determined by Node Allocatable feature"
    );
    assert_eq!(
        memory("2:memory=200Mi"),
        "the reserved memory configuration references a NUMA node 2 that does not exist on this machine"
    );
}

#[test]
fn what_a_refused_pod_had_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let options = [
        ("cpu-manager-policy", "static"),
        ("system-reserved", "cpu=1"),
    ];
    let one = Machine {
        cpus: single_socket_ht(),
        nodes: machine().nodes,
    };
    let mut all = Managers::start(&settings(&options), &one, 0, dir.path()).unwrap();
    let refused = all
        .admit(&pod(
            "p",
            &[("a", Role::Main, 4000, 1), ("b", Role::Main, 4000, 1)],
        ))
        .unwrap_err();
    assert_eq!(refused.reason, "UnexpectedAdmissionError");
    assert_eq!(
        refused.message,
        "Allocate failed due to not enough cpus available to satisfy request: requested=4, available=3, which is unexpected"
    );
    assert_eq!(all.cpu().shared().len(), 8);
}
