//! How long an event takes from its write to those who watch.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::AsyncBufReadExt as _;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// Where the object lies that is written and watched.
const MAPS: &str = "/api/v1/namespaces/bench-writes/configmaps";
/// Writes per second.
const RATE: u64 = 50;

/// Milliseconds from sending a write to reading its event, sorted: one for each
/// write and watcher.
pub async fn latencies(
    writer: &Client,
    watchers: &[Client],
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let request = |method: &str, path: &str, body: &Value| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
    };
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"},
        "data": {"payload": "x".repeat(1024)}});
    let made = writer.request_text(request("POST", MAPS, &object)?).await?;
    let mut object: Value = serde_json::from_str(&made)?;
    let revision = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let origin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for watcher in watchers {
        let watcher = watcher.clone();
        let path = format!(
            "{MAPS}?watch=1&fieldSelector=metadata.name%3Dwatched&resourceVersion={revision}"
        );
        tasks.spawn(async move {
            let stream = watcher
                .request_stream(Request::get(path).body(Vec::new())?)
                .await?;
            let stream = std::pin::pin!(stream);
            let mut lines = stream.lines();
            let mut found = Vec::new();
            while let Some(line) = futures::StreamExt::next(&mut lines).await {
                let now = origin.elapsed().as_secs_f64();
                let event: Value = serde_json::from_str(&line?)?;
                match event["object"]["data"]["sent"]
                    .as_str()
                    .map(str::parse::<f64>)
                {
                    Some(Ok(sent)) if sent < 0.0 => break,
                    Some(Ok(sent)) => found.push((now - sent) * 1000.0),
                    _ => {}
                }
            }
            anyhow::Ok(found)
        });
    }
    // Until all of them surely watch.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = RATE * time.as_secs();
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / RATE));
    for number in 0..=writes {
        tick.tick().await;
        let sent = if number == writes {
            -1.0
        } else {
            origin.elapsed().as_secs_f64()
        };
        object["data"]["sent"] = sent.to_string().into();
        let path = format!("{MAPS}/watched");
        let written = writer.request_text(request("PUT", &path, &object)?).await?;
        object = serde_json::from_str(&written)?;
    }
    let mut all = Vec::new();
    while let Some(found) = tasks.join_next().await {
        all.extend(found?.context("a watcher")?);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}
