//! Network policies between pods of two nodes.

use rkube_testing::{Cluster, eventually, require_machine};

const PODS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: friends, labels: {team: friends}}
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: server}}
spec:
  nodeName: FIRST
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: rkube/kubia
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {port: web}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: server}}
spec:
  nodeName: LAST
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: rkube/kubia
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {port: web}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {role: client}}
spec:
  nodeName: FIRST
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'test/busybox:1', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: friends, labels: {role: client}}
spec:
  nodeName: FIRST
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'test/busybox:1', command: [sleep, '3600']}]
";

/// Returns a policy of the namespace `default`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// The pods of a test.
struct Pods {
    cluster: Cluster,
    near: String,
    far: String,
}

impl Pods {
    fn start() -> Option<Self> {
        let image = rkube_testing::image::Image::busybox("test/busybox:1")?;
        let cluster = Cluster::start("policy", 2);
        let archive = cluster.path("busybox.tar");
        std::fs::write(&archive, image.docker_archive()).expect("the archive");
        let archive = archive.to_str().expect("UTF-8");
        cluster.rkube(&["image", "load", archive]).ok();
        let last = cluster.node(rkube_testing::nodes(2));
        cluster.apply(
            &PODS
                .replace("FIRST", &cluster.node(1))
                .replace("LAST", &last),
        );
        let timeout = rkube_testing::timeout();
        for namespace in ["default", "friends"] {
            let wait = [
                "wait",
                "--for=condition=Ready",
                "pod",
                "--all",
                "-n",
                namespace,
                &timeout,
            ];
            cluster.kubectl(&wait).ok();
        }
        let ip = |name: &str| {
            let path = "-ojsonpath={.status.podIP}";
            cluster.kubectl(&["get", "pod", name, path]).ok()
        };
        let (near, far) = (ip("near"), ip("far"));
        Some(Self { cluster, near, far })
    }

    /// Waits until the client of a namespace reaches the servers as expected.
    #[track_caller]
    fn expect(&self, namespace: &str, near: bool, far: bool) {
        let script = "for ip in NEAR FAR; do \
            (printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 $ip 8080 | grep -q hit && echo $ip) & \
            done; wait"
            .replace("NEAR", &self.near)
            .replace("FAR", &self.far);
        let exec = ["exec", "-n", namespace, "client", "--", "sh", "-c", &script];
        let what = format!("{namespace}: near {near}, far {far}");
        eventually(&what, || {
            let answers = self.cluster.kubectl(&exec).stdout;
            let has = |ip: &String| answers.lines().any(|line| line == ip);
            ((has(&self.near), has(&self.far)) == (near, far)).then_some(())
        });
    }
}

#[test]
fn network_policies_are_enforced() {
    require_machine!();
    let Some(pods) = Pods::start() else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = &pods.cluster;
    pods.expect("default", true, true);
    cluster.apply(&policy(
        "servers",
        "{podSelector: {matchLabels: {app: server}}}",
    ));
    pods.expect("default", false, false);

    cluster.apply(&policy(
        "servers",
        "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: friends}}}], ports: [{port: web}]}]}",
    ));
    pods.expect("friends", true, true);
    pods.expect("default", false, false);
    // A label of the namespace is enough.
    cluster
        .kubectl(&["label", "namespace", "default", "team=friends"])
        .ok();
    pods.expect("default", true, true);

    // Egress to DNS, and to all pods but one.
    let but_far = format!(
        "{{podSelector: {{matchLabels: {{role: client}}}}, policyTypes: [Egress], egress: [\
         {{to: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}}}], ports: [{{port: 53, protocol: UDP}}]}}, \
         {{to: [{{ipBlock: {{cidr: 10.244.0.0/16, except: ['{}/32']}}}}]}}]}}",
        pods.far
    );
    cluster.apply(&policy("clients", &but_far));
    pods.expect("default", true, false);
    let lookup = [
        "exec",
        "client",
        "--",
        "nslookup",
        "kubernetes.default.svc.cluster.local",
    ];
    cluster.kubectl(&lookup).ok();

    // A new pod is isolated before it runs.
    let early = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: early, labels: {{role: client}}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {{name: c, image: 'test/busybox:1', command: [sh, -c, 'nc -w 1 {} 8080 </dev/null && echo reached']}}\n",
        pods.far
    );
    cluster.apply(&early);
    let phase = ["get", "pod", "early", "-ojsonpath={.status.phase}"];
    cluster.wait_for(&phase, |phase| phase == "Failed");

    // The node's probes reach the servers. One of them may have timed out on a busy machine.
    for name in ["near", "far"] {
        let ready = "-ojsonpath={.status.conditions[?(@.type=='Ready')].status}";
        cluster.wait_for(&["get", "pod", name, ready], |status| status == "True");
    }
    cluster.kubectl(&["delete", "networkpolicy", "--all"]).ok();
    pods.expect("default", true, true);
}
