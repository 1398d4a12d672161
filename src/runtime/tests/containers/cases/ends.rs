//! Exits of containers that are short, whose shim is stopped or whose processes hide, and what a
//! killed agent leaves behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkube_runtime::ContainerEventKind::{Created, Exited, Started};
use rkube_runtime::{HostNamespaces, Runtime, SandboxSpec};

use crate::support::{Bench, with_bench};

/// Returns the parent of a process.
pub fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn starts_are_announced_before_ends() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let mut events = b.runtime.events();
        let mut ids = Vec::new();
        for _ in 0..20 {
            let spec = b.script("exit 0");
            ids.push(b.runtime.create_container(&sandbox, spec).await.unwrap());
        }
        let runs = ids.iter().map(|id| async {
            b.runtime.start_container(id).await.unwrap();
            b.end(id).await
        });
        futures::future::join_all(runs).await;
        let mut seen: BTreeMap<String, Vec<_>> = BTreeMap::new();
        while let Ok(event) = events.try_recv() {
            seen.entry(event.container_id).or_default().push(event.kind);
        }
        for id in ids {
            assert_eq!(seen[&id], [Created, Started, Exited], "{id}");
            b.runtime.remove_container(&id).await.unwrap();
        }
    });
}

pub fn stopped_shim_is_killed() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let pid = b.runtime.container_status(&id).unwrap().pid.unwrap();
        let shim = parent(pid);
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::kill(shim, libc::SIGSTOP) }, 0);
        b.runtime.remove_container(&id).await.unwrap();
        assert!(b.runtime.container_status(&id).is_none());
        assert!(!Path::new(&format!("/proc/{pid}/root/bin")).exists());
    });
}

/// Waits until a process has ended.
async fn gone(pid: i32) {
    for _ in 0..500 {
        if !Path::new(&format!("/proc/{pid}/root/")).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} lives on");
}

pub fn unrecorded_pause_is_killed() {
    with_bench(|b| async move {
        let spec = SandboxSpec {
            share_pid: true,
            ..SandboxSpec::default()
        };
        let sandbox = b.sandbox_with(spec).await;
        let pid = b.runtime.sandbox_status(&sandbox).unwrap().pid.unwrap();
        // As if the agent had been killed before it recorded the sandbox.
        let record = b.dir.join(format!("root/sandboxes/{sandbox}/sandbox.json"));
        std::fs::remove_file(record).unwrap();
        let again = Runtime::open(Bench::config(&b.dir, &b.cgroup)).await;
        assert!(again.unwrap().sandbox_status(&sandbox).is_none());
        gone(pid).await;
    });
}

/// Returns the directory of a process's group in the hierarchy that kills use.
fn group(pid: i32) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            (controllers == wanted).then(|| path.trim_start_matches('/').to_string())
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    match of("pids") {
        Some(path) => root.join("pids").join(path),
        None => root.join(of("").unwrap()),
    }
}

pub fn child_groups_are_killed() {
    with_bench(|b| async move {
        let spec = SandboxSpec {
            host: HostNamespaces {
                pid: true,
                ..HostNamespaces::default()
            },
            ..SandboxSpec::default()
        };
        let sandbox = b.sandbox_with(spec).await;
        let id = b.start(&sandbox, b.script("sleep 1000 & sleep 2000")).await;
        let first = b.runtime.container_status(&id).unwrap().pid.unwrap();
        let group = group(first);
        // The shell's children; which of them is moved does not matter.
        let child = loop {
            let all = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
            let mut others = all.lines().filter(|pid| *pid != first.to_string());
            if let Some(pid) = others.next() {
                break pid.parse::<i32>().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let below = group.join("below");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("cgroup.procs"), child.to_string()).unwrap();
        b.runtime.remove_container(&id).await.unwrap();
        gone(child).await;
        assert!(!group.exists());
    });
}
