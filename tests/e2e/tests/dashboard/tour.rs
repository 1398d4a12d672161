//! A browser on a dashboard, and the objects that it shows.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use rkube_testing::browser::{self, Browser};
use rkube_testing::image::Image;
use rkube_testing::{Cluster, Running};

/// Markup that a page without escaping would execute.
pub const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

/// Returns the manifests of the objects that the tests use.
pub fn objects() -> String {
    let quoted = HOSTILE.replace('"', "\\\"");
    format!(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: shop, annotations: {{"test.example/evil": "{quoted}"}}}}
spec:
  rules:
  - host: shop.example
    http:
      paths:
      - {{path: /, pathType: Prefix, backend: {{service: {{name: kubia, port: {{number: 80}}}}}}}}
      - {{path: /api, pathType: Prefix, backend: {{service: {{name: api, port: {{number: 8080}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: kubia}}
spec: {{selector: {{app: kubia}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: api}}
spec: {{selector: {{app: api}}, ports: [{{port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: kubia, labels: {{app: kubia}}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: kubia}}}}
  template:
    metadata: {{labels: {{app: kubia}}}}
    spec:
      containers:
      - {{name: kubia, image: rkube/kubia, ports: [{{containerPort: 8080, name: http}}], resources: {{requests: {{cpu: 50m, memory: 16Mi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: api}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  template:
    metadata: {{labels: {{app: api}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: api
        image: test/dashboard:1
        imagePullPolicy: Never
        command: [/bin/busybox, sh, -c, 'i=0; while true; do echo "$i GET /orders/$i {quoted}"; i=$((i+1)); /bin/busybox sleep 1; done']
      - name: sidecar
        image: test/dashboard:1
        imagePullPolicy: Never
        command: [/bin/busybox, sh, -c, 'while true; do echo "the sidecar says hello"; /bin/busybox sleep 3; done']
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: broken}}
spec:
  selector: {{matchLabels: {{app: broken}}}}
  template:
    metadata: {{labels: {{app: broken}}}}
    spec: {{containers: [{{name: app, image: test/dashboard:1, imagePullPolicy: Never, command: [/bin/busybox, sh, -c, 'echo last words; exit 1']}}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: report}}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: r, image: test/dashboard:1, imagePullPolicy: Never, command: [/bin/busybox, 'true']}}]}}}}}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, annotations: {{"test.example/evil": "{quoted}"}}}}
data: {{app.conf: "a=1\n", evil: "{quoted}"}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: widgets.test.example}}
spec:
  group: test.example
  scope: Namespaced
  names: {{plural: widgets, singular: widget, kind: Widget}}
  versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{color: {{type: string, enum: [red, green]}}}}}}}}}}}}}}]
"#
    )
}

/// Starts a cluster of two nodes with objects of many kinds. Reports a skip and returns
/// `None` if this machine cannot run it.
pub fn furnished(name: &str) -> Option<Cluster> {
    if let Some(reason) = rkube_testing::missing().or_else(browser::missing) {
        rkube_testing::skipped(reason);
        return None;
    }
    let Some(mut image) = Image::busybox("test/dashboard:1") else {
        rkube_testing::skipped("no busybox-static");
        return None;
    };
    // Adds the shell at `/bin/sh`, the path that terminals use.
    let (_, shell, mode) = image.files[0].clone();
    image.files.push(("bin/sh", shell, mode));
    let cluster = Cluster::start(name, 2);
    let archive = cluster.path("image.tar");
    std::fs::write(&archive, image.docker_archive()).expect("an archive");
    cluster
        .rkube(&["image", "load", &archive.display().to_string()])
        .ok();
    cluster.apply(&objects());
    for app in ["kubia", "api"] {
        let target = format!("deployment/{app}");
        cluster
            .kubectl(&["rollout", "status", &target, &rkube_testing::timeout()])
            .ok();
    }
    cluster.wait_for(&["get", "crd", "widgets.test.example", "-o", "yaml"], |t| {
        t.contains("Established")
    });
    Some(cluster)
}

/// Runs `rkube dashboard --url` with `more` arguments. Returns the process and the printed
/// link.
pub fn dashboard(cluster: &Cluster, more: &[&str]) -> (Running, String) {
    let mut child = cluster
        .rkube_command(&[&["dashboard", "--url"], more].concat())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rkube runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout"))
        .read_line(&mut line)
        .expect("an address");
    (Running(child), line.trim().to_owned())
}

/// A browser that shows the dashboard of a cluster.
pub struct Tour<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The browser.
    pub browser: Browser,
}

/// The names of the documentation's pictures.
pub const PICTURES: [&str; 11] = [
    "overview",
    "pods",
    "topology",
    "deployment",
    "cluster",
    "logs",
    "terminal",
    "diff",
    "palette",
    "dark",
    "phone",
];

impl<'a> Tour<'a> {
    /// Starts a dashboard of the cluster and opens its link in a browser.
    pub fn begin(cluster: &'a Cluster) -> (Running, Self) {
        let (server, link) = dashboard(cluster, &[]);
        let tour = Self {
            cluster,
            browser: Browser::open(1280, 800),
        };
        tour.browser.go(&link);
        tour.browser
            .sees(&["Overview", "Nodes", "2/2", "kubia", "Live"]);
        let address = tour.browser.run("return location.href", &[]);
        assert!(
            !address.to_string().contains("token"),
            "the token stays in the address: {address}"
        );
        tour.clean();
        (server, tour)
    }

    /// Opens a view and waits until it shows all of `parts`.
    #[track_caller]
    pub fn open(&self, path: &str, parts: &[&str]) {
        let hash = format!("#/{}/{path}", self.cluster.profile);
        self.browser
            .run("location.hash = arguments[0]", &[json!(hash)]);
        self.browser.sees(parts);
        self.clean();
    }

    /// Asserts that the console has no warnings or errors and that no hostile markup was
    /// executed.
    #[track_caller]
    pub fn clean(&self) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "the console says: {complaints:#?}");
        assert!(self.browser.run("return window.hacked", &[]).is_null());
    }

    /// Takes a picture for the documentation if `RKUBE_TEST_SCREENSHOTS` is set.
    pub fn picture(&self, name: &str) {
        assert!(PICTURES.contains(&name), "{name} is no picture");
        if std::env::var_os("RKUBE_TEST_SCREENSHOTS").is_none() {
            return;
        }
        // Closes notes about earlier steps and waits for loading lists, which a picture
        // should not show.
        self.browser.run(
            "document.querySelectorAll('.note button').forEach((b) => b.click())",
            &[],
        );
        self.browser.until(
            "lists that are live",
            "return !document.querySelector('main .live.loading')",
        );
        if name == "overview" {
            self.browser.until(
                "graphs with some past",
                "return [...document.querySelectorAll('.graph .line')].every((l) => (l.getAttribute('d') ?? '').split('L').length > 5)",
            );
        }
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/dashboard");
        std::fs::create_dir_all(&folder).expect("docs");
        self.browser.picture(&folder.join(format!("{name}.png")));
    }

    /// Runs `script` on the editor's text area, `t`, and fires its input event.
    pub fn edit(&self, script: &str) {
        let script = format!(
            "const t = document.querySelector('main textarea'); {script}; t.dispatchEvent(new InputEvent('input'))"
        );
        self.browser.until(
            "the editor",
            "return !!document.querySelector('main textarea')",
        );
        self.browser.run(&script, &[]);
    }
}
