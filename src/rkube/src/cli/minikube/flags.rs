//! The table of minikube's flags (v1.38) that rkube does not have itself.

use super::{Flag, Rule, Verdict};

const fn flag(path: &'static str, name: &'static str, takes_value: bool, rule: Rule) -> Flag {
    Flag {
        path,
        name,
        short: None,
        takes_value,
        rule,
    }
}

/// Returns a flag with a value that changes nothing.
const fn value(path: &'static str, name: &'static str, why: &'static str) -> Flag {
    flag(path, name, true, Rule::Harmless(why))
}

/// Returns a switch that changes nothing.
const fn switch(path: &'static str, name: &'static str, why: &'static str) -> Flag {
    flag(path, name, false, Rule::Harmless(why))
}

/// Returns a flag with a value that is refused.
const fn no(path: &'static str, name: &'static str, why: &'static str) -> Flag {
    flag(
        path,
        name,
        true,
        Rule::Refused(&["", "auto", "default"], why),
    )
}

/// Returns a switch that is refused.
const fn off(path: &'static str, name: &'static str, why: &'static str) -> Flag {
    flag(path, name, false, Rule::Refused(&[], why))
}

/// Returns a flag whose value decides.
const fn depends(path: &'static str, name: &'static str, judge: fn(&str) -> Verdict) -> Flag {
    flag(path, name, true, Rule::Depends(judge))
}

const fn short(mut flag: Flag, letter: char) -> Flag {
    flag.short = Some(letter);
    flag
}

/// Why nothing needs to be done to reach the endpoint of `docker-env`.
const LOCAL_SOCKET: &str = "the endpoint is a socket of this machine";

/// Properties of `minikube config` that are no flags of `start`.
pub(super) const PROPERTIES: &[&str] = &[
    "WantUpdateNotification",
    "WantBetaUpdateNotification",
    "ReminderWaitPeriodInHours",
    "WantNoneDriverWarning",
    "WantVirtualBoxDriverWarning",
    "MaxAuditEntries",
    "cache",
];

const KLOG: &str = "rkube has no debug log of its own; see the nodes' with rkube logs";
const NOTHING_LOADED: &str = "one binary holds everything, so nothing is downloaded";
const VM: &str = "it is for a driver that rkube does not have";
const ENGINE: &str = "the nodes run no container engine";
const REGISTRIES: &str = "nodes pull from the registry that the image's name says; name the mirror in the image, or load images with the command image load";
const OWN_REGISTRY: &str =
    "all clusters use one registry of this machine; create it with: rkube registry create";
const API: &str = "the API server is reached as the kubeconfig says";
const MOUNT: &str = "directories are bind-mounted, which needs no protocol, port or address";
const NO_BALANCER: &str = "there is no proxy before the nodes; ports lead to the first one";
const OWNER: &str = "files in mounted directories keep their owners";

