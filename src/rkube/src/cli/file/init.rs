//! Writes the cluster file of a cluster that exists.

use rkube_cluster::addons::Status;
use rkube_cluster::{Home, Node, Profile, labels};
use rkube_failure::{Failure, Kind, Source};
use serde_yaml::{Mapping, Value};

use super::{API_VERSION, KIND, ZONE};

/// Returns the file that creates a cluster like this one. Images and manifests are not known.
pub async fn describe(home: &Home, profile: &Profile) -> Result<String, Failure> {
    let mut file = Mapping::new();
    let mut put = |key: &str, value: Value| {
        file.insert(key.into(), value);
    };
    put("apiVersion", API_VERSION.into());
    put("kind", KIND.into());
    put("name", profile.name.clone().into());
    put("driver", profile.driver.clone().into());
    put("nodes", nodes(profile));
    if !profile.mounts.is_empty() {
        put("mounts", to_strings(&profile.mounts));
    }
    put("networking", networking(profile));
    if !profile.insecure_registries.is_empty() {
        put(
            "insecureRegistries",
            to_strings(&profile.insecure_registries),
        );
    }
    let hidden = !profile.registries.hosts.is_empty() || !profile.registries.roots.is_empty();
    if let Some(store) = &profile.store {
        let mut fields = Mapping::from_iter([("endpoints".into(), to_strings(&store.endpoints))]);
        let pki = home.profile_dir(&profile.name).join("pki");
        for (key, name) in [
            ("ca", "etcd-ca.crt"),
            ("cert", "etcd-client.crt"),
            ("key", "etcd-client.key"),
        ] {
            let path = pki.join(name);
            if path.exists() {
                fields.insert(key.into(), path.display().to_string().into());
            }
        }
        put("store", fields.into());
    }
    if !profile.machine.is_default() {
        put("machine", machine(profile));
    }
    let policy = home.profile_dir(&profile.name).join("audit-policy.yaml");
    if policy.exists() {
        put("auditPolicyFile", policy.display().to_string().into());
    }
    let addons = rkube_cluster::addons::list(home, Some(profile)).await?;
    let enabled: Vec<String> = addons
        .into_iter()
        .filter(|addon| addon.status == Status::Enabled && addon.name != "manifests")
        .map(|addon| addon.name)
        .collect();
    if !enabled.is_empty() {
        put("addons", to_strings(&enabled));
    }
    let text = rkube_cluster::yaml::to_string(&file).map_err(|e| {
        let message = format!("cannot write the cluster file: {e}");
        Failure::new(Source::Program, Kind::Error, message)
    })?;
    // Their files are not known any more, and credentials belong in no file that is passed on.
    let registries = match hidden {
        true => {
            "# Mirrors, certificates and credentials of registries are not in this file: see --registry-config and --extra-ca\n"
        }
        false => "",
    };
    Ok(format!(
        "# Creates a cluster like '{}': rkube start -f FILE\n{registries}{text}",
        profile.name
    ))
}

fn to_strings(items: &[impl ToString]) -> Value {
    items
        .iter()
        .map(|item| Value::from(item.to_string()))
        .collect()
}

/// Returns the nodes; equal workers as one entry.
fn nodes(profile: &Profile) -> Value {
    let mut entries: Vec<(Mapping, u64)> = Vec::new();
    for node in &profile.nodes {
        let entry = entry(profile, node);
        match entries.last_mut() {
            // Ports are those of one node.
            Some((last, count)) if *last == entry && node.ports.is_empty() => *count += 1,
            _ => entries.push((entry, 1)),
        }
    }
    let with_count = |(mut entry, count): (Mapping, u64)| {
        if count > 1 {
            entry.insert("count".into(), count.into());
        }
        Value::from(entry)
    };
    entries.into_iter().map(with_count).collect()
}

fn entry(profile: &Profile, node: &Node) -> Mapping {
    let mut entry = Mapping::new();
    let mut put = |key: &str, value: Value| {
        entry.insert(key.into(), value);
    };
    let role = if node.control_plane {
        "control-plane"
    } else {
        "worker"
    };
    put("role", role.into());
    if let Some(millis) = node.cpu_millis {
        let text = match millis % 1000 {
            0 => (millis / 1000).to_string(),
            rest => format!("{}.{rest:03}", millis / 1000),
        };
        put("cpus", text.into());
    }
    if let Some(bytes) = node.memory_bytes {
        // Sizes are whole KiB at least.
        let text = match bytes % (1 << 20) {
            0 => format!("{}m", bytes >> 20),
            _ => format!("{}k", bytes >> 10),
        };
        put("memory", text.into());
    }
    let mut others = node.labels.clone();
    if let Some(zone) = others.remove(ZONE) {
        put("zone", zone.into());
    }
    if !others.is_empty() {
        let labels = others
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()));
        put("labels", Mapping::from_iter(labels).into());
    }
    if !node.taints.is_empty() {
        let taints: Vec<String> = node.taints.iter().map(labels::taint_text).collect();
        put("taints", to_strings(&taints));
    }
    if !node.mounts.is_empty() {
        put("mounts", to_strings(&node.mounts));
    }
    let ports = if node.control_plane {
        &profile.ports
    } else {
        &node.ports
    };
    if !ports.is_empty() {
        put("ports", to_strings(ports));
    }
    entry
}

fn networking(profile: &Profile) -> Value {
    let ipv6 = profile.ipv6;
    let pods = rkube_cluster::Cidrs {
        ipv4: Some(profile.pod_cidr),
        ipv6: ipv6.map(|ipv6| ipv6.pod_cidr),
    };
    let services = rkube_cluster::Cidrs {
        ipv4: Some(profile.service_cidr),
        ipv6: ipv6.map(|ipv6| ipv6.service_cidr),
    };
    let ranges = [
        ("nodeSubnet", profile.node_cidr.to_string()),
        ("podSubnet", pods.to_string()),
        ("serviceSubnet", services.to_string()),
        ("dnsDomain", profile.dns_domain.clone()),
    ];
    let fields = ranges
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()));
    let mut fields = Mapping::from_iter(fields);
    if let Some(ipv6) = ipv6 {
        let families = rkube_cluster::Families(Some(ipv6.place)).to_string();
        let names = families.split(',').map(Value::from);
        fields.insert("ipFamilies".into(), names.collect::<Vec<_>>().into());
    }
    if profile.no_load_balancer {
        fields.insert("loadBalancer".into(), false.into());
    }
    fields.into()
}

fn machine(profile: &Profile) -> Value {
    let mut fields = Mapping::new();
    let machine = &profile.machine;
    for (key, path) in [("kernel", &machine.kernel), ("modules", &machine.modules)] {
        if let Some(path) = path {
            fields.insert(key.into(), path.display().to_string().into());
        }
    }
    if let Some(bytes) = machine.disk_bytes {
        fields.insert("diskSize".into(), format!("{}m", bytes >> 20).into());
    }
    fields.into()
}
