//! Requests to the API server, in JSON.

use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request};
use kube::Client;
use kube::core::WatchEvent;
use serde_json::{Value, json};

/// Sends a request and returns the object that the server answers.
pub async fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, kube::Error> {
    let form = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", form)
        .body(body.map(|b| b.to_string().into_bytes()).unwrap_or_default())
        .expect("a request");
    client.request::<Value>(request).await
}

pub async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    call(client, Method::GET, path, None).await
}

pub async fn post(client: &Client, path: &str, body: Value) -> Result<Value, kube::Error> {
    call(client, Method::POST, path, Some(body)).await
}

pub async fn patch(client: &Client, path: &str, body: Value) -> Result<Value, kube::Error> {
    call(client, Method::PATCH, path, Some(body)).await
}

pub async fn delete(client: &Client, path: &str, options: Value) -> Result<Value, kube::Error> {
    call(client, Method::DELETE, path, Some(options)).await
}

/// Returns whether the server has answered with this code.
pub fn is_code<T>(result: &Result<T, kube::Error>, code: u16) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == code)
}

/// A change that a watch has shown.
pub type Event = Result<WatchEvent<Value>, kube::Error>;

/// Lists a resource, and watches it from there. `query` selects objects.
pub async fn list_and_watch(
    client: &Client,
    path: &str,
    query: &str,
) -> Result<(Vec<Value>, u64, BoxStream<'static, Event>), kube::Error> {
    let mut list = get(client, &format!("{path}?{query}")).await?;
    let items = match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let revision = list["metadata"]["resourceVersion"].as_str();
    let revision: u64 = revision.and_then(|r| r.parse().ok()).expect("a revision");
    let request = Request::get(format!(
        "{path}?watch=true&resourceVersion={revision}&{query}"
    ));
    let request = request.body(Vec::new()).expect("a request");
    let events = client.request_events::<Value>(request).await?;
    Ok((items, revision, events.boxed()))
}

/// Returns a string at a JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// Returns a number at a JSON pointer; 0 if there is none.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Returns the owner that controls an object, as its uid.
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == json!(true))?;
    owner["uid"].as_str()
}

/// Returns whether a pod has the condition `Ready`.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}
