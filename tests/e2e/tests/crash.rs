//! Recovery after each process of a cluster is killed, one at a time.

use rkube_testing::require_machine;
use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkube_testing::{Cluster, eventually};

/// Returns the command lines of the cluster's processes, by process ID.
fn processes(cluster: &Cluster) -> BTreeMap<i32, String> {
    let mut found = BTreeMap::new();
    let groups = match rkube_testing::driver().as_str() {
        "docker" => rkube_testing::engine::containers(&cluster.profile),
        _ => vec![format!("rkube/{}/", cluster.profile)],
    };
    let run = format!("/run/rkube/{} ", cluster.profile);
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if groups.iter().any(|g| text.contains(g)) || line.contains(&run) {
            found.insert(pid, line.trim().to_owned());
        }
    }
    found
}

fn role(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

fn kill_role(cluster: &Cluster, wanted: &str) -> i32 {
    let all = processes(cluster);
    let (pid, _) = all
        .iter()
        .find(|(_, line)| role(line) == wanted)
        .unwrap_or_else(|| panic!("no {wanted}: {all:#?}"));
    kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("kill");
    *pid
}

#[test]
fn whatever_dies_comes_back_and_nothing_is_lost() {
    require_machine!();
    let cluster = Cluster::start("crash", 2);
    cluster.deploy_kubia(2);
    let containers = || {
        let format = "jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
        cluster.kubectl(&["get", "pods", "-l", "app=kubia", "-o", format])
    };
    let before = containers().ok();

    let mut roles = vec!["agent", "control-plane"];
    let supervisors = if rkube_testing::is_native("killing supervisors") {
        roles.extend(["supervise", "standby"]);
        2
    } else {
        0
    };
    for (round, wanted) in roles.iter().enumerate() {
        let name = format!("written-{round}");
        cluster.kubectl(&["create", "configmap", &name]).ok();
        let dead = kill_role(&cluster, wanted);
        eventually(&format!("{wanted} to be back"), || {
            let all = processes(&cluster);
            let supervised = all
                .values()
                .filter(|l| ["supervise", "standby"].contains(&role(l)))
                .count()
                == supervisors;
            let back = ["agent", "control-plane"]
                .iter()
                .all(|r| all.values().any(|l| role(l) == *r));
            (supervised && back && !all.contains_key(&dead)).then_some(())
        });
        eventually("the API server", || {
            (cluster.kubectl(&["get", "cm", &name]).code == 0).then_some(())
        });
        cluster.wait_for(&["get", "nodes", "--no-headers"], |t| {
            t.matches(" Ready ").count() == 2
        });
    }
    assert_eq!(
        containers().ok(),
        before,
        "containers outlive what watches them"
    );

    // A container and its shim: the pod recovers.
    kill_role(&cluster, "shim");
    cluster.wait_for(
        &[
            "get",
            "deployment",
            "kubia",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ],
        |t| t == "2",
    );

    // A whole node.
    kill_role(&cluster, "init");
    cluster.wait_for(&["get", "nodes", "--no-headers"], |t| {
        t.matches(" Ready ").count() == 2
    });
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
}

#[test]
fn delete_finds_everything_after_a_massacre() {
    require_machine!();
    let cluster = Cluster::start("massacre", 2);
    cluster.deploy_kubia(1);
    for pid in processes(&cluster).keys() {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    cluster.rkube(&["delete"]).ok();
}
