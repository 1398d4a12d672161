//! The dashboard in a real browser, against a real cluster.
//!
//! `RKUBE_TEST_SCREENSHOTS=1` writes the pictures of `docs/`.

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use support::browser::{Browser, CONTROL, ENTER};
use support::image::Image;
use support::{Cluster, Running, eventually, http_get};

/// Markup that a page which is not careful would run.
const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

fn objects() -> String {
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

/// `rkube dashboard --url`, and the address that it printed.
fn dashboard(cluster: &Cluster) -> (Running, String) {
    let mut child = cluster
        .rkube_command(&["dashboard", "--url"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("rkube runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout"))
        .read_line(&mut line)
        .expect("an address");
    (Running(child), line.trim().to_owned())
}

struct Tour<'a> {
    cluster: &'a Cluster,
    browser: Browser,
}

impl Tour<'_> {
    /// Opens a view and waits until it shows all of `parts`.
    #[track_caller]
    fn open(&self, path: &str, parts: &[&str]) {
        let hash = format!("#/{}/{path}", self.cluster.profile);
        self.browser
            .run("location.hash = arguments[0]", &[json!(hash)]);
        self.browser.sees(parts);
        self.clean();
    }

    /// Nothing in the console, nothing of a pod's has run.
    #[track_caller]
    fn clean(&self) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "the console says: {complaints:#?}");
        assert!(self.browser.run("return window.hacked", &[]).is_null());
    }

    /// A picture for the documentation, when asked for.
    fn picture(&self, name: &str) {
        if std::env::var_os("RKUBE_TEST_SCREENSHOTS").is_none() {
            return;
        }
        // Notes about earlier steps, and lists that are on their way, are not
        // what a picture is of.
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
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/dashboard");
        std::fs::create_dir_all(&folder).expect("docs");
        self.browser.picture(&folder.join(format!("{name}.png")));
    }

    fn edit(&self, script: &str) {
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

#[test]
fn every_view_in_a_browser() {
    require_machine!();
    if let Some(reason) = support::browser::missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let Some(mut image) = Image::busybox("test/dashboard:1") else {
        eprintln!("skipped: no busybox-static");
        return;
    };
    // Its shell, under the name that terminals look for.
    let (_, shell, mode) = image.files[0].clone();
    image.files.push(("bin/sh", shell, mode));
    let cluster = Cluster::start("dash", 2);
    let archive = cluster.path("image.tar");
    std::fs::write(&archive, image.docker_archive()).expect("an archive");
    cluster
        .rkube(&["image", "load", &archive.display().to_string()])
        .ok();
    cluster.apply(&objects());
    for app in ["kubia", "api"] {
        let target = format!("deployment/{app}");
        cluster
            .kubectl(&["rollout", "status", &target, &support::timeout()])
            .ok();
    }
    cluster.wait_for(&["get", "crd", "widgets.test.example", "-o", "yaml"], |t| {
        t.contains("Established")
    });

    let (server, link) = dashboard(&cluster);
    let tour = Tour {
        cluster: &cluster,
        browser: Browser::open(1280, 800),
    };
    tour.browser.go(&link);
    tour.browser.sees(&["Overview", "Nodes", "2/2", "kubia"]);
    let address = tour.browser.run("return location.href", &[]);
    assert!(
        !address.to_string().contains("token"),
        "the token stays in the address: {address}"
    );
    tour.clean();

    views(&tour);
    pods(&tour);
    changes(&tour);
    nodes(&tour);
    small_and_dark(&tour);

    // A second browser with the same link finds it used.
    let other = Browser::open(800, 600);
    other.go(&link);
    other.sees(&["This link has been used"]);
    drop(other);

    // Somebody else's page gets nothing, whatever it asks for.
    let origin = link.split("/?").next().expect("an origin").to_owned();
    let script = "
        const [origin, done] = arguments;
        const other = origin.replace('127.0.0.1', 'localhost');
        return fetch(other + '/rkube/session', { credentials: 'include' }).then(() => 'answered', () => 'refused');";
    assert_eq!(tour.browser.run(script, &[json!(origin)]), json!("refused"));
    // The browser says in the console that it refused, as it should.
    tour.browser.complaints();

    // The dashboard's end shows, and Ctrl-C is a good end.
    assert_eq!(server.interrupt(), 0);
    tour.browser.sees(&["The dashboard does not answer"]);
}

fn views(tour: &Tour<'_>) {
    tour.browser.until(
        "graphs with a line",
        "return document.querySelectorAll('.graph .line[d]').length >= 2",
    );
    tour.picture("overview");
    tour.open(
        "list/core/pods",
        &["Name", "Ready", "Status", "kubia-", "Live"],
    );
    tour.picture("pods");
    // Searching, sorting, filtering by labels.
    tour.browser.run(
        "const i = document.querySelector('main input.search'); i.value = 'api-'; i.dispatchEvent(new InputEvent('input'))",
        &[],
    );
    tour.browser.sees(&["1 of "]);
    tour.open("list/core/pods?labels=app%3Dkubia", &[]);
    tour.open("list/core/nodes", &["Version", &tour.cluster.node(2)]);
    tour.open("list/core/pods?labels=app%3Dkubia", &["3 objects"]);
    tour.open("list/test.example/widgets", &["Widget", "No widgets"]);
    tour.open(
        "topology",
        &[
            "Ingresses",
            "shop.example/",
            "Nodes and pods",
            "3/3 endpoints",
        ],
    );
    tour.browser.run(
        "[...document.querySelectorAll('.thing')].find((e) => e.textContent.includes('shop')).click()",
        &[],
    );
    tour.browser
        .sees(&["Request path", "shop.example/api → api:8080", "3 endpoints"]);
    tour.browser.until(
        "lit lines",
        "return document.querySelectorAll('.edges .on').length >= 5",
    );
    tour.picture("topology");
    tour.open(
        "object/networking.k8s.io/ingresses/default/shop",
        &["Rules", "/api", HOSTILE],
    );
    tour.open(
        "object/core/configmaps/default/settings",
        &["app.conf", HOSTILE],
    );
    tour.open(
        "object/apps/deployments/default/api",
        &["Rollout", "complete", "Owns", "Conditions"],
    );
    tour.picture("deployment");
    tour.open(
        "object/apps/deployments/default/api/events",
        &["ScalingReplicaSet"],
    );
    tour.open("object/apps/deployments/default/api/pods", &["api-", "2/2"]);
    tour.open(
        "cluster",
        &["Driver native", "control plane", &tour.cluster.node(2)],
    );
    tour.picture("cluster");
    for (tab, part) in [
        ("Images", "rkube/kubia"),
        ("Tunnel", "Open a tunnel"),
        ("Logs", "==> "),
        ("Profiles", "shown here"),
    ] {
        tour.browser.click(tab);
        tour.browser.sees(&[part]);
        tour.clean();
    }
}

fn pods(tour: &Tour<'_>) {
    let pod = tour.cluster.pods("api").remove(0);
    let page = format!("object/core/pods/default/{pod}");
    tour.open(&page, &["Containers", "sidecar", "Ports", "QoS"]);
    tour.open(
        &format!("{page}/logs"),
        &["the sidecar says hello", HOSTILE],
    );
    tour.picture("logs");
    tour.browser.run(
        "const i = document.querySelector('main input.search'); i.value = 'orders/1 '; i.dispatchEvent(new InputEvent('input'))",
        &[],
    );
    tour.browser.until(
        "a found line",
        "return document.querySelector('.logline mark')?.textContent",
    );

    let broken = eventually("a pod that died", || {
        let state = tour
            .cluster
            .kubectl(&[
                "get",
                "pods",
                "-l",
                "app=broken",
                "-o",
                "jsonpath={.items[0].status.containerStatuses[0].restartCount}",
            ])
            .stdout;
        (state.parse::<u32>().unwrap_or(0) > 0).then(|| tour.cluster.pods("broken").remove(0))
    });
    tour.open(
        &format!("object/core/pods/default/{broken}/logs"),
        &["Previous"],
    );
    tour.browser.run(
        "[...document.querySelectorAll('main .check')].find((e) => e.textContent.includes('Previous')).querySelector('input').click()",
        &[],
    );
    tour.browser.sees(&["last words"]);
    tour.clean();

    tour.open(&format!("{page}/terminal"), &[]);
    let screen = "return document.querySelector('.termlines')?.textContent.includes(' # ')";
    tour.browser.until("a prompt", screen);
    tour.browser
        .run("document.querySelector('.terminput').focus()", &[]);
    tour.browser
        .keys(&format!("echo $((6*7)) '<b>bold</b>'{ENTER}"));
    tour.browser.until(
        "the command's output",
        "return document.querySelector('.termlines').textContent.includes('42 <b>bold</b>')",
    );
    tour.picture("terminal");
    tour.clean();

    tour.open(&format!("{page}/metrics"), &["Memory", "sidecar", "MiB"]);
    tour.browser.sees(&["KiB"]);

    let kubia = tour.cluster.pods("kubia").remove(0);
    tour.open(
        &format!("object/core/pods/default/{kubia}"),
        &["8080", "Forward"],
    );
    tour.browser.click("Forward");
    let link = tour.browser.until(
        "a link",
        "return document.querySelector('.forwards a')?.href",
    );
    let link = link.as_str().expect("a link");
    assert!(link.starts_with("http://localhost:"), "{link}");
    let port = link
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .expect("a port");
    let answer = http_get(&format!("127.0.0.1:{port}")).expect("an answer");
    assert!(answer.contains(&kubia), "{answer}");
    tour.browser.click("Close");
    eventually("the port closes", || {
        std::net::TcpStream::connect(format!("127.0.0.1:{port}"))
            .is_err()
            .then_some(())
    });
    tour.clean();
}

fn changes(tour: &Tour<'_>) {
    let cluster = tour.cluster;
    let browser = &tour.browser;
    let field = |kind: &str, path: &str, wanted: &str| {
        let path = format!("jsonpath={path}");
        cluster.wait_for(&["get", kind, "-o", &path], |t| t == wanted);
    };
    tour.open("object/apps/deployments/default/kubia", &["Scale"]);
    browser.click("Scale");
    browser.run("document.querySelector('dialog input').value = '4'", &[]);
    browser.run("document.querySelector('dialog form').requestSubmit()", &[]);
    field("deployment/kubia", "{.spec.replicas}", "4");
    browser.click("Restart");
    browser.sees(&["replaced one after another"]);
    browser.click("Restart");
    browser.sees(&["Restart under way"]);
    field(
        "deployment/kubia",
        "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        "2",
    );
    browser.until(
        "the dialog's end",
        "return !document.querySelector('dialog')",
    );
    browser.click("Roll back");
    browser.sees(&["Revisions of kubia", "#1", "restartedAt"]);
    browser.click("Roll back");
    field(
        "deployment/kubia",
        "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        "3",
    );
    tour.clean();

    tour.open(
        "object/core/configmaps/default/settings/yaml",
        &["Review and apply"],
    );
    tour.edit("t.value = t.value.replace(/^ +a=1$/m, '    a=42')");
    browser.click("Review and apply");
    browser.sees(&["Changes to settings", "a=42", "tried without storing"]);
    tour.picture("diff");
    browser.click("Apply");
    field("configmap/settings", "{.data.app\\.conf}", "a=42\n");

    tour.open("create", &["Create from YAML"]);
    tour.edit("t.value = 'apiVersion: test.example/v1\\nkind: Widget\\nmetadata:\\n  name: first\\nspec:\\n  color: '");
    browser.run(
        "const t = document.querySelector('main textarea'); t.focus(); t.setSelectionRange(t.value.length, t.value.length)",
        &[],
    );
    browser.keys(&format!("{CONTROL} "));
    browser.until(
        "completion by the schema",
        "return [...document.querySelectorAll('.complete b')].map((e) => e.textContent).join() === 'red,green'",
    );
    browser.keys(&ENTER.to_string());
    browser.click("Review and create");
    browser.sees(&["Review", "Widget first", "new"]);
    browser.click("Create");
    field("widget/first", "{.spec.color}", "red");
    browser.sees(&["first", "Summary"]);
    browser.click("Delete");
    browser.sees(&["What it owns"]);
    browser.click("Delete");
    cluster.wait_for(&["get", "widgets"], |t| !t.contains("first"));
    tour.clean();

    tour.open(
        "object/batch/cronjobs/default/report",
        &["Run now", "Suspend"],
    );
    browser.click("Suspend");
    field("cronjob/report", "{.spec.suspend}", "true");
    browser.click("Resume");
    field("cronjob/report", "{.spec.suspend}", "false");
    browser.click("Run now");
    browser.sees(&["Job", "Run again"]);
    cluster.wait_for(&["get", "jobs", "-o", "name"], |t| t.contains("report-"));
    tour.clean();

    // What happens elsewhere shows without being asked for.
    tour.open("list/core/configmaps", &["settings", "Live"]);
    cluster
        .kubectl(&["create", "configmap", "made-elsewhere"])
        .ok();
    browser.sees(&["made-elsewhere"]);
    cluster
        .kubectl(&["delete", "configmap", "made-elsewhere"])
        .ok();
    browser.until(
        "the row goes",
        "return !document.body.innerText.includes('made-elsewhere')",
    );
}

fn nodes(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let node = cluster.node(2);
    let page = format!("object/core/nodes/-/{node}");
    tour.open(&page, &["Allocatable", "MemoryPressure", "Drain"]);
    browser.click("Drain");
    browser.sees(&["takes no new pods"]);
    browser.click("Drain");
    browser.sees(&["is drained"]);
    let selector = format!("spec.nodeName={node}");
    let left = cluster
        .kubectl(&[
            "get",
            "pods",
            "-A",
            "--field-selector",
            &selector,
            "-o",
            "name",
        ])
        .ok();
    assert_eq!(left, "");
    browser.click("Close");
    browser.click("Uncordon");
    cluster.wait_for(
        &["get", "node", &node, "-o", "jsonpath={.spec.unschedulable}"],
        str::is_empty,
    );
    tour.clean();
    tour.open(&format!("{page}/terminal"), &["Shell"]);
    browser.until(
        "a prompt",
        "return document.querySelector('.termlines')?.textContent.includes('# ')",
    );
    browser.run("document.querySelector('.terminput').focus()", &[]);
    browser.keys(&format!("hostname; tty{ENTER}"));
    browser.until(
        "a terminal",
        "return document.querySelector('.termlines').textContent.includes('/dev/pts/')",
    );
    tour.clean();
}

fn small_and_dark(tour: &Tour<'_>) {
    let browser = &tour.browser;
    tour.open("overview", &["Overview"]);
    browser.keys(&format!("{CONTROL}k"));
    browser.until(
        "the palette",
        "return !!document.querySelector('.palette input:focus')",
    );
    browser.keys("deployment");
    browser.until(
        "a result",
        "return document.querySelector('.results li')?.textContent.includes('Deployment')",
    );
    tour.picture("palette");
    browser.keys(&ENTER.to_string());
    browser.sees(&["Up-to-date"]);
    browser.run(
        "document.querySelector('.topbar button[aria-label$=theme]').click()",
        &[],
    );
    tour.open("topology", &["Nodes and pods", "shop"]);
    tour.picture("dark");
    browser.narrow(360);
    for view in [
        "overview",
        "list/core/pods",
        "object/apps/deployments/default/api",
        "cluster",
        "topology",
        "create",
    ] {
        tour.open(view, &[]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while browser
            .run("return document.querySelector('main h1')?.textContent", &[])
            .is_null()
        {
            assert!(Instant::now() < deadline, "{view} has no heading");
            std::thread::sleep(Duration::from_millis(50));
        }
        let width = browser.run("return document.documentElement.scrollWidth", &[]);
        assert_eq!(width, json!(360), "{view} is wider than the screen");
    }
    tour.open("overview", &["2/2"]);
    tour.picture("phone");
}

#[test]
fn a_stopped_cluster_is_named() {
    require_machine!();
    let cluster = Cluster::plan("nodash");
    let error = cluster.rkube(&["dashboard", "--url"]).failed(85);
    assert!(error.contains("rkube start"), "{error}");
}
