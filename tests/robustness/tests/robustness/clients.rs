//! Clients that read and write the same objects at once, and note what they see.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::Client;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::linearizable::{Entry, Operation, Value};

/// The number of objects that all clients share.
pub const OBJECTS: u64 = 3;
/// The collection of the objects.
pub const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// The object that is written last.
pub const END: &str = "register-end";
/// Until a client gives up a request.
const PATIENCE: Duration = Duration::from_secs(2);

/// What all clients have seen.
pub struct History {
    began: Instant,
    entries: Mutex<BTreeMap<String, Vec<Entry>>>,
    /// The revisions of acknowledged writes, with the object and what was stored.
    writes: Mutex<BTreeMap<u64, (String, Value)>>,
    last: AtomicU64,
}

/// A version of an object.
#[derive(Clone, Copy)]
struct Version {
    revision: u64,
    value: Value,
}

impl History {
    /// Creates an empty history.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            entries: Mutex::default(),
            writes: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }

    /// Returns the entries of each object.
    pub fn entries(&self) -> BTreeMap<String, Vec<Entry>> {
        lock(&self.entries).clone()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        lock(&self.entries).values().map(Vec::len).sum()
    }

    /// Returns the acknowledged writes by revision.
    pub fn writes(&self) -> BTreeMap<u64, (String, Value)> {
        lock(&self.writes).clone()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a test of less than 584 years")
    }

    /// Returns a value that nothing else has.
    fn value(&self) -> Value {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn note(&self, name: &str, operation: Operation, sent: u64, answered: Option<u64>) {
        let entry = Entry {
            operation,
            sent,
            answered,
        };
        let mut entries = lock(&self.entries);
        entries.entry(name.to_owned()).or_default().push(entry);
    }

    fn note_write(&self, name: &str, version: Version) {
        let write = (name.to_owned(), version.value);
        let before = lock(&self.writes).insert(version.revision, write);
        assert_eq!(
            before, None,
            "two writes have revision {}",
            version.revision
        );
    }
}

/// A lock that a failed test has not made unusable.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of a request.
enum Answer {
    /// It was answered with this.
    Ok(Json),
    /// It was refused with this code.
    Refused(u16),
    /// It failed, or the answer was lost: it may have happened.
    Unknown,
}

/// Returns the revision and the value of an object.
///
/// # Panics
/// If it is not one of these tests.
pub fn version(object: &Json) -> (u64, Value) {
    let number = |pointer: &str| {
        let text = object.pointer(pointer).and_then(Json::as_str);
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no number at {pointer}: {object}"))
    };
    (number("/metadata/resourceVersion"), number("/data/value"))
}

fn parse(object: &Json) -> Version {
    let (revision, value) = version(object);
    Version { revision, value }
}

fn object(name: &str, value: Value, revision: Option<u64>) -> Json {
    let revision = revision.map(|revision| revision.to_string());
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"value": value.to_string()},
        "metadata": {"name": name, "resourceVersion": revision},
    })
}

async fn call(client: &Client, method: Method, path: &str, body: Option<&Json>) -> Answer {
    let body = body.map(|json| json.to_string().into_bytes());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(body.unwrap_or_default())
        .expect("a request");
    match tokio::time::timeout(PATIENCE, client.request::<Json>(request)).await {
        Ok(Ok(answer)) => Answer::Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
            Answer::Refused(status.code)
        }
        Ok(Err(_)) | Err(_) => {
            // A server that is away refuses quickly, and such entries say nothing.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Answer::Unknown
        }
    }
}

/// Lists the objects.
///
/// # Errors
/// The server does not answer, or not from its store.
pub async fn list(client: &Client) -> kube::Result<Json> {
    let request = Request::get(COLLECTION).body(Vec::new());
    client.request(request.expect("a request")).await
}

/// Creates the object that ends a history.
///
/// # Panics
/// If the server does not do it at last.
pub async fn end(client: &Client) {
    let body = object(END, 0, None);
    for _ in 0..100 {
        match call(client, Method::POST, COLLECTION, Some(&body)).await {
            Answer::Ok(_) | Answer::Refused(409) => return,
            Answer::Refused(code) => panic!("{code} for the last write"),
            Answer::Unknown => {}
        }
    }
    panic!("the last write does not succeed");
}

/// One client of one server.
pub struct Worker<'a> {
    /// The connection to the server.
    pub client: Client,
    /// Where everything is noted.
    pub history: &'a History,
    random: StdRng,
    /// The version of each object that this client has seen last.
    known: BTreeMap<String, Version>,
}

