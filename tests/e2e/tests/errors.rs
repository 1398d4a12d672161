//! Invalid input: a clear error, a specific exit code, and no partial result.

use rkube_testing::image::Image;
use rkube_testing::require_machine;
use rkube_testing::{Cluster, binary};

#[test]
fn bad_flags_and_names_are_refused_before_anything_is_made() {
    let cluster = Cluster::plan("flags");
    assert!(
        cluster
            .rkube(&["start", "--nonsense"])
            .failed(14)
            .contains("--nonsense")
    );
    assert!(
        cluster
            .rkube(&["start", "--nodes", "0"])
            .failed(14)
            .contains("--nodes")
    );
    assert!(
        cluster
            .rkube(&["start", "--nodes", "x"])
            .failed(14)
            .contains("'x'")
    );
    assert!(
        cluster
            .rkube(&["-p", "a/b", "start"])
            .failed(14)
            .contains("a/b")
    );
    assert!(
        cluster
            .rkube(&["start", "--driver", "vmware"])
            .failed(55)
            .contains("vmware")
    );
    assert!(
        cluster
            .rkube(&["start", "--ports", "80:x"])
            .failed(14)
            .contains("80:x")
    );
    assert!(
        cluster
            .rkube(&["start", "--memory", "1k"])
            .failed(14)
            .contains("64m")
    );
    assert!(
        cluster
            .rkube(&["start", "--subnet", "10.96.0.0/24"])
            .failed(14)
            .contains("overlap")
    );
    assert!(cluster.rkube(&["stop"]).failed(85).contains("rkube start"));
    // Clean-up steps of scripts need not know whether there is a cluster.
    assert!(
        cluster
            .rkube(&["delete"])
            .ok()
            .contains("nothing was deleted")
    );
    assert!(
        !cluster
            .home()
            .join("profiles")
            .join(&cluster.profile)
            .exists()
    );
}

#[test]
fn a_damaged_profile_is_told_and_can_be_deleted() {
    let cluster = Cluster::plan("damaged");
    let dir = cluster.home().join("profiles").join(&cluster.profile);
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("profile.yaml"), "nodes: [").expect("a file");
    let said = cluster.rkube(&["start"]).failed(18);
    assert!(
        said.contains("profile.yaml is damaged") && said.contains("rkube delete"),
        "{said}"
    );
    assert!(cluster.rkube(&["profile", "list"]).ok().contains("Damaged"));
    if nix::unistd::geteuid().is_root() {
        cluster.rkube(&["delete"]).ok();
        assert!(!dir.exists());
    }
}

#[test]
fn without_root_the_fix_is_named() {
    require_machine!();
    if !rkube_testing::has("setpriv") {
        rkube_testing::skip!("no setpriv");
    }
    let cluster = Cluster::plan("noroot");
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    let copy = dir.path().join("rkube");
    std::fs::copy(binary(), &copy).expect("a copy");
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("mode");
    };
    open(dir.path());
    let out = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["start", "--driver", "native", "-p", &cluster.profile])
        .env("RKUBE_HOME", dir.path().join("home"))
        .env("HOME", dir.path())
        .output()
        .expect("setpriv runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(37), "{said}");
    assert!(said.contains("sudo rkube start"), "{said}");
}

#[test]
fn an_engine_that_is_not_there_is_told_soon() {
    let cluster = Cluster::plan("noengine");
    let started = std::time::Instant::now();
    let out = cluster
        .rkube_command(&["start", "--driver", "docker"])
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .output()
        .expect("rkube runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(63), "{said}");
    assert!(said.contains("DOCKER_HOST"), "{said}");
    // Much longer than the error takes, and much shorter than a hanging connection.
    assert!(started.elapsed().as_secs() < 60);
    assert!(
        !cluster
            .home()
            .join("profiles")
            .join(&cluster.profile)
            .exists()
    );

    let listed = cluster
        .rkube_command(&["driver", "list", "-o", "json"])
        .env("DOCKER_HOST", "ssh://me@there")
        .output()
        .expect("rkube runs");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let event: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
    let drivers = event.as_array().expect("a list");
    let docker = drivers
        .iter()
        .find(|d| d["name"] == "docker")
        .expect("docker");
    assert_eq!(docker["healthy"], false, "{text}");
}

#[test]
fn an_engine_that_is_too_old_is_told() {
    let cluster = Cluster::plan("oldengine");
    let socket = cluster.path("old.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || old_engine(&stream));
        }
    });
    let host = format!("unix://{}", socket.display());
    for more in [None, Some("--dry-run")] {
        let out = cluster
            .rkube_command(&["start", "--driver", "docker"])
            .args(more)
            .env("DOCKER_HOST", &host)
            .output()
            .expect("rkube runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(66), "{said}");
        assert!(
            said.contains("1.40") && said.contains("update it"),
            "{said}"
        );
    }
}

