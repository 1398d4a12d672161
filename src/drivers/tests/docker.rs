//! Tests the docker driver with a real engine: nodes are complete, return after a restart or
//! removal of their containers, and leave nothing behind.
//!
//! This program is also the node binary: if started with a role, it runs that role.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rkube_config::{NodeConfig, paths};
use rkube_drivers::{ClusterPlan, Driver, NodePlan, NodeState, docker};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The profile's name, visible in the engine's tools.
const PROFILE: &str = "dockertest";

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
            if rkube_drivers::helper_main(role, &args[1..])
                .is_some_and(|code| std::process::exit(code)) => {}
        // Queries of the test runner.
        Some("--list") if args.iter().any(|a| a == "--ignored") => {}
        Some("--list") => println!("docker_driver: test"),
        _ => {
            let runtime = tokio::runtime::Runtime::new().expect("runtime");
            runtime.block_on(tests());
            println!("test docker_driver ... ok");
        }
    }
}

/// Logs a report of its surroundings, then listens on port 22.
fn agent() {
    let boots = Path::new(paths::STATE).join("boots");
    let count = std::fs::read_to_string(&boots).unwrap_or_default() + "x";
    std::fs::write(&boots, &count).expect("state is writable");
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| e.to_string());
    let list = |path: &str| {
        let entries = std::fs::read_dir(path).expect("a folder").flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    let shell = Command::new("/bin/sh")
        .args(["-c", "touch /usr/x; echo $?"])
        .output();
    let report = BTreeMap::from([
        ("boots", count.len().to_string()),
        ("bounds", capabilities(&read("/proc/self/status"))),
        ("disk", disk()),
        ("host", read("/proc/sys/kernel/hostname").trim().to_owned()),
        ("hosts", read("/etc/hosts")),
        ("devices", list("/dev")),
        ("groups", read("/proc/self/cgroup")),
        ("hierarchies", list("/sys/fs/cgroup")),
        (
            "etc",
            std::fs::write("/etc/rkube/x", "").is_err().to_string(),
        ),
        (
            "shared",
            std::fs::write("/var/lib/rkube/images/x", "")
                .is_ok()
                .to_string(),
        ),
        (
            "propagation",
            read("/proc/self/mountinfo")
                .lines()
                .all(|l| l.contains(" shared:"))
                .to_string(),
        ),
        (
            "tools",
            shell.map_or_else(
                |e| e.to_string(),
                |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
            ),
        ),
    ]);
    println!(
        "REPORT {}",
        serde_json::to_string(&report).expect("a report")
    );
    let listener = std::net::TcpListener::bind(("0.0.0.0", 22)).expect("port 22");
    for stream in listener.incoming() {
        drop(stream);
    }
}

/// Returns the numbers of the capabilities that processes may have, as text.
fn capabilities(status: &str) -> String {
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
    line.unwrap_or_default().trim().to_owned()
}

/// Returns what opening a disk says.
fn disk() -> String {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    // Devices in other places cannot be opened anyway.
    let path = "/dev/disk";
    let made = mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR, makedev(259, 77));
    let opened = made.map(|()| std::fs::File::open(path));
    let removed = std::fs::remove_file(path);
    format!("{opened:?} {removed:?}")
}