/// All flags.
pub(super) const FLAGS: &[Flag] = &[
    // Every command.
    value("", "alsologtostderr-threshold", KLOG),
    switch("", "alsologtostderr", KLOG),
    switch("", "add_dir_header", KLOG),
    switch("", "logtostderr", KLOG),
    switch("", "one_output", KLOG),
    switch("", "skip_headers", KLOG),
    switch("", "skip_log_headers", KLOG),
    value("", "log_backtrace_at", KLOG),
    value("", "log_dir", KLOG),
    value("", "log_file", KLOG),
    value("", "log_file_max_size", KLOG),
    value("", "stderrthreshold", KLOG),
    value("", "vmodule", KLOG),
    short(value("", "v", KLOG), 'v'),
    short(
        value(
            "",
            "bootstrapper",
            "rkube sets nodes up itself, without kubeadm",
        ),
        'b',
    ),
    off("", "rootless", "the drivers need root or a rootful engine"),
    // start: Kubernetes.
    depends("start", "kubernetes-version", kubernetes_version),
    off("start", "no-kubernetes", "every cluster runs Kubernetes"),
    off(
        "start",
        "ha",
        "a cluster has one control-plane node; add workers with --nodes",
    ),
    no(
        "start",
        "feature-gates",
        "feature gates have Kubernetes' default values",
    ),
    depends("start", "cni", cni),
    depends("start", "network-plugin", |value| match value {
        "" | "cni" | "kubenet" => Verdict::Harmless("pods have rkube's own network".into()),
        other => cni(other),
    }),
    switch(
        "start",
        "enable-default-cni",
        "pods have rkube's own network",
    ),
    short(
        depends("start", "container-runtime", container_runtime),
        'c',
    ),
    value(
        "start",
        "cri-socket",
        "the nodes have rkube's own container runtime",
    ),
    switch("start", "force-systemd", "the nodes run no systemd"),
    value(
        "start",
        "cert-expiration",
        "certificates are valid for a year, and are renewed at start and while the cluster runs",
    ),
    switch("start", "disable-optimizations", "there are none"),
    switch("start", "disable-metrics", "metrics cost next to nothing"),
    switch(
        "start",
        "disable-coredns-log",
        "the DNS server logs no queries",
    ),
    value(
        "start",
        "auto-pause-interval",
        "an idle cluster needs next to no CPU time",
    ),
    // start: files and downloads.
    flag(
        "start",
        "download-only",
        false,
        Rule::Depends(|value| match value {
            "true" => {
                Verdict::Done("Nothing needs to be downloaded: one binary holds everything.".into())
            }
            _ => Verdict::Fine,
        }),
    ),
    switch("start", "cache-images", NOTHING_LOADED),
    switch("start", "preload", NOTHING_LOADED),
    value("start", "preload-source", NOTHING_LOADED),
    value("start", "binary-mirror", NOTHING_LOADED),
    value("start", "iso-url", NOTHING_LOADED),
    value("start", "base-image", NOTHING_LOADED),
    switch("start", "auto-update-drivers", NOTHING_LOADED),
    flag(
        "start",
        "install-addons",
        false,
        Rule::Depends(|value| match value {
            "false" => Verdict::Harmless("only the addons of --addons are enabled".into()),
            _ => Verdict::Fine,
        }),
    ),
    flag(
        "start",
        "embed-certs",
        false,
        Rule::Depends(|value| match value {
            "false" => Verdict::Harmless("the kubeconfig always contains the certificates".into()),
            _ => Verdict::Fine,
        }),
    ),
    switch(
        "start",
        "native-ssh",
        "rkube always uses its own SSH client",
    ),
    // start: behaviour.
    switch("start", "force", "there is nothing to force"),
    switch("start", "interactive", "rkube never asks"),
    switch(
        "start",
        "delete-on-failure",
        "a cluster whose creation failed is always removed",
    ),
    value("start", "trace", "rkube sends no traces"),
    // start: network.
    no(
        "start",
        "network",
        "each cluster has a network of its own; choose its range with --subnet",
    ),
    no(
        "start",
        "static-ip",
        "choose the nodes' range with --subnet; the first node has its second address",
    ),
    no(
        "start",
        "listen-address",
        "ports listen where --ports says: IP:HOST_PORT:NODE_PORT",
    ),
    no("start", "apiserver-name", API),
    no("start", "apiserver-names", API),
    no("start", "apiserver-ips", API),
    flag(
        "start",
        "apiserver-port",
        true,
        Rule::Refused(&["8443"], API),
    ),
    no("start", "image-repository", REGISTRIES),
    no("start", "image-mirror-country", REGISTRIES),
    no("start", "docker-opt", ENGINE),
    no(
        "start",
        "dns-servers",
        "nodes use the DNS servers of this machine",
    ),
    no(
        "start",
        "dnsServers",
        "nodes use the DNS servers of this machine",
    ),
    off(
        "start",
        "mdns",
        "the nodes' names are not announced; their addresses are in rkube node list",
    ),
    // start: devices and directories.
    short(no("start", "gpus", "nodes have no GPUs"), 'g'),
    off("start", "kvm-gpu", "nodes have no GPUs"),
    flag(
        "start",
        "extra-disks",
        true,
        Rule::Refused(&["0"], "nodes have one disk"),
    ),
    value("start", "mount-9p-version", MOUNT),
    no("start", "mount-gid", OWNER),
    value("start", "mount-ip", MOUNT),
    value("start", "mount-msize", MOUNT),
    no(
        "start",
        "mount-options",
        "a directory that nodes cannot write to is HOST:NODE:ro",
    ),
    value("start", "mount-port", MOUNT),
    value("start", "mount-type", MOUNT),
    no("start", "mount-uid", OWNER),
    switch(
        "start",
        "disable-driver-mounts",
        "nothing is mounted that is not asked for",
    ),
    // start: other drivers.
    switch(
        "start",
        "vm",
        "choose the driver with --driver; qemu makes virtual machines",
    ),
    value("start", "kvm-network", VM),
    value("start", "kvm-qemu-uri", VM),
    switch("start", "kvm-hidden", VM),
    value("start", "kvm-numa-count", VM),
    value("start", "host-only-cidr", VM),
    switch("start", "dns-proxy", VM),
    switch("start", "host-dns-resolver", VM),
    switch("start", "no-vtx-check", VM),
    value("start", "host-only-nic-type", VM),
    value("start", "nat-nic-type", VM),
    value("start", "hyperkit-vsock-ports", VM),
    value("start", "hyperkit-vpnkit-sock", VM),
    value("start", "uuid", VM),
    value("start", "nfs-share", VM),
    value("start", "nfs-shares-root", VM),
    value("start", "hyperv-virtual-switch", VM),
    switch("start", "hyperv-use-external-switch", VM),
    value("start", "hyperv-external-adapter", VM),
    value(
        "start",
        "qemu-firmware-path",
        "the qemu driver boots kernels without firmware",
    ),
    switch("start", "rosetta", VM),
    switch("start", "vmnet-offloading", VM),
    value("start", "ssh-ip-address", VM),
    value("start", "ssh-user", VM),
    value("start", "ssh-key", VM),
    value("start", "ssh-port", VM),
    value("start", "socket-vmnet-client-path", VM),
    value("start", "socket-vmnet-path", VM),
    // start: k3d's flags.
    depends("start", "api-port", |value| match value {
        "" | "random" => Verdict::Fine,
        _ => Verdict::Refused(API.into()),
    }),
    no(
        "start",
        "config",
        "the file of a cluster is --file; print the format with: rkube config schema",
    ),
    no(
        "start",
        "env",
        "nodes have no environment of their own; set variables in the containers of pods",
    ),
    no(
        "start",
        "host-alias",
        "nodes use the DNS servers of this machine; pods have hostAliases",
    ),
    off(
        "start",
        "host-pid-mode",
        "nodes have processes of their own",
    ),
    depends("start", "image", node_image),
    depends("start", "k3s-arg", k3s_argument),
    flag(
        "start",
        "kubeconfig-update-default",
        false,
        Rule::Depends(|value| match value {
            "false" => Verdict::Refused(
                "set KUBECONFIG to a file of its own, or print it with: rkube export kubeconfig"
                    .into(),
            ),
            _ => Verdict::Fine,
        }),
    ),
    no("start", "lb-config-override", NO_BALANCER),
    switch("start", "no-image-volume", "images need no volume here"),
    switch("start", "no-lb", NO_BALANCER),
    off(
        "start",
        "no-rollback",
        "a cluster whose creation failed is always removed",
    ),
    no("start", "registry-create", OWN_REGISTRY),
    no("start", "registry-use", OWN_REGISTRY),
    no("start", "runtime-label", ENGINE),
    no(
        "start",
        "runtime-ulimit",
        "nodes have the limits of systemd's services",
    ),
    value(
        "start",
        "token",
        "nodes join with certificates that rkube makes",
    ),
    // stop, delete, pause.
    switch(
        "stop",
        "keep-context-active",
        "stop never changes the kubeconfig",
    ),
    // Nodes.
    flag(
        "node add",
        "control-plane",
        false,
        Rule::Refused(
            &[],
            "a cluster has one control-plane node; leave the flag out to add a worker",
        ),
    ),
    flag(
        "node add",
        "worker",
        false,
        Rule::Depends(|value| match value {
            "true" => Verdict::Fine,
            _ => Verdict::Refused("added nodes are workers".into()),
        }),
    ),
    switch(
        "node add",
        "delete-on-failure",
        "a node that cannot be added is always removed",
    ),
    switch(
        "node start",
        "delete-on-failure",
        "a node that does not start is kept",
    ),
    // mount.
    value("mount", "9p-version", MOUNT),
    value("mount", "ip", MOUNT),
    value("mount", "msize", MOUNT),
    value("mount", "port", MOUNT),
    value("mount", "type", MOUNT),
    value("mount", "mode", OWNER),
    no("mount", "gid", OWNER),
    no("mount", "uid", OWNER),
    no(
        "mount",
        "options",
        "a directory that nodes cannot write to is HOST:NODE:ro",
    ),
    switch("docker-env", "no-proxy", LOCAL_SOCKET),
    switch("docker-env", "ssh-add", LOCAL_SOCKET),
    switch("docker-env", "ssh-host", LOCAL_SOCKET),
    switch("ssh", "native-ssh", "rkube always uses its own SSH client"),
    off(
        "kubectl",
        "ssh",
        "kubectl runs on this machine; the nodes have none",
    ),
    // Services, tunnel.
    no(
        "tunnel",
        "bind-address",
        "load balancers have the addresses that the tunnel prints",
    ),
    // Images.
    switch(
        "image load",
        "daemon",
        "a name that is no file is always looked up in the engine",
    ),
    flag(
        "image load",
        "remote",
        false,
        Rule::Refused(
            &[],
            "pull it on the nodes instead, with the command image pull",
        ),
    ),
    flag(
        "image load",
        "pull",
        false,
        Rule::Refused(
            &[],
            "pull it on the nodes instead, with the command image pull",
        ),
    ),
    flag(
        "image load",
        "overwrite",
        false,
        Rule::Depends(|value| match value {
            "false" => {
                Verdict::Refused("a loaded image always replaces the one of that name".into())
            }
            _ => Verdict::Fine,
        }),
    ),
    flag(
        "image save",
        "daemon",
        false,
        Rule::Refused(&[], "save it to a file, and load that into the engine"),
    ),
    flag(
        "image save",
        "remote",
        false,
        Rule::Refused(&[], "nodes do not push images"),
    ),
    // Addons.
    short(
        switch(
            "addons list",
            "docs",
            "rkube addons show NAME prints the address of the project",
        ),
        'd',
    ),
    no(
        "addons enable",
        "images",
        "images are those of the addon's manifests; copy the addon to change them",
    ),
    no(
        "addons enable",
        "registries",
        "images are those of the addon's manifests; copy the addon to change them",
    ),
    switch("addons enable", "force", "there is nothing to force"),
    switch(
        "addons enable",
        "refresh",
        "enabling an addon again always updates it",
    ),
];

