//! The cluster file: `rkube start -f FILE`, `rkube config schema` and `rkube config init`.
//!
//! It says what the flags of `start` say, and what distinguishes the nodes of a cluster. Its format
//! is versioned: a field that this version does not know is an error, never ignored.

mod init;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use rkube_cluster::addons::{Addon, Manifest, Origin};
use rkube_cluster::{Cidrs, Families, NodeSpec, StoreOptions, io_failure, labels};
use rkube_config::registries::Registry;
use rkube_drivers::{HostMount, MachineOptions};
use rkube_failure::Failure;
use serde::Deserialize;
use serde_yaml::Value;

use super::node::{parse_cpus, parse_size};
use super::yaml::{Document, is_empty, scalar};

pub use init::describe;

/// The version of the format.
pub const API_VERSION: &str = "rkube.dev/v1alpha1";
/// The kind of the document.
const KIND: &str = "Cluster";
/// The label that a node's zone becomes.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The JSON Schema of the format.
pub const SCHEMA: &str = include_str!("schema.json");

/// The contents of a cluster file.
#[derive(Debug, Default)]
pub struct File {
    /// The profile's name.
    pub name: Option<String>,
    /// The driver's name.
    pub driver: Option<String>,
    /// The nodes, of which the first one runs the control plane; empty if the file has none.
    pub nodes: Vec<NodeSpec>,
    /// Directories of this machine that all nodes see.
    pub mounts: Vec<HostMount>,
    /// Address range of nodes.
    pub subnet: Option<Ipv4Net>,
    /// The IP families of pods and services.
    pub families: Option<Families>,
    /// Address ranges of pods.
    pub pods: Option<Cidrs>,
    /// Address ranges of services.
    pub services: Option<Cidrs>,
    /// DNS domain of the cluster.
    pub dns_domain: Option<String>,
    /// Whether services of type LoadBalancer get addresses.
    pub load_balancer: Option<bool>,
    /// Registries reached over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Mirrors, certificates and credentials of registries.
    pub registries: Option<BTreeMap<String, Registry>>,
    /// Files with certificates to trust.
    pub extra_ca: Option<Vec<PathBuf>>,
    /// The etcd for the cluster's objects.
    pub store: Option<StoreOptions>,
    /// Options of virtual machines.
    pub machine: MachineOptions,
    /// The API server's audit policy.
    pub audit_policy: Option<PathBuf>,
    /// Names of addons to enable.
    pub addons: Vec<String>,
    /// Images to load.
    pub images: Vec<String>,
    /// Files and URLs of manifests to apply.
    pub manifests: Vec<String>,
    /// The namespace of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Whether kubectl's current context is kept.
    pub keep_context: bool,
    /// The settings of `rkube dev`.
    pub dev: Option<rkube_dev::settings::Section>,
    /// The lists that the file has, also empty ones, such as `addons`.
    pub lists: Vec<&'static str>,
}

impl File {
    /// Whether the file has a list of this name, so that the cluster is to have nothing else.
    pub fn has(&self, list: &str) -> bool {
        self.lists.contains(&list)
    }
}

