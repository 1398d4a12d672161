//! Reservations of cluster IPs and node ports: one store entry for each that a service uses.
//!
//! Creating an entry fails if it exists, so two writers cannot reserve the same value, even on
//! different servers.
//!
//! The entry of an address is its `IPAddress` object. Entries of node ports are not served by the
//! API. Upstream instead keeps one bitmap of all node ports, on which all writers would have to
//! serialize.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::{Expect, KeyValue, Store, StoreError};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::cache::ResourceCache;

/// The value of [`MANAGED_BY`] in `IPAddress` objects of this allocator.
pub const MANAGER: &str = "ipallocator.k8s.io";
/// The label that names the component that manages an `IPAddress`.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The label with the IP family of an `IPAddress`.
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The kind of a reserved value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A cluster IP.
    Address,
    /// A node port; one reservation covers all protocols.
    Port,
}

/// The service for which a value is reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
}

impl Owner {
    /// Returns the identity of a service object.
    pub fn of(service: &Object) -> Self {
        Self {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
        }
    }

    /// Returns the owner named in an entry; `None` if the entry does not belong to a service.
    pub fn named_by(entry: &Object) -> Option<Self> {
        let parent = &entry["spec"]["parentRef"];
        let text = |key: &str| parent[key].as_str().unwrap_or_default();
        (text("group").is_empty() && text("resource") == "services").then(|| Self {
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
        })
    }
}

impl Kind {
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Address => ("networking.k8s.io", "ipaddresses"),
            Self::Port => ("", "servicenodeports"),
        }
    }

    /// Returns the store key of the entry for `id`.
    pub fn key(self, id: &str) -> String {
        let (group, plural) = self.place();
        format!(
            "/registry/{}/{id}",
            crate::cache::resource_key(group, plural)
        )
    }

    /// Returns the cache of the entries of this kind.
    pub fn cache(self, backend: &Backend) -> Arc<ResourceCache> {
        let (group, plural) = self.place();
        backend.cache.resource(group, plural)
    }

    /// Returns whether this allocator manages an entry. Users may create `IPAddress` objects
    /// themselves.
    pub fn is_managed(self, entry: &Object) -> bool {
        self == Self::Port || entry["metadata"]["labels"][MANAGED_BY] == MANAGER
    }

    /// Returns whether an entry is complete, that is, has all labels that the allocator sets.
    pub fn is_whole(self, entry: &Object) -> bool {
        self == Self::Port
            || self.is_managed(entry)
                && entry["metadata"]["labels"][FAMILY] == label(meta::name(entry))
    }

    /// Returns the JSON of a new entry.
    pub fn entry(self, id: &str, owner: &Owner) -> Bytes {
        let mut entry = json!({
            "metadata": {"name": id, "creationTimestamp": meta::rfc3339(Timestamp::now())},
            "spec": {"parentRef": {
                "resource": "services", "namespace": owner.namespace, "name": owner.name,
            }},
        });
        if self == Self::Address {
            entry["apiVersion"] = "networking.k8s.io/v1".into();
            entry["kind"] = "IPAddress".into();
            entry["metadata"]["uid"] = crate::uid::new_uid().into();
            entry["metadata"]["labels"] = json!({FAMILY: label(id), MANAGED_BY: MANAGER});
        }
        entry.to_string().into()
    }
}

/// Returns the label of an address's family.
fn label(id: &str) -> &'static str {
    let ip = id.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    super::families::family_of(ip)
}

/// Returns the values that a service uses and must have reserved.
pub fn reserved_values(service: &Object) -> Vec<(Kind, String)> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
    let mut all: Vec<(Kind, String)> = addresses
        .chain([&spec["clusterIP"]])
        .filter_map(|a| a.as_str()?.parse::<std::net::IpAddr>().ok())
        .map(|address| (Kind::Address, address.to_string()))
        .collect();
    let ports = spec["ports"].as_array().into_iter().flatten();
    all.extend(
        ports
            .map(|p| &p["nodePort"])
            .chain([&spec["healthCheckNodePort"]])
            .filter_map(Value::as_u64)
            .filter(|number| *number != 0)
            .map(|number| (Kind::Port, number.to_string())),
    );
    all.sort();
    all.dedup();
    all
}

/// The reservations of a write that has not succeeded yet. They are released when the write fails,
/// and also on drop, if its request was cancelled.
#[derive(Default)]
pub struct Reservation {
    store: Option<Arc<dyn Store>>,
    entries: Vec<Arc<KeyValue>>,
}

