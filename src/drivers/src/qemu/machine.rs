//! A node as a virtual machine: its files and QEMU's command line.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use ipnet::Ipv4Net;
use rkube_config::machine::{self as vm, MachineFacts};
use rkube_config::{NodeConfig, ports};
use serde::{Deserialize, Serialize};

use super::accel::Accelerator;
use super::disk::{self, Disk};
use super::kernel::Kernel;
use super::layout::{self, GUEST, HOST, NAME_SERVER, OUTSIDE, control, monitor, run_dir};
use super::{initramfs, modules};
use crate::types::{ClusterPlan, NodePlan};

/// The default memory of a node, in bytes.
pub const DEFAULT_MEMORY: u64 = 2 << 30;
/// The default CPUs of a node, in millicores.
const DEFAULT_CPUS: u64 = 2000;
/// The command that starts a node's QEMU, stored as JSON for its supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The file that receives QEMU's output.
    pub log: PathBuf,
}

/// Returns the name of QEMU's program for the host's architecture.
pub fn qemu_name() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "qemu-system-aarch64",
        _ => "qemu-system-x86_64",
    }
}

/// Creates the disk and the identity archive of a node, and writes the launch file.
pub fn prepare(plan: &ClusterPlan, node: &NodePlan, parts: &Parts) -> anyhow::Result<()> {
    let folder = plan.node_dir(&node.name).join("vm");
    let run = run_dir(&plan.run_dir, &node.name);
    let logs = plan.node_dir(&node.name).join("log");
    for dir in [&folder, &run, &logs] {
        private_dir(dir)?;
    }
    let disk = disk::make(
        &folder,
        plan.machine.disk_bytes.unwrap_or(disk::DEFAULT_SIZE),
    )?;
    let facts = facts(node);
    write(&run.join("facts"), &serde_json::to_vec(&facts)?)?;
    write(&run.join("etc"), &identity(&plan.node_etc(&node.name))?)?;
    let args = arguments(plan, node, parts, &disk, &facts);
    let launch = Launch {
        program: parts.qemu.clone(),
        args,
        log: logs.join("qemu.log"),
    };
    write(&run.join("launch.json"), &serde_json::to_vec(&launch)?)
}

/// The parts that all machines of a cluster share.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Path of QEMU.
    pub qemu: PathBuf,
    /// Whether QEMU can confine itself to the system calls that it needs.
    pub sandbox: bool,
    /// The accelerator that runs the guest.
    pub accelerator: Accelerator,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Whether the guest's kernel can mount the host's `/usr` (9p over virtio).
    pub shares: bool,
}

impl Parts {
    /// Creates the initramfs and collects the other parts.
    pub fn make(
        plan: &ClusterPlan,
        qemu: PathBuf,
        accelerator: Accelerator,
        kernel: Kernel,
    ) -> anyhow::Result<Self> {
        let folder = plan.dir.join("vm");
        private_dir(&folder)?;
        let initramfs = initramfs::make(&folder, &kernel, &plan.binary)?;
        let modules = modules::Modules::open(&kernel.modules)?;
        Ok(Self {
            sandbox: has_sandbox(&qemu)?,
            qemu,
            accelerator,
            initramfs,
            // The programs of another operating system are of no use to a node.
            shares: cfg!(target_os = "linux") && modules.has("9p") && modules.has("9pnet_virtio"),
            kernel,
        })
    }
}

/// The seccomp filter of QEMU: no obsolete system calls, no other users, no child processes, no
/// changes of priorities or affinities.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Returns whether this QEMU supports its seccomp filter, without which it can be built. Such a
/// QEMU rejects the option before it prints its version.
fn has_sandbox(qemu: &Path) -> anyhow::Result<bool> {
    let status = Command::new(qemu)
        .args(["-sandbox", SANDBOX, "-version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", qemu.display()))?;
    Ok(status.success())
}

/// Runs the machine's QEMU, with its output appended to [`Launch::log`].
pub fn spawn(launch: &Launch) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&launch.log)
        .with_context(|| format!("cannot open {}", launch.log.display()))?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: both calls are async-signal-safe. The umask keeps the console log and the sockets
    // private to their owner.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("cannot run {}", launch.program.display()))
}

