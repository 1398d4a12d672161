//! Addresses and ports of services, and the service that leads to this server.
//!
//! What is taken is read off the services themselves, one allocating write at
//! a time: there is no second record that could disagree with them and would
//! have to be repaired.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::ApiServer;
use crate::cache::Filter;
use crate::resources::Resource;

/// Makes allocating writes follow one another.
#[derive(Default)]
pub struct Allocators {
    turn: Mutex<()>,
}

/// What services hold at present.
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    /// Port and protocol: TCP and UDP may share a number.
    ports: HashSet<(u64, String)>,
}

impl Allocators {
    /// For services, waits for the turn and for what the last writer took to be
    /// seen. Held until the write is stored.
    pub async fn lock(
        &self,
        resource: &Resource,
        server: &ApiServer,
    ) -> Option<MutexGuard<'_, ()>> {
        if !resource.is("", "services") {
            return None;
        }
        let guard = self.turn.lock().await;
        server.cache.consistent().await;
        Some(guard)
    }

    /// Gives a service the addresses and ports that it needs and does not
    /// name, and refuses what is taken. Does nothing for other resources.
    pub fn allocate(
        &self,
        server: &ApiServer,
        resource: &Resource,
        service: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if !resource.is("", "services") {
            return Ok(());
        }
        let name = meta::name(service).to_owned();
        let invalid =
            |error: FieldError| Status::invalid(&resource.group_kind(), &name, vec![error]);
        let mut taken = taken(resource, meta::namespace(service), &name);
        let kind = service["spec"]["type"]
            .as_str()
            .unwrap_or("ClusterIP")
            .to_owned();
        if kind == "ExternalName" {
            return Ok(());
        }
        allocate_address(server, service, old, &taken).map_err(invalid)?;
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            allocate_node_ports(server.config.node_ports, service, old, &mut taken, &kind)
                .map_err(invalid)?;
        }
        Ok(())
    }
}