fn cni(value: &str) -> Verdict {
    match value {
        "" | "auto" => Verdict::Fine,
        "bridge" | "kindnet" | "false" => {
            Verdict::Harmless("pods have rkube's own network, which does the same".into())
        }
        _ => Verdict::Refused("pods have rkube's own network, and it takes no plug-ins".into()),
    }
}

/// Accepts k3s' images of the version that rkube implements, such as `rancher/k3s:v1.36.1-k3s1`.
fn node_image(value: &str) -> Verdict {
    let tag = value.rsplit_once(':').map_or(value, |(_, tag)| tag);
    let version = tag.split(['-', '+']).find(|part| !part.is_empty());
    match kubernetes_version(version.unwrap_or_default()) {
        Verdict::Refused(why) => Verdict::Refused(why),
        _ => Verdict::Harmless("nodes run no image".into()),
    }
}

/// Accepts arguments that leave out what rkube does not have, or whose default is the same.
fn k3s_argument(value: &str) -> Verdict {
    let argument = value.split('@').next().unwrap_or(value);
    match argument.replace(' ', "=").as_str() {
        "--disable=traefik"
        | "--no-deploy=traefik"
        | "--disable=servicelb"
        | "--no-deploy=servicelb"
        | "--disable=helm-controller"
        | "--disable-helm-controller"
        | "--disable-cloud-controller" => {
            Verdict::Harmless("clusters have none unless you add it".into())
        }
        "--disable=metrics-server" | "--no-deploy=metrics-server" => {
            Verdict::Harmless("metrics are built in, and give way to a metrics-server".into())
        }
        _ => Verdict::Refused(
            "nodes run no k3s; labels and taints of nodes are those of a cluster file (rkube config schema)"
                .into(),
        ),
    }
}

fn container_runtime(value: &str) -> Verdict {
    match value {
        "" | "auto" => Verdict::Fine,
        "containerd" | "docker" | "crio" | "cri-o" => Verdict::Harmless(
            "the nodes have rkube's own container runtime, which takes the same images".into(),
        ),
        _ => Verdict::Refused("the nodes have rkube's own container runtime".into()),
    }
}

/// Accepts every form of the one version that rkube implements. Another minor version is refused:
/// what runs here would not be what was asked for.
fn kubernetes_version(value: &str) -> Verdict {
    let own = rkube_config::KUBERNETES_VERSION;
    let minor = own.rsplit_once('.').map_or(own, |(minor, _)| minor);
    let wanted = format!("v{}", value.trim_start_matches(['v', 'V']));
    if matches!(value, "" | "stable" | "latest") || wanted == minor || wanted == own {
        return Verdict::Fine;
    }
    if wanted
        .strip_prefix(minor)
        .is_some_and(|rest| rest.starts_with('.'))
    {
        return Verdict::Harmless(format!("rkube implements {own}, of the same minor version"));
    }
    Verdict::Refused(format!(
        "rkube implements Kubernetes {minor} only, and another version would behave differently; leave the flag out"
    ))
}
