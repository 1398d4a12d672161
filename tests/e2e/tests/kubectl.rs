//! kubectl commands in sequence, on one cluster.

use rkube_testing::require_machine;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rkube_testing::{Cluster, Running, eventually, http_get};

const BUSYBOX: &str = "
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: test/busybox:1
    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done']
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
";

const ECHO: &str = "
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: 'test/busybox:1', command: [cat], stdin: true}
";

#[test]
fn kubectl_works() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("kubectl", 2);
    std::fs::write(cluster.path("busybox.tar"), image.docker_archive()).expect("the archive");
    cluster
        .rkube(&[
            "image",
            "load",
            &cluster.path("busybox.tar").display().to_string(),
        ])
        .ok();
    cluster.deploy_kubia(2);
    cluster.apply(BUSYBOX);
    cluster.apply(ECHO);
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/box",
            "pod/echo",
            &rkube_testing::timeout(),
        ])
        .ok();

    logs(&cluster);
    exec_attach_and_copy(&cluster);
    port_forward_and_proxy(&cluster);
    objects(&cluster);
    identities(&cluster);
    rollouts(&cluster);
    discovery(&cluster);
    deletion(&cluster);
}

fn logs(cluster: &Cluster) {
    cluster.wait_for(&["logs", "box"], |t| t.contains("line 3"));
    // As upstream, the output also contains lines that are written during the request.
    cluster.wait_for(&["logs", "box", "--tail=1"], |t| t.lines().count() == 1);
    assert!(
        cluster
            .kubectl(&["logs", "box", "--timestamps", "--tail=1"])
            .ok()
            .contains("T")
    );
    let mut follow = cluster.kubectl_command(&["logs", "-f", "box", "--tail=1"]);
    let mut follow = Running(follow.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let lines = BufReader::new(follow.0.stdout.take().expect("stdout"))
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.take(5).count(), 5, "following stopped");
}

fn exec_attach_and_copy(cluster: &Cluster) {
    assert_eq!(
        cluster
            .kubectl(&["exec", "box", "--", "echo", "hello there"])
            .ok(),
        "hello there\n"
    );
    assert_eq!(
        cluster
            .kubectl(&["exec", "box", "--", "sh", "-c", "exit 3"])
            .code,
        3
    );
    let both = cluster.kubectl(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.stdout.as_str(), both.stderr.trim()), ("out\n", "err"));
    assert_eq!(
        cluster
            .kubectl_stdin(&["exec", "-i", "box", "--", "cat"], "through stdin")
            .ok(),
        "through stdin"
    );
    let node = cluster
        .kubectl(&["exec", "box", "--", "sh", "-c", "echo $NODE"])
        .ok();
    assert!(node.starts_with(&cluster.profile), "{node}");

    if rkube_testing::has("script") {
        // util-linux's `script` gives kubectl a terminal.
        let mut command = std::process::Command::new("script");
        let line = "kubectl exec -it box -- sh -c 'test -t 0 && echo terminal'";
        command
            .args(["-qec", line, "/dev/null"])
            .env("KUBECONFIG", cluster.kubeconfig());
        let out = command.output().expect("script runs");
        assert!(
            String::from_utf8_lossy(&out.stdout).contains("terminal"),
            "{out:?}"
        );
    }
    let mut attach = cluster.kubectl_command(&["attach", "-i", "echo"]);
    let mut attach = Running(
        attach
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl runs"),
    );
    use std::io::Write;
    attach
        .0
        .stdin
        .as_mut()
        .expect("stdin")
        .write_all(b"to and fro\n")
        .expect("kubectl reads");
    let mut line = String::new();
    BufReader::new(attach.0.stdout.as_mut().expect("stdout"))
        .read_line(&mut line)
        .expect("kubectl writes");
    assert_eq!(line, "to and fro\n");
    drop(attach);

    let local = cluster.path("file");
    std::fs::write(&local, "copied\n".repeat(10_000)).expect("a file");
    cluster
        .kubectl(&["cp", &local.display().to_string(), "box:/tmp/file"])
        .ok();
    let back = cluster.path("back");
    cluster
        .kubectl(&["cp", "box:/tmp/file", &back.display().to_string()])
        .ok();
    assert_eq!(
        std::fs::read(&local).expect("read"),
        std::fs::read(back).expect("read")
    );
}