fn facts(node: &NodePlan) -> MachineFacts {
    let [a, b, c, d] = node.ip.octets();
    MachineFacts {
        // Locally administered and derived from the address: peers' ARP entries outlive a restart.
        node_mac: [0x02, 0x4b, a, b, c, d],
        outside_mac: [0x02, 0x4c, a, b, c, d],
        outside_ip: Ipv4Net::new_assert(GUEST, 24),
        outside_gateway: HOST,
    }
}

fn mac(address: [u8; 6]) -> String {
    address.map(|b| format!("{b:02x}")).join(":")
}

/// Escapes a path for an option list, whose items QEMU separates by commas.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// QEMU's command line.
#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }
}

/// Returns QEMU's command line for a node.
fn arguments(
    plan: &ClusterPlan,
    node: &NodePlan,
    parts: &Parts,
    disk: &Disk,
    facts: &MachineFacts,
) -> Vec<String> {
    let mut args = Arguments::default();
    add_hardware(&mut args, plan, node, parts);
    add_console(&mut args, plan, node);
    add_disk(&mut args, disk);
    add_networks(&mut args, plan, node, facts);
    let run = run_dir(&plan.run_dir, &node.name);
    for (name, file) in [(vm::IDENTITY, "etc"), (vm::FACTS, "facts")] {
        args.add(&[
            "-fw_cfg",
            &format!("name={name},file={}", escape(&run.join(file))),
        ]);
    }
    add_logs(&mut args, plan, node);
    if parts.shares {
        args.add(&[
            "-fsdev",
            "local,id=usr,path=/usr,security_model=none,readonly=on,multidevs=remap",
            "-device",
            &format!("virtio-9p-pci,fsdev=usr,mount_tag={}", vm::TOOL_BOX_TAG),
        ]);
    }
    args.0
}

/// Adds the machine type, CPUs, memory, kernel and initramfs.
fn add_hardware(args: &mut Arguments, plan: &ClusterPlan, node: &NodePlan, parts: &Parts) {
    let memory = node.memory_bytes.unwrap_or(DEFAULT_MEMORY) >> 20;
    let cpus = node
        .cpu_millis
        .unwrap_or(DEFAULT_CPUS)
        .div_ceil(1000)
        .max(1);
    let (machine, terminal) = match std::env::consts::ARCH {
        "aarch64" => ("virt,gic-version=max", "ttyAMA0"),
        _ => ("q35,usb=off,vmport=off", "ttyS0"),
    };
    args.add(&["-name", &format!("rkube/{}/{}", plan.name, node.name)]);
    args.add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    if parts.sandbox {
        args.add(&["-sandbox", SANDBOX]);
    }
    args.add(&["-machine", machine, "-accel", parts.accelerator.accel()]);
    args.add(&["-cpu", parts.accelerator.cpu(), "-smp", &cpus.to_string()]);
    args.add(&["-m", &memory.to_string()]);
    args.add(&["-kernel", &parts.kernel.image.display().to_string()]);
    args.add(&["-initrd", &parts.initramfs.display().to_string()]);
    // A kernel panic ends QEMU, and the supervisor restarts it.
    args.add(&[
        "-append",
        &format!("console={terminal} panic=-1 rdinit=/init -- vm-init"),
    ]);
}

/// Adds the console's log and the control sockets.
fn add_console(args: &mut Arguments, plan: &ClusterPlan, node: &NodePlan) {
    let console = plan.node_dir(&node.name).join("log/console.log");
    args.add(&[
        "-chardev",
        &format!("file,id=console,append=on,path={}", escape(&console)),
        "-serial",
        "chardev:console",
    ]);
    for socket in [
        control(&plan.run_dir, &node.name),
        monitor(&plan.run_dir, &node.name),
    ] {
        args.add(&[
            "-qmp",
            &format!("unix:{},server=on,wait=off", escape(&socket)),
        ]);
    }
}

/// Adds the disk. A full host disk pauses the machine until there is space again.
fn add_disk(args: &mut Arguments, disk: &Disk) {
    args.add(&[
        "-drive",
        &format!(
            "if=none,id=state,file={},format={},discard=unmap,detect-zeroes=unmap,werror=enospc",
            escape(&disk.path),
            disk.format
        ),
        "-device",
        "virtio-blk-pci,drive=state,serial=state",
    ]);
}

