//! Stock Docker clients and the images of a cluster: `rkube docker-env`.

use std::fs;
use std::process::Command;

use rkube_testing::image::Image;
use rkube_testing::{Cluster, eventually, has, require_machine};

/// Runs Docker's client with the variables that `rkube docker-env` prints. Returns its exit code and
/// what it said.
fn docker(variables: &[(String, String)], words: &[&str]) -> (Option<i32>, String) {
    let done = Command::new("docker")
        .args(words)
        .envs(variables.iter().cloned())
        .output()
        .expect("docker runs");
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (done.status.code(), text)
}

fn variables(cluster: &Cluster) -> Vec<(String, String)> {
    let text = cluster.rkube(&["docker-env", "--shell", "none"]).ok();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let mut found: Vec<(String, String)> = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // Not the user's own settings.
    let config = cluster.path("docker-config").display().to_string();
    found.push(("DOCKER_CONFIG".to_owned(), config));
    found
}

#[test]
fn dockers_client_builds_and_names_and_removes_images() {
    require_machine!();
    let (Some(base), true) = (Image::busybox("test/base:1"), has("docker")) else {
        rkube_testing::skip!("needs busybox-static and Docker's client");
    };
    let cluster = Cluster::start("dockerenv", 2);
    let variables = variables(&cluster);
    assert!(variables.contains(&("DOCKER_BUILDKIT".into(), "0".into())));
    let ok = |words: &[&str]| {
        let (code, said) = docker(&variables, words);
        assert_eq!(code, Some(0), "{words:?}: {said}");
        said
    };
    let refused = |words: &[&str], part: &str| {
        let (code, said) = docker(&variables, words);
        assert!(code != Some(0) && said.contains(part), "{words:?}: {said}");
    };
    let archive = cluster.path("base.tar").display().to_string();
    fs::write(&archive, base.docker_archive()).expect("a file");
    assert!(ok(&["load", "-i", &archive]).contains("Loaded image: test/base:1"));

    let dir = cluster.path("context");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("a.txt"), "made by docker\n").expect("a file");
    let text = "FROM test/base:1\nARG X\nCOPY a.txt /\nRUN echo $X >> /a.txt\nCMD cat /a.txt; sleep 3600\n";
    fs::write(dir.join("Dockerfile"), text).expect("a file");
    let dir = dir.display().to_string();
    let said = ok(&["build", "-t", "app:1", "--build-arg", "X=seven", &dir]);
    assert!(said.contains("Successfully tagged app:1"), "{said}");
    let id = ok(&["images", "-q", "--no-trunc", "app"]);
    // What the client says of its builder follows.
    let again = ok(&["build", "-q", "--build-arg", "X=seven", &dir]);
    assert!(again.starts_with(&id), "{again}");
    refused(&["build", "--network=none", &dir], "networkmode=none");
    let dockerfile = cluster.path("Bad").display().to_string();
    fs::write(&dockerfile, "FROM test/base:1\nRUN exit 3\n").expect("a file");
    refused(&["build", "-f", &dockerfile, &dir], ":2: ");

    ok(&["tag", "app:1", "app:2"]);
    for node in [1, 2] {
        let words = ["image", "ls", "--node", &cluster.node(node)];
        let images = cluster.rkube(&words).ok();
        assert_eq!(
            images.matches("docker.io/library/app").count(),
            2,
            "{images}"
        );
    }
    let removed = ok(&["rmi", "app:1"]);
    assert!(
        removed.contains("Untagged: app:1") && !removed.contains("Deleted"),
        "{removed}"
    );
    let told = ok(&["inspect", "--format", "{{.Id}} {{.RepoTags}}", "app:2"]);
    assert_eq!(told.trim(), format!("{} [app:2]", id.trim()));
    assert!(ok(&["history", "app:2"]).contains("COPY a.txt /"));
    refused(&["inspect", "app:1"], "o such");
    let saved = cluster.path("saved.tar").display().to_string();
    ok(&["save", "-o", &saved, "app:2"]);
    cluster.rkube(&["image", "load", &saved]).ok();
    refused(&["run", "app:2"], "kubectl run");

    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app}}\nspec:\n  nodeName: {}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: 'app:2', imagePullPolicy: Never}}\n",
        cluster.node(1)
    ));
    let log = eventually("the pod's output", || {
        let log = cluster.kubectl(&["logs", "app"]).stdout;
        log.contains("seven").then_some(log)
    });
    assert_eq!(log, "made by docker\nseven\n");
    let names = ok(&["ps", "--format", "{{.Names}} {{.Image}}"]);
    assert!(names.contains("k8s_c_app_default app:2\n"), "{names}");
    refused(
        &["rmi", "app:2"],
        "is used by the container c of the pod app",
    );

    // The endpoint ends with the cluster, and is there again afterwards.
    cluster.rkube(&["stop"]).ok();
    refused(&["images"], "docker.sock");
    assert!(
        cluster
            .rkube(&["docker-env"])
            .failed(83)
            .contains("rkube start")
    );
    cluster.rkube(&["start"]).ok();
    let again = self::variables(&cluster);
    assert_eq!(again, variables);
    assert!(docker(&again, &["images"]).1.contains("app"));
    cluster.rkube(&["delete"]).ok();
    cluster.assert_nothing_left();
}
