//! The events of a watch, as a stream of bytes or as messages of a WebSocket.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http::{Extensions, HeaderValue, Response, header};
use rkube_api::status::Status;
use rkube_streams::websocket::Message;
use serde_json::{Value, json};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::shape::{left_out, partial, row, table};
use crate::backend::Backend;
use crate::body::{self, Body, BoxError};
use crate::cache::{CachedObject, EventKind, Filter, TooOld, Watcher};
use crate::call::Call;
use crate::negotiate::{Accepted, Encoding, View};
use crate::outcome::Watching;
use crate::resources::Resource;
use crate::websocket;

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The state of a running watch, owned by its response stream.
struct Stream {
    call: Arc<WatchCall>,
    watcher: Watcher,
    filter: Filter,
    bookmarks: Option<tokio::sync::watch::Receiver<u64>>,
    progress: Arc<crate::cache::Cache>,
    // Kept across events, because creating them takes the lock of the timer and of the token's
    // list.
    deadline: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    sent_columns: bool,
    done: bool,
}

/// The parameters of a watch that determine how events are encoded.
struct WatchCall {
    call: Call,
    resource: Arc<Resource>,
    accepted: Accepted,
    /// Whether cached JSON of the right version can be sent unchanged.
    raw: bool,
    backend: Arc<Backend>,
}

/// Returns the response that sends the events of a watch. `extensions` are those of its request,
/// for an upgrade to a WebSocket.
///
/// # Errors
///
/// 400 if the upgrade is not possible.
pub async fn stream(
    backend: &Arc<Backend>,
    call: &Call,
    resource: &Arc<Resource>,
    accepted: Accepted,
    watching: Watching,
    extensions: &mut Extensions,
) -> Result<Response<Body>, Status> {
    let Watching {
        first,
        watcher,
        filter,
        bookmarks,
        marks_initial,
        duration,
        gauge,
    } = watching;
    let watcher = match watcher {
        Ok(watcher) => watcher,
        Err(status) => {
            let line = error_event(&status, accepted.encoding);
            return Ok(stream_response(accepted, body::full(line)));
        }
    };
    let mut stream = Stream {
        call: Arc::new(WatchCall {
            call: call.detached(),
            resource: resource.clone(),
            accepted,
            raw: accepted.view == View::Whole,
            backend: backend.clone(),
        }),
        watcher,
        filter,
        bookmarks: bookmarks.then(|| backend.bookmarks.subscribe()),
        progress: backend.cache.clone(),
        deadline: Box::pin(tokio::time::sleep(duration)),
        shutdown: Box::pin(backend.shutdown.clone().cancelled_owned()),
        sent_columns: false,
        done: false,
    };
    if let Some(receiver) = &mut stream.bookmarks {
        receiver.mark_unchanged();
    }
    let mut head = BytesMut::new();
    let first: Vec<_> = first.into_iter().map(|o| (EventKind::Added, o)).collect();
    stream.encode_all(&first, &mut head).await;
    drop(first);
    if marks_initial {
        stream.bookmark(true, &mut head);
    }
    let events = futures::stream::unfold(
        (stream, Some(head), gauge),
        |(mut stream, head, gauge)| async move {
            if let Some(head) = head.filter(|h| !h.is_empty()) {
                return Some((Ok::<Bytes, BoxError>(head.freeze()), (stream, None, gauge)));
            }
            let chunk = stream.next().await?;
            Some((Ok(chunk), (stream, None, gauge)))
        },
    );
    if rkube_streams::websocket::is_upgrade(&call.headers) {
        let stop = backend.shutdown.clone();
        return over_websocket(call, extensions, events.boxed(), accepted.encoding, stop);
    }
    Ok(stream_response(accepted, body::stream(events)))
}

