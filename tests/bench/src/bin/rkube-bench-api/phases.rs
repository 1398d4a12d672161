//! Throughput in requests per second, by phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::Http;
use super::{NAMESPACES, Target};

/// The data of each object.
pub const PAYLOAD: &str = match std::str::from_utf8(&[b'x'; 1024]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// The phases, in order of execution. Later phases use the objects of earlier ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Creates objects.
    Create,
    /// Reads single objects.
    Get,
    /// Replaces whole objects, with the last known resource version.
    Update,
    /// Changes one field by a merge patch.
    Patch,
    /// Lists a namespace of 500 objects.
    List500,
    /// Lists a namespace of 5,000 objects.
    List5000,
    /// Lists a tenth of 5,000 objects, selected by a label.
    ListLabel,
    /// Deletes the objects that `Create` made.
    Delete,
}

/// All phases, in order of execution.
pub const ALL: [Phase; 8] = [
    Phase::Create,
    Phase::Get,
    Phase::Update,
    Phase::Patch,
    Phase::List500,
    Phase::List5000,
    Phase::ListLabel,
    Phase::Delete,
];

impl Phase {
    /// Returns the name for the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::Update => "update",
            Self::Patch => "merge patch",
            Self::List500 => "list of 500",
            Self::List5000 => "list of 5,000",
            Self::ListLabel => "a tenth of 5,000 by label",
            Self::Delete => "delete",
        }
    }
}

fn maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn object(name: &str, number: usize) -> String {
    let (tenth, payload) = (number % 10, PAYLOAD);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"tenth":"t{tenth}"}}}},"data":{{"payload":"{payload}"}}}}"#
    )
}

/// Creates the namespaces and the objects for lists.
pub async fn prepare(target: &Target) -> anyhow::Result<()> {
    let mut client = target.clients[0].lock().await;
    for namespace in NAMESPACES {
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        client
            .succeed(Method::POST, "/api/v1/namespaces", body.to_string())
            .await?;
    }
    drop(client);
    for (namespace, count) in [("bench-500", 500), ("bench-5000", 5000)] {
        let next = AtomicUsize::new(0);
        let work = target.clients.iter().map(async |client| {
            let mut client = client.lock().await;
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let made = object(&format!("m{number}"), number);
                client.succeed(Method::POST, &maps(namespace), made).await?;
            }
        });
        futures::future::try_join_all(work).await?;
    }
    Ok(())
}

/// Deletes the namespaces.
pub async fn clean(target: &Target) -> anyhow::Result<()> {
    let mut client = target.clients[0].lock().await;
    for namespace in NAMESPACES {
        for path in [maps(namespace), format!("/api/v1/namespaces/{namespace}")] {
            client.succeed(Method::DELETE, &path, Bytes::new()).await?;
        }
    }
    Ok(())
}

/// Runs a phase and returns the requests per second of all clients together.
pub async fn run(target: &Target, phase: Phase, time: Duration) -> anyhow::Result<f64> {
    // One task per client on all threads, so that clients do not wait for each other.
    let begin = Instant::now();
    let deadline = begin + time;
    let mut tasks = tokio::task::JoinSet::new();
    for (worker, client) in target.clients.iter().cloned().enumerate() {
        tasks.spawn(work(client, worker, phase, deadline));
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        done += result??;
    }
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}

async fn work(
    client: Arc<Mutex<Http>>,
    worker: usize,
    phase: Phase,
    deadline: Instant,
) -> anyhow::Result<usize> {
    let mut client = client.lock().await;
    let client = &mut *client;
    let writes = maps("bench-writes");
    let own = format!("{writes}/w{worker}-0");
    let mut done = 0;
    let mut mine: Value = match phase {
        Phase::Update => {
            serde_json::from_slice(&client.succeed(Method::GET, &own, Bytes::new()).await?)?
        }
        _ => Value::Null,
    };
    // Selects objects pseudo-randomly; each worker has another seed.
    let mut random = worker;
    while Instant::now() < deadline {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let any = (random >> 33) % 5000;
        match phase {
            Phase::Create => {
                let made = object(&format!("w{worker}-{done}"), done);
                client.succeed(Method::POST, &writes, made).await?;
            }
            Phase::Get => get(client, &format!("{}/m{any}", maps("bench-5000"))).await?,
            Phase::Update => {
                mine["data"]["count"] = done.to_string().into();
                let written = client.succeed(Method::PUT, &own, mine.to_string()).await?;
                mine = serde_json::from_slice(&written)?;
            }
            Phase::Patch => {
                let change = format!(r#"{{"data":{{"count":"{done}"}}}}"#);
                let path = format!("{}/m{any}", maps("bench-5000"));
                client.succeed(Method::PATCH, &path, change).await?;
            }
            Phase::List500 => get(client, &maps("bench-500")).await?,
            Phase::List5000 => get(client, &maps("bench-5000")).await?,
            Phase::ListLabel => {
                let path = format!("{}?labelSelector=tenth%3Dt{}", maps("bench-5000"), any % 10);
                get(client, &path).await?;
            }
            Phase::Delete => {
                let path = format!("{writes}/w{worker}-{done}");
                let (code, answer) = client.send(Method::DELETE, &path, Bytes::new()).await?;
                if code == StatusCode::NOT_FOUND {
                    // All objects of this worker are deleted.
                    return Ok(done);
                }
                if !code.is_success() {
                    bail!("{path}: {code}: {}", String::from_utf8_lossy(&answer));
                }
            }
        }
        done += 1;
    }
    Ok(done)
}

async fn get(client: &mut Http, path: &str) -> anyhow::Result<()> {
    client.succeed(Method::GET, path, Bytes::new()).await?;
    Ok(())
}
