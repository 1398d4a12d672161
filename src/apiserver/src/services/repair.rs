//! Reconciles reservations with services. Handles services from before reservations existed,
//! entries deleted by users, and entries left behind by a server that crashed.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rkube_api::{Object, meta};
use rkube_store::{Expect, StoreError};

use super::ledger::{self, Kind, Owner};
use crate::backend::Backend;
use crate::cache::{CachedObject, Filter};

/// Minimum age of an unused entry before its removal: the time that a write may take from its
/// reservation to storing its service.
const GRACE_PERIOD: SignedDuration = SignedDuration::from_secs(60);
/// As [`GRACE_PERIOD`], for an address reserved by a write of an existing service that lost to
/// another one.
const REVERT_PERIOD: SignedDuration = SignedDuration::from_secs(5);
/// Number of concurrent writes; they share the store's commits.
const MAX_CONCURRENT_WRITES: usize = 64;

/// A correction of one entry.
#[derive(Debug, PartialEq)]
enum Step {
    /// The entry is missing.
    Make(Kind, String, Owner),
    /// The entry names another service or lacks labels.
    Replace(Kind, String, Owner, u64),
    /// No service uses the entry.
    Remove(Kind, String, u64),
}

/// A stored reservation.
struct Entry {
    kind: Kind,
    id: String,
    revision: u64,
    object: Object,
}

/// A service and the values that it uses.
struct Service {
    owner: Owner,
    object: Object,
    has: Vec<(Kind, String)>,
}

/// Compares all reservations and services once, and corrects the differences.
pub async fn run(backend: &Backend, now: Timestamp) -> Result<(), StoreError> {
    backend.cache.consistent().await;
    // Entries are read before services. A service that is created between the two reads is then
    // seen. An entry that is reassigned meanwhile has a new revision, so that its removal fails.
    let entries = entries(backend);
    let services = services(backend);
    let mut steps = steps(&entries, &services, now);
    steps.retain(|step| match step {
        Step::Remove(kind, id, _) => !ledger::is_own(backend, *kind, id),
        _ => true,
    });
    for chunk in steps.chunks(MAX_CONCURRENT_WRITES) {
        let done =
            futures::future::join_all(chunk.iter().map(|step| apply_step(backend, step))).await;
        done.into_iter().collect::<Result<(), StoreError>>()?;
    }
    Ok(())
}

fn entries(backend: &Backend) -> Vec<Entry> {
    let of = |kind: Kind| {
        let all = kind.cache(backend).list(&Filter::default());
        all.into_iter().map(move |entry: Arc<CachedObject>| Entry {
            kind,
            id: entry.name.to_string(),
            revision: entry.revision,
            // Parsed without keeping the tree: entries are only read every few minutes.
            object: entry.parse(),
        })
    };
    of(Kind::Address).chain(of(Kind::Port)).collect()
}

fn services(backend: &Backend) -> Vec<Service> {
    let all = backend
        .cache
        .resource("", "services")
        .list(&Filter::default());
    all.into_iter()
        .map(|service| {
            let object = service.parse();
            Service {
                owner: Owner::of(&object),
                has: ledger::reserved_values(&object),
                object,
            }
        })
        .collect()
}

async fn apply_step(backend: &Backend, step: &Step) -> Result<(), StoreError> {
    let store = &backend.store;
    let result = match step {
        Step::Make(kind, id, owner) => {
            let entry = kind.entry(id, owner);
            store.put(&kind.key(id), entry, Expect::Absent).await.err()
        }
        Step::Replace(kind, id, owner, revision) => {
            let entry = kind.entry(id, owner);
            let expect = Expect::Revision(*revision);
            store.put(&kind.key(id), entry, expect).await.err()
        }
        Step::Remove(kind, id, revision) => {
            tracing::info!(?kind, id, "a reservation without a service is removed");
            let expect = Expect::Revision(*revision);
            store.delete(&kind.key(id), expect).await.err()
        }
    };
    match result {
        // Another writer was faster and had newer data.
        None | Some(StoreError::Conflict { .. }) => Ok(()),
        Some(error) => Err(error),
    }
}

