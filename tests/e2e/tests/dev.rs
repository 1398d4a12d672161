//! `rkube dev`: from a changed file to a running pod.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use rkube_testing::{Cluster, Running, eventually, http_get, nodes, require_machine};

const DOCKERFILE: &str = r#"FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]

FROM base
WORKDIR /www
COPY built.txt ./
COPY static/ ./
CMD echo "serving $(cat built.txt)"; exec httpd -f -p 8000
"#;

const MANIFEST: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: 'example.com/team/app:1.0', imagePullPolicy: Always}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports: [{port: 80, targetPort: 8000}]
"#;

/// A session, and what it has printed.
struct Session {
    process: Running,
    out: PathBuf,
    err: PathBuf,
}

impl Session {
    fn start(cluster: &Cluster, words: &[&str]) -> Self {
        let (out, err) = (cluster.path("dev.out"), cluster.path("dev.err"));
        let file = |path: &PathBuf| Stdio::from(fs::File::create(path).expect("a file"));
        let mut command = cluster.rkube_command(words);
        command.current_dir(cluster.path("work"));
        command.stdout(file(&out)).stderr(file(&err));
        let process = Running(command.spawn().expect("rkube runs"));
        Self { process, out, err }
    }

    fn text(path: &PathBuf) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until messages have `part` for the `count`th time.
    fn told(&self, part: &str, count: usize) {
        eventually(part, || {
            (Self::text(&self.err).matches(part).count() >= count).then_some(())
        });
    }

    /// Returns the address that the service is forwarded to.
    fn address(&self) -> String {
        eventually("the forwarded port", || {
            let text = Self::text(&self.err);
            let line = text
                .lines()
                .rev()
                .find(|line| line.contains(" leads to "))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        })
    }
}

/// Makes a project and returns its directory; `None` without busybox.
fn project(cluster: &Cluster) -> Option<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.iter().find(|path| fs::metadata(path).is_ok())?;
    let dir = cluster.path("work");
    fs::create_dir_all(dir.join("app/static")).expect("a directory");
    fs::copy(busybox, dir.join("app/busybox")).expect("a copy");
    for (name, text) in [
        ("deploy.yaml", MANIFEST),
        ("app/Dockerfile", DOCKERFILE),
        ("app/.dockerignore", "notes\n"),
        ("app/built.txt", "built 1\n"),
        ("app/static/index.html", "page 1\n"),
        ("app/static/extra.html", "extra\n"),
    ] {
        fs::write(dir.join(name), text).expect("a file");
    }
    Some(dir)
}

fn get(address: &str, part: &str) {
    eventually(part, || {
        http_get(address).filter(|page| page.contains(part))
    });
}

fn images(cluster: &Cluster) -> String {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    cluster
        .kubectl(&["get", "deployment", "app", "-o", path])
        .stdout
}

