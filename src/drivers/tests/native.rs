//! Tests the native driver on the real kernel: nodes are isolated from each other and from the
//! host, restart after any process is killed, and leave nothing behind.
//!
//! This program is also the node binary: if started with a role, it runs that role.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkube_config::{NodeConfig, paths};
use rkube_drivers::{ClusterPlan, Driver, NodePlan, NodeState, native};

const TIMEOUT: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|a| a.to_str()) {
        Some("init") => {
            let config = NodeConfig::read(paths::NODE_CONFIG).expect("configuration");
            rkube_init::run(&config).expect("init");
        }
        // The nodes' only service in this test, which reports its surroundings.
        Some("agent") => agent(),
        Some(role)
            if native::helper_main(role, &args[1..])
                .is_some_and(|code| std::process::exit(code)) => {}
        // Queries of the test runner.
        Some("--list") if args.iter().any(|a| a == "--ignored") => {}
        Some("--list") => println!("native_driver: test"),
        _ if !nix::unistd::geteuid().is_root() => {
            rkube_testing::skipped("the native driver needs root")
        }
        _ => {
            let runtime = tokio::runtime::Runtime::new().expect("runtime");
            runtime.block_on(tests());
            println!("test native_driver ... ok");
        }
    }
}

/// Writes a report of its surroundings, then sleeps.
fn agent() {
    let run = |script: &str| {
        let out = Command::new("/bin/sh")
            .args(["-c", script])
            .output()
            .expect("a shell in the node");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let report = [
        ("host", run("cat /proc/sys/kernel/hostname")),
        ("root", run("ls /")),
        ("usr", run("touch /usr/x 2>&1; echo $?")),
        (
            "processes",
            run("for p in /proc/[0-9]*; do cat $p/comm; done"),
        ),
        ("cgroup", run("cat /proc/1/cgroup")),
        ("hosts", run("cat /etc/hosts")),
        ("bounds", run("grep CapBnd /proc/self/status")),
        (
            // Actions of privileged pods, and those that would restart the host.
            "rights",
            run(
                "mkdir -p /tmp/m && mount -t tmpfs t /tmp/m && echo mounts; \
                 mknod /tmp/m/n c 1 3 && echo makes devices; \
                 test -e /dev/fuse && echo has fuse; \
                 mknod /tmp/m/d b 259 77; head -c 1 /tmp/m/d 2>&1 | grep -o 'not permitted'; \
                 umount /tmp/m; (: > /proc/sysrq-trigger) 2>/dev/null && echo requests",
            ),
        ),
    ];
    let text: String = report
        .iter()
        .map(|(k, v)| format!("[{k}]\n{v}\n"))
        .collect();
    let count = std::fs::read_to_string("/var/lib/rkube/boots").unwrap_or_default();
    publish("boots", &format!("{count}x"));
    publish("report", &text);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Writes a file of the node's state atomically: the test reads it from outside.
fn publish(name: &str, text: &str) {
    let path = Path::new("/var/lib/rkube").join(name);
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("state is writable");
    std::fs::rename(&new, &path).expect("state is writable");
}

fn plan(dir: &Path, run_dir: &Path) -> ClusterPlan {
    let node = |i: u8| NodePlan {
        name: format!("drivertest-{i}"),
        ip: [192, 168, 247, i].into(),
        cpu_millis: Some(500),
        memory_bytes: Some(256 << 20),
        control_plane: i == 2,
        ssh_port: None,
        mounts: Vec::new(),
        ports: Vec::new(),
    };
    ClusterPlan {
        name: "drivertest".into(),
        dir: dir.to_path_buf(),
        run_dir: run_dir.to_path_buf(),
        owner_uid: None,
        binary: std::env::current_exe().expect("own path"),
        node_cidr: "192.168.247.0/24".parse().expect("a range"),
        ipv6: None,
        loopback_ports: vec![5000],
        api_port: None,
        ports: Vec::new(),
        machine: rkube_drivers::MachineOptions::default(),
        nodes: vec![node(2), node(3)],
    }
}

fn provision(plan: &ClusterPlan) {
    for node in &plan.nodes {
        let etc = plan.node_etc(&node.name);
        std::fs::create_dir_all(&etc).expect("etc");
        let text = format!(
            "cluster: {{name: drivertest, dnsDomain: cluster.local, serviceCidr: 10.96.0.0/12, dnsIp: 10.96.0.10, \
             podCidr: 10.244.0.0/16, nodeCidr: 192.168.247.0/24, apiServerIp: 192.168.247.2, apiServerPort: 8443, \
             nodes: []}}\nname: {}\nip: {}\npodCidr: 10.244.0.0/24\ncontrolPlane: false\nproviderId: x\nmaxPods: 1\n",
            node.name, node.ip
        );
        std::fs::write(etc.join("node.yaml"), text).expect("node.yaml");
    }
}

async fn tests() {
    let dir = tempfile::tempdir().expect("a folder");
    let run_dir = PathBuf::from("/run/rkube/drivertest");
    let plan = plan(dir.path(), &run_dir);
    let names: Vec<String> = plan.nodes.iter().map(|n| n.name.clone()).collect();
    let driver = native::Native;
    provision(&plan);
    driver.destroy(&plan).await.expect("a clean start");
    let before = host();

    let problems: Vec<_> = driver
        .preflight(&plan)
        .await
        .into_iter()
        .filter(|p| p.fatal)
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    driver.start(&plan, &names).await.expect("start");
    assert_eq!(
        driver.states(&plan).await.expect("states"),
        [NodeState::Running, NodeState::Running]
    );
    for (name, report) in names.iter().zip([report(&plan, 0), report(&plan, 1)]) {
        isolated(name, &report);
    }
    reachable(&plan);

    // A node's init process.
    let init = pids("init")[0];
    kill(init, Signal::SIGKILL).expect("kill");
    wait("the node to boot again", || boots(&plan) == 3);
    wait("both nodes to run", || pids("init").len() == 2);
    reachable(&plan);

    // One of the supervisors, then twice the one that took over.
    for role in ["supervise", "standby", "standby"] {
        let inits = pids("init");
        let victims = pids(role);
        kill(victims[0], Signal::SIGKILL).expect("kill");
        wait("two supervisors", || {
            let left = supervisors();
            left.len() == 2 && !left.contains(&victims[0])
        });
        assert_eq!(pids("init"), inits, "nodes outlive their supervisors");
    }
    wait("an answer", || run_dir.join("control.sock").exists());
    assert_eq!(
        driver.states(&plan).await.expect("states"),
        [NodeState::Running, NodeState::Running]
    );

    driver.stop(&plan, &names[1..]).await.expect("stop one");
    assert_eq!(
        driver.states(&plan).await.expect("states"),
        [NodeState::Running, NodeState::Stopped]
    );
    driver
        .stop(&plan, &names[..1])
        .await
        .expect("stop the last");
    assert_eq!(host(), before, "a stopped cluster leaves nothing but files");
    driver.start(&plan, &names).await.expect("start again");
    wait("state to survive", || boots(&plan) == 5);

    // Everything dies at once, and `destroy` still removes the rest.
    for pid in supervisors().into_iter().chain(pids("init")) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    driver.destroy(&plan).await.expect("destroy");
    assert_eq!(host(), before, "nothing is left on the host");
    assert!(!run_dir.exists());
}

fn report(plan: &ClusterPlan, i: usize) -> String {
    let path = plan.node_dir(&plan.nodes[i].name).join("state/report");
    wait("a node's report", || path.exists());
    std::fs::read_to_string(path).expect("report")
}

fn section<'a>(report: &'a str, name: &str) -> &'a str {
    let start = report.find(&format!("[{name}]\n")).expect("section") + name.len() + 3;
    report[start..].split("\n[").next().expect("section").trim()
}