fn taken(resource: &Resource, namespace: &str, name: &str) -> Taken {
    let mut taken = Taken {
        addresses: HashSet::new(),
        ports: HashSet::new(),
    };
    for object in resource.cache.list(&Filter::default()) {
        if *object.namespace == *namespace && *object.name == *name {
            continue;
        }
        let service = object.tree();
        let spec = &service["spec"];
        let addresses = spec["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .chain([&spec["clusterIP"]]);
        taken
            .addresses
            .extend(addresses.filter_map(|a| a.as_str()?.parse::<Ipv4Addr>().ok()));
        for port in spec["ports"].as_array().into_iter().flatten() {
            if let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) {
                taken.ports.insert((number, protocol(port)));
            }
        }
        if let Some(number) = spec["healthCheckNodePort"].as_u64().filter(|n| *n != 0) {
            taken.ports.insert((number, "TCP".into()));
        }
    }
    taken
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn allocate_address(
    server: &ApiServer,
    service: &mut Object,
    old: Option<&Object>,
    taken: &Taken,
) -> Result<(), FieldError> {
    let range = server.config.service_cidr;
    let asked = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if asked == "None" {
        if !service["spec"]["clusterIPs"].is_array() {
            service["spec"]["clusterIPs"] = json!(["None"]);
        }
    } else if asked.is_empty() {
        let address = free_address(range, &taken.addresses).ok_or_else(|| {
            FieldError::internal(
                "spec.clusterIPs",
                "failed to allocate a serviceIP: range is full",
            )
        })?;
        service["spec"]["clusterIP"] = address.to_string().into();
        service["spec"]["clusterIPs"] = json!([address.to_string()]);
    } else {
        let kept = old.is_some_and(|o| o["spec"]["clusterIP"] == asked.as_str());
        if !kept {
            let field = "spec.clusterIPs";
            let values = || json!([asked]);
            let address: Ipv4Addr = asked.parse().map_err(|_| {
                FieldError::invalid(
                    field,
                    values(),
                    format!(
                        "failed to allocate IP {asked}: the provided IP is not a valid IPv4 address"
                    ),
                )
            })?;
            if !range.contains(&address)
                || address == range.network()
                || address == range.broadcast()
            {
                let detail = format!(
                    "failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
                );
                return Err(FieldError::invalid(field, values(), detail));
            }
            if taken.addresses.contains(&address) {
                let detail =
                    format!("failed to allocate IP {asked}: provided IP is already allocated");
                return Err(FieldError::invalid(field, values(), detail));
            }
        }
        if !service["spec"]["clusterIPs"].is_array() {
            service["spec"]["clusterIPs"] = json!([asked]);
        }
    }
    let spec = &mut service["spec"];
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if !spec["ipFamilies"].is_array() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    Ok(())
}

/// A free address, at random from the range's upper part so that its lower
/// part stays free for those who ask by number, as upstream divides it.
fn free_address(range: ipnet::Ipv4Net, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let first = u32::from(range.network()) + 1;
    let last = u32::from(range.broadcast())
        .checked_sub(1)
        .filter(|l| *l >= first)?;
    let size = last - first + 1;
    // min(max(16, size/16), 256) addresses are for static use.
    let reserved = if size <= 16 {
        0
    } else {
        (size / 16).clamp(16, 256).min(size)
    };
    let upper = first + reserved;
    let pick = |from: u32, to: u32| -> Option<Ipv4Addr> {
        let count = to.checked_sub(from)? + 1;
        let start = rand::random_range(0..count);
        (0..count)
            .map(|i| Ipv4Addr::from(from + (start + i) % count))
            .find(|a| !taken.contains(a))
    };
    pick(upper, last).or_else(|| {
        if reserved > 0 {
            pick(first, upper - 1)
        } else {
            None
        }
    })
}

fn allocate_node_ports(
    range: (u16, u16),
    service: &mut Object,
    old: Option<&Object>,
    taken: &mut Taken,
    kind: &str,
) -> Result<(), FieldError> {
    let wanted = kind == "NodePort"
        || service["spec"]["allocateLoadBalancerNodePorts"]
            .as_bool()
            .unwrap_or(true);
    let held: HashSet<(u64, String)> = old
        .and_then(|o| o["spec"]["ports"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|p| Some((p["nodePort"].as_u64()?, protocol(p))))
        .collect();
    let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    // Ports that were asked for come first, so that none is given away.
    let mut mine: HashSet<(u64, String)> = HashSet::new();
    for i in 0..count {
        let port = &service["spec"]["ports"][i];
        let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) else {
            continue;
        };
        let key = (number, protocol(port));
        let field = format!("spec.ports[{i}].nodePort");
        if mine.contains(&key) {
            continue;
        }
        if !held.contains(&key) {
            if number < range.0.into() || number > range.1.into() {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.0, range.1
                );
                return Err(FieldError::invalid(field, number, detail));
            }
            if taken.ports.contains(&key) {
                return Err(FieldError::invalid(
                    field,
                    number,
                    "provided port is already allocated",
                ));
            }
        }
        mine.insert(key);
    }
    taken.ports.extend(mine.iter().cloned());
    if wanted {
        for i in 0..count {
            if service["spec"]["ports"][i]["nodePort"]
                .as_u64()
                .is_some_and(|n| n != 0)
            {
                continue;
            }
            let protocol = protocol(&service["spec"]["ports"][i]);
            // The same port under another protocol shares its number, as DNS needs it.
            let twin = (0..count).find_map(|j| {
                let other = &service["spec"]["ports"][j];
                let same = other["port"] == service["spec"]["ports"][i]["port"] && j != i;
                let number = other["nodePort"].as_u64().filter(|n| *n != 0)?;
                (same && !taken.ports.contains(&(number, protocol.clone()))).then_some(number)
            });
            let number = match twin {
                Some(number) => number,
                None => free_port(range, &taken.ports).ok_or_else(|| {
                    FieldError::internal(format!("spec.ports[{i}].nodePort"), "range is full")
                })?,
            };
            taken.ports.insert((number, protocol));
            service["spec"]["ports"][i]["nodePort"] = number.into();
        }
    }
    let local = kind == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local";
    if local {
        let asked = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        let before = old
            .and_then(|o| o["spec"]["healthCheckNodePort"].as_u64())
            .unwrap_or(0);
        if asked == 0 {
            let number = free_port(range, &taken.ports)
                .ok_or_else(|| FieldError::internal("spec.healthCheckNodePort", "range is full"))?;
            service["spec"]["healthCheckNodePort"] = number.into();
        } else if asked != before && taken.ports.contains(&(asked, "TCP".into())) {
            let detail = format!(
                "failed to allocate requested HealthCheck NodePort {asked}: provided port is already allocated"
            );
            return Err(FieldError::internal("spec.healthCheckNodePort", detail));
        }
    }
    Ok(())
}

