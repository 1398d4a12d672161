//! kind's configuration, version v1alpha4: every field is understood, or refused with a reason.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use rkube_cluster::{Cidrs, Families, NodeSpec, labels};
use rkube_config::Taint;
use rkube_config::families::Ipv6Place;
use rkube_drivers::{HostMount, PortMapping, Protocol};
use rkube_failure::Failure;
use serde::Deserialize;
use serde_yaml::Value;

use super::super::yaml::{Document, is_empty, scalar};
use super::kubeadm;

/// The version of the configuration.
const API_VERSION: &str = "kind.x-k8s.io/v1alpha4";
/// The taint of control-plane nodes that have workers.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The contents of a configuration.
#[derive(Debug, Default, PartialEq)]
pub struct Config {
    /// The cluster's name.
    pub name: Option<String>,
    /// The nodes, of which the first one runs the control plane.
    pub nodes: Vec<NodeSpec>,
    /// Address range of pods.
    pub pods: Option<Cidrs>,
    /// The IP families of pods and services.
    pub families: Option<Families>,
    /// Address range of services.
    pub services: Option<Cidrs>,
    /// Warnings for the user.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    kind: String,
    api_version: String,
    name: Option<String>,
    #[serde(default)]
    nodes: Option<Vec<Node>>,
    #[serde(default)]
    networking: Option<Networking>,
    #[serde(default)]
    feature_gates: Value,
    #[serde(default)]
    runtime_config: Value,
    #[serde(default)]
    kubeadm_config_patches: Option<Vec<String>>,
    #[serde(default, rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_json_patches: Value,
    #[serde(default)]
    containerd_config_patches: Value,
    #[serde(default, rename = "containerdConfigPatchesJSON6902")]
    containerd_json_patches: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    extra_mounts: Option<Vec<Mount>>,
    #[serde(default)]
    extra_port_mappings: Option<Vec<Port>>,
    #[serde(default)]
    kubeadm_config_patches: Option<Vec<String>>,
    #[serde(default, rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_json_patches: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    container_path: PathBuf,
    host_path: PathBuf,
    #[serde(default, deserialize_with = "rkube_cluster::yaml::boolean")]
    read_only: bool,
    #[serde(default, deserialize_with = "rkube_cluster::yaml::boolean")]
    selinux_relabel: bool,
    #[serde(default)]
    propagation: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Port {
    container_port: u16,
    #[serde(default)]
    host_port: i32,
    #[serde(default)]
    listen_address: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Networking {
    #[serde(default)]
    ip_family: Option<String>,
    #[serde(default)]
    api_server_port: i32,
    #[serde(default)]
    api_server_address: Option<String>,
    #[serde(default)]
    pod_subnet: Option<String>,
    #[serde(default)]
    service_subnet: Option<String>,
    #[serde(
        default,
        rename = "disableDefaultCNI",
        deserialize_with = "rkube_cluster::yaml::boolean"
    )]
    disable_default_cni: bool,
    #[serde(default)]
    kube_proxy_mode: Option<String>,
    #[serde(default)]
    dns_search: Value,
}

/// Reads a configuration.
pub fn read(document: &Document) -> Result<Config, Failure> {
    let written: Written = document.parse()?;
    if written.kind != "Cluster" {
        return Err(document.wrong("kind", "it must be Cluster"));
    }
    if written.api_version != API_VERSION {
        return Err(document.wrong("apiVersion", format!("it must be {API_VERSION}")));
    }
    let refused = [
        (
            "featureGates",
            &written.feature_gates,
            "feature gates have Kubernetes' default values",
        ),
        (
            "runtimeConfig",
            &written.runtime_config,
            "the API server serves the versions that Kubernetes serves by default",
        ),
        (
            "kubeadmConfigPatchesJSON6902",
            &written.kubeadm_json_patches,
            "rkube sets nodes up itself, without kubeadm; kubeadmConfigPatches with labels and taints of nodes are understood",
        ),
        (
            "containerdConfigPatches",
            &written.containerd_config_patches,
            "the nodes have rkube's own container runtime, not containerd",
        ),
        (
            "containerdConfigPatchesJSON6902",
            &written.containerd_json_patches,
            "the nodes have rkube's own container runtime, not containerd",
        ),
    ];
    for (field, value, why) in refused {
        if !is_empty(value) {
            return Err(document.wrong(field, why));
        }
    }
    let mut config = Config {
        name: written.name.filter(|name| !name.is_empty()),
        ..Config::default()
    };
    networking(document, written.networking, &mut config)?;
    let patches = written.kubeadm_config_patches.unwrap_or_default();
    let everywhere = patches_of(document, "", &patches)?;
    let nodes = match written.nodes {
        Some(nodes) if !nodes.is_empty() => nodes,
        _ => vec![Node::default()],
    };
    let mut specs = Vec::new();
    let count = nodes.len();
    for (i, node) in nodes.into_iter().enumerate() {
        let place = format!("nodes[{i}]");
        let worker = match node.role.as_deref() {
            None | Some("" | "control-plane") => false,
            Some("worker") => true,
            Some(_) => {
                let message = "it must be control-plane or worker";
                return Err(document.wrong(&format!("{place}.role"), message));
            }
        };
        let taint = !worker && count > 1;
        let spec = spec(
            document,
            &place,
            node,
            worker,
            taint,
            &everywhere,
            &mut config.notes,
        )?;
        specs.push((worker, i, spec));
    }
    let mut first = specs.iter().filter(|(worker, ..)| !worker).skip(1);
    if let Some((_, i, _)) = first.next() {
        let message = "a cluster has one control-plane node; make this one a worker";
        return Err(document.wrong(&format!("nodes[{i}].role"), message));
    }
    if specs.iter().all(|(worker, ..)| *worker) {
        return Err(document.wrong("nodes", "one node must have the role control-plane"));
    }
    // The sort is stable: workers keep their order.
    specs.sort_by_key(|(worker, ..)| *worker);
    config.nodes = specs.into_iter().map(|(.., spec)| spec).collect();
    Ok(config)
}