/// Responds as a container engine of 2019 does.
fn old_engine(mut stream: &std::os::unix::net::UnixStream) {
    use std::io::{BufRead, BufReader, Write};
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    while let Some(Ok(request)) = lines.next() {
        while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
        let body = if request.contains("/version") {
            r#"{"Version":"19.03.15","ApiVersion":"1.40","MinAPIVersion":"1.12"}"#
        } else {
            r#"{"ServerVersion":"19.03.15","OSType":"linux"}"#
        };
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

#[test]
fn what_virtual_machines_lack_is_refused() {
    let cluster = Cluster::plan("nokernel");
    let start = |kernel: &str, path: &str| {
        let mut command = cluster.rkube_command(&["start", "--driver", "qemu", "--kernel", kernel]);
        let out = command.env("PATH", path).output().expect("rkube runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_ne!(out.status.code(), Some(0), "{said}");
        said
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let without = start("/nowhere/vmlinuz", "/nowhere");
    assert!(without.contains("there is no qemu-system"), "{without}");
    if rkube_testing::has("qemu-system-x86_64") || rkube_testing::has("qemu-system-aarch64") {
        let said = start("/nowhere/vmlinuz", &path);
        assert!(
            said.contains("/nowhere/vmlinuz") && said.contains("--kernel"),
            "{said}"
        );
    }
    assert!(!cluster.home().exists());
}

#[test]
fn a_dry_run_says_which_driver_and_changes_nothing() {
    let cluster = Cluster::plan("dryrun");
    let said = cluster.rkube(&["start", "--dry-run", "--nodes", "3"]).ok();
    assert!(
        said.contains("3 nodes") && said.contains(&rkube_testing::driver()),
        "{said}"
    );
    assert!(!cluster.home().exists());
}

#[test]
fn bad_images_and_manifests_change_nothing() {
    require_machine!();
    let Some(image) = Image::busybox("test/broken:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("badinput", 1);
    let load = |name: &str, content: &[u8]| {
        let path = cluster.path(name);
        std::fs::write(&path, content).expect("a file");
        cluster.rkube(&["image", "load", &path.display().to_string()])
    };
    let whole = image.docker_archive();
    let said = load("truncated.tar", &whole[..whole.len() / 2]);
    assert_eq!(said.code, 98, "{said:?}");
    let said = load("nonsense.tar", b"this is no archive");
    assert_eq!(said.code, 98, "{said:?}");
    let foreign = Image {
        architecture: "s390x",
        ..Image::busybox("test/foreign:1").expect("busybox")
    };
    let said = load("foreign.tar", &foreign.docker_archive());
    assert!(said.code == 96 && said.stderr.contains("s390x"), "{said:?}");
    let said = cluster.rkube(&["image", "rm", "test/absent:1"]);
    assert_eq!(said.code, 95, "{said:?}");
    assert_eq!(cluster.rkube(&["image", "load", "/nowhere.tar"]).code, 15);
    let images = cluster.rkube(&["image", "ls"]).ok();
    assert!(!images.contains("test/"), "{images}");

    let typo = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: x, imagePullPolice: Never}]}\n";
    let said = cluster.kubectl_stdin(&["apply", "-f", "-"], typo);
    assert!(
        said.code != 0 && said.stderr.contains("imagePullPolice"),
        "{said:?}"
    );
    assert!(cluster.kubectl(&["get", "pods"]).ok().is_empty());
}

#[test]
fn a_taken_address_range_is_told() {
    require_machine!();
    let cluster = Cluster::plan("taken");
    // Every machine uses the loopback's range.
    let said = cluster.rkube(&["start", "--subnet", "127.0.0.0/24"]);
    assert_eq!(said.code, 71, "{said:?}");
    assert!(said.stderr.contains("--subnet"), "{said:?}");
    assert!(
        !cluster
            .home()
            .join("profiles")
            .join(&cluster.profile)
            .exists()
    );
}

#[test]
fn an_interrupted_first_start_leaves_nothing() {
    require_machine!();
    for after in [5, 40, 80, 120, 160, 240] {
        let cluster = Cluster::plan("ctrlc");
        let mut start = cluster.rkube_command(&["start", "--nodes", "3"]);
        start
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let start = rkube_testing::Running(start.spawn().expect("rkube runs"));
        std::thread::sleep(std::time::Duration::from_millis(after));
        match start.interrupt() {
            // The signal came before the handler was installed, or during the start.
            -1 | 2 => cluster.assert_nothing_left(),
            0 => {}
            code => panic!("exit code {code} after {after} ms"),
        }
    }
}
