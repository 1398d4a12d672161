//! Images from archives and from registries.

use rkube_testing::require_machine;
use std::process::{Command, Stdio};

use rkube_testing::image::Image;
use rkube_testing::{Cluster, Running, eventually, has};

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {more}\n  containers:\n  \
         - {{name: c, image: '{image}', command: [sleep, '3600']}}\n"
    )
}

#[test]
fn archives_of_every_kind_are_loaded() {
    require_machine!();
    let Some(docker) = Image::busybox("test/docker:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let oci = Image::busybox("test/oci:1").expect("busybox");
    let packed = Image::busybox("test/gzip:1").expect("busybox");
    let cluster = Cluster::start("archives", 2);
    let mut archives = vec![
        ("docker", docker.docker_archive()),
        ("oci", oci.oci_layout()),
        ("gzip", rkube_testing::image::gzip(&packed.docker_archive())),
    ];
    if has("zstd") {
        let plain = cluster.path("plain.tar");
        std::fs::write(
            &plain,
            Image::busybox("test/zstd:1").expect("busybox").oci_layout(),
        )
        .expect("a file");
        let out = Command::new("zstd")
            .args(["-qc"])
            .arg(&plain)
            .output()
            .expect("zstd runs");
        archives.push(("zstd", out.stdout));
    }
    for (name, content) in &archives {
        let path = cluster.path(&format!("{name}.tar"));
        std::fs::write(&path, content).expect("a file");
        let said = cluster
            .rkube(&["image", "load", &path.display().to_string()])
            .ok();
        assert!(said.contains(&format!("test/{name}:1")), "{said}");
    }
    for i in [1, 2] {
        let images = cluster.rkube(&["image", "ls", "-n", &cluster.node(i)]).ok();
        for (name, _) in &archives {
            assert!(images.contains(&format!("test/{name}")), "{images}");
        }
    }
    for (name, _) in &archives {
        cluster.apply(&pod(name, &format!("test/{name}:1"), ""));
    }
    for (name, _) in &archives {
        cluster
            .kubectl(&[
                "wait",
                "--for=condition=Ready",
                &format!("pod/{name}"),
                &rkube_testing::timeout(),
            ])
            .ok();
    }
}

#[test]
fn images_are_pulled_with_and_without_credentials() {
    require_machine!();
    let tools = ["docker-registry", "skopeo", "htpasswd"];
    let (Some(image), true) = (Image::busybox("app:1"), tools.into_iter().all(has)) else {
        rkube_testing::skip!("needs busybox-static, docker-registry, skopeo and apache2-utils");
    };
    let cluster = Cluster::plan("pull");
    cluster.rkube(&["start"]).ok();
    // One registry listens on the host's loopback, which only the native driver reaches,
    // and one on the host's address in the nodes' range.
    let ip: std::net::Ipv4Addr = cluster
        .rkube(&["ip"])
        .ok()
        .trim()
        .parse()
        .expect("an address");
    let [a, b, c, _] = ip.octets();
    let host = std::net::Ipv4Addr::new(a, b, c, 1);
    let port = 5000 + std::process::id() % 1000;
    let native = rkube_testing::is_native("a registry on the host's loopback");
    let (open, closed) = (
        format!(
            "{}:{port}",
            if native {
                "127.0.0.1".into()
            } else {
                host.to_string()
            }
        ),
        format!("{host}:{}", port + 1000),
    );
    let _registries = [
        registry(&cluster, &open, false),
        registry(&cluster, &closed, true),
    ];
    let archive = cluster.path("app.tar");
    std::fs::write(&archive, image.docker_archive()).expect("a file");
    for (address, credentials) in [(&open, None), (&closed, Some("user:secret"))] {
        let mut push = Command::new("skopeo");
        push.args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ]);
        push.args(credentials.iter().flat_map(|c| ["--dest-creds", c]));
        push.arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{address}/team/app:1"));
        eventually("the registry", || {
            push.status().is_ok_and(|s| s.success()).then_some(())
        });
    }
    cluster.rkube(&["stop"]).ok();
    cluster
        .rkube(&[
            "start",
            "--insecure-registry",
            &open,
            "--insecure-registry",
            &closed,
        ])
        .ok();

    cluster.apply(&pod("open", &format!("{open}/team/app:1"), ""));
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/open",
            &rkube_testing::timeout(),
        ])
        .ok();
    let refused = pod("refused", &format!("{closed}/team/app:1"), "");
    cluster.apply(&refused);
    cluster.wait_for(&["get", "pod", "refused"], |t| {
        t.contains("ErrImagePull") || t.contains("ImagePullBackOff")
    });
    cluster
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "pull",
            "--docker-server",
            &closed,
            "--docker-username=user",
            "--docker-password=secret",
        ])
        .ok();
    cluster.apply(&pod(
        "allowed",
        &format!("{closed}/team/app:1"),
        "imagePullSecrets: [{name: pull}]",
    ));
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/allowed",
            &rkube_testing::timeout(),
        ])
        .ok();
}