fn networking(
    document: &Document,
    written: Option<Networking>,
    config: &mut Config,
) -> Result<(), Failure> {
    let Some(written) = written else {
        return Ok(());
    };
    let wrong =
        |field: &str, message: &str| Err(document.wrong(&format!("networking.{field}"), message));
    config.families = match written.ip_family.as_deref() {
        None | Some("") => None,
        Some("ipv4") => Some(Families(None)),
        Some("ipv6") => Some(Families(Some(Ipv6Place::Only))),
        Some("dual") => Some(Families(Some(Ipv6Place::Second))),
        Some(_) => return wrong("ipFamily", "it must be ipv4, ipv6 or dual"),
    };
    if written.api_server_port > 0 {
        return wrong(
            "apiServerPort",
            "rkube chooses a port that is free and keeps it; the kubeconfig says which one",
        );
    }
    let local = ["", "127.0.0.1", "localhost"];
    let address = written.api_server_address.as_deref().unwrap_or_default();
    if !local.contains(&address) {
        return wrong(
            "apiServerAddress",
            "the API server is reached from this machine only",
        );
    }
    if written.disable_default_cni {
        return wrong(
            "disableDefaultCNI",
            "pods have rkube's own network, and it takes no plug-ins",
        );
    }
    let mode = written.kube_proxy_mode.as_deref().unwrap_or_default();
    if !matches!(mode, "" | "iptables" | "nftables" | "ipvs") {
        return wrong(
            "kubeProxyMode",
            "the nodes have rkube's own service proxy, which cannot be left out",
        );
    }
    if !is_empty(&written.dns_search) {
        return wrong("dnsSearch", "nodes have no search domains");
    }
    let has_ipv6 = config.families.is_some_and(|families| families.0.is_some());
    let range = |field: &str, text: Option<String>| {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let of = |found: Cidrs| match found.ipv6 {
            Some(_) if !has_ipv6 => Err(format!("{text} needs the ipFamily ipv6 or dual")),
            _ => Ok(Some(found)),
        };
        text.parse::<Cidrs>()
            .and_then(of)
            .map_err(|why| document.wrong(&format!("networking.{field}"), why))
    };
    config.pods = range("podSubnet", written.pod_subnet)?;
    config.services = range("serviceSubnet", written.service_subnet)?;
    Ok(())
}

/// Reads kubeadm's patches at `place`.
fn patches_of(
    document: &Document,
    place: &str,
    texts: &[String],
) -> Result<Vec<kubeadm::Patch>, Failure> {
    let mut patches = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let path = format!("{place}kubeadmConfigPatches[{i}]");
        let read = kubeadm::read(text).map_err(|why| document.wrong(&path, why))?;
        patches.extend(read);
    }
    Ok(patches)
}