impl Reservation {
    /// Creates an empty set of reservations in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store: Some(store),
            entries: Vec::new(),
        }
    }

    /// Reserves a value. Returns `false` if it is already reserved.
    pub async fn reserve(
        &mut self,
        kind: Kind,
        id: &str,
        owner: &Owner,
    ) -> Result<bool, StoreError> {
        let Some(store) = &self.store else {
            return Ok(true);
        };
        let entry = kind.entry(id, owner);
        match store.put(&kind.key(id), entry, Expect::Absent).await {
            Ok(made) => {
                self.entries.push(made);
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs the write for which the reservations were made. Once it has started, the reservations
    /// are kept, because it may take effect even if its result is lost. They become releasable only
    /// if the write certainly failed.
    pub async fn commit_with<T>(
        &mut self,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let entries = std::mem::take(&mut self.entries);
        let result = write.await;
        if let Err(StoreError::Conflict { .. } | StoreError::TooLarge { .. }) = result {
            self.entries = entries;
        }
        result
    }

    /// Releases the reservations that were not committed.
    pub async fn rollback(mut self) {
        let entries = std::mem::take(&mut self.entries);
        if let Some(store) = &self.store {
            give_back(store, entries).await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if let (Some(store), false) = (self.store.take(), entries.is_empty())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { give_back(&store, entries).await });
        }
    }
}

/// Deletes entries that have not changed since their creation. The repair loop removes those that
/// cannot be deleted now.
async fn give_back(store: &Arc<dyn Store>, entries: Vec<Arc<KeyValue>>) {
    let removals = entries.iter().map(|entry| async move {
        let expect = Expect::Revision(entry.mod_revision);
        if let Err(error) = store.delete(&entry.key, expect).await {
            tracing::warn!(%error, key = &*entry.key, "a reservation was not given back");
        }
    });
    futures::future::join_all(removals).await;
}

/// Releases the reservations that `old` has and `new` no longer has.
pub async fn release(backend: &Backend, old: &Object, new: Option<&Object>) {
    let kept = new.map(reserved_values).unwrap_or_default();
    let owner = Owner::of(old);
    let given = reserved_values(old)
        .into_iter()
        .filter(|id| !kept.contains(id));
    let removals = given.map(|(kind, id)| {
        let owner = &owner;
        async move {
            if is_own(backend, kind, &id) {
                return;
            }
            let key = kind.key(&id);
            let entry = match backend.store.get(&key).await {
                Ok((Some(entry), _)) => entry,
                Ok((None, _)) => return,
                Err(error) => {
                    tracing::warn!(%error, key, "a reservation was not given back");
                    return;
                }
            };
            let named = parse(&entry).ok().as_ref().and_then(Owner::named_by);
            if named.as_ref() == Some(owner) {
                give_back(&backend.store, vec![entry]).await;
            }
        }
    });
    futures::future::join_all(removals).await;
}

/// Returns the cluster IP of the service `kubernetes`, of the cluster's first family.
pub fn own_address(backend: &Backend) -> IpAddr {
    match backend.config.first_service_cidr().network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + 1).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) + 1).into(),
    }
}

/// Returns whether this is the cluster IP of the service `kubernetes`, which is recreated whenever
/// it is deleted.
pub fn is_own(backend: &Backend, kind: Kind, id: &str) -> bool {
    kind == Kind::Address && id == own_address(backend).to_string()
}

/// Parses a stored entry.
pub fn parse(entry: &KeyValue) -> Result<Object, Status> {
    serde_json::from_slice(&entry.value).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_addresses_and_ports() {
        let service = json!({"spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "healthCheckNodePort": 32000,
            "ports": [{"nodePort": 30053, "protocol": "TCP"}, {"nodePort": 30053, "protocol": "UDP"}, {"port": 1}],
        }});
        let address = |a: &str| (Kind::Address, a.to_owned());
        let port = |p: &str| (Kind::Port, p.to_owned());
        assert_eq!(
            reserved_values(&service),
            [address("10.0.0.1"), port("30053"), port("32000")]
        );
        assert_eq!(reserved_values(&json!({"spec": {"clusterIP": "None"}})), []);
        assert_eq!(
            reserved_values(&json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1"}})),
            []
        );
    }

    #[test]
    fn entries_name_their_service() {
        let owner = Owner {
            namespace: "n".into(),
            name: "s".into(),
        };
        for kind in [Kind::Address, Kind::Port] {
            let entry: Object = serde_json::from_slice(&kind.entry("x", &owner)).unwrap();
            assert_eq!(Owner::named_by(&entry).as_ref(), Some(&owner));
            assert!(kind.is_whole(&entry));
        }
        let gateway =
            json!({"spec": {"parentRef": {"group": "g", "resource": "services", "name": "s"}}});
        assert_eq!(Owner::named_by(&gateway), None);
        assert!(!Kind::Address.is_managed(&gateway));
    }
}