#[test]
fn images_are_pushed_with_and_without_credentials() {
    require_machine!();
    let tools = ["docker-registry", "htpasswd"];
    let (Some(image), true) = (Image::busybox("app:1"), tools.into_iter().all(has)) else {
        rkube_testing::skip!("needs busybox-static, docker-registry and apache2-utils");
    };
    let cluster = Cluster::start("push", 1);
    let ip = cluster.rkube(&["ip"]).ok();
    let ip: std::net::Ipv4Addr = ip.trim().parse().expect("an address");
    let [a, b, c, _] = ip.octets();
    let port = 7000 + std::process::id() % 1000;
    let address = |port: u32| format!("{a}.{b}.{c}.1:{port}");
    let (open, closed) = (address(port), address(port + 1000));
    let _registries = [
        registry(&cluster, &open, false),
        registry(&cluster, &closed, true),
    ];
    for address in [&open, &closed] {
        eventually("the registry", || {
            std::net::TcpStream::connect(address).ok()
        });
    }
    let archive = cluster.path("app.tar");
    std::fs::write(&archive, image.docker_archive()).expect("a file");
    cluster
        .rkube(&["image", "load", &archive.display().to_string()])
        .ok();
    // A registry that was not declared is expected to speak TLS.
    let undeclared = cluster.rkube(&["image", "push", "app:1", &format!("{open}/team/app:1")]);
    assert!(undeclared.failed(99).contains("--insecure-registry"));
    cluster.rkube(&["stop"]).ok();
    let declared = ["--insecure-registry", &open, "--insecure-registry", &closed];
    cluster.rkube(&[&["start"][..], &declared].concat()).ok();

    // The user's credentials are those of this directory.
    let docker = cluster.path("docker");
    std::fs::create_dir_all(&docker).expect("a folder");
    let push = |image: &str, target: &str| {
        let mut command = cluster.rkube_command(&["image", "push", image, target]);
        command.env("DOCKER_CONFIG", &docker);
        let done = command.output().expect("rkube runs");
        let text = [done.stdout, done.stderr].concat();
        (
            done.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, said) = push("app:1", &format!("{open}/team/app:1"));
    assert!(
        code == Some(0) && said.contains("1 of 1 layers sent"),
        "{said}"
    );
    let (code, said) = push("app:1", &format!("{open}/team/app:1"));
    assert!(
        code == Some(0) && said.contains("0 of 1 layers sent"),
        "{said}"
    );
    let target = format!("{closed}/team/app:1");
    let (code, said) = push("app:1", &target);
    assert!(code == Some(97) && said.contains("docker login"), "{said}");
    let config = format!("{{\"auths\": {{\"{closed}\": {{\"auth\": \"dXNlcjpzZWNyZXQ=\"}}}}}}");
    std::fs::write(docker.join("config.json"), config).expect("a file");
    let (code, said) = push("app:1", &target);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = push("absent:1", &target);
    assert!(code == Some(95) && said.contains("not present"), "{said}");

    // What was pushed runs.
    cluster.apply(&pod(
        "pushed",
        &format!("{open}/team/app:1"),
        "restartPolicy: Always",
    ));
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/pushed",
            &rkube_testing::timeout(),
        ])
        .ok();
}

#[test]
fn images_of_the_engine_are_loaded_by_name() {
    require_machine!();
    let Some(image) = Image::busybox("test/engine:1").filter(|_| rkube_testing::engine::answers())
    else {
        rkube_testing::skip!("needs a container engine, the docker command and busybox-static");
    };
    let cluster = Cluster::start("engine", 2);
    let name = format!("test/{}:1", cluster.profile);
    let image = Image {
        name: &name,
        ..image
    };
    let archive = cluster.path("image.tar");
    std::fs::write(&archive, image.docker_archive()).expect("a file");
    let path = archive.display().to_string();
    rkube_testing::engine::docker(&["load", "-i", &path]).expect("docker load");
    std::fs::remove_file(&archive).expect("a file");
    let loaded = cluster.rkube(&["image", "load", &name]);
    // The second time, no layer needs to be sent.
    let again = cluster.rkube(&["image", "load", &name]);
    let missing = cluster.rkube(&["image", "load", "test/absent:1"]);

    // Of an image based on the first one, only the new layer is sent.
    let higher_name = format!("test/{}:2", cluster.profile);
    let higher = Image {
        name: &higher_name,
        files: vec![("etc/higher", b"yes".to_vec(), 0o644)],
        entrypoint: Vec::new(),
        architecture: image.architecture,
    };
    std::fs::write(&archive, higher.docker_archive_on(&image)).expect("a file");
    rkube_testing::engine::docker(&["load", "-i", &path]).expect("docker load");
    let more = cluster.rkube(&["image", "load", &higher_name]);
    rkube_testing::engine::docker(&["rmi", &name, &higher_name]).expect("docker rmi");
    assert!(loaded.ok().contains(&name));
    assert!(again.ok().contains("0 of its 1 layers"));
    assert!(missing.failed(65).contains("docker images"));
    let more = more.ok();
    assert!(more.contains("1 of its 2 layers"), "{more}");
    cluster.apply(&pod("p", &name, ""));
    cluster.apply(&pod("higher", &higher_name, ""));
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/p",
            "pod/higher",
            &rkube_testing::timeout(),
        ])
        .ok();
    let read = ["exec", "higher", "--", "cat", "/etc/higher"];
    assert_eq!(cluster.kubectl(&read).ok(), "yes");
}

