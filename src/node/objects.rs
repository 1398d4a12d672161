//! Config maps and secrets that pods here use: one watch an object, shared by its users.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::kinds::{ConfigMap, Secret};
use crate::watching;

/// What is known of an object.
#[derive(Debug)]
pub(crate) enum Known<K> {
    /// The first answer has not come yet.
    Unknown,
    /// There is none of that name.
    Absent,
    /// As it is.
    Present(Arc<K>),
}

impl<K> Clone for Known<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Absent => Self::Absent,
            Self::Present(k) => Self::Present(k.clone()),
        }
    }
}

/// A share in the watch of one object; the watch ends with its last share.
pub(crate) struct Watched<K> {
    receiver: watch::Receiver<Known<K>>,
    task: tokio::task::AbortHandle,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Watched<K> {
    /// The object, or `None` when there is no such; waits for the first answer.
    pub(crate) async fn get(&self) -> Option<Arc<K>> {
        let mut receiver = self.receiver.clone();
        let known = receiver
            .wait_for(|k| !matches!(k, Known::Unknown))
            .await
            .map(|k| k.clone());
        match known {
            Ok(Known::Present(k)) => Some(k),
            _ => None,
        }
    }

    /// A receiver that is told of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Known<K>> {
        self.receiver.clone()
    }
}

type Table<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// All watched objects.
pub(crate) struct Objects {
    client: kube::Client,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self {
            client,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Arc<Watched<ConfigMap>> {
        subscribe(&self.config_maps, &self.client, namespace, name)
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Arc<Watched<Secret>> {
        subscribe(&self.secrets, &self.client, namespace, name)
    }
}

fn subscribe<K>(
    table: &Table<K>,
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Arc<Watched<K>>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let mut table = table.lock();
    let key = (namespace.to_owned(), name.to_owned());
    if let Some(watched) = table.get(&key).and_then(Weak::upgrade) {
        return watched;
    }
    table.retain(|_, w| w.strong_count() > 0);
    let (sender, receiver) = watch::channel(Known::Unknown);
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let task = tokio::spawn(async move {
        let events = watching::forever(api, config);
        futures::pin_mut!(events);
        let mut listed = None;
        while let Some(event) = events.next().await {
            match event {
                watcher::Event::Init => listed = None,
                watcher::Event::InitApply(k) => listed = Some(Arc::new(k)),
                watcher::Event::InitDone => {
                    sender.send_replace(match listed.take() {
                        Some(k) => Known::Present(k),
                        None => Known::Absent,
                    });
                }
                watcher::Event::Apply(k) => {
                    sender.send_replace(Known::Present(Arc::new(k)));
                }
                watcher::Event::Delete(_) => {
                    sender.send_replace(Known::Absent);
                }
            }
        }
    });
    let watched = Arc::new(Watched {
        receiver,
        task: task.abort_handle(),
    });
    table.insert(key, Arc::downgrade(&watched));
    watched
}
