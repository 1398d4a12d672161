//! Rows of services, ingresses, network policies and endpoint slices.

use jiff::Timestamp;
use rkube_strategy::tree::{at, has, int, list, text};
use rkube_strategy::{Object, format_labels, format_selector};
use serde_json::Value;

use crate::cells::{age, join_first, name, or_none, text_or};
use crate::types::{AGE, NAME, Printer, string};

/// Maximum number of list entries shown in a cell; the rest are counted.
const MAX_SHOWN: usize = 3;

/// Printers of networking kinds.
pub(crate) static PRINTERS: &[Printer] = &[
    Printer {
        group: "networking.k8s.io",
        kind: "Ingress",
        columns: &[
            NAME,
            string("Class"),
            string("Hosts"),
            string("Address"),
            string("Ports"),
            AGE,
        ],
        cells: ingress,
    },
    Printer {
        group: "networking.k8s.io",
        kind: "IngressClass",
        columns: &[NAME, string("Controller"), string("Parameters"), AGE],
        cells: ingress_class,
    },
    Printer {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        columns: &[NAME, string("Pod-Selector"), AGE],
        cells: network_policy,
    },
    Printer {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        columns: &[NAME, string("CIDRs"), AGE],
        cells: service_cidr,
    },
    Printer {
        group: "networking.k8s.io",
        kind: "IPAddress",
        columns: &[NAME, string("ParentRef")],
        cells: ip_address,
    },
    Printer {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        columns: &[
            NAME,
            string("AddressType"),
            string("Ports"),
            string("Endpoints"),
            AGE,
        ],
        cells: endpoint_slice,
    },
];

fn network_policy(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        format_selector(at(o, "spec.podSelector")).into(),
        age(o, now),
    ]
}

fn service_cidr(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        texts(list(o, "spec.cidrs")).join(",").into(),
        age(o, now),
    ]
}

fn texts(list: &[Value]) -> Vec<String> {
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Returns the sorted addresses (IP or host name) of a load balancer.
fn load_balancer(o: &Object) -> Vec<String> {
    let mut all: Vec<String> = list(o, "status.loadBalancer.ingress")
        .iter()
        .map(|i| text_or(text(i, "ip"), text(i, "hostname")).to_owned())
        .filter(|s| !s.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the row of a service.
pub(super) fn service(o: &Object, now: Timestamp) -> Vec<Value> {
    let external = texts(list(o, "spec.externalIPs"));
    let outside = match text(o, "spec.type") {
        "LoadBalancer" => {
            let mut all = load_balancer(o);
            all.extend(external);
            text_or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(o, "spec.externalName").to_owned(),
        "ClusterIP" | "NodePort" => text_or(&external.join(","), "<none>").to_owned(),
        _ => "<unknown>".to_owned(),
    };
    let ports: Vec<String> = list(o, "spec.ports")
        .iter()
        .map(|p| {
            let (port, protocol) = (int(p, "port").unwrap_or(0), text(p, "protocol"));
            match int(p, "nodePort").unwrap_or(0) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    let inside = list(o, "spec.clusterIPs")
        .first()
        .and_then(Value::as_str)
        .unwrap_or("<none>");
    vec![
        name(o),
        text(o, "spec.type").into(),
        inside.into(),
        outside.into(),
        or_none(&ports.join(",")),
        age(o, now),
        format_labels(o, "spec.selector").into(),
    ]
}

/// Returns the row of an `Endpoints` object.
pub(super) fn endpoints(o: &Object, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(o, "subsets") {
        let addresses = || list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = int(port, "port").unwrap_or(0);
            all.extend(addresses().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{number}")
                } else {
                    format!("{ip}:{number}")
                }
            }));
        }
    }
    vec![
        name(o),
        join_first(&all, MAX_SHOWN, "<none>").into(),
        age(o, now),
    ]
}

fn endpoint_slice(o: &Object, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(o, "ports")
        .iter()
        .map(|p| match int(p, "port") {
            Some(number) => number.to_string(),
            None => text_or(text(p, "name"), "*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list(o, "endpoints")
        .iter()
        .flat_map(|e| texts(list(e, "addresses")))
        .collect();
    vec![
        name(o),
        text(o, "addressType").into(),
        join_first(&ports, MAX_SHOWN, "<unset>").into(),
        join_first(&addresses, MAX_SHOWN, "<unset>").into(),
        age(o, now),
    ]
}

fn ingress(o: &Object, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = list(o, "spec.rules")
        .iter()
        .map(|r| text(r, "host"))
        .filter(|h| !h.is_empty())
        .map(str::to_owned)
        .collect();
    let ports = if list(o, "spec.tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    let class = if has(o, "spec.ingressClassName") {
        text(o, "spec.ingressClassName")
    } else {
        "<none>"
    };
    vec![
        name(o),
        class.into(),
        join_first(&hosts, MAX_SHOWN, "*").into(),
        load_balancer(o).join(",").into(),
        ports.into(),
        age(o, now),
    ]
}

fn ingress_class(o: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = at(o, "spec.parameters");
    let shown = if parameters.is_null() {
        "<none>".to_owned()
    } else {
        let mut shown = text(parameters, "kind").to_owned();
        let group = text(parameters, "apiGroup");
        if !group.is_empty() {
            shown = format!("{shown}.{group}");
        }
        format!("{shown}/{}", text(parameters, "name"))
    };
    vec![
        name(o),
        text(o, "spec.controller").into(),
        shown.into(),
        age(o, now),
    ]
}

fn ip_address(o: &Object, _now: Timestamp) -> Vec<Value> {
    let parent = at(o, "spec.parentRef");
    let shown = if parent.is_null() {
        "<none>".to_owned()
    } else {
        let mut parts = vec![match text(parent, "group") {
            "" => text(parent, "resource").to_lowercase(),
            group => format!("{}.{group}", text(parent, "resource")).to_lowercase(),
        }];
        let namespace = text(parent, "namespace");
        if !namespace.is_empty() {
            parts.push(namespace.to_owned());
        }
        parts.push(text(parent, "name").to_owned());
        parts.join("/")
    };
    vec![name(o), shown.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn services() {
        let mut s = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"app": "a"}}});
        let cells = service(&s, NOW);
        assert_eq!(
            cells[1..5],
            [
                json!("LoadBalancer"),
                json!("10.0.0.1"),
                json!("<pending>"),
                json!("80:30000/TCP,53/UDP")
            ]
        );
        assert_eq!(cells[6], "app=a");
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        assert_eq!(service(&s, NOW)[3], "1.2.3.4");
        let e = json!({"spec": {"type": "ExternalName", "externalName": "x.y"}});
        assert_eq!(
            service(&e, NOW)[2..5],
            [json!("<none>"), json!("x.y"), json!("<none>")]
        );
    }

    #[test]
    fn endpoint_lists() {
        let e = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}],
            "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(
            endpoints(&e, NOW)[1],
            "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more..."
        );
        assert_eq!(endpoints(&json!({}), NOW)[1], "<none>");
    }
}
