//! One API server: requests and their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::generate::Case;

/// An API server under test.
#[derive(Clone)]
pub struct Server {
    client: Client,
    /// The namespace of all namespaced objects.
    pub namespace: String,
}

/// An answer of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The texts of the `Warning` headers, in order.
    pub warnings: Vec<String>,
    /// The headers that two servers have in common, with `set` for what each chooses.
    pub headers: BTreeMap<String, String>,
    /// The body, if it is JSON; the events of a watch are a list.
    pub body: Value,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

/// A request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path with the query.
    pub path: &'a str,
    /// The media type of the body.
    pub media: &'a str,
    /// The body.
    pub body: Vec<u8>,
    /// The media types of the answer.
    pub accept: &'a str,
    /// More headers.
    pub headers: &'a BTreeMap<String, String>,
    /// The type of the watch event that ends the request.
    pub until: Option<&'a str>,
}

impl Answer {
    /// Returns whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Returns whether the body is for people or tools that read text.
    pub fn is_text(&self) -> bool {
        let media = self.headers.get("content-type");
        !media.is_some_and(|media| media.contains("protobuf"))
    }

    /// Returns the resource version of the object in the body, empty if it has none.
    pub fn version(&self) -> &str {
        self.body["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
    }
}

impl Server {
    /// Creates a server from a client. The namespace must exist before cases are sent; see
    /// [`Self::prepare`].
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.into(),
        }
    }

    /// Creates the namespace, and its default service account where no controller does.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        let namespaced = format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace);
        for (path, kind, name) in [
            ("/api/v1/namespaces", "Namespace", self.namespace.as_str()),
            (&namespaced, "ServiceAccount", "default"),
        ] {
            let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            let answer = self
                .send("POST", path, "application/json", object.to_string().into())
                .await?;
            anyhow::ensure!(answer.is_ok() || answer.code == 409, "{}", answer.body);
        }
        Ok(())
    }

    /// Returns the path of the collection of a case's kind.
    pub fn collection(&self, case: &Case) -> String {
        let resource = case.resource;
        let root = resource.group_version_path();
        match resource.namespaced {
            true => format!("{root}/namespaces/{}/{}", self.namespace, resource.plural),
            false => format!("{root}/{}", resource.plural),
        }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// The connection fails. Every answer of the server is a success here.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        self.send_accepting(method, path, media, body, "application/json")
            .await
    }

    /// Like [`Self::send`], with the media type of the answer.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_accepting(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: Vec<u8>,
        accept: &str,
    ) -> anyhow::Result<Answer> {
        self.ask(Ask {
            method,
            path,
            media,
            body,
            accept,
            headers: &BTreeMap::new(),
            until: None,
        })
        .await
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ask(&self, ask: Ask<'_>) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header("user-agent", "differential/1.0");
        if !ask.accept.is_empty() {
            request = request.header("accept", ask.accept);
        }
        if !ask.body.is_empty() && !ask.media.is_empty() {
            request = request.header("content-type", ask.media);
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let context = || format!("{} {}", ask.method, ask.path);
        let sent = self.client.send(request.body(Body::from(ask.body))?);
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, sent).await {
            Ok(Ok(answer)) => answer,
            // Upstream closes the connection when a handler panics.
            Ok(Err(error)) if error.to_string().contains("SendRequest") => {
                return Ok(Answer {
                    body: "the connection was closed".into(),
                    ..Answer::default()
                });
            }
            Ok(Err(error)) => return Err(error).with_context(context),
            Err(_) => {
                return Ok(Answer {
                    body: "no answer".into(),
                    ..Answer::default()
                });
            }
        };
        let (head, body) = answer.into_parts();
        let bytes = read(body, ask.until).await.with_context(context)?;
        let warnings = head.headers.get_all("warning").iter();
        Ok(Answer {
            code: head.status.as_u16(),
            warnings: warnings
                .filter_map(|w| w.to_str().ok().map(str::to_owned))
                .collect(),
            headers: comparable(&head.headers),
            body: parse(&bytes),
            bytes,
        })
    }
}

/// Time for which an answer is read. Watches that are not to be ones would not end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Reads a body to its end, for a limited time, or until a watch event of the type `until` is
/// complete.
async fn read(mut body: Body, until: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let end = until.map(|kind| format!("\"type\":\"{kind}\""));
    let mut bytes = Vec::new();
    let limit = tokio::time::Instant::now() + ANSWER_TIMEOUT;
    while let Ok(Some(frame)) = tokio::time::timeout_at(limit, body.frame()).await {
        if let Some(data) = frame?.data_ref() {
            bytes.extend_from_slice(data);
        }
        if let Some(end) = &end
            && bytes.ends_with(b"\n")
            && String::from_utf8_lossy(&bytes).contains(end)
        {
            break;
        }
    }
    Ok(bytes)
}

/// Returns the JSON value of a body, or the list of values of its lines; null if it is neither.
fn parse(bytes: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    let lines = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    lines
        .collect::<Result<Vec<_>, _>>()
        .map_or(Value::Null, Value::Array)
}

/// Returns the headers that do not depend on the connection.
fn comparable(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in headers.keys() {
        let all = headers.get_all(name).iter();
        let all: Vec<_> = all.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        let value = match name.as_str() {
            "content-length" | "transfer-encoding" | "connection" | "content-encoding" => continue,
            "audit-id" | "date" | "etag" | "last-modified" | "expires" => "set".to_owned(),
            // Requests of this process pass no flow control.
            name if name.starts_with("x-kubernetes-pf-") => continue,
            _ => all.join("; "),
        };
        if name != "date" {
            found.insert(name.to_string(), value);
        }
    }
    found
}

/// Returns the object of a case under a name, in the namespace of the server.
pub fn named(server: &Server, case: &Case, name: &str) -> Value {
    let mut object = case.object.clone();
    for field in ["regarding", "involvedObject"] {
        if let Some(place) = object.pointer_mut(&format!("/{field}/namespace"))
            && place == "NAMESPACE"
        {
            *place = server.namespace.as_str().into();
        }
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata["name"] = name.into();
    if case.resource.namespaced {
        metadata["namespace"] = server.namespace.as_str().into();
    }
    object
}
