//! Measures `rkube dev`: the time from a changed file to an answer of the app that has it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rkube_testing::Running;

use crate::{Args, Cluster, LIMIT};

const DOCKERFILE: &str = r#"FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]

FROM base
COPY pages /www
COPY built.html /www/
CMD exec httpd -f -p 8000 -h /www
"#;

const MANIFEST: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 4
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: app}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports: [{port: 80, targetPort: 8000}]
";

/// Runs the measurements and prints the results.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let driver = args.drivers.first().map_or("native", String::as_str);
    let dir = tempfile::tempdir()?;
    let cluster = Cluster {
        rkube: &args.rkube,
        home: dir.path().to_path_buf(),
        name: format!("bench{}", std::process::id() % 100_000),
        driver: driver.to_owned(),
    };
    let project = tempfile::tempdir()?;
    let at = |name: &str| project.path().join(name);
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists());
    let busybox = busybox.context("there is no busybox to build an image of")?;
    fs::create_dir_all(at("app/pages"))?;
    fs::copy(busybox, at("app/busybox"))?;
    fs::write(at("app/Dockerfile"), DOCKERFILE)?;
    fs::write(at("app/pages/index.html"), "page 0.\n")?;
    fs::write(at("app/built.html"), "build 0.\n")?;
    fs::write(at("deploy.yaml"), MANIFEST)?;

    cluster.run(&["start", "--nodes", &args.nodes.to_string()])?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let forward = format!("svc/app:{port}:80");
    let since = Instant::now();
    let words = [
        "dev",
        "-f",
        "deploy.yaml",
        "--build",
        "app=app",
        "--sync",
        "app/pages:/www",
        "--port-forward",
        &forward,
    ];
    let session = cluster
        .command(&words)
        .current_dir(project.path())
        .spawn()?;
    let session = Running(session);
    until(address, "/", "page 0.")?;
    println!(
        "rkube dev, {} nodes, medians of {}",
        args.nodes, args.rounds
    );
    row("command to the app answering", &mut [since.elapsed()]);
    let (mut copied, mut built) = (Vec::new(), Vec::new());
    for i in 1..=args.rounds {
        let text = format!("page {i}.");
        let since = Instant::now();
        fs::write(at("app/pages/index.html"), &text)?;
        until(address, "/", &text)?;
        copied.push(since.elapsed());
        let text = format!("build {i}.");
        let since = Instant::now();
        fs::write(at("app/built.html"), &text)?;
        until(address, "/built.html", &text)?;
        built.push(since.elapsed());
        // The old pods end meanwhile.
        std::thread::sleep(Duration::from_secs(2));
    }
    row("changed file, copied, to its answer", &mut copied);
    row("changed file, built, to its answer", &mut built);
    if session.interrupt() != 0 {
        bail!("the session has failed");
    }
    Ok(())
}

fn row(name: &str, times: &mut [Duration]) {
    times.sort();
    let median = times[times.len() / 2].as_secs_f64() * 1000.0;
    println!("{name:<40} {median:>10.1} ms");
}

/// Waits until the app answers with `part`.
fn until(address: SocketAddr, path: &str, part: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    while !get().is_ok_and(|text| text.contains(part)) {
        if Instant::now() > deadline {
            bail!("waited in vain for '{part}'");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