fn spec(
    document: &Document,
    place: &str,
    node: Node,
    worker: bool,
    taint: bool,
    everywhere: &[kubeadm::Patch],
    notes: &mut Vec<String>,
) -> Result<NodeSpec, Failure> {
    let wrong = |field: &str, message: &str| document.wrong(&format!("{place}.{field}"), message);
    if let Some(image) = node.image {
        notes.extend(image_note(&image).map_err(|why| wrong("image", &why))?);
    }
    if !is_empty(&node.kubeadm_json_patches) {
        return Err(wrong(
            "kubeadmConfigPatchesJSON6902",
            "rkube sets nodes up itself, without kubeadm",
        ));
    }
    let mut spec = NodeSpec::default();
    for (key, value) in node.labels.unwrap_or_default() {
        let value =
            scalar(&value).ok_or_else(|| wrong("labels", "label values must be strings"))?;
        labels::check(&key, &value).map_err(|why| wrong("labels", &why))?;
        spec.labels.insert(key, value);
    }
    if taint {
        spec.taints.push(Taint {
            key: CONTROL_PLANE.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        });
    }
    let own = node.kubeadm_config_patches.unwrap_or_default();
    let own = patches_of(document, &format!("{place}."), &own)?;
    // The others are for nodes of the other role, as with kubeadm.
    for patch in everywhere.iter().chain(&own).filter(|p| p.worker == worker) {
        spec.labels.extend(patch.labels.clone());
        if let Some(taints) = &patch.taints {
            spec.taints.clone_from(taints);
        }
        spec.taints.extend(patch.more_taints.iter().cloned());
    }
    for (i, mount) in node
        .extra_mounts
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let mount = mount_of(mount)
            .map_err(|(field, why)| wrong(&format!("extraMounts[{i}]{field}"), &why))?;
        spec.mounts.push(mount);
    }
    for (i, port) in node
        .extra_port_mappings
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let port = port_of(port)
            .map_err(|(field, why)| wrong(&format!("extraPortMappings[{i}]{field}"), &why))?;
        spec.ports.push(port);
    }
    Ok(spec)
}

/// Returns what is to be said about a node image, which rkube's nodes do not have.
///
/// # Errors
/// Fails if the image is of another version of Kubernetes, or of an unknown one.
pub fn image_note(image: &str) -> Result<Option<String>, String> {
    let own = rkube_config::KUBERNETES_VERSION;
    let minor = own.rsplit_once('.').map_or(own, |(minor, _)| minor);
    if image.is_empty() {
        return Ok(None);
    }
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    if tag == own || tag == minor {
        return Ok(None);
    }
    if tag
        .strip_prefix(minor)
        .is_some_and(|rest| rest.starts_with('.'))
    {
        return Ok(Some(format!(
            "rkube implements {own}, of the same minor version as the image {image}"
        )));
    }
    Err(format!(
        "'{image}' is not supported: nodes run no image, rkube implements Kubernetes {minor} itself; leave the image out"
    ))
}

fn mount_of(mount: Mount) -> Result<HostMount, (&'static str, String)> {
    if mount.selinux_relabel {
        let why = "directories are not relabelled".to_owned();
        return Err((".selinuxRelabel", why));
    }
    if !matches!(mount.propagation.as_deref(), None | Some("" | "None")) {
        let why = "later mounts of this machine do not appear in nodes, nor the other way round";
        return Err((".propagation", why.to_owned()));
    }
    let host = std::path::absolute(&mount.host_path);
    let host = host.map_err(|e| (".hostPath", e.to_string()))?;
    HostMount::new(host, mount.container_path, mount.read_only).map_err(|why| ("", why))
}

fn port_of(port: Port) -> Result<PortMapping, (&'static str, String)> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(other) => return Err((".protocol", format!("'{other}' is neither TCP nor UDP"))),
    };
    let host_ip = match port.listen_address.as_deref() {
        None | Some("") => Ipv4Addr::UNSPECIFIED,
        Some(text) => text.parse().map_err(|_| {
            let why = format!("'{text}' is not an address of IPv4");
            (".listenAddress", why)
        })?,
    };
    if port.container_port == 0 {
        return Err((".containerPort", "it must be a port".to_owned()));
    }
    let host_port = match port.host_port {
        // Any free one.
        -1 | 0 => free_port(host_ip).map_err(|e| (".hostPort", e.to_string()))?,
        number => {
            u16::try_from(number).map_err(|_| (".hostPort", format!("'{number}' is not a port")))?
        }
    };
    Ok(PortMapping {
        host_ip,
        host_port,
        node_port: port.container_port,
        protocol,
    })
}