/// Checks that root in a node cannot change the kernel, but can do what pods need.
fn limited(report: &str) {
    let bounds = section(report, "bounds").rsplit('\t').next();
    let bounds = u64::from_str_radix(bounds.expect("a set"), 16).expect("a set");
    let names = rkube_config::capabilities::NAMES;
    let has: Vec<&str> = (0..names.len())
        .filter(|bit| bounds & 1 << bit != 0)
        .map(|bit| names[bit])
        .collect();
    for refused in ["SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "SYSLOG"] {
        assert!(!has.contains(&refused), "{has:?}");
    }
    for kept in ["SYS_ADMIN", "NET_ADMIN", "MKNOD", "AUDIT_WRITE"] {
        assert!(has.contains(&kept), "{has:?}");
    }
    let rights = section(report, "rights");
    assert_eq!(rights, "mounts\nmakes devices\nhas fuse\nnot permitted");
}

fn isolated(name: &str, report: &str) {
    limited(report);
    assert_eq!(section(report, "host"), name);
    assert!(section(report, "hosts").contains(name));
    let root: Vec<&str> = section(report, "root").lines().collect();
    for hidden in ["boot", "srv", "media"] {
        assert!(!root.contains(&hidden), "the host's /{hidden} can be seen");
    }
    assert_eq!(
        section(report, "usr").lines().last(),
        Some("1"),
        "the host's /usr is writable"
    );
    let processes = section(report, "processes");
    assert!(
        !processes.contains("systemd") && processes.lines().count() < 12,
        "host processes: {processes}"
    );
    for line in section(report, "cgroup").lines() {
        let path = line.rsplit(':').next().expect("path");
        assert!(
            path == "/" || path == "/init",
            "a node sees its place in the host's groups: {line}"
        );
    }
}