fn registry(cluster: &Cluster, address: &str, password: bool) -> Running {
    let root = cluster.path(&format!("registry-{}", address.replace([':', '.'], "-")));
    std::fs::create_dir_all(&root).expect("a folder");
    let mut config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '{address}'}}\n",
        root.display()
    );
    if password {
        let made = Command::new("htpasswd")
            .args(["-Bbn", "user", "secret"])
            .output()
            .expect("htpasswd runs");
        let file = root.join("htpasswd");
        let line = made.stdout;
        std::fs::write(&file, line).expect("a file");
        config += &format!(
            "auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
            file.display()
        );
    }
    let path = root.join("config.yml");
    std::fs::write(&path, config).expect("a file");
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the registry runs");
    Running(child)
}

#[test]
fn nodes_catch_up_and_bundles_bring_images_back() {
    require_machine!();
    let (Some(early), Some(mut late)) = (
        Image::busybox("test/early:1"),
        Image::busybox("test/late:1"),
    ) else {
        rkube_testing::skip!("no busybox-static");
    };
    late.files.push(("etc/late", b"yes".to_vec(), 0o644));
    if rkube_testing::nodes(2) < 2 {
        rkube_testing::skip!("needs two nodes");
    }
    let cluster = Cluster::start("bundle", 2);
    let load = |name: &str, content: &[u8]| {
        let path = cluster.path(name);
        std::fs::write(&path, content).expect("a file");
        cluster
            .rkube(&["image", "load", &path.display().to_string()])
            .ok();
    };
    load("early.tar", &early.docker_archive());
    let second = cluster.node(2);
    cluster.rkube(&["node", "stop", &second]).ok();
    load("late.tar", &late.oci_layout());
    cluster
        .rkube(&["image", "tag", "test/early:1", "test/early:2"])
        .ok();
    cluster.rkube(&["node", "start", &second]).ok();
    cluster.rkube(&["node", "add"]).ok();
    let names = |node: &str| {
        let list = ["image", "ls", "-o", "name", "-n", node];
        cluster.rkube(&list).ok()
    };
    for node in [&second, &cluster.node(3)] {
        let found = names(node);
        for name in ["test/early:1", "test/early:2", "test/late:1"] {
            assert!(found.contains(&format!("{name}\n")), "{node}: {found}");
        }
    }

    let manifest = cluster.path("pods.yaml");
    let pods = [
        pod("early", "test/early:1", ""),
        pod("builtin", "rkube/kubia", ""),
    ];
    std::fs::write(&manifest, pods.join("---\n")).expect("a file");
    let (archive, manifest) = (cluster.path("all.tar"), manifest.display().to_string());
    let archive = archive.display().to_string();
    let save = ["image", "bundle", "save", &archive, "-f", &manifest];
    let said = cluster.rkube(&[&save[..], &["test/late:1"]].concat()).ok();
    assert!(said.contains("test/early:1") && said.contains("test/late:1"));
    let missing = ["image", "bundle", "save", &archive, "127.0.0.1:1/nope:1"];
    cluster.rkube(&missing).failed(99);
    for name in ["test/early:1", "test/late:1"] {
        cluster.rkube(&["image", "rm", name]).ok();
    }
    assert!(!names(&second).contains("test/"));
    let load = ["image", "bundle", "load", &archive, "-o", "json"];
    let loaded = cluster.rkube(&load).ok();
    assert!(loaded.contains("test/late:1") && loaded.contains(&second));
    assert!(names(&second).contains("test/early:1\n"));
    cluster.apply(&pod("early", "test/early:1", ""));
    let ready = ["wait", "--for=condition=Ready", "pod/early"];
    let timeout = rkube_testing::timeout();
    cluster.kubectl(&[&ready[..], &[&timeout]].concat()).ok();
    cluster
        .rkube(&["image", "load", "no-such-image"])
        .failed(65);
}
