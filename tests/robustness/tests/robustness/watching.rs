//! A watch that goes on where it was when a server has crashed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Request;
use kube::Client;
use serde_json::Value as Json;

use crate::clients::{self, COLLECTION, END, version};
use crate::linearizable::Value;

/// What a watch has seen.
#[derive(Default)]
pub struct Seen {
    /// Objects by revision.
    pub writes: BTreeMap<u64, (String, Value)>,
    /// Revisions between which events may be missing, because the server no longer had them.
    pub gaps: Vec<(u64, u64)>,
    last: Option<u64>,
    /// Whether the last object was seen.
    ended: bool,
}

impl Seen {
    /// Returns whether a write must have been seen.
    pub fn covers(&self, revision: u64) -> bool {
        let is_in_gap = |(from, to): &(u64, u64)| (*from..=*to).contains(&revision);
        self.last.is_some_and(|last| revision <= last) && !self.gaps.iter().any(is_in_gap)
    }

    fn event(&mut self, event: &Json) -> Result<(), ()> {
        let object = &event["object"];
        match event["type"].as_str() {
            // The server no longer has the changes: begin with a list.
            Some("ERROR") => {
                assert_eq!(object["code"], 410, "{object}");
                return Err(());
            }
            Some("BOOKMARK") => return Ok(()),
            _ => {}
        }
        let name = object["metadata"]["name"].as_str().expect("a name");
        if !name.starts_with("register") {
            return Ok(());
        }
        let (revision, value) = version(object);
        let last = self.last.expect("a list comes first");
        assert!(revision > last, "event {revision} came after {last}");
        self.last = Some(revision);
        self.ended |= name == END;
        if event["type"] != "DELETED" {
            self.writes.insert(revision, (name.to_owned(), value));
        }
        Ok(())
    }

    fn listed(&mut self, list: &Json) {
        let revision = list["metadata"]["resourceVersion"].as_str();
        let revision = revision.and_then(|text| text.parse().ok());
        let revision: u64 = revision.expect("a list's revision");
        let last = self.last.replace(revision);
        let last = last.unwrap_or(0);
        assert!(revision >= last, "a list of {revision} came after {last}");
        self.gaps.push((last, revision));
        let items = list["items"].as_array().expect("items");
        self.ended |= items.iter().any(|item| item["metadata"]["name"] == END);
    }
}

/// Watches until the last object is written, through crashes of the server.
pub async fn watch(client: &Client) -> Seen {
    let mut seen = Seen::default();
    let mut has_state = false;
    while !seen.ended {
        if has_state {
            has_state = follow(client, &mut seen).await.is_ok();
        } else {
            let list = tokio::time::timeout(Duration::from_secs(2), clients::list(client));
            if let Ok(Ok(list)) = list.await {
                seen.listed(&list);
                has_state = true;
                continue;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).expect("a request")
}

/// Follows the changes until the connection ends. An error means that a list is needed.
async fn follow(client: &Client, seen: &mut Seen) -> Result<(), ()> {
    let last = seen.last.expect("a list comes first");
    let path = format!("{COLLECTION}?watch=1&resourceVersion={last}");
    let opening = client.request_stream(get(&path));
    let Ok(opened) = tokio::time::timeout(Duration::from_secs(2), opening).await else {
        return Ok(());
    };
    let body = match opened {
        Ok(body) => body,
        Err(kube::Error::Api(status)) if status.code == 410 => return Err(()),
        Err(_) => return Ok(()),
    };
    let mut lines = body.lines();
    while let Ok(Some(line)) = lines.try_next().await {
        // The last line of a killed server may be cut off.
        let Ok(event) = serde_json::from_str::<Json>(&line) else {
            return Ok(());
        };
        seen.event(&event)?;
        if seen.ended {
            break;
        }
    }
    Ok(())
}
