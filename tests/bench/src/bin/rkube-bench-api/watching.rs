//! Latency of events, from the write to the watcher.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::Target;
use super::phases::PAYLOAD;

/// The path of the config map that is written and watched.
const MAPS: &str = "/api/v1/namespaces/bench-writes/configmaps";
/// Writes per second.
const RATE: u64 = 50;
/// The bytes in an event before the send time.
const SENT: &[u8] = br#""sent":""#;

/// Returns the send time in an event's object, in seconds.
fn sent(line: &[u8]) -> Option<f64> {
    let at = line.windows(SENT.len()).rposition(|w| w == SENT)? + SENT.len();
    let end = at + line[at..].iter().position(|b| *b == b'"')?;
    std::str::from_utf8(&line[at..end]).ok()?.parse().ok()
}

/// Returns the times from sending a write to reading its event, in milliseconds and sorted:
/// one for each write and watcher.
pub async fn latencies(
    target: &Target,
    watchers: usize,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut writer = target.clients[0].lock().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"},
        "data": {"payload": PAYLOAD}});
    let made = writer
        .succeed(Method::POST, MAPS, object.to_string())
        .await?;
    let mut object: Value = serde_json::from_slice(&made)?;
    let revision = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let origin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let path = format!(
            "{MAPS}?watch=1&fieldSelector=metadata.name%3Dwatched&resourceVersion={revision}"
        );
        let mut lines = target.server.connect().await?.watch(&path).await?;
        tasks.spawn(async move {
            let mut found = Vec::new();
            while let Some(line) = lines.next().await? {
                let now = origin.elapsed().as_secs_f64();
                match sent(&line) {
                    Some(sent) if sent < 0.0 => break,
                    Some(sent) => found.push((now - sent) * 1000.0),
                    None => {}
                }
            }
            anyhow::Ok(found)
        });
    }
    let writes = RATE * time.as_secs();
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / RATE));
    let path = format!("{MAPS}/watched");
    for number in 0..=writes {
        tick.tick().await;
        let sent = if number == writes {
            -1.0
        } else {
            origin.elapsed().as_secs_f64()
        };
        object["data"]["sent"] = sent.to_string().into();
        let written = writer
            .succeed(Method::PUT, &path, Bytes::from(object.to_string()))
            .await?;
        object = serde_json::from_slice(&written)?;
    }
    let mut all = Vec::new();
    while let Some(found) = tasks.join_next().await {
        all.extend(found?.context("a watcher")?);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}