/// Adds the nodes' network and, connected through the gate, QEMU's user network.
fn add_networks(args: &mut Arguments, plan: &ClusterPlan, node: &NodePlan, facts: &MachineFacts) {
    args.add(&[
        "-netdev",
        &format!(
            "dgram,id=nodes,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            escape(&layout::switch_port(&plan.run_dir, &node.name)),
            escape(&layout::switch_socket(&plan.run_dir))
        ),
        "-device",
        &format!(
            "virtio-net-pci,netdev=nodes,romfile=,mac={}",
            mac(facts.node_mac)
        ),
    ]);
    // The guest is on the gate's inner side, QEMU's user network on its outer side; a
    // hub connects the user network to the latter.
    let gate = |id: &str, side: &str| {
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            escape(&layout::gate_port(&plan.run_dir, &node.name, side)),
            escape(&layout::gate_socket(&plan.run_dir))
        )
    };
    args.add(&["-netdev", &gate("outside", layout::GUEST_SOCKET)]);
    args.add(&["-netdev", &gate("gate", layout::HOST_SOCKET)]);
    args.add(&[
        "-netdev",
        &format!(
            "user,id=world,ipv6=off,net={OUTSIDE}/24,host={HOST},dns={NAME_SERVER},dhcpstart={GUEST}{}",
            forwards(plan, node)
        ),
        "-netdev",
        "hubport,id=hub-gate,hubid=0,netdev=gate",
        "-netdev",
        "hubport,id=hub-world,hubid=0,netdev=world",
        "-device",
        &format!(
            "virtio-net-pci,netdev=outside,romfile=,mac={}",
            mac(facts.outside_mac)
        ),
    ]);
}