fn port_forward_and_proxy(cluster: &Cluster) {
    for target in [
        "deployment/kubia".to_owned(),
        format!("pod/{}", cluster.pods("kubia")[0]),
    ] {
        let mut forward = cluster.kubectl_command(&["port-forward", &target, ":8080"]);
        let mut forward = Running(
            forward
                .stdout(Stdio::piped())
                .spawn()
                .expect("kubectl runs"),
        );
        let mut line = String::new();
        BufReader::new(forward.0.stdout.as_mut().expect("stdout"))
            .read_line(&mut line)
            .expect("kubectl writes");
        let address = line
            .split_whitespace()
            .nth(2)
            .expect("an address")
            .to_owned();
        for _ in 0..3 {
            let body = http_get(&address).expect("an answer through the forwarded port");
            assert!(body.starts_with("You've hit kubia-"), "{body}");
        }
    }
    let mut proxy = cluster.kubectl_command(&["proxy", "--port=0"]);
    let mut proxy = Running(proxy.stdout(Stdio::piped()).spawn().expect("kubectl runs"));
    let mut line = String::new();
    BufReader::new(proxy.0.stdout.as_mut().expect("stdout"))
        .read_line(&mut line)
        .expect("kubectl writes");
    let address = line
        .trim()
        .rsplit(' ')
        .next()
        .expect("an address")
        .to_owned();
    let pod = &cluster.pods("kubia")[0];
    let path = format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/");
    let body = eventually("an answer through the proxy", || get_path(&address, &path));
    assert_eq!(body, format!("You've hit {pod}\n"));
    let raw = cluster.kubectl(&["get", "--raw", &path]).ok();
    assert_eq!(raw, format!("You've hit {pod}\n"));
}

fn get_path(address: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

fn objects(cluster: &Cluster) {
    let described = cluster.kubectl(&["describe", "pod", "box"]).ok();
    for event in ["Scheduled", "Started", "Created"] {
        assert!(described.contains(event), "{described}");
    }
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{key: '{value}', other: x}}\n"
        )
    };
    assert!(cluster.apply(&manifest("1")).contains("created"));
    assert!(cluster.apply(&manifest("1")).contains("unchanged"));
    let diff = cluster.kubectl_stdin(&["diff", "-f", "-"], &manifest("2"));
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.contains("+  key: \"2\""), "{diff:?}");
    assert!(cluster.apply(&manifest("2")).contains("configured"));
    assert_eq!(
        cluster
            .kubectl_stdin(&["diff", "-f", "-"], &manifest("2"))
            .code,
        0
    );
    let applied = cluster
        .kubectl_stdin(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &manifest("3"),
        )
        .ok();
    assert!(applied.contains("serverside-applied"), "{applied}");
    assert_eq!(
        cluster
            .kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data.key}"])
            .ok(),
        "3"
    );

    let node = cluster.node(2);
    cluster.kubectl(&["label", "node", &node, "disk=ssd"]).ok();
    assert!(
        cluster
            .kubectl(&["get", "nodes", "-l", "disk=ssd", "-o", "name"])
            .ok()
            .contains(&node)
    );
    cluster
        .kubectl(&["annotate", "pod", "box", "note=seen"])
        .ok();
    cluster.kubectl(&["create", "namespace", "team"]).ok();
    cluster
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "s",
            "-n",
            "team",
            "--from-literal=a=b",
        ])
        .ok();
    assert!(
        cluster
            .kubectl(&["get", "secret", "s", "-n", "team", "-o", "yaml"])
            .ok()
            .contains("a: Yg==")
    );
    assert!(
        cluster
            .kubectl(&["auth", "can-i", "create", "pods"])
            .ok()
            .contains("yes")
    );
    let cannot = cluster.kubectl(&[
        "auth",
        "can-i",
        "list",
        "secrets",
        "--as=system:serviceaccount:team:default",
    ]);
    assert!(cannot.stdout.contains("no"), "{cannot:?}");
}

