//! Clients that read and increment the same objects at once, and a check that what they see is
//! linearizable.
//!
//! A revision orders all writes of an object, and a read names the one it saw. So the order to
//! check is known, and no search for one is needed: it must agree with the order in which
//! requests were sent and answered, and with the values.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use rkube_store::embedded::Random;
use serde_json::{Value, json};

use crate::api::{self, text};
use crate::user::path;

const CLIENTS: u64 = 3;
const OBJECTS: u64 = 2;

/// The history that all clients have seen. It outlives the control plane's processes.
#[derive(Default)]
pub struct Registers {
    /// The newest revision of each object in an answer, while the object exists.
    answered: RefCell<BTreeMap<String, u64>>,
    /// The value of each object at each revision.
    values: RefCell<BTreeMap<(String, u64), i64>>,
}

impl Registers {
    /// Runs all clients until the future is dropped.
    pub async fn run(&self, client: &Client, random: &RefCell<Random>) {
        let one = |_| async {
            loop {
                let (pause, object, action) = {
                    let mut random = random.borrow_mut();
                    let pause = Duration::from_millis(random.below(6000));
                    (pause, random.below(OBJECTS), random.below(4))
                };
                tokio::time::sleep(pause).await;
                let name = format!("register{object}");
                match action {
                    0 => self.list(client).await,
                    _ => self.increment(client, &name).await,
                }
            }
        };
        join_all((0..CLIENTS).map(one)).await;
    }

    /// Returns the newest revision that was answered until now.
    fn answered(&self, name: &str) -> u64 {
        self.answered.borrow().get(name).copied().unwrap_or(0)
    }

    /// Checks an answer to a request that was sent when `sent` was the newest.
    fn note(&self, name: &str, object: &Value, sent: u64, is_write: bool) -> (u64, i64) {
        let revision = text(object, "/metadata/resourceVersion");
        let revision: u64 = revision.parse().expect("a revision");
        let value: i64 = text(object, "/data/value").parse().expect("a value");
        let stale = if is_write {
            revision <= sent
        } else {
            revision < sent
        };
        assert!(!stale, "{name}: {revision} was answered after {sent}");
        let key = (name.to_owned(), revision);
        let known = *self.values.borrow_mut().entry(key).or_insert(value);
        assert_eq!(known, value, "{name} at revision {revision}");
        let mut answered = self.answered.borrow_mut();
        let newest = answered.entry(name.to_owned()).or_default();
        *newest = revision.max(*newest);
        (revision, value)
    }

    /// Checks that each write has added one, whether it was answered or not.
    pub fn check(&self) {
        let values = self.values.borrow();
        for ((name, value), (next_name, next)) in values
            .iter()
            .zip(values.iter().skip(1))
            .map(|((key, value), (next_key, next))| ((&key.0, value), (&next_key.0, next)))
        {
            assert!(
                name != next_name || value < next,
                "{name}: {next} after {value}"
            );
        }
    }

    async fn list(&self, client: &Client) {
        let sent = self.answered.borrow().clone();
        let Ok(list) = api::get(client, &path("configmaps")).await else {
            return;
        };
        let items = list["items"].as_array().expect("items");
        for (name, sent) in sent {
            let found = items.iter().find(|o| api::name(o) == name);
            let found = found.unwrap_or_else(|| panic!("{name} is not in a list"));
            self.note(&name, found, sent, false);
        }
    }

    async fn increment(&self, client: &Client, name: &str) {
        let all = path("configmaps");
        let one = format!("{all}/{name}");
        let sent = self.answered(name);
        let read = api::get(client, &one).await;
        if api::is_code(&read, 404) {
            assert_eq!(sent, 0, "{name} is lost");
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name}, "data": {"value": "0"}});
            if let Ok(made) = api::post(client, &all, map).await {
                self.note(name, &made, sent, true);
            }
            return;
        }
        let Ok(mut object) = read else { return };
        let (base, value) = self.note(name, &object, sent, false);
        object["data"]["value"] = (value + 1).to_string().into();
        let sent = self.answered(name);
        let written = api::call(client, http::Method::PUT, &one, Some(object)).await;
        if let Ok(written) = written {
            let (revision, new) = self.note(name, &written, sent, true);
            assert_eq!(new, value + 1);
            // There was no other write between the read and this one.
            let range = (name.to_owned(), base + 1)..(name.to_owned(), revision);
            let between = self
                .values
                .borrow()
                .range(range)
                .next()
                .map(|(key, _)| key.1);
            assert_eq!(
                between, None,
                "{name}: written between {base} and {revision}"
            );
        }
    }
}
