//! Watches of the config maps and secrets that pods use: one per object, shared by its users.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rkube_client::reflector::{Listed, Sink, Versioned, reflect};
use tokio::sync::watch;

use crate::kinds::{ConfigMap, Secret};
use crate::watching;

/// State of a watched object.
#[derive(Debug)]
pub(crate) enum ObjectState<K> {
    /// The watch has not received its first list yet.
    Unknown,
    /// The object does not exist.
    Absent,
    /// The object's current version.
    Present(Arc<K>),
}

impl<K> Clone for ObjectState<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Absent => Self::Absent,
            Self::Present(k) => Self::Present(k.clone()),
        }
    }
}

/// A watch of one object. Dropping it ends the watch.
pub(crate) struct Watched<K> {
    receiver: watch::Receiver<ObjectState<K>>,
    task: tokio::task::AbortHandle,
    /// Counted in [`Connections`] as one watch of its connection.
    _slot: Arc<()>,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Watched<K> {
    /// Returns the object, or `None` if it does not exist. Waits for the first list.
    pub(crate) async fn get(&self) -> Option<Arc<K>> {
        let mut receiver = self.receiver.clone();
        let known = receiver
            .wait_for(|k| !matches!(k, ObjectState::Unknown))
            .await
            .map(|k| k.clone());
        match known {
            Ok(ObjectState::Present(k)) => Some(k),
            _ => None,
        }
    }

    /// Returns a receiver that is notified of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<ObjectState<K>> {
        self.receiver.clone()
    }
}

/// Publishes the state of one object. While it cannot be read, that is its last known one.
struct Publisher<K>(watch::Sender<ObjectState<K>>);

impl<K: Versioned> Sink<K> for Publisher<K> {
    fn replace(&self, mut list: Listed<K>) {
        match list.objects.pop() {
            Some(k) => self.apply(k),
            None if list.unreadable.is_empty() => {
                self.0.send_replace(ObjectState::Absent);
            }
            None => {}
        }
    }

    fn apply(&self, object: K) {
        self.0.send_replace(ObjectState::Present(Arc::new(object)));
    }

    fn remove(&self, _object: K) {
        self.0.send_replace(ObjectState::Absent);
    }
}

/// Watches by namespace and name; an entry expires with its last user.
type Table<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// Maximum number of watches per connection.
///
/// Servers limit the streams per connection, and the first connection also carries other requests.
const MAX_WATCHES_PER_CONNECTION: usize = 100;

/// Opens another connection to the API server.
type Connect = Box<dyn Fn() -> anyhow::Result<kube::Client> + Send + Sync>;

/// A pool of connections for watches, extended on demand.
struct Connections {
    /// Each client with a counter that is shared by its watches.
    clients: Mutex<Vec<(kube::Client, Arc<()>)>>,
    connect: Connect,
}

impl Connections {
    /// Returns a connection with capacity for another watch, and its counter.
    fn slot(&self) -> (kube::Client, Arc<()>) {
        let mut clients = self.clients.lock();
        let free = clients
            .iter()
            .find(|(_, slot)| Arc::strong_count(slot) <= MAX_WATCHES_PER_CONNECTION);
        if let Some((client, slot)) = free {
            return (client.clone(), slot.clone());
        }
        match (self.connect)() {
            Ok(client) => {
                let slot = Arc::new(());
                clients.push((client.clone(), slot.clone()));
                (client, slot)
            }
            Err(e) => {
                // Fall back to a connection that is full.
                tracing::warn!("another connection to the API server: {e:#}");
                clients[0].clone()
            }
        }
    }
}

/// The config maps and secrets that are watched for the node's pods.
pub(crate) struct Objects {
    connections: Connections,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
}

impl Objects {
    /// Returns an empty set of watches. They use `client` first; when it is full, `connect` opens
    /// further connections.
    pub(crate) fn new(client: kube::Client, connect: Connect) -> Self {
        Self {
            connections: Connections {
                clients: Mutex::new(vec![(client, Arc::new(()))]),
                connect,
            },
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// Returns the watch of a config map; starts it if necessary.
    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Arc<Watched<ConfigMap>> {
        subscribe(&self.config_maps, &self.connections, namespace, name)
    }

    /// Returns the watch of a secret; starts it if necessary.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Arc<Watched<Secret>> {
        subscribe(&self.secrets, &self.connections, namespace, name)
    }
}

/// Returns the shared watch of an object; starts it if there is none.
fn subscribe<K>(
    table: &Table<K>,
    connections: &Connections,
    namespace: &str,
    name: &str,
) -> Arc<Watched<K>>
where
    K: Versioned + kube::Resource<DynamicType = ()>,
{
    let mut table = table.lock();
    let key = (namespace.to_owned(), name.to_owned());
    if let Some(watched) = table.get(&key).and_then(Weak::upgrade) {
        return watched;
    }
    table.retain(|_, w| w.strong_count() > 0);
    let (sender, receiver) = watch::channel(ObjectState::Unknown);
    let (client, slot) = connections.slot();
    let source = watching::source::<K>(Some(namespace)).fields(format!("metadata.name={name}"));
    let task = tokio::spawn(reflect(client, source, Publisher(sender)));
    let watched = Arc::new(Watched {
        receiver,
        task: task.abort_handle(),
        _slot: slot,
    });
    table.insert(key, Arc::downgrade(&watched));
    watched
}

#[cfg(test)]
mod tests {
    use rkube_client::reflector::Unreadable;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        let (sender, receiver) = watch::channel(ObjectState::Unknown);
        let publisher = Publisher(sender);
        let state = || match &*receiver.borrow() {
            ObjectState::Unknown => "unknown",
            ObjectState::Absent => "absent",
            ObjectState::Present(_) => "present",
        };
        let mut unreadable = Listed::new(vec![], 1);
        unreadable.unreadable.push(Unreadable::default());
        publisher.replace(unreadable.clone());
        assert_eq!(state(), "unknown");
        publisher.replace(Listed::new(vec![ConfigMap::default()], 2));
        assert_eq!(state(), "present");
        publisher.replace(unreadable);
        assert_eq!(state(), "present");
        publisher.replace(Listed::new(vec![], 3));
        assert_eq!(state(), "absent");
        publisher.apply(ConfigMap::default());
        assert_eq!(state(), "present");
        publisher.remove(ConfigMap::default());
        assert_eq!(state(), "absent");
    }
}