#[test]
fn changed_files_reach_the_pods() {
    require_machine!();
    let cluster = Cluster::start("dev", nodes(2));
    let Some(dir) = project(&cluster) else {
        rkube_testing::skip!("no busybox-static");
    };
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("a file");
    let words = [
        "dev",
        "-f",
        "deploy.yaml",
        "--build",
        "example.com/team/app=./app",
        "--sync",
        "./app/static:/www",
    ];
    let session = Session::start(&cluster, &words);
    session.told("everything is ready", 1);
    let address = session.address();
    get(&address, "page 1");
    eventually("the log of both pods", || {
        let text = Session::text(&session.out);
        (text.matches("| serving built 1").count() == 2).then_some(())
    });
    let first = images(&cluster);
    assert!(first.starts_with("example.com/team/app:dev-"), "{first}");

    // A file that is copied: no new pods.
    let pods = cluster.pods("app");
    write("app/static/index.html", "page 2\n");
    session.told("synced 1 file to 2 containers", 1);
    get(&address, "page 2");
    fs::remove_file(dir.join("app/static/extra.html")).expect("removed");
    session.told("synced 1 file to 2 containers", 2);
    for pod in &pods {
        let gone = cluster.kubectl(&["exec", pod, "--", "test", "!", "-e", "/www/extra.html"]);
        assert_eq!(gone.code, 0, "{gone:?}");
    }
    assert_eq!(cluster.pods("app"), pods);
    assert_eq!(images(&cluster), first);

    // A new pod gets what was copied since the build.
    cluster
        .kubectl(&["delete", "pod", &pods[0], "--wait=false"])
        .ok();
    session.told("synced 2 files", 1);

    // A file that is built, beside one that does not matter.
    write("app/notes", "left out");
    write("app/built.txt", "built 2\n");
    session.told("everything is ready", 2);
    let second = images(&cluster);
    assert_ne!(second, first);
    get(&address, "page 2");
    eventually("the log of a new pod", || {
        Session::text(&session.out)
            .contains("| serving built 2")
            .then_some(())
    });

    // Mistakes are shown, and the pods stay.
    write("app/Dockerfile", &DOCKERFILE.replace("WORKDIR", "WORKDIRR"));
    session.told("unknown instruction: WORKDIRR", 1);
    write("deploy.yaml", "kind: [");
    session.told("deploy.yaml is wrong", 1);
    get(&address, "page 2");
    assert_eq!(images(&cluster), second);

    // They are corrected; what the manifests no longer have is taken away.
    let fixed = MANIFEST.replace("replicas: 2", "replicas: 1");
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\n";
    write("deploy.yaml", &format!("{fixed}{map}"));
    session.told("ConfigMap default/extra", 1);
    write("app/Dockerfile", DOCKERFILE);
    write("deploy.yaml", &fixed);
    session.told("removed ConfigMap default/extra", 1);
    eventually("one pod", || (cluster.pods("app").len() == 1).then_some(()));

    // Another session of the same project is refused.
    let mut other = cluster.rkube_command(&words);
    let other = other.current_dir(&dir).output().expect("rkube runs");
    assert_eq!(other.status.code(), Some(11), "{other:?}");

    let err = session.err.clone();
    assert_eq!(session.process.interrupt(), 0, "{}", Session::text(&err));
    let left = cluster.kubectl(&["get", "deployment,service,pod,configmap", "-l", "app=app"]);
    assert_eq!(left.stdout, "", "{left:?}");
    let found = cluster.rkube(&["image", "ls"]).ok();
    assert!(!found.contains(":dev-"), "{found}");
    assert!(http_get(&address).is_none());
}

#[test]
fn scripts_build_and_apply_once() {
    require_machine!();
    let cluster = Cluster::start("devonce", 1);
    let Some(dir) = project(&cluster) else {
        rkube_testing::skip!("no busybox-static");
    };
    fs::write(
        dir.join("rkube-dev.yaml"),
        "apiVersion: rkube.dev/v1alpha1\nkind: Dev\nmanifests: [deploy.yaml]\n\
         build: [{image: example.com/team/app, context: app}]\n",
    )
    .expect("a file");
    let run = |words: &[&str]| {
        let mut command = cluster.rkube_command(words);
        let done = command.current_dir(&dir).output().expect("rkube runs");
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), out, err)
    };
    let (code, out, err) = run(&["dev", "--once", "-o", "json"]);
    assert_eq!(code, Some(0), "{out}{err}");
    for part in [
        "dev.rkube.dev.built",
        "dev.rkube.dev.applied",
        "dev.rkube.dev.ready",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(cluster.pods("app").len(), 2);
    fs::write(dir.join("app/Dockerfile"), "FROM scratch\nCOPY gone /\n").expect("a file");
    let (code, _, err) = run(&["dev", "--once"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("Dockerfile:2"), "{err}");
    // What was applied before stays, until it is deleted.
    assert_eq!(cluster.pods("app").len(), 2);
    let (code, _, err) = run(&["dev", "--delete"]);
    assert_eq!(code, Some(0), "{err}");
    eventually("no pods", || cluster.pods("app").is_empty().then_some(()));
}
