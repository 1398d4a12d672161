//! Property test: clients that replay lists and watches end up with the store's content, regardless
//! of concurrent writes, compactions and cache resets.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Lines, TestServer, start};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// A client reads some of its pending events.
    Read(usize, u8),
    /// A client's connection breaks.
    Break(usize),
    Compact,
    /// The caches are refilled: all earlier watch positions become invalid.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..6, any::<u8>()).prop_map(|(name, value)| Step::Put(name, value)),
        3 => (0u8..6).prop_map(Step::Delete),
        6 => (0usize..3, 1u8..5).prop_map(|(client, events)| Step::Read(client, events)),
        1 => (0usize..3).prop_map(Step::Break),
        1 => Just(Step::Compact),
        1 => Just(Step::Forget),
    ]
}

/// The selectors of the clients.
const SELECTORS: [&str; 3] = [
    "",
    "labelSelector=even%3Dyes&",
    "fieldSelector=metadata.name%21%3Dm1&",
];

#[derive(Default)]
struct Client {
    selector: &'static str,
    objects: BTreeMap<String, (Value, u64)>,
    revision: u64,
    watch: Option<Lines>,
}

fn content(object: &Value) -> (Value, u64) {
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap();
    (object["data"].clone(), revision.parse().unwrap())
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

impl Client {
    async fn list(&mut self, t: &TestServer) {
        let (code, list) = t.get(&format!("{MAPS}?{}", self.selector)).await;
        assert_eq!(code, 200, "{list}");
        self.objects = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| (name(o), content(o)))
            .collect();
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
        self.revision = revision.parse().unwrap();
        self.watch = None;
    }

    /// Applies up to `count` events. Returns `false` if there are no more.
    async fn read(&mut self, t: &TestServer, count: u8) -> bool {
        for _ in 0..count {
            if self.watch.is_none() {
                let path = format!(
                    "{MAPS}?{}watch=1&resourceVersion={}",
                    self.selector, self.revision
                );
                self.watch = Some(t.watch(&path).await);
            }
            let watch = self.watch.as_mut().unwrap();
            let wait = std::time::Duration::from_millis(30);
            let event = match tokio::time::timeout(wait, watch.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => {
                    self.watch = None;
                    continue;
                }
                Err(_) => return false,
            };
            let object = &event["object"];
            match event["type"].as_str().unwrap() {
                "ERROR" => {
                    assert_eq!(object["code"], 410, "{event}");
                    self.list(t).await;
                    continue;
                }
                "DELETED" => {
                    let gone = self.objects.remove(&name(object));
                    assert!(gone.is_some(), "deleted what was not there: {event}");
                }
                "ADDED" => {
                    let before = self.objects.insert(name(object), content(object));
                    assert!(before.is_none(), "added what was there: {event}");
                }
                "MODIFIED" => {
                    let before = self.objects.insert(name(object), content(object));
                    assert!(before.is_some(), "modified what was not there: {event}");
                }
                other => panic!("{other}"),
            }
            let (_, revision) = content(object);
            assert!(
                revision > self.revision,
                "events go back from {}: {event}",
                self.revision
            );
            self.revision = revision;
        }
        true
    }
}

async fn play(steps: Vec<Step>) {
    let t = start().await;
    let mut clients: Vec<Client> = SELECTORS
        .map(|selector| Client {
            selector,
            ..Client::default()
        })
        .into();
    for client in &mut clients {
        client.list(&t).await;
    }
    for step in steps {
        match step {
            Step::Put(name, value) => {
                let labels = if value % 2 == 0 {
                    json!({"even": "yes"})
                } else {
                    json!({})
                };
                let object = json!({"metadata": {"name": format!("m{name}"), "labels": labels}, "data": {"v": value.to_string()}});
                let path = format!("{MAPS}/m{name}");
                if t.put(&path, object.clone()).await.0 == 404 {
                    assert_eq!(t.post(MAPS, object).await.0, 201);
                }
            }
            Step::Delete(name) => {
                t.delete(&format!("{MAPS}/m{name}")).await;
            }
            Step::Read(client, count) => {
                clients[client].read(&t, count).await;
            }
            Step::Break(client) => clients[client].watch = None,
            Step::Compact => t
                .server
                .backend()
                .store
                .compact(t.server.backend().store.revision())
                .await
                .unwrap(),
            Step::Forget => {
                t.server.backend().cache.consistent().await;
                // The returned watch is not needed: the existing one continues. If the server's
                // startup writes interfere, load again.
                loop {
                    drop(t.server.backend().cache.load().await.unwrap());
                    if t.server.backend().cache.revision() >= t.server.backend().store.revision() {
                        break;
                    }
                }
            }
        }
    }
    for client in &mut clients {
        // Read until there are no more events.
        while client.read(&t, 10).await {}
        let seen = std::mem::take(&mut client.objects);
        client.list(&t).await;
        assert_eq!(seen, client.objects, "client of {:?}", client.selector);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn replaying_clients_have_what_the_store_has(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(play(steps));
    }
}