/// The ways of tutorials: a token in a secret, and a certificate of `openssl x509`, which is of
/// version 1.
fn identities(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: token\n  annotations: {kubernetes.io/service-account.name: default}\n",
    );
    let token = cluster.wait_for(
        &[
            "get",
            "secret",
            "token",
            "-o",
            "go-template={{.data.token | base64decode}}",
        ],
        |text| text.starts_with("ey"),
    );
    let who = [
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ];
    // Without the context's certificate, which would count first.
    let as_user = |flags: &[&str]| {
        let server = cluster
            .kubectl(&[
                "config",
                "view",
                "--minify",
                "-o",
                "jsonpath={.clusters[0].cluster.server}",
            ])
            .ok();
        let ca = cluster.path("ca.crt").display().to_string();
        let mut args = vec![
            "--kubeconfig=/dev/null",
            "--server",
            &server,
            "--certificate-authority",
            &ca,
        ];
        args.extend_from_slice(flags);
        args.extend_from_slice(&who);
        cluster.kubectl(&args)
    };
    let pki = cluster
        .home()
        .join("profiles")
        .join(&cluster.profile)
        .join("pki");
    for name in ["ca.crt", "ca.key"] {
        std::fs::copy(pki.join(name), cluster.path(name)).expect("the authority");
    }
    let user = as_user(&["--token", token.trim()]).ok();
    assert_eq!(user, "system:serviceaccount:default:default");
    if !rkube_testing::has("openssl") {
        return rkube_testing::skipped("no openssl");
    }
    let script = "openssl req -new -newkey rsa:2048 -nodes -keyout j.key -subj /O=devs/CN=jane -out j.csr \
        && openssl x509 -req -in j.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out j.crt \
        && openssl req -x509 -newkey rsa:2048 -nodes -keyout s.key -subj /CN=stranger -out s.crt";
    let made = std::process::Command::new("sh")
        .args(["-ec", script])
        .current_dir(cluster.path(""))
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let with = |name: &str| {
        let file = |suffix: &str| {
            cluster
                .path(&format!("{name}.{suffix}"))
                .display()
                .to_string()
        };
        [
            format!("--client-certificate={}", file("crt")),
            format!("--client-key={}", file("key")),
        ]
    };
    let [certificate, key] = with("j");
    assert_eq!(as_user(&[&certificate, &key]).ok(), "jane");
    // A stranger's certificate counts as none.
    let [certificate, key] = with("s");
    let refused = as_user(&[&certificate, &key]);
    assert!(refused.stderr.contains("Unauthorized"), "{refused:?}");
    let user = as_user(&[&certificate, &key, "--token", token.trim()]).ok();
    assert_eq!(user, "system:serviceaccount:default:default");
    let checked = cluster.rkube(&["certs", "check"]).ok();
    assert!(
        checked.contains("apiserver") && checked.contains(" 36"),
        "{checked}"
    );
}

fn rollouts(cluster: &Cluster) {
    cluster
        .kubectl(&["set", "env", "deployment/kubia", "ROUND=2"])
        .ok();
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
    let history = cluster
        .kubectl(&["rollout", "history", "deployment/kubia"])
        .ok();
    assert!(history.lines().any(|l| l.starts_with('2')), "{history}");
    cluster
        .kubectl(&["rollout", "undo", "deployment/kubia"])
        .ok();
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
    let env = cluster
        .kubectl(&[
            "get",
            "deployment",
            "kubia",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].env}",
        ])
        .ok();
    assert!(!env.contains("ROUND"), "{env}");
}

fn discovery(cluster: &Cluster) {
    let resources = cluster.kubectl(&["api-resources"]).ok();
    for kind in [
        "deployments",
        "cronjobs",
        "networkpolicies",
        "customresourcedefinitions",
    ] {
        assert!(resources.contains(kind), "{resources}");
    }
    assert!(cluster.kubectl(&["api-versions"]).ok().contains("apps/v1"));
    let explained = cluster
        .kubectl(&["explain", "deployment.spec.strategy"])
        .ok();
    assert!(explained.contains("rollingUpdate"), "{explained}");
    let watched = cluster.kubectl(&["get", "pods", "-w", "--request-timeout=2s"]);
    assert!(watched.stdout.contains("kubia-"), "{watched:?}");
}

fn deletion(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pod", "box", "echo"]).ok();
    cluster.kubectl(&["delete", "deployment", "kubia"]).ok();
    cluster.wait_for(&["get", "pods", "-o", "name"], |t| t.trim().is_empty());
    cluster
        .kubectl(&["delete", "namespace", "team", "--timeout=60s"])
        .ok();
    assert!(
        cluster
            .kubectl(&["get", "namespace", "team"])
            .stderr
            .contains("NotFound")
    );
}
