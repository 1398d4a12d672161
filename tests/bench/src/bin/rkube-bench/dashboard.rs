//! Measures the dashboard: the time until its page is painted, and its frames and memory
//! with thousands of changing pods.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rkube_cluster::{Home, Profile};
use rkube_testing::Running;
use rkube_testing::browser::{self, Browser};
use serde_json::json;

use crate::{Args, Cluster};

/// The duration of a frame measurement.
const WATCHED: Duration = Duration::from_secs(10);

/// Runs the measurements and prints the results.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(reason) = browser::missing() {
        bail!("{reason}");
    }
    let driver = args.drivers.first().map_or("native", String::as_str);
    let dir = tempfile::tempdir()?;
    let cluster = Cluster {
        rkube: &args.rkube,
        home: dir.path().to_path_buf(),
        name: format!("bench{}", std::process::id() % 100_000),
        driver: driver.to_owned(),
    };
    cluster.run(&["start", "--nodes", &args.nodes.to_string()])?;
    let browser = Browser::open(1280, 800);
    let nodes = format!("{0}/{0}", args.nodes);

    let mut opened = Vec::new();
    let mut painted = Vec::new();
    for _ in 0..args.rounds {
        browser.go("about:blank");
        let since = Instant::now();
        let (server, link) = dashboard(&cluster)?;
        opened.push(since.elapsed());
        browser.go(&link);
        shows(&browser, &nodes);
        painted.push(since.elapsed());
        drop(server);
    }
    println!(
        "dashboard, {} nodes, medians of {}",
        args.nodes, args.rounds
    );
    row("command to printed link", millis(&mut opened), "ms");
    row("command to painted page", millis(&mut painted), "ms");

    let (_server, link) = dashboard(&cluster)?;
    browser.go(&link);
    shows(&browser, &nodes);
    let bytes = browser.run(
        "return [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
           .filter((e) => !/\\/(c|rkube)\\//.test(e.name)).reduce((n, e) => n + e.encodedBodySize, 0)",
        &[],
    );
    row(
        "assets, compressed",
        bytes.as_f64().unwrap_or(f64::NAN) / 1000.0,
        "kB",
    );

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let pods = runtime.block_on(fill(&cluster, args.pods))?;
    let changes = Arc::new(AtomicU64::new(0));
    let changing = runtime.spawn(change(pods, args.pods, args.changes, changes.clone()));
    println!("{} pods, {} changes a second", args.pods, args.changes);
    let hash = |view: &str| {
        browser.run(
            "location.hash = arguments[0]",
            &[json!(format!("#/{}/{view}", cluster.name))],
        );
    };
    hash("list/core/pods");
    let wanted = args.pods.to_string();
    browser.until(
        "the list",
        &format!("return Number(document.querySelector('main .count')?.textContent.replaceAll(/[^0-9]/g, '')) >= {wanted} && !!document.querySelector('main .live.live')"),
    );
    let before = changes.load(Ordering::Relaxed);
    let since = Instant::now();
    frames(&browser, "list", "");
    let scroll = "const g = document.querySelector('main .grid'); g.scrollTop = (g.scrollTop + 90) % g.scrollHeight;";
    frames(&browser, "list, scrolling", scroll);
    browser.run(
        "[...document.querySelectorAll('main .sort')].find((b) => b.textContent.startsWith('Status')).click()",
        &[],
    );
    frames(&browser, "list by status, scrolling", scroll);
    browser.fill("main input.search", "step");
    frames(&browser, "list by status, searched", "");
    memory(&browser, "list");
    for view in ["overview", "topology"] {
        hash(view);
        browser.until(
            "the view",
            "return !!document.querySelector('main .live.live')",
        );
        frames(&browser, view, "");
    }
    memory(&browser, "after all views");
    let made = changes.load(Ordering::Relaxed) - before;
    row(
        "changes made",
        made as f64 / since.elapsed().as_secs_f64(),
        "a second",
    );
    if changing.is_finished() {
        runtime.block_on(changing)??;
        bail!("the pods stopped changing");
    }
    changing.abort();
    drop(browser);
    cluster.run(&["delete"])
}

/// Starts a dashboard and returns it with its link.
fn dashboard(cluster: &Cluster<'_>) -> anyhow::Result<(Running, String)> {
    let mut child = cluster
        .command(&["dashboard", "--url"])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no output")?;
    let server = Running(child);
    let mut link = String::new();
    BufReader::new(out).read_line(&mut link)?;
    Ok((server, link.trim().to_owned()))
}

/// Waits until the overview with the number of nodes is painted.
fn shows(browser: &Browser, nodes: &str) {
    browser.run(
        "const wanted = arguments[0];
         return new Promise((done) => {
           const look = () => (document.querySelector('.tile b')?.textContent === wanted ? requestAnimationFrame(() => setTimeout(done)) : requestAnimationFrame(look));
           look();
         })",
        &[json!(nodes)],
    );
}