fn reachable(plan: &ClusterPlan) {
    for node in &plan.nodes {
        // Nothing listens on this port: the refusal proves that the node itself responds.
        let address = std::net::SocketAddr::from((node.ip, 9));
        wait("a node to answer", || {
            let result = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
            result.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
    }
}

fn boots(plan: &ClusterPlan) -> usize {
    let count = |n: &NodePlan| {
        std::fs::read(plan.node_dir(&n.name).join("state/boots")).map_or(0, |b| b.len())
    };
    plan.nodes.iter().map(count).sum()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !done() {
        if Instant::now() > deadline {
            // The directory is removed with the test, so the logs are printed now.
            let logs = Command::new("sh")
                .args([
                    "-c",
                    "tail -n 20 /tmp/.tmp*/logs/supervisor.log /tmp/.tmp*/nodes/*/log/*.log",
                ])
                .output();
            let logs = logs
                .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                .unwrap_or_default();
            panic!("waited in vain for {what}\n{logs}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Finds the processes of this test's cluster that run `role`: nodes by their control groups,
/// supervisors by their arguments. Other clusters on the host are not affected.
fn pids(role: &str) -> Vec<Pid> {
    let own = std::env::current_exe().expect("own path");
    let binaries = [own.as_os_str().as_encoded_bytes(), paths::BINARY.as_bytes()];
    let mut found: Vec<Pid> = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
            let mut words = line.split(|b| *b == 0);
            let plays = binaries.contains(&words.next()?) && words.next()? == role.as_bytes();
            let ours = groups.contains("/rkube/drivertest/")
                || words.next() == Some(b"/run/rkube/drivertest".as_slice());
            (plays && ours).then(|| Pid::from_raw(pid))
        })
        .collect();
    found.sort();
    found
}

fn supervisors() -> Vec<Pid> {
    let mut all = pids("supervise");
    all.extend(pids("standby"));
    all
}

/// Returns everything on the host that a cluster could leave behind.
fn host() -> String {
    let links = std::fs::read_to_string("/proc/net/dev").expect("links");
    let links: Vec<&str> = links
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let routes = std::fs::read_to_string("/proc/net/route").expect("routes");
    let groups = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", "*rkube*"])
        .output()
        .expect("find");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("ip_forward");
    format!(
        "{links:?}\n{mounts}\n{routes}\n{}\n{forward}{:?}{:?}",
        String::from_utf8_lossy(&groups.stdout),
        supervisors(),
        pids("init")
    )
}
