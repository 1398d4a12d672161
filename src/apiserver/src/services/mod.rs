//! Allocation of cluster IPs and node ports, and the service `kubernetes`.
//!
//! A write reserves its addresses and ports in the store ([`ledger`]) before the service is stored,
//! and releases them if it fails. Several servers on one store therefore never allocate the same
//! value. Free values are found in the cache; the reservation confirms them.

mod families;
mod ledger;
mod repair;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rkube_api::selector::FieldSelector;
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use rkube_store::StoreError;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::cache::Filter;
use crate::resources::Resource;
use crate::store_error::store_error;

use families::{family_of, texts};
pub use ledger::Reservation;
use ledger::{Kind, Owner, own_address};
pub use repair::run as repair;

/// The reason for which an allocation failed.
enum Refusal {
    Fields(Vec<FieldError>),
    Store(StoreError),
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Allocates the addresses and ports that a service needs and does not specify, and reserves those
/// it specifies. Does nothing for other resources.
///
/// # Errors
///
/// 422 if a specified value is invalid or in use.
pub async fn allocate(
    backend: &Backend,
    resource: &Resource,
    service: &mut Object,
    old: Option<&Object>,
    dry_run: bool,
) -> Result<Reservation, Status> {
    if !resource.is("", "services") || service["spec"]["type"] == "ExternalName" {
        return Ok(Reservation::default());
    }
    let mut allocation = Allocation {
        backend,
        owner: Owner::of(service),
        reservation: Reservation::new(backend.store.clone()),
        dry_run,
    };
    // Boxed because this future is part of every write, but few writes are of services.
    let result = Box::pin(allocation.fill(service, old)).await;
    let reservation = allocation.reservation;
    let Err(refusal) = result else {
        return Ok(reservation);
    };
    reservation.rollback().await;
    let name = meta::name(service);
    Err(match refusal {
        Refusal::Fields(errors) => Status::invalid(&resource.group_kind(), name, errors),
        Refusal::Store(error) => store_error(resource, name, error),
    })
}

/// Releases what `old` used and `new` does not, after the write has been stored. Does nothing for
/// resources other than services.
pub async fn release(backend: &Backend, resource: &Resource, old: &Object, new: Option<&Object>) {
    if resource.is("", "services") {
        ledger::release(backend, old, new).await;
    }
}

/// The allocation for one write.
struct Allocation<'s> {
    backend: &'s Backend,
    owner: Owner,
    reservation: Reservation,
    dry_run: bool,
}

