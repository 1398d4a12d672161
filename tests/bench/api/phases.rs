//! Requests per second, phase by phase.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use super::{NAMESPACES, Target};

/// What is measured, in this order: later phases use what earlier ones made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// New objects.
    Create,
    /// Single objects.
    Get,
    /// Whole objects, with the revision that the client knows.
    Update,
    /// One field by merge patch.
    Patch,
    /// A namespace of 500 objects.
    List500,
    /// A namespace of 5,000 objects.
    List5000,
    /// A tenth of 5,000 objects, by a label.
    ListLabel,
    /// Objects that `Create` made.
    Delete,
}

/// Every phase.
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
    /// As it is printed.
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

fn object(name: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"tenth": format!("t{}", number % 10)}},
        "data": {"payload": "x".repeat(1024)},
    })
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<String> {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(bytes)?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("{method} {path}"))
}

/// Makes the namespaces, and what lists are to find.
pub async fn prepare(target: &Target) -> anyhow::Result<()> {
    let client = &target.clients[0];
    for namespace in NAMESPACES {
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        send(client, "POST", "/api/v1/namespaces", Some(&body)).await?;
    }
    for (namespace, count) in [("bench-500", 500), ("bench-5000", 5000)] {
        let next = AtomicUsize::new(0);
        let work = target.clients.iter().map(|client| {
            let next = &next;
            async move {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return anyhow::Ok(());
                    }
                    let made = object(&format!("m{number}"), number);
                    send(client, "POST", &maps(namespace), Some(&made)).await?;
                }
            }
        });
        futures::future::try_join_all(work).await?;
    }
    Ok(())
}

/// Removes everything again, and waits until it has gone.
pub async fn clean(target: &Target) -> anyhow::Result<()> {
    let client = &target.clients[0];
    for namespace in NAMESPACES {
        send(client, "DELETE", &maps(namespace), None).await?;
        send(
            client,
            "DELETE",
            &format!("/api/v1/namespaces/{namespace}"),
            None,
        )
        .await?;
    }
    Ok(())
}

/// How many requests a second the clients get done together.
pub async fn run(target: &Target, phase: Phase, time: Duration) -> anyhow::Result<f64> {
    // One task a client, on all threads: a client must not wait for another's turn.
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
    client: Client,
    worker: usize,
    phase: Phase,
    deadline: Instant,
) -> anyhow::Result<usize> {
    let writes = maps("bench-writes");
    let mut done = 0;
    let mut mine = match phase {
        Phase::Update => {
            let path = format!("{writes}/w{worker}-0");
            serde_json::from_str(&send(&client, "GET", &path, None).await?)?
        }
        _ => Value::Null,
    };
    // Deletions end when there is nothing left, so that they are all counted.
    let mut random = worker;
    while Instant::now() < deadline {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let any = (random >> 33) % 5000;
        match phase {
            Phase::Create => {
                let made = object(&format!("w{worker}-{done}"), done);
                send(&client, "POST", &writes, Some(&made)).await?;
            }
            Phase::Get => {
                send(
                    &client,
                    "GET",
                    &format!("{}/m{any}", maps("bench-5000")),
                    None,
                )
                .await?;
            }
            Phase::Update => {
                mine["data"]["count"] = done.to_string().into();
                let path = format!("{writes}/w{worker}-0");
                mine = serde_json::from_str(&send(&client, "PUT", &path, Some(&mine)).await?)?;
            }
            Phase::Patch => {
                let change = json!({"data": {"count": done.to_string()}});
                let path = format!("{}/m{any}", maps("bench-5000"));
                send(&client, "PATCH", &path, Some(&change)).await?;
            }
            Phase::List500 => {
                send(&client, "GET", &maps("bench-500"), None).await?;
            }
            Phase::List5000 => {
                send(&client, "GET", &maps("bench-5000"), None).await?;
            }
            Phase::ListLabel => {
                let path = format!("{}?labelSelector=tenth%3Dt{}", maps("bench-5000"), any % 10);
                send(&client, "GET", &path, None).await?;
            }
            Phase::Delete => {
                let path = format!("{writes}/w{worker}-{done}");
                if let Err(error) = send(&client, "DELETE", &path, None).await {
                    // Its own have all gone.
                    let gone =
                        matches!(error.downcast_ref(), Some(kube::Error::Api(s)) if s.code == 404);
                    return if gone { Ok(done) } else { Err(error) };
                }
            }
        }
        done += 1;
    }
    Ok(done)
}
