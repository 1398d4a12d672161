//! The ingress controller of the binary.

use std::process::Command;

use rkube_testing::{Cluster, eventually, has, require_machine, skip};

const INGRESS: &str = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: kubia}
spec:
  tls: [{hosts: [secure.test], secretName: secure}]
  rules:
  - host: plain.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: kubia, port: {name: web}}}}]}
  - host: secure.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: kubia, port: {name: web}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: odd
  annotations: {nginx.ingress.kubernetes.io/limit-rps: '5'}
spec:
  ingressClassName: nginx
  rules:
  - host: odd.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: kubia, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: kubia}
spec:
  selector: {app: kubia}
  ports: [{name: web, port: 80, targetPort: 8080}]
";

/// Asks for a URL at the first node, with curl's further arguments.
fn curl(ip: &str, url: &str, more: &[&str]) -> Option<String> {
    let host = url.split('/').nth(2).expect("a URL");
    let done = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--include"])
        .args(["--resolve", &format!("{host}:80:{ip}")])
        .args(["--resolve", &format!("{host}:443:{ip}")])
        .args(more)
        .arg(url)
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    done.status.success().then_some(text)
}

/// Makes a certificate for `secure.test`.
fn certificate(cluster: &Cluster) {
    let (key, certificate) = (cluster.path("tls.key"), cluster.path("tls.crt"));
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=secure.test",
            "-addext",
            "subjectAltName=DNS:secure.test",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl");
    assert!(done.status.success(), "{done:?}");
    let (key, certificate) = (key.display(), certificate.display());
    let (key, certificate) = (format!("--key={key}"), format!("--cert={certificate}"));
    cluster
        .kubectl(&["create", "secret", "tls", "secure", &key, &certificate])
        .ok();
}

/// Checks the address that Ingresses show: the balancer's, where there is one, at which the clients
/// keep their own.
fn check_address(cluster: &Cluster, node: &str, shown: &str) {
    if shown == node {
        return;
    }
    let (head, _) = node.rsplit_once('.').expect("an address");
    let only = format!("nginx.ingress.kubernetes.io/whitelist-source-range={head}.1/32");
    cluster.kubectl(&["annotate", "ingress", "odd", &only]).ok();
    for at in [node, shown] {
        eventually("an answer to the machine's address", || {
            curl(at, "http://odd.test/", &[]).filter(|text| text.contains("You've hit kubia-"))
        });
    }
}

#[test]
fn ingresses_are_served_from_the_binary_and_go_with_the_addon() {
    require_machine!();
    if !has("curl") || !has("openssl") {
        skip!("no curl or openssl");
    }
    let cluster = Cluster::start("ingress", 2);
    cluster.rkube(&["addons", "enable", "ingress"]).ok();
    cluster.deploy_kubia(2);
    certificate(&cluster);
    cluster.apply(INGRESS);
    let ip = cluster.rkube(&["ip"]).ok().trim().to_owned();

    let answers = |url: &str, more: &[&str], part: &str| {
        eventually(url, || {
            curl(&ip, url, more).filter(|text| text.contains(part))
        })
    };
    answers("http://plain.test/", &[], "You've hit kubia-");
    answers("http://odd.test/", &[], "You've hit kubia-");
    let redirected = curl(&ip, "http://secure.test/x", &[]).expect("an answer");
    assert!(redirected.contains("308"), "{redirected}");
    assert!(
        redirected.contains("location: https://secure.test/x"),
        "{redirected}"
    );
    let authority = cluster.path("tls.crt").display().to_string();
    let secure = answers(
        "https://secure.test/",
        &["--cacert", &authority],
        "You've hit kubia-",
    );
    assert!(secure.starts_with("HTTP/2 200"), "{secure}");
    let unknown = curl(&ip, "http://unknown.test/", &[]).expect("an answer");
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    // Both pods, on two nodes, get requests.
    let mut hit = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let text = curl(&ip, "http://plain.test/", &[]).expect("an answer");
        hit.extend(text.lines().last().map(ToOwned::to_owned));
    }
    assert_eq!(hit.len(), 2, "{hit:?}");

    let address = [
        "get",
        "ingress",
        "kubia",
        "-o",
        "jsonpath={.status.loadBalancer.ingress[*].ip}",
    ];
    let balanced = rkube_testing::driver() != "qemu";
    let shown = cluster.wait_for(&address, |text| {
        !text.is_empty() && (text.trim() != ip) == balanced
    });
    check_address(&cluster, &ip, shown.trim());
    let events = [
        "get",
        "events",
        "-o",
        "jsonpath={.items[?(@.involvedObject.name=='odd')].message}",
    ];
    cluster.wait_for(&events, |text| text.contains("limit-rps has no effect"));
    eventually("the access log", || {
        let log = cluster.rkube(&["logs", "-n", "0"]).ok();
        (log.contains("\"GET / HTTP/2.0\" 200") || rkube_testing::driver() == "qemu").then_some(())
    });

    // Nothing fails while all pods are replaced, if they go on until the news has spread.
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"kubia","lifecycle":{"preStop":{"sleep":{"seconds":3}}}}]}}}}"#;
    cluster
        .kubectl(&["patch", "deployment", "kubia", "-p", patch])
        .ok();
    let rollout = ["rollout", "status", "deployment", "kubia", "--timeout=60s"];
    cluster.kubectl(&rollout).ok();
    answers("http://plain.test/", &[], "You've hit kubia-");
    cluster
        .kubectl(&["rollout", "restart", "deployment", "kubia"])
        .ok();
    let mut rollout = cluster.kubectl_command(&rollout).spawn().expect("kubectl");
    while rollout.try_wait().expect("kubectl").is_none() {
        let text = curl(&ip, "http://plain.test/", &[]).expect("an answer");
        assert!(text.contains("You've hit kubia-"), "{text}");
    }

    // A restart brings it back.
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    answers("http://plain.test/", &[], "You've hit kubia-");

    cluster.rkube(&["addons", "disable", "ingress"]).ok();
    eventually("the end of the controller", || {
        curl(&ip, "http://plain.test/", &[]).is_none().then_some(())
    });
    cluster.wait_for(&address, |text| text.is_empty());
    let left = "ingressclasses,clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,services,endpointslices";
    let left = ["get", left, "-A", "-o", "name"];
    cluster.wait_for(&left, |text| !text.contains("ingress"));
}