impl Allocation<'_> {
    async fn fill(&mut self, service: &mut Object, old: Option<&Object>) -> Result<(), Refusal> {
        if service["spec"]["clusterIP"] == "None" && !service["spec"]["clusterIPs"].is_array() {
            service["spec"]["clusterIPs"] = json!(["None"]);
        }
        if !rkube_strategy::cluster_ip_errors(service).is_empty() {
            // Validation refuses it, and says why.
            return Ok(());
        }
        let configured: Vec<&'static str> = self
            .backend
            .config
            .service_cidrs
            .iter()
            .map(|range| family_of(range.addr()))
            .collect();
        families::complete(service, old, &configured).map_err(Refusal::Fields)?;
        self.addresses(service, old).await?;
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
        if matches!(kind, "NodePort" | "LoadBalancer") {
            let kind = kind.to_owned();
            self.node_ports(service, old, &kind).await?;
        }
        Ok(())
    }

    /// Returns whether a value is in use according to the cache. An address counts as used also if
    /// a service has it but its entry was deleted.
    fn is_taken(&self, kind: Kind, id: &str) -> bool {
        if kind.cache(self.backend).get("", id).is_some() {
            return true;
        }
        let Ok(selector) = FieldSelector::parse(&format!("spec.clusterIP={id}")) else {
            return false;
        };
        let filter = Filter::new(None, None, None, Some(selector));
        let services = self.backend.cache.resource("", "services");
        kind == Kind::Address && !services.list(&filter).is_empty()
    }

    /// Reserves a value that the service specifies. Returns `false` if it is in use.
    async fn reserve(&mut self, kind: Kind, id: &str) -> Result<bool, StoreError> {
        // A value released just before must not appear to be in use.
        self.backend.cache.consistent().await;
        if self.is_taken(kind, id) {
            return Ok(false);
        }
        Ok(self.dry_run || self.reservation.reserve(kind, id, &self.owner).await?)
    }

    /// Reserves the first free candidate.
    async fn reserve_any<C: ToString, I: Iterator<Item = C>>(
        &mut self,
        kind: Kind,
        candidates: impl Fn() -> I,
    ) -> Result<Option<C>, StoreError> {
        for again in [false, true] {
            if again {
                // No candidate appears to be free: retry with an up-to-date cache.
                self.backend.cache.consistent().await;
            }
            for candidate in candidates() {
                let id = candidate.to_string();
                if self.is_taken(kind, &id) {
                    continue;
                }
                if self.dry_run || self.reservation.reserve(kind, &id, &self.owner).await? {
                    return Ok(Some(candidate));
                }
            }
        }
        Ok(None)
    }

    /// Reserves the cluster IPs of a service whose families are complete. Those that it had stay.
    async fn addresses(
        &mut self,
        service: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Refusal> {
        let families: Vec<String> = texts(&service["spec"]["ipFamilies"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut ips: Vec<String> = texts(&service["spec"]["clusterIPs"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        if ips.first().is_some_and(|first| first == "None") {
            return Ok(());
        }
        let had = old.map_or(0, |old| match old["spec"]["type"] == "ExternalName" {
            true => 0,
            false => texts(&old["spec"]["clusterIPs"]).len(),
        });
        for (i, family) in families.iter().enumerate() {
            if i < had && i < ips.len() {
                // An existing address is kept; validation rejects a conflicting change.
                continue;
            }
            match ips.get(i) {
                Some(asked) => self.asked_address(asked, &ips).await?,
                None => {
                    let found = self.free_address(family).await?;
                    ips.push(found.to_string());
                }
            }
        }
        if let Some(first) = ips.first() {
            service["spec"]["clusterIP"] = first.as_str().into();
            service["spec"]["clusterIPs"] = json!(ips);
        }
        Ok(())
    }

    async fn free_address(&mut self, family: &str) -> Result<IpAddr, Refusal> {
        let ranges = ranges(self.backend);
        let of_family = |range: &&IpNet| family_of(range.addr()) == family;
        let found = self
            .reserve_any(Kind::Address, || {
                let ranges = ranges.iter().filter(of_family);
                ranges.flat_map(|range| addresses(*range))
            })
            .await?;
        found.ok_or_else(|| {
            FieldError::internal(
                "spec.clusterIPs",
                "failed to allocate a serviceIP: range is full",
            )
            .into()
        })
    }

    async fn asked_address(&mut self, asked: &str, all: &[String]) -> Result<(), Refusal> {
        let invalid = |why: &str| {
            let detail = format!("failed to allocate IP {asked}: {why}");
            Refusal::from(FieldError::invalid("spec.clusterIPs", json!(all), detail))
        };
        let address: IpAddr = asked
            .parse()
            .map_err(|_| invalid("the provided IP is not valid"))?;
        let usable = |range: &IpNet| {
            range.contains(&address)
                && address != range.network()
                // IPv6 has no broadcast address.
                && (address != range.broadcast() || address.is_ipv6())
        };
        if !ranges(self.backend).iter().any(usable) {
            return Err(invalid(
                "the provided network does not match the current range",
            ));
        }
        if !self.reserve(Kind::Address, &address.to_string()).await? {
            return Err(invalid("provided IP is already allocated"));
        }
        Ok(())
    }

    async fn node_ports(
        &mut self,
        service: &mut Object,
        old: Option<&Object>,
        kind: &str,
    ) -> Result<(), Refusal> {
        let range = self.backend.config.node_ports;
        let had: HashSet<u64> = old
            .and_then(|o| o["spec"]["ports"].as_array())
            .into_iter()
            .flatten()
            .filter_map(|p| p["nodePort"].as_u64())
            .collect();
        let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
        // A number is reserved once per service; ports of different protocols may share it.
        let mut mine: HashSet<(u64, String)> = HashSet::new();
        let mut numbers: HashSet<u64> = HashSet::new();
        // Specified ports are reserved first, so that they are not allocated to other ports.
        for i in 0..count {
            let port = &service["spec"]["ports"][i];
            let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) else {
                continue;
            };
            mine.insert((number, protocol(port)));
            if !numbers.insert(number) || had.contains(&number) {
                continue;
            }
            let field = format!("spec.ports[{i}].nodePort");
            if number < range.0.into() || number > range.1.into() {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.0, range.1
                );
                return Err(FieldError::invalid(field, number, detail).into());
            }
            if !self.reserve(Kind::Port, &number.to_string()).await? {
                let detail = "provided port is already allocated";
                return Err(FieldError::invalid(field, number, detail).into());
            }
        }
        let wanted = kind == "NodePort"
            || service["spec"]["allocateLoadBalancerNodePorts"]
                .as_bool()
                .unwrap_or(true);
        for i in 0..if wanted { count } else { 0 } {
            let ports = &service["spec"]["ports"];
            if ports[i]["nodePort"].as_u64().is_some_and(|n| n != 0) {
                continue;
            }
            let protocol = protocol(&ports[i]);
            // The same port under another protocol shares its node port, as DNS services (TCP and
            // UDP) expect.
            let twin = (0..count).find_map(|j| {
                let same = ports[j]["port"] == ports[i]["port"] && j != i;
                let number = ports[j]["nodePort"].as_u64().filter(|n| *n != 0)?;
                (same && !mine.contains(&(number, protocol.clone()))).then_some(number)
            });
            let number = match twin {
                Some(number) => number,
                None => {
                    self.free_port(&numbers, &format!("spec.ports[{i}].nodePort"))
                        .await?
                }
            };
            mine.insert((number, protocol));
            numbers.insert(number);
            service["spec"]["ports"][i]["nodePort"] = number.into();
        }
        if kind == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local" {
            self.health_check(service, old, &numbers).await?;
        }
        Ok(())
    }

    async fn health_check(
        &mut self,
        service: &mut Object,
        old: Option<&Object>,
        numbers: &HashSet<u64>,
    ) -> Result<(), Refusal> {
        const FIELD: &str = "spec.healthCheckNodePort";
        let given = |o: &Object| o["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        let asked = given(service);
        if asked == 0 {
            let number = self.free_port(numbers, FIELD).await?;
            service["spec"]["healthCheckNodePort"] = number.into();
        } else if asked != old.map_or(0, given)
            && (numbers.contains(&asked) || !self.reserve(Kind::Port, &asked.to_string()).await?)
        {
            let detail = format!(
                "failed to allocate requested HealthCheck NodePort {asked}: provided port is already allocated"
            );
            return Err(FieldError::internal(FIELD, detail).into());
        }
        Ok(())
    }

    async fn free_port(&mut self, mine: &HashSet<u64>, field: &str) -> Result<u64, Refusal> {
        let range = self.backend.config.node_ports;
        let candidates = || ports(range).filter(|n| !mine.contains(n));
        let found = self.reserve_any(Kind::Port, candidates).await?;
        found.ok_or_else(|| FieldError::internal(field, "range is full").into())
    }
}

/// Returns the ranges of cluster IPs: the server's own, and those of other ServiceCIDRs that are
/// neither deleted nor reported as not ready.
fn ranges(backend: &Backend) -> Vec<IpNet> {
    let own = &backend.config.service_cidrs;
    let cidrs = backend.cache.resource("networking.k8s.io", "servicecidrs");
    let mut ranges = own.clone();
    for cidr in cidrs.list(&Filter::default()) {
        let cidr = cidr.tree();
        if !is_ready(&cidr) {
            continue;
        }
        let texts = cidr["spec"]["cidrs"].as_array().into_iter().flatten();
        let parsed = texts.filter_map(|text| text.as_str()?.parse().ok());
        let others = |range: &IpNet| own.iter().all(|own| own.trunc() != range.trunc());
        ranges.extend(parsed.filter(others));
    }
    ranges
}

/// Returns whether addresses of a ServiceCIDR may be allocated. One that no controller has seen yet
/// counts as ready.
fn is_ready(cidr: &Object) -> bool {
    let mut conditions = cidr["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    cidr["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .find(|condition| condition["type"] == "Ready")
            .is_none_or(|ready| ready["status"] == "True")
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

/// Returns every number from `first` to `last`, starting at a random one. The lower `reserved`
/// numbers, which are preferred for static assignment, come last.
fn scattered(first: u32, last: u32, reserved: u32) -> impl Iterator<Item = u32> {
    let part = |from: u32, to: u32| {
        let count = (u64::from(to) + 1).saturating_sub(from.into());
        let start = rand::random_range(0..count.max(1));
        (0..count).map(move |i| from + ((start + i) % count) as u32)
    };
    let upper = first.saturating_add(reserved);
    let lower = upper.checked_sub(1).filter(|_| reserved > 0);
    part(upper, last).chain(
        lower
            .into_iter()
            .flat_map(move |to| part(first, to.min(last))),
    )
}

/// Returns the size of a range's static part, computed as upstream does.
fn reserved(size: u32, step: u32, most: u32) -> u32 {
    if size <= 16 {
        0
    } else {
        (size / step).clamp(16, most)
    }
}

/// Returns the addresses of a range in the order in which they are tried.
fn addresses(range: IpNet) -> impl Iterator<Item = IpAddr> {
    // The number of the last usable address: of IPv4, not the broadcast address. Of a larger range
    // of IPv6, the first part is used.
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u32.checked_shl(bits).unwrap_or(u32::MAX);
    let last = match range {
        IpNet::V4(_) => all.saturating_sub(2),
        IpNet::V6(_) => all - 1,
    };
    let at = move |number: u32| -> IpAddr {
        match range.network() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).saturating_add(number)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(number)).into(),
        }
    };
    let static_part = reserved(all, 16, 256);
    (last > 0)
        .then(|| scattered(1, last, static_part))
        .into_iter()
        .flatten()
        .map(at)
}

/// Returns the ports of a range in the order in which they are tried.
fn ports((first, last): (u16, u16)) -> impl Iterator<Item = u64> {
    let (first, last) = (u32::from(first), u32::from(last));
    let static_part = reserved((last + 1).saturating_sub(first), 32, 128);
    (first <= last)
        .then(|| scattered(first, last, static_part))
        .into_iter()
        .flatten()
        .map(u64::from)
}

/// Returns the service `kubernetes` and its endpoints, through which pods reach this server.
pub fn kubernetes_service(backend: &Backend) -> Vec<(&'static str, &'static str, Object)> {
    let first = own_address(backend);
    let family = family_of(first);
    let first = first.to_string();
    let (ip, port) = (
        backend.config.advertise_ip.to_string(),
        backend.config.advertise_port,
    );
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": first, "clusterIPs": [first], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
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
        "addressType": family,
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
    fn ranges_that_go_are_not_ready() {
        let ready = |value: Value| is_ready(&serde_json::from_value(value).unwrap());
        let with = |status: &str| json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(ready(json!({"metadata": {}})) && ready(with("True")));
        assert!(!ready(with("False")));
        assert!(!ready(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
        ));
    }

    #[test]
    fn addresses_come_from_the_upper_part_first() {
        let range: IpNet = "10.96.0.0/24".parse().unwrap();
        let all: Vec<IpAddr> = addresses(range).collect();
        assert_eq!(all.len(), 254);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 254);
        let low = |a: &IpAddr| matches!(a, IpAddr::V4(a) if a.octets()[3] <= 16);
        assert!(!all[..238].iter().any(low) && all[238..].iter().all(low));
        let of = |range: &str| addresses(range.parse().unwrap()).count();
        assert_eq!(
            (of("10.0.0.0/30"), of("10.0.0.0/31"), of("10.0.0.0/32")),
            (2, 0, 0)
        );
        assert_eq!(of("10.0.0.0/16"), 65534);
        assert_eq!((of("fd00::/112"), of("fd00::/128")), (65535, 0));
    }

    #[test]
    fn ports_come_from_the_upper_part_first() {
        let all: Vec<u64> = ports((30000, 32767)).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2768);
        assert!(all[..2682].iter().all(|p| *p >= 30086) && all[2682..].iter().all(|p| *p < 30086));
        assert_eq!(ports((5, 5)).collect::<Vec<_>>(), [5]);
        assert_eq!(ports((6, 5)).count(), 0);
    }
}
