//! One API server: requests and their answers.

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
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The texts of the `Warning` headers, in order.
    pub warnings: Vec<String>,
    /// The body, if it is JSON.
    pub body: Value,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Returns whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
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
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept);
        if !body.is_empty() {
            request = request.header("content-type", media);
        }
        let answer = self
            .client
            .send(request.body(Body::from(body))?)
            .await
            .with_context(|| format!("{method} {path}"))?;
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await?.to_bytes().to_vec();
        let warnings = head.headers.get_all("warning").iter();
        Ok(Answer {
            code: head.status.as_u16(),
            warnings: warnings
                .filter_map(|w| w.to_str().ok().map(str::to_owned))
                .collect(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            bytes,
        })
    }
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
