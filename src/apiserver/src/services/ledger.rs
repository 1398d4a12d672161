//! Reservations: one entry of the store for each address and node port that a
//! service has. Making an entry that must not be there yet is what keeps two
//! writers apart, whichever server they write through.
//!
//! An address's entry is its `IPAddress` object. A node port's is not served;
//! upstream keeps a bitmap of them, which all writers would have to follow
//! each other to change.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::{Expect, KeyValue, Store, StoreError};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::cache::ResourceCache;

/// Which component an `IPAddress` says has made it.
pub const MANAGER: &str = "ipallocator.k8s.io";
/// Names that component.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Names the address's family.
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// What can be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A cluster IP.
    Address,
    /// A node port, whatever its protocol.
    Port,
}

/// The service that something is reserved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Owner {
    /// The service itself.
    pub fn of(service: &Object) -> Self {
        Self {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
        }
    }

    /// Whom an entry is for; nothing if it is not for a service.
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

    /// Where the entries are kept.
    pub fn key(self, id: &str) -> String {
        let (group, plural) = self.place();
        format!(
            "/registry/{}/{id}",
            crate::cache::resource_key(group, plural)
        )
    }

    /// The entries that this server has seen.
    pub fn seen(self, backend: &Backend) -> Arc<ResourceCache> {
        let (group, plural) = self.place();
        backend.cache.resource(group, plural)
    }

    /// Whether an entry is the allocator's, and not somebody's own `IPAddress`.
    pub fn is_managed(self, entry: &Object) -> bool {
        self == Self::Port || entry["metadata"]["labels"][MANAGED_BY] == MANAGER
    }

    /// Whether an entry looks as one that is made here.
    pub fn is_whole(self, entry: &Object) -> bool {
        self == Self::Port
            || self.is_managed(entry) && entry["metadata"]["labels"][FAMILY] == "IPv4"
    }

    /// A new entry.
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
            entry["metadata"]["labels"] = json!({FAMILY: "IPv4", MANAGED_BY: MANAGER});
        }
        entry.to_string().into()
    }
}

/// What a service has that must be reserved.
pub fn of(service: &Object) -> Vec<(Kind, String)> {
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

/// Reservations of a write that has not succeeded yet. They are given back when
/// it fails, also when nobody waits for it any more.
#[derive(Default)]
pub struct Reservation {
    store: Option<Arc<dyn Store>>,
    entries: Vec<Arc<KeyValue>>,
}

impl Reservation {
    /// Nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store: Some(store),
            entries: Vec::new(),
        }
    }

    /// Reserves something; `false` if somebody has it.
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

    /// Makes the write that the reservations are for. From its beginning they
    /// stand, as it may take effect without anybody hearing of it; only where
    /// it certainly has not, they can be given back.
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

    /// Gives back what is still reserved.
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

/// Removes entries as they were made. What cannot be removed, the repair finds.
async fn give_back(store: &Arc<dyn Store>, entries: Vec<Arc<KeyValue>>) {
    let removals = entries.iter().map(|entry| async move {
        let expect = Expect::Revision(entry.mod_revision);
        if let Err(error) = store.delete(&entry.key, expect).await {
            tracing::warn!(%error, key = &*entry.key, "a reservation was not given back");
        }
    });
    futures::future::join_all(removals).await;
}

/// Gives back what a service had and has no more.
pub async fn release(backend: &Backend, old: &Object, new: Option<&Object>) {
    let kept = new.map(of).unwrap_or_default();
    let owner = Owner::of(old);
    let given = of(old).into_iter().filter(|id| !kept.contains(id));
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

/// The address of the service that leads to this server.
pub fn own_address(backend: &Backend) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(backend.config.service_cidr.network()) + 1)
}

/// Whether this is the address of the service that leads to this backend, which
/// is made anew whenever it is deleted.
pub fn is_own(backend: &Backend, kind: Kind, id: &str) -> bool {
    kind == Kind::Address && id == own_address(backend).to_string()
}

/// A stored entry as an object.
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
            of(&service),
            [address("10.0.0.1"), port("30053"), port("32000")]
        );
        assert_eq!(of(&json!({"spec": {"clusterIP": "None"}})), []);
        assert_eq!(
            of(&json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1"}})),
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