impl<'a> Worker<'a> {
    /// Creates a client whose choices depend on `seed`.
    pub fn new(client: Client, history: &'a History, seed: u64) -> Self {
        Self {
            client,
            history,
            random: StdRng::seed_from_u64(seed),
            known: BTreeMap::new(),
        }
    }

    /// Sends requests until `done`.
    pub async fn run(mut self, done: &CancellationToken) {
        while !done.is_cancelled() {
            let name = format!("register{}", self.random.random_range(0..OBJECTS));
            let known = self.known.get(&name).copied();
            match (self.random.random_range(0..10), known) {
                (0..2, _) => self.list().await,
                (2..5, _) => self.read(&name).await,
                (5, Some(version)) => self.delete(&name, version).await,
                (_, Some(version)) => self.replace(&name, version).await,
                (_, None) => self.create(&name).await,
            }
            let pause = Duration::from_millis(self.random.random_range(0..4));
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads every object once, to the end of the history.
    pub async fn read_all(&mut self) {
        for number in 0..OBJECTS {
            self.read(&format!("register{number}")).await;
        }
        self.list().await;
    }

    /// Notes what was read of an object.
    fn saw(&mut self, name: &str, found: Option<Version>, sent: u64) {
        let answered = Some(self.history.now());
        let value = found.map(|version| version.value);
        self.history
            .note(name, Operation::Read(value), sent, answered);
        match found {
            Some(version) => self.known.insert(name.to_owned(), version),
            None => self.known.remove(name),
        };
    }

    async fn list(&mut self) {
        let sent = self.history.now();
        let answer = call(&self.client, Method::GET, COLLECTION, None).await;
        let Answer::Ok(list) = answer else { return };
        let items = list["items"].as_array().expect("items");
        for number in 0..OBJECTS {
            let name = format!("register{number}");
            let found = items.iter().find(|item| item["metadata"]["name"] == *name);
            self.saw(&name, found.map(parse), sent);
        }
    }

    async fn read(&mut self, name: &str) {
        let sent = self.history.now();
        let path = format!("{COLLECTION}/{name}");
        match call(&self.client, Method::GET, &path, None).await {
            Answer::Ok(object) => self.saw(name, Some(parse(&object)), sent),
            Answer::Refused(404) => self.saw(name, None, sent),
            Answer::Refused(code) => panic!("{code} for a read"),
            Answer::Unknown => {}
        }
    }

    async fn create(&mut self, name: &str) {
        let value = self.history.value();
        let (sent, body) = (self.history.now(), object(name, value, None));
        let answer = call(&self.client, Method::POST, COLLECTION, Some(&body)).await;
        let outcomes = (
            Operation::Create(value),
            Operation::Exists,
            Operation::Absent,
        );
        self.wrote(name, answer, sent, outcomes);
    }

    async fn replace(&mut self, name: &str, known: Version) {
        let value = self.history.value();
        let body = object(name, value, Some(known.revision));
        let (sent, path) = (self.history.now(), format!("{COLLECTION}/{name}"));
        let answer = call(&self.client, Method::PUT, &path, Some(&body)).await;
        let replaced = Operation::Replace(known.value, value);
        let outcomes = (replaced, Operation::Differs(known.value), Operation::Absent);
        self.wrote(name, answer, sent, outcomes);
    }

    async fn delete(&mut self, name: &str, known: Version) {
        let revision = known.revision.to_string();
        let body = json!({"preconditions": {"resourceVersion": revision}});
        let (sent, path) = (self.history.now(), format!("{COLLECTION}/{name}"));
        let answer = call(&self.client, Method::DELETE, &path, Some(&body)).await;
        let deleted = Operation::Delete(known.value);
        let outcomes = (deleted, Operation::Differs(known.value), Operation::Absent);
        self.wrote(name, answer, sent, outcomes);
    }

    /// Notes the outcome of a write: what it does, what its conflict says, and what it says when
    /// the object does not exist.
    fn wrote(
        &mut self,
        name: &str,
        answer: Answer,
        sent: u64,
        (done, conflict, absent): (Operation, Operation, Operation),
    ) {
        let now = Some(self.history.now());
        let (operation, answered) = match &answer {
            Answer::Ok(_) => (done, now),
            Answer::Refused(409) => (conflict, now),
            Answer::Refused(404) => (absent, now),
            Answer::Refused(code) => panic!("{code} for {done:?} of {name}"),
            Answer::Unknown => (done, None),
        };
        self.history.note(name, operation, sent, answered);
        self.known.remove(name);
        if let (Answer::Ok(object), false) = (&answer, matches!(done, Operation::Delete(_))) {
            let version = parse(object);
            self.history.note_write(name, version);
            self.known.insert(name.to_owned(), version);
        }
    }
}
