//! Waits until workloads are ready.

use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use kube::core::DynamicObject;
use rkube_client::reflector::{Listed, Sink, Source, reflect};
use rkube_dev::rollout::{self, State};
use rkube_failure::{Failure, Kind, Source as Component};
use tokio::sync::watch;

/// A workload to wait for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its description.
    pub title: String,
    /// The path of its collection.
    pub path: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it is ready only when it has ended.
    pub ends: bool,
}

/// Passes the state of one object on.
struct States {
    /// The object's kind.
    kind: String,
    sender: watch::Sender<State>,
}

impl States {
    fn tell(&self, object: &DynamicObject) {
        // Plain data, which is JSON already.
        let value = serde_json::to_value(object).unwrap_or_default();
        self.sender.send_replace(rollout::state(&self.kind, &value));
    }
}

impl Sink<DynamicObject> for States {
    fn replace(&self, list: Listed<DynamicObject>) {
        match list.objects.first() {
            Some(object) => self.tell(object),
            None if list.unreadable.is_empty() => self.remove_all(),
            None => {}
        }
    }

    fn apply(&self, object: DynamicObject) {
        self.tell(&object);
    }

    fn remove(&self, _: DynamicObject) {
        self.remove_all();
    }
}

impl States {
    fn remove_all(&self) {
        self.sender
            .send_replace(State::Waiting("it does not exist".to_owned()));
    }
}

/// Waits until all workloads are ready.
///
/// # Errors
/// Names the workloads that are not, and why.
pub async fn ready(client: &Client, targets: &[Target], timeout: Duration) -> Result<(), Failure> {
    let waits = targets
        .iter()
        .map(|target| one(client.clone(), target, timeout));
    let failures = join_all(waits).await.into_iter();
    together(failures.filter_map(Result::err).collect())
}

/// Makes one failure of several: the last one, with the messages of all.
pub fn together(mut failures: Vec<Failure>) -> Result<(), Failure> {
    if let Some(at) = failures.iter().position(Failure::is_interruption) {
        return Err(failures.swap_remove(at));
    }
    let Some(mut last) = failures.pop() else {
        return Ok(());
    };
    for failure in failures.into_iter().rev() {
        last.message = format!("{}; {}", failure.message, last.message);
    }
    Err(last)
}

async fn one(client: Client, target: &Target, timeout: Duration) -> Result<(), Failure> {
    let (sender, mut states) = watch::channel(State::Waiting("it was not seen yet".to_owned()));
    let source = Source::new(&target.path).fields(format!("metadata.name={}", target.name));
    let states_of = States {
        kind: target.kind.clone(),
        sender,
    };
    let watching = reflect::<DynamicObject>(client, source, states_of);
    let decided = async {
        // The sender lives as long as the watch, which never ends.
        let found = states
            .wait_for(|state| !matches!(state, State::Waiting(_)))
            .await;
        found.map(|state| state.clone())
    };
    let failed = |kind, why: &str| {
        Failure::new(
            Component::ControlPlane,
            kind,
            format!("{} is not ready: {why}", target.title),
        )
    };
    let decided = tokio::select! {
        () = watching => None,
        decided = tokio::time::timeout(timeout, decided) => decided.ok(),
    };
    match decided {
        Some(Ok(State::Failed(why))) => Err(failed(Kind::Error, &why)),
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) | None => {
            let why = match &*states.borrow() {
                State::Waiting(why) | State::Failed(why) => why.clone(),
                State::Ready => return Ok(()),
            };
            let limit = timeout.as_secs();
            Err(failed(Kind::Timeout, &format!("{why} after {limit} s"))
                .advise("wait longer with --timeout SECONDS"))
        }
    }
}