fn free_port(range: (u16, u16), taken: &HashSet<(u64, String)>) -> Option<u64> {
    let used: HashSet<u64> = taken.iter().map(|(n, _)| *n).collect();
    let (first, last) = (u64::from(range.0), u64::from(range.1));
    let count = last.checked_sub(first)? + 1;
    let start = rand::random_range(0..count);
    (0..count)
        .map(|i| first + (start + i) % count)
        .find(|n| !used.contains(n))
}

/// The objects that lead clients inside the cluster to this server: the
/// service `kubernetes` and its endpoints.
pub fn kubernetes_service(server: &ApiServer) -> Vec<(&'static str, &'static str, Object)> {
    let range = server.config.service_cidr;
    let first = Ipv4Addr::from(u32::from(range.network()) + 1).to_string();
    let (ip, port) = (
        server.config.advertise_ip.to_string(),
        server.config.advertise_port,
    );
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": first, "clusterIPs": [first], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    vec![
        ("", "services", service),
        ("", "endpoints", endpoints),
        ("discovery.k8s.io", "endpointslices", slice),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_upper_part_first() {
        let range: ipnet::Ipv4Net = "10.96.0.0/16".parse().unwrap();
        let mut taken = HashSet::new();
        for _ in 0..100 {
            let address = free_address(range, &taken).unwrap();
            assert!(
                u32::from(address) > u32::from(range.network()) + 256,
                "{address}"
            );
            assert!(taken.insert(address));
        }
        let small: ipnet::Ipv4Net = "10.0.0.0/30".parse().unwrap();
        let mut taken = HashSet::new();
        taken.insert("10.0.0.1".parse().unwrap());
        assert_eq!(
            free_address(small, &taken),
            Some("10.0.0.2".parse().unwrap())
        );
        taken.insert("10.0.0.2".parse().unwrap());
        assert_eq!(free_address(small, &taken), None);
    }

    #[test]
    fn node_ports_are_given_and_refused() {
        let mut taken = Taken {
            addresses: HashSet::new(),
            ports: [(30000, "TCP".to_owned())].into(),
        };
        let mut service = json!({"spec": {"ports": [
            {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80, "nodePort": 30001}
        ]}});
        allocate_node_ports((30000, 30002), &mut service, None, &mut taken, "NodePort").unwrap();
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 30002);
        assert_eq!(service["spec"]["ports"][1]["nodePort"], 30002);
        let mut service =
            json!({"spec": {"ports": [{"port": 1, "nodePort": 30000, "protocol": "TCP"}]}});
        let error = allocate_node_ports((30000, 30002), &mut service, None, &mut taken, "NodePort")
            .unwrap_err();
        assert_eq!(error.detail, "provided port is already allocated");
        assert!(
            allocate_node_ports(
                (30000, 30002),
                &mut service.clone(),
                Some(&service),
                &mut taken,
                "NodePort"
            )
            .is_ok()
        );
    }
}