/// Creates pods with a scheduling gate, so that they never run: the page is measured, not
/// the node.
async fn fill(cluster: &Cluster<'_>, count: u32) -> anyhow::Result<Api<Pod>> {
    let home = Home::at(&cluster.home);
    let profile = Profile::load(&home, &cluster.name).map_err(|e| anyhow::anyhow!("{e}"))?;
    let client = rkube_cluster::client(&home, &profile)
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let make = |i: u32| {
        let pods = pods.clone();
        async move {
            let pod = serde_json::from_value(json!({
                "metadata": { "name": name(i), "labels": { "app": format!("app-{}", i % 40), "tier": "many" } },
                "spec": {
                    "schedulingGates": [{ "name": "bench.example/waits" }],
                    "containers": [{ "name": "main", "image": "rkube/kubia", "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } } }],
                },
            }))?;
            pods.create(&PostParams::default(), &pod).await?;
            anyhow::Ok(())
        }
    };
    let mut all = futures::stream::iter((0..count).map(make)).buffer_unordered(16);
    while let Some(made) = all.next().await {
        made?;
    }
    drop(all);
    Ok(pods)
}

fn name(i: u32) -> String {
    format!("pod-{i:05}")
}

/// Changes a visible field of one pod after another, until the task is aborted.
async fn change(pods: Api<Pod>, count: u32, rate: u32, made: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for i in 0_u32.. {
        tick.tick().await;
        // The prime step distributes the changes over the list.
        let target = name(i.wrapping_mul(7919) % count);
        let patch = json!({ "status": { "reason": format!("Step{}", i % 97) } });
        let (pods, made) = (pods.clone(), made.clone());
        // A slow response must not reduce the rate. Failed requests are not counted.
        tokio::spawn(async move {
            let done = pods
                .patch_status(&target, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            if done.is_ok() {
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

/// Counts frames while the script `each` runs in every frame.
fn frames(browser: &Browser, what: &str, each: &str) {
    let script = format!(
        "const [length] = arguments;
         return new Promise((done) => {{
           const times = [];
           const step = (now) => {{
             times.push(now);
             {each}
             if (now - times[0] < length) requestAnimationFrame(step);
             else {{
               const gaps = times.slice(1).map((t, i) => t - times[i]).sort((a, b) => a - b);
               done([gaps.length / (now - times[0]) * 1000, gaps[Math.floor(gaps.length * 0.99)], gaps[gaps.length - 1]]);
             }}
           }};
           requestAnimationFrame(step);
         }})"
    );
    let found = browser.run(&script, &[json!(WATCHED.as_millis() as u64)]);
    let number = |i: usize| found[i].as_f64().unwrap_or(f64::NAN);
    println!(
        "{:<34} {:>10.1} frames a second, 99 % within {:.0} ms, longest {:.0} ms",
        what,
        number(0),
        number(1),
        number(2)
    );
}

/// Prints the size of the JavaScript heap and the memory (PSS) of the page's process.
fn memory(browser: &Browser, what: &str) {
    browser.command("HeapProfiler.collectGarbage", &json!({}));
    let heap = browser.command("Runtime.getHeapUsage", &json!({}))["usedSize"].take();
    row(
        &format!("JavaScript's heap, {what}"),
        heap.as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
        "MiB",
    );
    let largest = renderers(browser.process())
        .iter()
        .filter_map(|p| crate::usage::pss_of(p))
        .max()
        .unwrap_or_default();
    row(
        &format!("the page's process, {what}"),
        largest as f64 / f64::from(1 << 20),
        "MiB PSS",
    );
}

/// Returns the `/proc` directories of the renderer processes that descend from `root`.
fn renderers(root: u32) -> Vec<std::path::PathBuf> {
    let parent = |process: &Path| -> Option<u32> {
        let text = std::fs::read_to_string(process.join("stat")).ok()?;
        text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let is_below = |process: &Path| {
        let mut at = parent(process);
        while let Some(id) = at {
            if id == root {
                return true;
            }
            at = (id > 1)
                .then(|| parent(Path::new(&format!("/proc/{id}"))))
                .flatten();
        }
        false
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .map(|e| e.path())
        .filter(|p| {
            std::fs::read(p.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("--type=renderer"))
        })
        .filter(|p| is_below(p))
        .collect()
}

fn millis(times: &mut [Duration]) -> f64 {
    times.sort();
    times
        .get(times.len() / 2)
        .map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
}

fn row(what: &str, value: f64, unit: &str) {
    println!("{what:<34} {value:>10.1} {unit}");
}