fn stream_response(accepted: Accepted, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = match accepted.encoding {
        Encoding::Json | Encoding::Yaml => "application/json",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn too_old_status(asked: u64, too_old: &TooOld) -> Status {
    Status::gone(format!(
        "too old resource version: {asked} ({})",
        too_old.oldest
    ))
}

fn error_event(status: &Status, encoding: Encoding) -> Bytes {
    let mut out = BytesMut::new();
    put_event("ERROR", status.to_value(), encoding, &mut out);
    out.freeze()
}

/// Appends an event in the client's encoding.
fn put_event(kind: &str, object: Value, encoding: Encoding, out: &mut BytesMut) {
    if encoding == Encoding::Protobuf {
        match rkube_api::protobuf::encode(&object) {
            Ok(encoded) => return rkube_api::protobuf::watch_frame(kind, &encoded.body, out),
            // A `Status` can always be encoded as protobuf.
            Err(status) => {
                if let Ok(encoded) = rkube_api::protobuf::encode(&status.to_value()) {
                    rkube_api::protobuf::watch_frame("ERROR", &encoded.body, out);
                }
            }
        }
        return;
    }
    let event = json!({"type": kind, "object": object});
    out.put_slice(event.to_string().as_bytes());
    out.put_slice(b"\n");
}

/// Completes when the next bookmark is due; never if there are none.
async fn ticked(bookmarks: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(receiver) = bookmarks
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Stream {
    /// Returns the next bytes to send; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        loop {
            let ticked = ticked(&mut self.bookmarks);
            let mut out = BytesMut::new();
            tokio::select! {
                biased;
                () = self.shutdown.as_mut() => return None,
                events = self.watcher.next() => match events {
                    Ok(events) => {
                        let call = self.call.clone();
                        match call.backend.visible_events(&call.resource, &events, &self.filter).await {
                            Ok(seen) => self.encode_all(&seen, &mut out).await,
                            Err(status) => {
                                // As in `encode_all` for a failed conversion.
                                self.done = true;
                                return Some(error_event(&status, call.accepted.encoding));
                            }
                        }
                    }
                    Err(too_old) => {
                        // The client must list again and start a new watch.
                        self.done = true;
                        let status = too_old_status(self.watcher.revision(), &too_old);
                        return Some(error_event(&status, self.call.accepted.encoding));
                    }
                },
                () = ticked => {
                    self.bookmark(false, &mut out);
                }
                () = self.deadline.as_mut() => return None,
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    /// Encodes events in order. All objects that need conversion are converted in one batch.
    async fn encode_all(&mut self, events: &[(EventKind, Arc<CachedObject>)], out: &mut BytesMut) {
        let call = self.call.clone();
        if call.resource.crd_versions().is_none() {
            for (kind, object) in events {
                self.encode(kind.as_str(), object, out);
            }
            return;
        }
        let as_served =
            |object: &CachedObject| call.raw && call.resource.is_as_served(object.stored());
        let other: Vec<Arc<CachedObject>> = events
            .iter()
            .filter(|(_, object)| !as_served(object))
            .map(|(_, object)| object.clone())
            .collect();
        let mut converted = match other.is_empty() {
            true => Vec::new(),
            false => match call.backend.serve_all(&call.resource, &other).await {
                Ok(objects) => objects,
                Err(status) => {
                    // The client must list again; the list then reports the conversion error.
                    self.done = true;
                    return out.put_slice(&error_event(&status, call.accepted.encoding));
                }
            },
        }
        .into_iter();
        for (kind, object) in events {
            if as_served(object) {
                put_raw(kind.as_str(), object, &call, out);
            } else if let Some(object) = converted.next() {
                self.encode_tree(kind.as_str(), object, out);
            }
        }
    }

    fn encode(&mut self, kind: &str, object: &CachedObject, out: &mut BytesMut) {
        if self.call.raw && self.call.resource.serves_storage_version() {
            return put_raw(kind, object, &self.call, out);
        }
        if let View::Metadata(version) | View::MetadataList(version) = self.call.accepted.view
            && self.call.accepted.encoding != Encoding::Protobuf
        {
            return put_metadata(kind, object, version, out);
        }
        match self.call.resource.served(object.parse()) {
            Ok(object) => self.encode_tree(kind, object, out),
            Err(status) => {
                out.put_slice(&error_event(&status, self.call.accepted.encoding));
            }
        }
    }

    fn encode_tree(&mut self, kind: &str, object: Value, out: &mut BytesMut) {
        let call = &self.call;
        let shown = match call.accepted.view {
            View::Whole => object,
            View::Metadata(version) | View::MetadataList(version) => partial(&object, version),
            View::Table(version) => {
                let meta = json!({"resourceVersion": rkube_api::meta::resource_version(&object)});
                let rows = vec![row(&call.call, &call.resource, &object, version)];
                let columns = !std::mem::replace(&mut self.sent_columns, true);
                table(&call.resource, version, meta, rows, columns)
            }
        };
        put_event(kind, shown, call.accepted.encoding, out);
    }

    /// Appends a bookmark, which tells the client the revision up to which it has received all
    /// events.
    fn bookmark(&mut self, initial_end: bool, out: &mut BytesMut) {
        // The resource may have no changes while others have. Read the revision first: changes
        // applied afterwards are pending events and not skipped.
        let now = self.progress.revision();
        self.watcher.advance(now);
        let resource = &self.call.resource;
        let mut meta = json!({"resourceVersion": self.watcher.revision().to_string()});
        if initial_end {
            meta["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object =
            json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": meta});
        let shown = match self.call.accepted.view {
            View::Whole => object,
            View::Metadata(version) | View::MetadataList(version) => partial(&object, version),
            View::Table(version) => {
                let row = json!({"cells": [], "object": partial(&object, version)});
                let meta = json!({"resourceVersion": self.watcher.revision().to_string()});
                table(resource, version, meta, vec![row], false)
            }
        };
        put_event("BOOKMARK", shown, self.call.accepted.encoding, out);
    }
}

/// Appends an event with a stored object's bytes.
fn put_raw(kind: &str, object: &CachedObject, call: &WatchCall, out: &mut BytesMut) {
    if call.accepted.encoding == Encoding::Protobuf {
        match object.protobuf() {
            Ok(encoded) => rkube_api::protobuf::watch_frame(kind, &encoded.body, out),
            // One object that cannot be shown must not end the watch. Lists leave it out, too; who
            // has seen it before must not keep what it was.
            Err(error) => {
                left_out(&call.resource, object, &error);
                if kind != EventKind::Added.as_str() {
                    put_stub(object, call, out);
                }
            }
        }
        return;
    }
    out.reserve(object.json_len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    object.put_json(out);
    out.put_slice(b"}\n");
}

/// Appends the deletion of an object that has no protobuf form, with no more than its identity.
fn put_stub(object: &CachedObject, call: &WatchCall, out: &mut BytesMut) {
    let tree = object.tree();
    let mut metadata = json!({
        "name": &*object.name,
        "resourceVersion": object.revision.to_string(),
    });
    if !object.namespace.is_empty() {
        metadata["namespace"] = (*object.namespace).into();
    }
    if let Some(uid) = tree["metadata"]["uid"].as_str() {
        metadata["uid"] = uid.into();
    }
    let stub = json!({
        "apiVersion": call.resource.api_version(),
        "kind": &*call.resource.kind,
        "metadata": metadata,
    });
    put_event(EventKind::Deleted.as_str(), stub, Encoding::Protobuf, out);
}

/// Appends an event with the metadata of a stored object, which are the same in all versions of a
/// built-in kind.
fn put_metadata(kind: &str, object: &CachedObject, version: &str, out: &mut BytesMut) {
    out.reserve(512);
    for part in [
        "{\"type\":\"",
        kind,
        "\",\"object\":{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/",
        version,
        "\",\"metadata\":",
    ] {
        out.put_slice(part.as_bytes());
    }
    object.put_metadata(out);
    out.put_slice(b"}}\n");
}

/// Serves a watch over WebSocket: one text or binary message per event.
fn over_websocket(
    call: &Call,
    extensions: &mut Extensions,
    events: futures::stream::BoxStream<'static, Result<Bytes, BoxError>>,
    encoding: Encoding,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    // As upstream, the only offered subprotocol is accepted; among several, a known one is.
    let protocol = match websocket::offered(&call.headers).as_slice() {
        [only] => *only,
        several if several.contains(&"binary.k8s.io") => "binary.k8s.io",
        _ => "",
    };
    let handshake = websocket::Handshake::of(call, extensions, protocol)?;
    let messages = events
        .take_while(|chunk| std::future::ready(chunk.is_ok()))
        .flat_map(move |chunk| {
            let messages = chunk.map_or_else(|_| Vec::new(), |chunk| messages(&chunk, encoding));
            futures::stream::iter(messages)
        });
    Ok(handshake.serve(messages, stop))
}

/// Returns the events of a chunk as messages: text, or binary for protobuf.
fn messages(chunk: &[u8], encoding: Encoding) -> Vec<Message> {
    if encoding == Encoding::Protobuf {
        let events = length_delimited(chunk).into_iter();
        return events
            .map(|event| Message::binary(event.to_vec()))
            .collect();
    }
    let lines = chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| Message::text(String::from_utf8_lossy(line).into_owned()))
        .collect()
}

/// Splits a chunk of length-delimited events.
fn length_delimited(mut chunk: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    while let Some((length, rest)) = chunk.split_first_chunk::<4>() {
        let length = (u32::from_be_bytes(*length) as usize).min(rest.len());
        let (event, rest) = rest.split_at(length);
        events.push(event);
        chunk = rest;
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_a_message() {
        assert_eq!(
            messages(b"{}\n{\"a\":1}\n", Encoding::Json),
            [Message::text("{}"), Message::text("{\"a\":1}")]
        );
        let chunk = [0, 0, 0, 1, b'a', 0, 0, 0, 2, b'b', b'c'];
        assert_eq!(
            messages(&chunk, Encoding::Protobuf),
            [Message::binary(&b"a"[..]), Message::binary(&b"bc"[..])]
        );
    }

    #[test]
    fn chunks_fall_into_events() {
        let chunk = [0, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 2, b'b', b'c'];
        assert_eq!(length_delimited(&chunk), [&b"a"[..], b"", b"bc"]);
    }
}
