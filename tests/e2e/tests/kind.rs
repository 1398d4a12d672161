//! Clusters as users of kind make them, the cluster file, and what both can ask for: labels, taints,
//! folders of this machine. Pauses, and the files that CI keeps.

use std::os::unix::fs::symlink;
use std::process::Command;

use rkube_testing::{Cluster, binary, driver, is_native, require_machine};

/// Writes a file of the test and returns its path.
fn write(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.path(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn mistakes_in_files_have_a_place_and_change_nothing() {
    let cluster = Cluster::plan("files");
    let kind = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nfeatureGates: {A: true}\n";
    let file = write(&cluster, "kind.yaml", kind);
    let said = cluster
        .rkube(&["kind", "create", "cluster", "--config", &file])
        .failed(18);
    assert!(said.contains("kind.yaml:3:15: featureGates: "), "{said}");
    let own = "apiVersion: rkube.dev/v1alpha1\nkind: Cluster\nnodes: [{role: worker}]\n";
    let own = write(&cluster, "own.yaml", own);
    let said = cluster.rkube(&["start", "-f", &own]).failed(18);
    assert!(said.contains("own.yaml:3:8: nodes: "), "{said}");
    let said = cluster.rkube(&["start", "-f", &file]).failed(18);
    assert!(said.contains("rkube kind create cluster"), "{said}");
    cluster
        .rkube(&["start", "-f", &cluster.path("none").display().to_string()])
        .failed(35);
    cluster
        .rkube(&["start", "-f", &own, "--nodes", "2"])
        .failed(14);
    cluster.rkube(&["kind", "build", "node-image"]).failed(16);
    cluster
        .rkube(&[
            "kind",
            "create",
            "cluster",
            "--image",
            "kindest/node:v1.30.0",
        ])
        .failed(14);
    let schema = cluster.rkube(&["config", "schema"]).ok();
    serde_json::from_str::<serde_json::Value>(&schema).expect("JSON");
    assert!(!cluster.home().exists());
}

#[test]
fn kinds_commands_make_and_delete_clusters() {
    require_machine!();
    let cluster = Cluster::plan("kind");
    let name = cluster.profile.as_str();
    let folders = driver() != "qemu";
    let mounts = match folders {
        true => format!(
            "  extraMounts: [{{hostPath: {}, containerPath: /files, readOnly: true}}]\n",
            cluster.path("files").display()
        ),
        false => String::new(),
    };
    let config = format!(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: worker\n  labels: {{tier: web}}\n\
         - role: control-plane\n{mounts}  kubeadmConfigPatches:\n  - |\n    kind: InitConfiguration\n    \
         nodeRegistration: {{kubeletExtraArgs: {{node-labels: ingress-ready=true}}}}\n"
    );
    let file = write(&cluster, "kind.yaml", &config);
    let none = cluster.rkube(&["kind", "get", "clusters"]);
    assert_eq!(none.stderr, "No kind clusters found.\n");
    assert_eq!(none.ok(), "");
    let made = cluster.rkube(&[
        "kind", "create", "cluster", "--name", name, "--config", &file,
    ]);
    assert!(
        made.stderr
            .contains(&format!("Set kubectl context to \"kind-{name}\"")),
        "{made:?}"
    );
    assert_eq!(made.ok(), "");

    // Called as kind, as tools do.
    let program = cluster.path("kind");
    symlink(binary(), &program).expect("a link");
    let kind = |words: &[&str]| {
        let mut command = Command::new(&program);
        let real = cluster.rkube_command(&[]);
        command.envs(
            real.get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        let out = command.args(words).output().expect("kind runs");
        assert!(out.status.success(), "{words:?}: {out:?}");
        String::from_utf8(out.stdout).expect("text")
    };
    assert_eq!(kind(&["get", "clusters"]), format!("{name}\n"));
    let nodes = format!("{name}-control-plane\n{name}-worker\n");
    assert_eq!(kind(&["get", "nodes", "--name", name]), nodes);
    assert!(
        kind(&["get", "kubeconfig", "--name", name])
            .contains(&format!("current-context: kind-{name}"))
    );
    let again = cluster
        .rkube(&["kind", "create", "cluster", "-n", name])
        .failed(11);
    assert!(
        again.contains("node(s) already exist for a cluster with the name"),
        "{again}"
    );

    let get = |words: &[&str]| {
        let context = format!("kind-{name}");
        let all = [&["--context", context.as_str(), "get"], words].concat();
        cluster.kubectl(&all).ok()
    };
    assert_eq!(
        get(&["nodes", "-l", "ingress-ready=true", "-o", "name"]),
        format!("node/{name}-control-plane\n")
    );
    assert_eq!(
        get(&["nodes", "-l", "tier=web", "-o", "name"]),
        format!("node/{name}-worker\n")
    );
    let taints = get(&["nodes", "-o", "jsonpath={.items[*].spec.taints[*].key}"]);
    assert_eq!(taints, "node-role.kubernetes.io/control-plane");
    if folders {
        std::fs::write(cluster.path("files/a"), "seen\n").expect("a file");
        assert_eq!(cluster.rkube(&["ssh", "cat /files/a"]).ok(), "seen\n");
        assert_ne!(cluster.rkube(&["ssh", "touch /files/b"]).code, 0);
    }

    let logs = kind(&[
        "export",
        "logs",
        "--name",
        name,
        cluster.path("logs").to_str().expect("a path"),
    ]);
    assert_eq!(logs.trim(), cluster.path("logs").display().to_string());
    for file in [
        "version.txt",
        "objects/events.yaml",
        &format!("{name}-worker/agent.log"),
    ] {
        assert!(cluster.path("logs").join(file).exists(), "{file}");
    }
    assert!(kind(&["delete", "clusters", "--all"]).is_empty());
    kind(&["delete", "cluster", "--name", name]);
    let left = cluster
        .kubectl(&["config", "get-contexts", "-o", "name"])
        .ok();
    assert_eq!(left, "");
    cluster.assert_nothing_left();
}

#[test]
fn a_file_describes_a_cluster_that_can_be_paused() {
    require_machine!();
    let cluster = Cluster::plan("file");
    write(
        &cluster,
        "m.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hello}\n",
    );
    let manifest = cluster.path("m.yaml").display().to_string();
    let text = format!(
        "apiVersion: rkube.dev/v1alpha1\nkind: Cluster\nnodes:\n- role: control-plane\n\
         - role: worker\n  zone: b\n  labels: {{tier: web}}\n  taints: ['dedicated=web:NoSchedule']\n\
         manifests: [{manifest}]\nkubeconfig: {{namespace: team}}\n"
    );
    let file = write(&cluster, "cluster.yaml", &text);
    cluster.rkube(&["start", "-f", &file]).ok();
    let second = cluster.node(2);
    let zone = "topology.kubernetes.io/zone=b,tier=web";
    assert_eq!(
        cluster
            .kubectl(&["get", "nodes", "-l", zone, "-o", "name"])
            .ok(),
        format!("node/{second}\n")
    );
    let taint = [
        "get",
        "node",
        &second,
        "-o",
        "jsonpath={.spec.taints[*].key}",
    ];
    assert_eq!(cluster.kubectl(&taint).ok(), "dedicated");
    cluster
        .kubectl(&["get", "configmap", "hello", "-n", "default"])
        .ok();
    let described = cluster.rkube(&["config", "init"]).ok();
    assert!(
        described.contains("dedicated=web:NoSchedule"),
        "{described}"
    );
    let again = write(&cluster, "again.yaml", &described);
    let dry = cluster.rkube(&["start", "-f", &again, "--dry-run"]).ok();
    assert!(dry.contains("with 2 nodes"), "{dry}");

    let state = || {
        let done = cluster.rkube(&["status", "-f", "{{.Host}} {{.Kubelet}} {{.APIServer}}"]);
        (done.stdout.clone(), done.code)
    };
    cluster.rkube(&["pause"]).ok();
    assert_eq!(state(), ("Running Stopped Paused".to_owned(), 2));
    let whole = cluster.rkube(&["status", "-o", "json", "-l", "cluster"]);
    let whole: serde_json::Value = serde_json::from_str(&whole.stdout).expect("JSON");
    assert_eq!(whole["StatusCode"], 418, "{whole}");
    let refused = cluster.rkube(&["ssh", "true"]).failed(83);
    assert!(refused.contains("rkube unpause -p"), "{refused}");
    cluster.rkube(&["resume"]).ok();
    assert_eq!(state(), ("Running Running Running".to_owned(), 0));
    // A start lets a paused cluster go on, and a stop works on one.
    cluster.rkube(&["pause"]).ok();
    cluster.rkube(&["start"]).ok();
    cluster.rkube(&["pause"]).ok();
    cluster.rkube(&["stop"]).ok();
    assert_eq!(state().0, "Stopped Stopped Stopped");
    cluster.rkube(&["pause"]).failed(83);
    cluster.rkube(&["start"]).ok();
    cluster
        .kubectl(&["get", "configmap", "hello", "-n", "default"])
        .ok();
    // So does a deletion, which the end of the test checks.
    cluster.rkube(&["pause"]).ok();
}

#[test]
fn folders_come_and_go_in_running_nodes() {
    require_machine!();
    if !is_native("a mount in a running node") {
        return;
    }
    let cluster = Cluster::start("folders", 2);
    let folder = cluster.path("shared");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("a"), "here\n").expect("a file");
    let on = |node: &str, words: &str| cluster.rkube(&["ssh", "-n", node, words]);
    let mount = format!("{}:/mnt/shared", folder.display());
    cluster.rkube(&["mount", &mount]).ok();
    assert_eq!(
        on("m02", "cat /mnt/shared/a; echo b > /mnt/shared/b").ok(),
        "here\n"
    );
    assert_eq!(
        std::fs::read_to_string(folder.join("b")).expect("a file"),
        "b\n"
    );
    let read_only = format!("{}:/mnt/read:ro", folder.display());
    cluster.rkube(&["mount", &read_only, "-n", "m02"]).ok();
    assert_ne!(on("m02", "touch /mnt/read/c").code, 0);
    assert_ne!(on("m01", "ls /mnt/read").code, 0);
    // What the node needs, and what is not there.
    cluster
        .rkube(&["mount", &format!("{}:/proc", folder.display())])
        .failed(14);
    cluster
        .rkube(&["mount", "/nowhere-at-all:/mnt/x"])
        .failed(35);
    cluster.rkube(&["mount", &mount]).failed(14);
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    assert_eq!(on("m01", "cat /mnt/shared/a").ok(), "here\n");
    assert_eq!(on("m02", "cat /mnt/read/a").ok(), "here\n");
    cluster.rkube(&["mount", "--remove", "/mnt/shared"]).ok();
    assert_eq!(on("m01", "ls /mnt/shared").ok(), "");
    cluster.rkube(&["mount", "--kill"]).ok();
    assert!(cluster.rkube(&["mount"]).ok().contains("No directories"));
    assert!(folder.join("a").exists());
}