/// The fields that every document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    name: Option<String>,
    driver: Option<String>,
    nodes: Option<Vec<Node>>,
    mounts: Option<Vec<String>>,
    networking: Option<Networking>,
    insecure_registries: Option<Vec<String>>,
    registries: Option<Value>,
    extra_ca: Option<Vec<PathBuf>>,
    store: Option<Store>,
    machine: Option<Machine>,
    audit_policy_file: Option<PathBuf>,
    addons: Option<Vec<String>>,
    images: Option<Vec<String>>,
    manifests: Option<Vec<String>>,
    kubeconfig: Option<Context>,
    dev: Option<rkube_dev::settings::Section>,
    /// Known, so that its error can say more.
    #[serde(default)]
    feature_gates: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    role: String,
    count: Option<u32>,
    cpus: Option<Value>,
    memory: Option<Value>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
    #[serde(default)]
    taints: Vec<String>,
    zone: Option<String>,
    #[serde(default)]
    mounts: Vec<String>,
    #[serde(default)]
    ports: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Networking {
    node_subnet: Option<Ipv4Net>,
    ip_families: Option<Vec<String>>,
    pod_subnet: Option<Cidrs>,
    service_subnet: Option<Cidrs>,
    dns_domain: Option<String>,
    load_balancer: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Store {
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Machine {
    kernel: Option<PathBuf>,
    modules: Option<PathBuf>,
    disk_size: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Context {
    namespace: Option<String>,
    #[serde(default, deserialize_with = "rkube_cluster::yaml::boolean")]
    keep_current: bool,
}

/// Reads a cluster file.
pub fn read(document: &Document) -> Result<File, Failure> {
    // First, because another document has other fields.
    let head: Head = document.parse()?;
    if head.api_version != API_VERSION {
        let why = format!("it must be {API_VERSION}");
        let failure = document.wrong("apiVersion", why);
        return Err(match head.api_version.starts_with("kind.x-k8s.io/") {
            true => failure
                .advise("this is kind's configuration: rkube kind create cluster --config FILE"),
            false => failure.advise("print the format with: rkube config schema"),
        });
    }
    if head.kind != KIND {
        return Err(document.wrong("kind", format!("it must be {KIND}")));
    }
    let written: Written = document.parse()?;
    if !is_empty(&written.feature_gates) {
        let why = "feature gates have Kubernetes' default values";
        return Err(document.wrong("featureGates", why));
    }
    if let Some(name) = &written.name {
        let named = rkube_cluster::check_name(name);
        named.map_err(|failure| document.wrong("name", failure.message))?;
    }
    if let Some(name) = &written.driver {
        let why = format!("the drivers are {}", rkube_drivers::NAMES.join(", "));
        if !rkube_drivers::NAMES.contains(&name.as_str()) {
            return Err(document.wrong("driver", why));
        }
    }
    let nodes = match written.nodes {
        Some(groups) => nodes(document, groups)?,
        None => Vec::new(),
    };
    let networking = written.networking.unwrap_or(Networking {
        node_subnet: None,
        ip_families: None,
        pod_subnet: None,
        service_subnet: None,
        dns_domain: None,
        load_balancer: None,
    });
    let registries = written.registries.map(|section| {
        rkube_cluster::registries_from_value(section)
            .map_err(|why| document.wrong("registries", why))
    });
    let families = networking.ip_families.map(|names| {
        let families = names.join(",").parse::<Families>();
        families.map_err(|why| document.wrong("networking.ipFamilies", why))
    });
    let context = written.kubeconfig;
    let lists = [
        ("mounts", written.mounts.is_some()),
        ("insecureRegistries", written.insecure_registries.is_some()),
        ("addons", written.addons.is_some()),
        ("manifests", written.manifests.is_some()),
    ];
    let lists = lists.into_iter().filter(|(_, there)| *there);
    Ok(File {
        lists: lists.map(|(name, _)| name).collect(),
        name: written.name,
        driver: written.driver,
        nodes,
        mounts: mounts(document, "mounts", &written.mounts.unwrap_or_default())?,
        subnet: networking.node_subnet,
        families: families.transpose()?,
        pods: networking.pod_subnet,
        services: networking.service_subnet,
        dns_domain: networking.dns_domain,
        load_balancer: networking.load_balancer,
        insecure_registries: written.insecure_registries.unwrap_or_default(),
        registries: registries.transpose()?,
        extra_ca: written.extra_ca,
        store: written.store.map(|s| store(document, s)).transpose()?,
        machine: match written.machine {
            Some(written) => machine(document, written)?,
            None => MachineOptions::default(),
        },
        audit_policy: written.audit_policy_file,
        addons: written.addons.unwrap_or_default(),
        images: written.images.unwrap_or_default(),
        manifests: written.manifests.unwrap_or_default(),
        namespace: context.as_ref().and_then(|c| c.namespace.clone()),
        keep_context: context.is_some_and(|c| c.keep_current),
        dev: written.dev,
    })
}

/// Returns one node for each that the groups count, the control-plane node first.
fn nodes(document: &Document, groups: Vec<Node>) -> Result<Vec<NodeSpec>, Failure> {
    let mut first = None;
    let mut workers = Vec::new();
    for (i, group) in groups.into_iter().enumerate() {
        let wrong = |field: &str, why: &str| document.wrong(&format!("nodes[{i}].{field}"), why);
        let count = group.count.unwrap_or(1);
        match group.role.as_str() {
            "worker" => {
                if count > 1 && !group.ports.is_empty() {
                    let why = "several nodes cannot have the same ports of this machine; list them one by one";
                    return Err(wrong("ports", why));
                }
                if count > 100 {
                    return Err(wrong("count", "it can be 0 to 100"));
                }
                let spec = spec(document, i, group)?;
                workers.extend(std::iter::repeat_n(spec, count as usize));
            }
            "control-plane" => {
                if first.is_some() || count != 1 {
                    let field = if first.is_some() { "role" } else { "count" };
                    return Err(wrong(field, "a cluster has one control-plane node"));
                }
                first = Some(spec(document, i, group)?);
            }
            _ => return Err(wrong("role", "it must be control-plane or worker")),
        }
    }
    match first {
        Some(first) => Ok(std::iter::once(first).chain(workers).collect()),
        None => {
            let why = "one node must have the role control-plane";
            Err(document.wrong("nodes", why))
        }
    }
}

fn spec(document: &Document, i: usize, group: Node) -> Result<NodeSpec, Failure> {
    let wrong = |field: &str, why: &str| document.wrong(&format!("nodes[{i}].{field}"), why);
    let amount = |field: &str, value: Option<Value>, parse: fn(&str) -> Result<u64, String>| {
        let Some(value) = value else {
            return Ok(None);
        };
        let text = scalar(&value).ok_or_else(|| wrong(field, "it must be a string or a number"))?;
        parse(&text).map(Some).map_err(|why| wrong(field, &why))
    };
    let mut spec = NodeSpec {
        cpu_millis: amount("cpus", group.cpus, parse_cpus)?,
        memory_bytes: amount("memory", group.memory, parse_size)?,
        mounts: mounts(document, &format!("nodes[{i}].mounts"), &group.mounts)?,
        ..NodeSpec::default()
    };
    let zone = group
        .zone
        .map(|zone| (ZONE.to_owned(), Value::String(zone)));
    for (key, value) in group.labels.into_iter().chain(zone) {
        let field = if key == ZONE { "zone" } else { "labels" };
        let value = scalar(&value).ok_or_else(|| wrong(field, "label values must be strings"))?;
        labels::check(&key, &value).map_err(|why| wrong(field, &why))?;
        if spec.labels.insert(key, value).is_some() {
            return Err(wrong(
                field,
                "set either zone or the label topology.kubernetes.io/zone",
            ));
        }
    }
    for (j, text) in group.taints.iter().enumerate() {
        let taint = labels::parse_taint(text);
        let taint = taint.map_err(|why| wrong(&format!("taints[{j}]"), &why))?;
        spec.taints.push(taint);
    }
    for (j, value) in group.ports.iter().enumerate() {
        let text = scalar(value).unwrap_or_default();
        let port = text.parse();
        let port = port.map_err(|why: String| wrong(&format!("ports[{j}]"), &why))?;
        spec.ports.push(port);
    }
    Ok(spec)
}

fn mounts(document: &Document, path: &str, texts: &[String]) -> Result<Vec<HostMount>, Failure> {
    let mut mounts = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let mount = text.parse();
        let mount = mount.map_err(|why: String| document.wrong(&format!("{path}[{i}]"), why))?;
        mounts.push(mount);
    }
    Ok(mounts)
}

fn store(document: &Document, written: Store) -> Result<StoreOptions, Failure> {
    let text = format!("etcd={}", written.endpoints.join(","));
    match StoreOptions::parse(&text, written.ca, written.cert, written.key) {
        Ok(Some(options)) => Ok(options),
        Ok(None) => Err(document.wrong("store.endpoints", "name at least one etcd endpoint")),
        Err(failure) => Err(document.wrong("store", failure.message)),
    }
}

fn machine(document: &Document, written: Machine) -> Result<MachineOptions, Failure> {
    let wrong = |field: &str, why: String| document.wrong(&format!("machine.{field}"), why);
    let size = |value: Value| {
        let text = scalar(&value).unwrap_or_default();
        parse_size(&text).map_err(|why| wrong("diskSize", why))
    };
    let path = |field: &str, path: Option<PathBuf>| {
        let absolute = path.map(std::path::absolute).transpose();
        absolute.map_err(|e| wrong(field, e.to_string()))
    };
    Ok(MachineOptions {
        kernel: path("kernel", written.kernel)?,
        modules: path("modules", written.modules)?,
        disk_bytes: written.disk_size.map(size).transpose()?,
    })
}

/// Returns the manifests of a file as an addon of the name `manifests`, so that those that the file
/// no longer has are removed the next time. Returns `None` if there are none.
pub fn manifests(names: &[String]) -> Result<Option<Addon>, Failure> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut root = PathBuf::from("/");
    let mut manifests = Vec::new();
    for name in names {
        if name.starts_with("http://") || name.starts_with("https://") {
            manifests.push(Manifest::Url(name.clone(), None));
            continue;
        }
        let path = std::path::absolute(name).map_err(|e| io_failure("find", name.as_ref(), &e))?;
        // Reported before anything is created.
        std::fs::metadata(&path).map_err(|e| io_failure("read", &path, &e))?;
        let top = path.ancestors().last().unwrap_or(&path).to_path_buf();
        let below = path.strip_prefix(&top).unwrap_or(&path);
        manifests.push(Manifest::File(below.display().to_string()));
        root = top;
    }
    Ok(Some(Addon {
        name: "manifests".to_owned(),
        description: "The manifests of the cluster file".to_owned(),
        version: "-".to_owned(),
        homepage: String::new(),
        namespace: None,
        manifests,
        origin: Origin::Directory(root),
    }))
}