fn plan(dir: &Path) -> ClusterPlan {
    let node = |i: u8| NodePlan {
        name: format!("{PROFILE}-{i}"),
        ip: [192, 168, 246, i].into(),
        cpu_millis: Some(500),
        memory_bytes: Some(256 << 20),
        control_plane: i == 2,
        ssh_port: Some(free_port()),
        mounts: Vec::new(),
        ports: Vec::new(),
    };
    ClusterPlan {
        name: PROFILE.into(),
        dir: dir.to_path_buf(),
        run_dir: dir.join("run"),
        owner_uid: None,
        binary: dir.join("bin/rkube"),
        node_cidr: "192.168.246.0/24".parse().expect("a range"),
        ipv6: None,
        loopback_ports: Vec::new(),
        api_port: None,
        ports: Vec::new(),
        machine: rkube_drivers::MachineOptions::default(),
        nodes: vec![node(2), node(3)],
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn provision(plan: &ClusterPlan) {
    std::fs::create_dir_all(plan.binary.parent().expect("a folder")).expect("bin");
    std::fs::copy(std::env::current_exe().expect("own path"), &plan.binary).expect("a copy");
    for node in &plan.nodes {
        let etc = plan.node_etc(&node.name);
        std::fs::create_dir_all(&etc).expect("etc");
        let text = format!(
            "cluster: {{name: {PROFILE}, dnsDomain: cluster.local, serviceCidr: 10.96.0.0/12, dnsIp: 10.96.0.10, \
             podCidr: 10.244.0.0/16, nodeCidr: 192.168.246.0/24, apiServerIp: 192.168.246.2, apiServerPort: 8443, \
             nodes: []}}\nname: {}\nip: {}\npodCidr: 10.244.0.0/24\ncontrolPlane: false\nproviderId: x\nmaxPods: 1\n",
            node.name, node.ip
        );
        std::fs::write(etc.join("node.yaml"), text).expect("node.yaml");
    }
}

async fn tests() {
    let dir = tempfile::tempdir().expect("a folder");
    let plan = plan(dir.path());
    let names: Vec<String> = plan.nodes.iter().map(|n| n.name.clone()).collect();
    let driver = docker::Docker;
    let problems: Vec<_> = driver
        .preflight(&plan)
        .await
        .into_iter()
        .filter(|p| p.fatal)
        .collect();
    if let Some(problem) = problems.first() {
        rkube_testing::skip!("{}", problem.failure.message);
    }
    provision(&plan);
    let undo = Undo(&plan);

    driver.start(&plan, &names).await.expect("start");
    for node in &plan.nodes {
        whole(node, &report(&plan, &node.name, 1).await);
        answers(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            node.ssh_port.expect("a port"),
        )));
        if driver.endpoints(&plan).routable {
            answers(SocketAddr::from((node.ip, 22)));
        }
    }
    running(&plan, [NodeState::Running, NodeState::Running]).await;

    // Changes made with the engine's own command.
    if docker_cli(&["restart", "-t", "5", &names[0]]) {
        report(&plan, &names[0], 2).await;
        docker_cli(&["kill", &names[0]]);
        running(&plan, [NodeState::Stopped, NodeState::Running]).await;
        docker_cli(&["rm", "-f", &names[1]]);
        running(&plan, [NodeState::Stopped, NodeState::Missing]).await;
        driver
            .start(&plan, &names)
            .await
            .expect("start what was taken");
        report(&plan, &names[0], 3).await;
        // The node's state is in a volume, so it survived the removal of the container.
        report(&plan, &names[1], 2).await;
    }

    driver.stop(&plan, &names[1..]).await.expect("stop one");
    running(&plan, [NodeState::Running, NodeState::Stopped]).await;
    driver.stop(&plan, &names).await.expect("stop all");
    assert!(!driver.is_up(&plan).await);
    driver.remove(&plan, &names[1..]).await.expect("remove one");
    running(&plan, [NodeState::Stopped, NodeState::Missing]).await;
    driver.destroy(&plan).await.expect("destroy");
    driver.destroy(&plan).await.expect("destroy nothing");
    drop(undo);
    if let Ok(left) = Command::new("docker")
        .args([
            "ps",
            "-aq",
            "--filter",
            &format!("label=io.rkube.profile={PROFILE}"),
        ])
        .output()
    {
        assert!(left.stdout.is_empty(), "a container is left");
    }
}

/// Removes the cluster if the test fails.
struct Undo<'a>(&'a ClusterPlan);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let plan = self.0.clone();
            let _ = std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().expect("runtime");
                let _ = runtime.block_on(docker::Docker.destroy(&plan));
            })
            .join();
        }
    }
}

fn docker_cli(args: &[&str]) -> bool {
    Command::new("docker")
        .args(args)
        .output()
        .is_ok_and(|o| o.status.success())
}

async fn running(plan: &ClusterPlan, wanted: [NodeState; 2]) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let states = docker::Docker.states(plan).await.expect("states");
        if states == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{states:?} instead of {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the report of the node's service after its start number `boots`.
async fn report(plan: &ClusterPlan, node: &str, boots: usize) -> BTreeMap<String, String> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let logs = docker::Docker.logs(plan, node).await.expect("logs");
        let agent = logs.iter().find(|l| l.name == "agent");
        let text = agent.map(|l| String::from_utf8_lossy(&l.content).into_owned());
        let last = text.as_deref().and_then(|t| {
            let line = t.lines().rev().find_map(|l| l.strip_prefix("REPORT "))?;
            serde_json::from_str::<BTreeMap<String, String>>(line).ok()
        });
        if let Some(report) = last.filter(|r| r["boots"] == boots.to_string()) {
            return report;
        }
        if Instant::now() > deadline {
            for log in logs {
                println!("{}:\n{}", log.name, String::from_utf8_lossy(&log.content));
            }
            panic!("{node} was never started {boots} times");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn whole(node: &NodePlan, report: &BTreeMap<String, String>) {
    let bounds = u64::from_str_radix(&report["bounds"], 16).expect("a set");
    let names = rkube_config::capabilities::NAMES;
    let has = |name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .is_some_and(|n| bounds & 1 << n != 0)
    };
    for refused in ["SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "SYSLOG"] {
        assert!(!has(refused), "{refused}");
    }
    assert!(has("SYS_ADMIN") && has("NET_ADMIN") && has("MKNOD"));
    assert!(
        report["disk"].contains("not permitted"),
        "{}",
        report["disk"]
    );
    assert_eq!(report["host"], node.name);
    assert!(report["hosts"].contains(&node.name));
    assert_eq!(
        report["devices"],
        "core fd full fuse mqueue net null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    for line in report["groups"].lines() {
        let path = line.rsplit(':').next().expect("a path");
        assert!(path == "/" || path == "/init", "{line}");
    }
    assert!(!report["hierarchies"].is_empty());
    assert_eq!(report["etc"], "true", "/etc/rkube is writable");
    assert_eq!(report["shared"], "true");
    assert_eq!(report["propagation"], "true");
    assert!(
        report["tools"] == "1" || report["tools"].contains("No such file"),
        "{}",
        report["tools"]
    );
}

fn answers(address: SocketAddr) {
    let deadline = Instant::now() + TIMEOUT;
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens at {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