fn steps(entries: &[Entry], services: &[Service], now: Timestamp) -> Vec<Step> {
    let by_id: HashMap<(Kind, &str), &Entry> = entries
        .iter()
        .map(|e| ((e.kind, e.id.as_str()), e))
        .collect();
    let by_owner: HashMap<(&str, &str), &Service> = services
        .iter()
        .map(|s| ((s.owner.namespace.as_str(), s.owner.name.as_str()), s))
        .collect();
    let owner_of = |entry: &Entry| {
        let owner = Owner::named_by(&entry.object)?;
        by_owner.get(&(&*owner.namespace, &*owner.name)).copied()
    };
    let has = |service: &Service, entry: &Entry| {
        let mut held = service.has.iter();
        held.any(|(kind, id)| *kind == entry.kind && *id == entry.id)
    };
    let mut steps = Vec::new();
    let mut made: HashMap<(Kind, &str), &Owner> = HashMap::new();
    for service in services {
        for (kind, id) in &service.has {
            let id_of = (*kind, id.as_str());
            let owner = service.owner.clone();
            let Some(entry) = by_id.get(&id_of) else {
                match made.insert(id_of, &service.owner) {
                    None => steps.push(Step::Make(*kind, id.clone(), owner)),
                    Some(first) => warn_of_two(*kind, id, first, &owner),
                }
                continue;
            };
            match owner_of(entry) {
                Some(named) if named.owner == owner && kind.is_whole(&entry.object) => {}
                Some(named) if named.owner != owner && has(named, entry) => {
                    warn_of_two(*kind, id, &named.owner, &owner);
                }
                _ => steps.push(Step::Replace(*kind, id.clone(), owner, entry.revision)),
            }
        }
    }
    let held: std::collections::HashSet<(Kind, &str)> = services
        .iter()
        .flat_map(|s| s.has.iter().map(|(kind, id)| (*kind, id.as_str())))
        .collect();
    for entry in entries {
        if held.contains(&(entry.kind, entry.id.as_str())) || !entry.kind.is_managed(&entry.object)
        {
            continue;
        }
        let age = meta::parse_time(meta::creation_timestamp(&entry.object))
            .map_or(SignedDuration::MAX, |made| now.duration_since(made));
        let wait = match owner_of(entry) {
            // The service may be about to be stored, or about to need the entry.
            None => GRACE_PERIOD,
            Some(service) if service.object["spec"]["type"] == "ExternalName" => GRACE_PERIOD,
            // The service may be about to be changed, or the entry belongs to the loser of two
            // concurrent creations.
            Some(_) if entry.kind == Kind::Port => GRACE_PERIOD,
            Some(_) => REVERT_PERIOD,
        };
        if age > wait {
            steps.push(Step::Remove(entry.kind, entry.id.clone(), entry.revision));
        }
    }
    steps
}

fn warn_of_two(kind: Kind, id: &str, first: &Owner, second: &Owner) {
    tracing::warn!(
        ?kind,
        id,
        first = format!("{}/{}", first.namespace, first.name),
        second = format!("{}/{}", second.namespace, second.name),
        "two services have the same, one of them should be made anew"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owner(name: &str) -> Owner {
        Owner {
            namespace: "n".into(),
            name: name.into(),
        }
    }

    fn service(name: &str, address: &str, ports: &[u64]) -> Service {
        let ports: Vec<_> = ports.iter().map(|p| json!({"nodePort": p})).collect();
        let object = json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"clusterIP": address, "ports": ports}});
        Service {
            owner: Owner::of(&object),
            has: ledger::reserved_values(&object),
            object,
        }
    }

    fn entry(kind: Kind, id: &str, name: &str) -> Entry {
        Entry {
            kind,
            id: id.into(),
            revision: 7,
            object: serde_json::from_slice(&kind.entry(id, &owner(name))).unwrap(),
        }
    }

    fn later(seconds: i64) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn what_services_have_is_made() {
        let services = [
            service("a", "10.0.0.1", &[30000]),
            service("b", "None", &[]),
        ];
        assert_eq!(
            steps(&[], &services, later(0)),
            [
                Step::Make(Kind::Address, "10.0.0.1".into(), owner("a")),
                Step::Make(Kind::Port, "30000".into(), owner("a")),
            ]
        );
        let entries = [
            entry(Kind::Address, "10.0.0.1", "a"),
            entry(Kind::Port, "30000", "a"),
        ];
        assert_eq!(steps(&entries, &services, later(1000)), []);
    }

    #[test]
    fn the_first_of_two_keeps_what_both_have() {
        let services = [service("a", "10.0.0.1", &[]), service("b", "10.0.0.1", &[])];
        assert_eq!(steps(&[], &services, later(0)).len(), 1);
        let entries = [entry(Kind::Address, "10.0.0.1", "b")];
        assert_eq!(steps(&entries, &services, later(1000)), []);
    }

    #[test]
    fn wrong_names_and_labels_are_put_right() {
        let services = [service("a", "10.0.0.1", &[])];
        let replaced = [Step::Replace(
            Kind::Address,
            "10.0.0.1".into(),
            owner("a"),
            7,
        )];
        let entries = [entry(Kind::Address, "10.0.0.1", "gone")];
        assert_eq!(steps(&entries, &services, later(0)), replaced);
        let mut bare = entry(Kind::Address, "10.0.0.1", "a");
        bare.object["metadata"]["labels"] = json!({});
        assert_eq!(steps(&[bare], &services, later(0)), replaced);
    }

    #[test]
    fn what_no_service_has_goes_after_a_while() {
        let entries = [
            entry(Kind::Address, "10.0.0.1", "a"),
            entry(Kind::Port, "30000", "a"),
        ];
        assert_eq!(steps(&entries, &[], later(30)), []);
        assert_eq!(steps(&entries, &[], later(90)).len(), 2);
        // The entry of the loser of two concurrent creations of an existing service.
        let services = [service("a", "10.0.0.2", &[])];
        let removed = |after: i64| {
            let steps = steps(&entries, &services, later(after));
            steps
                .iter()
                .filter(|s| matches!(s, Step::Remove(..)))
                .count()
        };
        assert_eq!((removed(1), removed(30), removed(90)), (0, 1, 2));
    }

    #[test]
    fn addresses_of_others_are_left_alone() {
        let mut theirs = entry(Kind::Address, "10.0.0.9", "a");
        let object = &mut theirs.object;
        object["metadata"]["labels"] = json!({});
        assert_eq!(steps(&[theirs], &[], later(1000)), []);
    }
}