/// Adds the random number generator and the serial ports that carry the logs.
fn add_logs(args: &mut Arguments, plan: &ClusterPlan, node: &NodePlan) {
    args.add(&["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    for (role, file) in layout::log_ports(&plan.node_dir(&node.name).join("log")) {
        args.add(&[
            "-chardev",
            &format!("file,id={role},append=on,path={}", escape(&file)),
            "-device",
            &format!("virtserialport,chardev={role},name={}{role}", vm::LOG_PORT),
        ]);
    }
}

/// Returns the `hostfwd` options: host ports that are forwarded to the machine.
fn forwards(plan: &ClusterPlan, node: &NodePlan) -> String {
    let mut text = String::new();
    let mut forward = |protocol: &str, ip: Ipv4Addr, host: u16, guest: u16| {
        text += &format!(",hostfwd={protocol}:{ip}:{host}-{GUEST}:{guest}");
    };
    let local = Ipv4Addr::LOCALHOST;
    if let Some(port) = node.ssh_port {
        forward("tcp", local, port, ports::SSH);
    }
    let first = plan.control_plane().is_some_and(|n| n.name == node.name);
    if let Some(port) = plan.api_port.filter(|_| first) {
        forward("tcp", local, port, ports::API_SERVER);
    }
    let of_cluster = plan.ports.iter().filter(|_| first);
    for port in of_cluster.chain(&node.ports) {
        forward(
            port.protocol.as_str(),
            port.host_ip,
            port.host_port,
            port.node_port,
        );
    }
    text
}

/// Returns the node's `/etc/rkube` as a tar archive. Removes the CPU and memory limits, which the
/// machine itself enforces, and sets the host's address to that of QEMU's user network.
fn identity(etc: &Path) -> anyhow::Result<Vec<u8>> {
    let file = etc.join("node.yaml");
    let mut config = NodeConfig::read(&file)?;
    config.cpu_millis = None;
    config.memory_bytes = None;
    config.host_ip = Some(HOST);
    let mut archive = tar::Builder::new(Vec::new());
    archive.mode(tar::HeaderMode::Deterministic);
    let failed = || format!("cannot pack {}", etc.display());
    add_folder(&mut archive, etc, Path::new("")).with_context(failed)?;
    let yaml = config.to_yaml();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(yaml.len() as u64);
    archive
        .append_data(&mut header, "node.yaml", yaml.as_bytes())
        .with_context(failed)?;
    archive.into_inner().with_context(failed)
}

fn add_folder(
    archive: &mut tar::Builder<Vec<u8>>,
    folder: &Path,
    name: &Path,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let inside = name.join(entry.file_name());
        if inside == Path::new("node.yaml") {
            continue;
        }
        let is_folder = entry.file_type()?.is_dir();
        let mut header = tar::Header::new_gnu();
        header.set_mode(if is_folder { 0o700 } else { 0o600 });
        header.set_entry_type(if is_folder {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        if is_folder {
            header.set_size(0);
            archive.append_data(&mut header, &inside, std::io::empty())?;
            add_folder(archive, &entry.path(), &inside)?;
        } else {
            let content = fs::read(entry.path())?;
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, &inside, content.as_slice())?;
        }
    }
    Ok(())
}

/// Creates a directory and its missing parents, accessible by the owner only.
pub fn private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// Replaces a private file atomically.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    rkube_fsutil::write_atomic_private(path, content)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{MachineOptions, PortMapping};

    fn plan() -> ClusterPlan {
        let node = |name: &str, last, control_plane, port| NodePlan {
            name: name.into(),
            ip: Ipv4Addr::new(192, 168, 58, last),
            cpu_millis: Some(1500),
            memory_bytes: Some(768 << 20),
            control_plane,
            ssh_port: Some(port),
            mounts: Vec::new(),
            ports: Vec::new(),
        };
        ClusterPlan {
            name: "p".into(),
            dir: "/home/a,b".into(),
            run_dir: "/run/p".into(),
            owner_uid: None,
            binary: "/b".into(),
            node_cidr: "192.168.58.0/24".parse().unwrap(),
            ipv6: None,
            loopback_ports: Vec::new(),
            api_port: Some(20001),
            ports: vec!["0.0.0.0:53:30053/udp".parse::<PortMapping>().unwrap()],
            machine: MachineOptions::default(),
            nodes: vec![node("p", 2, true, 20002), node("p-m02", 3, false, 20003)],
        }
    }

    fn line(node: usize, shares: bool) -> Vec<String> {
        let plan = plan();
        let parts = Parts {
            qemu: "qemu".into(),
            sandbox: shares,
            accelerator: Accelerator::Emulation,
            kernel: Kernel {
                image: "/boot/k".into(),
                modules: "/m".into(),
            },
            initramfs: "/i".into(),
            shares,
        };
        let disk = Disk {
            path: "/home/a,b/disk".into(),
            format: "raw",
        };
        let node = &plan.nodes[node];
        arguments(&plan, node, &parts, &disk, &facts(node))
    }

    #[test]
    fn the_first_machine_has_the_published_ports() {
        let first = line(0, true).join(" ");
        for expected in [
            "-smp 2 -m 768",
            "hostfwd=tcp:127.0.0.1:20001-192.0.2.15:8443",
            "hostfwd=tcp:127.0.0.1:20002-192.0.2.15:22",
            "hostfwd=udp:0.0.0.0:53-192.0.2.15:30053",
            "mac=02:4b:c0:a8:3a:02",
            "file=/home/a,,b/disk,format=raw",
            "mount_tag=usr",
            "-sandbox on,obsolete=deny",
        ] {
            assert!(first.contains(expected), "{first}");
        }
        let second = line(1, false).join(" ");
        assert!(second.contains("20003-192.0.2.15:22"), "{second}");
        assert!(
            !second.contains("8443") && !second.contains("9p") && !second.contains("-sandbox"),
            "{second}"
        );
    }

    #[test]
    fn the_identity_is_private_and_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path();
        fs::create_dir(etc.join("pki")).unwrap();
        fs::write(etc.join("pki/ca.crt"), "CA").unwrap();
        fs::write(
            etc.join("node.yaml"),
            "cluster: {name: p, dnsDomain: cluster.local, serviceCidr: 10.96.0.0/12, dnsIp: 10.96.0.10, \
             podCidr: 10.244.0.0/16, nodeCidr: 192.168.58.0/24, apiServerIp: 192.168.58.2, \
             apiServerPort: 8443}\nname: p\nip: 192.168.58.2\npodCidr: 10.244.0.0/24\n\
             controlPlane: true\nproviderId: rkube://qemu/p/p\ncpuMillis: 1500\nmaxPods: 110\n",
        )
        .unwrap();
        let packed = identity(etc).unwrap();
        let out = tempfile::tempdir().unwrap();
        tar::Archive::new(packed.as_slice())
            .unpack(out.path())
            .unwrap();
        let config = NodeConfig::read(out.path().join("node.yaml")).unwrap();
        assert_eq!((config.cpu_millis, config.host_ip), (None, Some(HOST)));
        assert_eq!(fs::read(out.path().join("pki/ca.crt")).unwrap(), b"CA");
    }
}
