//! What becomes of a service's address, without I/O.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Service};

/// Finalizer of services that have an address, upstream's.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Annotation with a fixed address; takes precedence over `spec.loadBalancerIP`.
const ADDRESS: &str = "rkube.dev/load-balancer-ip";

/// What to do about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The service is as it should be, or is not this controller's.
    Nothing,
    /// Give this address to the service, with the finalizer.
    Assign(Ipv4Addr),
    /// Take the address and the finalizer back.
    Release,
    /// The service cannot have the address that it asks for, or any.
    Refuse {
        /// Whether it has to give its present address back.
        release: bool,
        /// The reason.
        why: String,
    },
}

/// Returns the addresses in the service's status.
fn published(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let status = service.status.as_ref();
    let status = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    let ips = ingress.into_iter().flatten();
    ips.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

/// Returns the first IPv4 address in the service's status.
pub(super) fn address_of(service: &Service) -> Option<Ipv4Addr> {
    published(service).find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
}

/// Whether the service is to have an address. Services of a load balancer class belong to the
/// implementation of that class.
fn is_wanted(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

/// Whether the service is to have an address and has none.
pub(super) fn waits(service: &Service) -> bool {
    is_wanted(service) && published(service).next().is_none()
}

fn is_finalized(service: &Service) -> bool {
    let finalizers = service.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Returns the address that the service asks for.
fn wish(service: &Service) -> Result<Option<Ipv4Addr>, String> {
    let annotations = service.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|annotations| annotations.get(ADDRESS));
    let spec = service.spec.as_ref();
    let field = spec.and_then(|spec| spec.load_balancer_ip.as_ref());
    match annotation.or(field).map(|text| text.trim()) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{text:?} is not an IPv4 address")),
    }
}

/// Decides about one of the services. `range` are the addresses to assign; without it, those that
/// were assigned before from `nodes`, the range of the nodes, are taken back. `hosts` are the nodes'
/// own addresses.
pub(super) fn decide(
    service: &Service,
    all: &[Arc<Service>],
    range: Option<Ipv4Net>,
    nodes: Ipv4Net,
    hosts: &BTreeSet<Ipv4Addr>,
) -> Decision {
    let (now, finalized) = (address_of(service), is_finalized(service));
    if !is_wanted(service) {
        // As upstream does it, whatever the address is: a tunnel may have written another one, and a
        // change of the type removes it.
        let spec = service.spec.as_ref();
        let classless = spec.is_none_or(|spec| spec.load_balancer_class.is_none());
        let own = range.unwrap_or(nodes);
        return if finalized && (classless || now.is_some_and(|ip| own.contains(&ip))) {
            Decision::Release
        } else {
            Decision::Nothing
        };
    }
    let Some(range) = range else {
        // Others use the same finalizer, for addresses of their own, and set it before they have
        // one. A loopback address is a tunnel's, which writes it again.
        let is_ours = finalized && now.is_some_and(|ip| ip.is_loopback() || nodes.contains(&ip));
        return match is_ours {
            true => Decision::Release,
            false => Decision::Nothing,
        };
    };
    // A tunnel has taken the service over, on a machine that cannot reach the range.
    if now.is_some_and(|ip| ip.is_loopback()) {
        return Decision::Nothing;
    }
    let refuse = |why: String| Decision::Refuse {
        release: now.is_some() || finalized,
        why,
    };
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    if families.is_some_and(|f| !f.is_empty() && f.iter().all(|family| family != "IPv4")) {
        let why = "the service has IPv6 addresses only, and the cluster assigns IPv4 addresses only to load balancers";
        return refuse(why.into());
    }
    let wish = match wish(service) {
        Ok(wish) => wish,
        Err(why) => return refuse(why),
    };
    let taken = taken(service, all, range, hosts);
    let address = match wish {
        Some(ip) if !usable(ip, range) => {
            return refuse(format!(
                "{ip} is not one of the addresses for load balancers ({range})"
            ));
        }
        Some(ip) if taken.contains(&ip) => return refuse(format!("{ip} is taken")),
        Some(ip) => ip,
        None => {
            let keeps = now.filter(|ip| usable(*ip, range) && !taken.contains(ip));
            let free = || {
                range
                    .hosts()
                    .find(|ip| usable(*ip, range) && !taken.contains(ip))
            };
            match keeps.or_else(free) {
                Some(ip) => ip,
                None => return refuse(format!("{range} has no address left")),
            }
        }
    };
    let alone = published(service).eq([IpAddr::V4(address)]);
    if alone && finalized {
        Decision::Nothing
    } else {
        Decision::Assign(address)
    }
}

/// Returns the nodes' own IPv4 addresses.
pub(super) fn addresses_of(nodes: &[Arc<Node>]) -> BTreeSet<Ipv4Addr> {
    let statuses = nodes.iter().filter_map(|node| node.status.as_ref());
    let addresses = statuses.flat_map(|status| status.addresses.iter().flatten());
    addresses.filter_map(|a| a.address.parse().ok()).collect()
}

/// Whether an address of the range can be a load balancer's. The last one is the broadcast address
/// of the nodes' network, of which the range is the upper half.
fn usable(ip: Ipv4Addr, range: Ipv4Net) -> bool {
    range.contains(&ip) && ip != range.network() && ip != range.broadcast()
}

/// Returns the addresses of nodes and of other services. Of two with the same one, the older has it: addresses of
/// a restored snapshot, or written by hand, may be there twice.
fn taken(
    service: &Service,
    all: &[Arc<Service>],
    range: Ipv4Net,
    hosts: &BTreeSet<Ipv4Addr>,
) -> BTreeSet<Ipv4Addr> {
    let rank = |service: &Service| {
        let meta = &service.metadata;
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created, meta.namespace.clone(), meta.name.clone())
    };
    let (own, own_rank) = (address_of(service), rank(service));
    let others = all.iter().filter(|other| {
        (&other.metadata.namespace, &other.metadata.name)
            != (&service.metadata.namespace, &service.metadata.name)
    });
    let mut taken = hosts.clone();
    for other in others {
        for ip in published(other) {
            let IpAddr::V4(ip) = ip else { continue };
            let yields = own == Some(ip) && is_wanted(other) && own_rank < rank(other);
            if range.contains(&ip) && !yields {
                taken.insert(ip);
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NODES: &str = "192.168.58.0/24";
    const RANGE: &str = "192.168.58.128/25";

    fn service(name: &str, change: Value) -> Arc<Service> {
        let mut object = json!({
            "metadata": {"namespace": "n", "name": name,
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer"},
        });
        fn merge(to: &mut Value, from: Value) {
            match (to, from) {
                (Value::Object(to), Value::Object(from)) => {
                    for (key, value) in from {
                        merge(to.entry(key).or_insert(Value::Null), value);
                    }
                }
                (to, from) => *to = from,
            }
        }
        merge(&mut object, change);
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn at(ip: &str) -> Value {
        json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}})
    }

    fn held(ip: &str) -> Value {
        let mut value = at(ip);
        value["metadata"]["finalizers"] = json!([FINALIZER]);
        value
    }

    fn decided(service: &Arc<Service>, others: &[Arc<Service>], on: bool) -> Decision {
        let mut all = others.to_vec();
        all.push(service.clone());
        let range = on.then(|| RANGE.parse().unwrap());
        let hosts = BTreeSet::from([Ipv4Addr::new(192, 168, 58, 254)]);
        decide(service, &all, range, NODES.parse().unwrap(), &hosts)
    }

    fn assign(last: u8) -> Decision {
        Decision::Assign(Ipv4Addr::new(192, 168, 58, last))
    }

    #[test]
    fn services_get_and_keep_addresses() {
        let other = [service("other", held("192.168.58.129"))];
        let mut foreign = held("192.168.58.140");
        foreign["spec"] = json!({"loadBalancerClass": "x.example/lb"});
        let mut gone = held("192.168.58.140");
        gone["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        for (change, expected) in [
            (json!({}), assign(130)),
            (held("192.168.58.140"), Decision::Nothing),
            // What a tunnel had assigned becomes the controller's.
            (at("192.168.58.140"), assign(140)),
            // Addresses of another range, as after a change of the network, are replaced.
            (held("192.168.59.140"), assign(130)),
            (held("192.168.58.128"), assign(130)),
            (held("192.168.58.255"), assign(130)),
            (at("127.66.58.1"), Decision::Nothing),
            (
                json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}),
                assign(130),
            ),
            (json!({"spec": {"type": "ClusterIP"}}), Decision::Nothing),
            (
                json!({"spec": {"loadBalancerClass": "x.example/lb"}}),
                Decision::Nothing,
            ),
            (foreign, Decision::Release),
            (gone, Decision::Release),
            (
                json!({"metadata": {"finalizers": [FINALIZER]}, "spec": {"type": "NodePort"}}),
                Decision::Release,
            ),
            (
                json!({"metadata": {"finalizers": [FINALIZER]}, "spec": {"loadBalancerClass": "x.example/lb"}}),
                Decision::Nothing,
            ),
        ] {
            let service = service("web", change.clone());
            assert_eq!(decided(&service, &other, true), expected, "{change}");
        }
    }

    #[test]
    fn wishes_are_heeded_or_refused() {
        let other = [service("other", held("192.168.58.150"))];
        let refuse = |release, why: &str| Decision::Refuse {
            release,
            why: why.into(),
        };
        let field = |ip: &str| json!({"spec": {"loadBalancerIP": ip}});
        let mut both = field("192.168.58.150");
        both["metadata"]["annotations"] = json!({ADDRESS: "192.168.58.151"});
        let mut moved = held("192.168.58.129");
        moved["spec"] = json!({"loadBalancerIP": "192.168.58.150"});
        let out = "is not one of the addresses for load balancers (192.168.58.128/25)";
        for (change, expected) in [
            (field("192.168.58.151"), assign(151)),
            (both, assign(151)),
            (
                field("192.168.58.150"),
                refuse(false, "192.168.58.150 is taken"),
            ),
            (moved, refuse(true, "192.168.58.150 is taken")),
            (
                field("192.168.58.254"),
                refuse(false, "192.168.58.254 is taken"),
            ),
            (
                field("192.168.58.2"),
                refuse(false, &format!("192.168.58.2 {out}")),
            ),
            (
                field("192.168.58.255"),
                refuse(false, &format!("192.168.58.255 {out}")),
            ),
            (
                field("fd00::1"),
                refuse(false, "\"fd00::1\" is not an IPv4 address"),
            ),
        ] {
            let service = service("web", change.clone());
            assert_eq!(decided(&service, &other, true), expected, "{change}");
        }
    }

    #[test]
    fn of_two_with_one_address_the_older_keeps_it() {
        let old = service("old", held("192.168.58.129"));
        let mut later = held("192.168.58.129");
        later["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
        let new = service("new", later);
        let both = [old.clone(), new.clone()];
        assert_eq!(decided(&old, &both, true), Decision::Nothing);
        assert_eq!(decided(&new, &both, true), assign(130));
    }

    #[test]
    fn a_full_range_is_told() {
        let others: Vec<Arc<Service>> = (129..255)
            .map(|last| service(&format!("s{last}"), held(&format!("192.168.58.{last}"))))
            .collect();
        let Decision::Refuse { why, .. } = decided(&service("web", json!({})), &others, true)
        else {
            panic!("it must be refused");
        };
        assert_eq!(why, "192.168.58.128/25 has no address left");
    }

    #[test]
    fn addresses_are_taken_back_when_turned_off() {
        let gone = |mut value: Value| {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            value
        };
        let finalized = || json!({"metadata": {"finalizers": [FINALIZER]}});
        let mut retyped = finalized();
        retyped["spec"] = json!({"type": "ClusterIP"});
        let mut foreign = gone(finalized());
        foreign["spec"] = json!({"loadBalancerClass": "x.example/lb"});
        for (change, expected) in [
            (json!({}), Decision::Nothing),
            (held("192.168.58.140"), Decision::Release),
            (held("127.66.58.1"), Decision::Release),
            // Nothing else would let them go.
            (gone(held("192.168.58.140")), Decision::Release),
            (gone(held("127.66.58.1")), Decision::Release),
            (gone(finalized()), Decision::Release),
            (retyped, Decision::Release),
            (foreign, Decision::Nothing),
            // A tunnel's, and another implementation's.
            (at("192.168.58.140"), Decision::Nothing),
            (held("203.0.113.1"), Decision::Nothing),
            // Another implementation is about to give it one.
            (finalized(), Decision::Nothing),
        ] {
            let service = service("web", change.clone());
            assert_eq!(decided(&service, &[], false), expected, "{change}");
        }
    }
}