fn free_port(ip: Ipv4Addr) -> std::io::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";

    fn parse(rest: &str) -> Result<Config, String> {
        read(&Document::new("kind.yaml", format!("{HEAD}{rest}"))).map_err(|e| e.message)
    }

    #[test]
    fn the_smallest_file_is_one_node() {
        assert_eq!(parse("").unwrap().nodes, [NodeSpec::default()]);
        assert_eq!(parse("nodes: []").unwrap().nodes.len(), 1);
        assert!(
            read(&Document::new(
                "f",
                "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha3\n"
            ))
            .is_err()
        );
    }

    #[test]
    fn the_guide_for_ingress_is_understood() {
        let config = parse(
            "name: web\nnodes:\n- role: worker\n- role: control-plane\n  kubeadmConfigPatches:\n  - |\n    \
             kind: InitConfiguration\n    nodeRegistration:\n      kubeletExtraArgs:\n        \
             node-labels: \"ingress-ready=true,a=b\"\n  extraPortMappings:\n  - containerPort: 80\n    \
             hostPort: 8080\n    protocol: TCP\n    listenAddress: 127.0.0.1\n  - containerPort: 53\n    \
             protocol: UDP\n  labels:\n    tier: 1\n  extraMounts:\n  - hostPath: /tmp\n    containerPath: /files\n    \
             readOnly: true\nnetworking:\n  podSubnet: 10.10.0.0/16\n  ipFamily: ipv4\n  kubeProxyMode: nftables\n",
        )
        .unwrap();
        assert_eq!(config.name.as_deref(), Some("web"));
        assert_eq!(config.pods.unwrap().to_string(), "10.10.0.0/16");
        let [first, worker] = config.nodes.as_slice() else {
            panic!("{config:?}");
        };
        assert_eq!(first.labels["ingress-ready"], "true");
        assert_eq!(first.labels["tier"], "1");
        assert_eq!(first.ports[0].to_string(), "127.0.0.1:8080:80/tcp");
        assert!(first.ports[1].host_port > 0);
        assert_eq!(first.mounts[0].to_string(), "/tmp:/files:ro");
        assert_eq!(first.taints[0].key, CONTROL_PLANE);
        assert_eq!(*worker, NodeSpec::default());
    }

    #[test]
    fn unsupported_fields_are_refused_with_their_paths() {
        for (rest, place) in [
            ("featureGates: {A: true}", "kind.yaml:3:15: featureGates: "),
            ("runtimeConfig: {api/all: 'true'}", "3:16: runtimeConfig: "),
            (
                "containerdConfigPatches: [x]",
                "3:26: containerdConfigPatches: ",
            ),
            (
                "kubeadmConfigPatches: ['kind: ClusterConfiguration']",
                "3:24: ",
            ),
            (
                "networking: {ipFamily: both}",
                "3:24: networking.ipFamily: ",
            ),
            ("networking: {apiServerPort: 6443}", "3:29: "),
            ("networking: {apiServerAddress: 0.0.0.0}", "3:32: "),
            ("networking: {disableDefaultCNI: true}", "3:33: "),
            ("networking: {kubeProxyMode: none}", "3:29: "),
            ("networking: {dnsSearch: [a.b]}", "3:25: "),
            ("networking: {podSubnet: 'fd00::/64'}", "3:25: "),
            (
                "nodes: [{role: control-plane}, {role: control-plane}]",
                "3:39: nodes[1].role: ",
            ),
            ("nodes: [{role: worker}]", "3:8: nodes: "),
            ("nodes: [{role: x}]", "3:16: nodes[0].role: "),
            (
                "nodes: [{image: 'kindest/node:v1.30.0'}]",
                "3:17: nodes[0].image: ",
            ),
            ("nodes: [{labels: {'a b': c}}]", "3:18: nodes[0].labels: "),
            (
                "nodes: [{extraMounts: [{hostPath: /tmp, containerPath: /proc}]}]",
                "3:24: ",
            ),
            (
                "nodes: [{extraMounts: [{hostPath: /tmp, containerPath: /x, propagation: Bidirectional}]}]",
                "3:73: nodes[0].extraMounts[0].propagation: ",
            ),
            (
                "nodes: [{extraPortMappings: [{containerPort: 80, protocol: SCTP}]}]",
                "3:60: nodes[0].extraPortMappings[0].protocol: ",
            ),
            ("nodes: [{rolle: worker}]", "unknown field `rolle`"),
            ("nodse: []", "kind.yaml:3:1: unknown field `nodse`"),
        ] {
            let error = parse(rest).unwrap_err();
            assert!(error.contains(place), "{rest}: {error}");
        }
        for fine in [
            "featureGates: {}",
            "networking: {disableDefaultCNI: false, apiServerPort: -1, apiServerAddress: 127.0.0.1}",
            "nodes: [{image: 'kindest/node:v1.36.0@sha256:abc'}]",
        ] {
            parse(fine).unwrap();
        }
    }

    #[test]
    fn images_are_judged_by_their_version() {
        assert_eq!(image_note("kindest/node:v1.36.0"), Ok(None));
        assert!(
            image_note("r:5000/kindest/node:v1.36.4@sha256:1")
                .unwrap()
                .is_some()
        );
        for bad in [
            "kindest/node",
            "kindest/node:latest",
            "kindest/node:v1.360.0",
            "r:5000/x",
        ] {
            assert!(image_note(bad).is_err(), "{bad}");
        }
    }
}
