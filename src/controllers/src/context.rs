//! What every controller works with: the client, the shared informers, the
//! event recorder and the settings.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{
    DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::{Request, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Config;
use crate::events::Recorder;
use crate::informers::{Object, Store};
use crate::kinds::Informers;

/// The field manager of everything that controllers write, as upstream's.
pub const FIELD_MANAGER: &str = "kube-controller-manager";

/// Why a controller could not do its work on an item.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be asked.
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
    /// It is not a failure, only not yet time: look again after this long.
    #[error("to be looked at again in {0:?}")]
    Retry(Duration),
    /// The objects are not such that the controller can go on.
    #[error("{0}")]
    Other(String),
}

/// The message alone of an API error: it is what users see in conditions and events.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What controllers return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this text.
    pub fn other(text: impl Into<String>) -> Self {
        Error::Other(text.into())
    }

    /// The API server's status, when it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// Whether somebody else changed the object meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.status()
            .is_some_and(|status| status.reason == "Conflict")
    }

    /// Whether an object of that name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.status()
            .is_some_and(|status| status.reason == "AlreadyExists")
    }

    /// Whether the object was refused for its content.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|status| status.code == 422)
    }

    /// Whether nothing can be made because the namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            status.code == 403
                && status
                    .details
                    .iter()
                    .flat_map(|details| &details.causes)
                    .any(|cause| cause.reason == "NamespaceTerminating")
        })
    }
}

/// Turns "it is not there" into `None`.
pub fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Seconds of grace, when not the object's own.
    pub grace_seconds: Option<u32>,
    /// What happens to dependents, when not the kind's default.
    pub propagation: Option<PropagationPolicy>,
    /// Only if the object still is of this resource version.
    pub resource_version: Option<String>,
}

/// What every controller works with; clones share it.
#[derive(Clone)]
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// The settings.
    pub config: Arc<Config>,
    /// The shared informers.
    pub informers: Arc<Informers>,
    /// The way events are reported.
    pub recorder: Recorder,
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..Default::default()
    }
}

fn url<K: Object>(namespace: &str) -> String {
    K::url_path(&(), (!namespace.is_empty()).then_some(namespace))
}

fn json<T: Serialize>(object: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(|error| Error::Api(kube::Error::SerdeError(error)))
}

fn built<T>(request: std::result::Result<T, kube::core::request::Error>) -> Result<T> {
    request.map_err(|error| Error::Api(kube::Error::BuildRequest(error)))
}

impl Context {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Reads an object past the stores.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K> {
        let request = built(Request::new(url::<K>(namespace)).get(name, &GetParams::default()))?;
        Ok(self.client.request(request).await?)
    }

    /// Makes an object.
    pub async fn create<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or_default();
        let request = built(Request::new(url::<K>(namespace)).create(&post(), json(object)?))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Replaces an object.
    pub async fn update<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let (namespace, name) = names(object.metadata());
        let request =
            built(Request::new(url::<K>(namespace)).replace(name, &post(), json(object)?))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Replaces an object's status.
    pub async fn update_status<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let (namespace, name) = names(object.metadata());
        let request = built(Request::new(url::<K>(namespace)).replace_subresource(
            "status",
            name,
            &post(),
            json(object)?,
        ))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Patches an object, or its subresource.
    pub async fn patch<K: Object, P: Serialize + Debug>(
        &self,
        store: &Store<K>,
        meta: &ObjectMeta,
        subresource: Option<&str>,
        patch: &Patch<P>,
    ) -> Result<Arc<K>> {
        let (namespace, name) = names(meta);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..Default::default()
        };
        let request = Request::new(url::<K>(namespace));
        let request = built(match subresource {
            Some(subresource) => request.patch_subresource(subresource, name, &params, patch),
            None => request.patch(name, &params, patch),
        })?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Deletes exactly this object; that it is gone already is an error (404).
    pub async fn delete<K: Object>(
        &self,
        store: &Store<K>,
        meta: &ObjectMeta,
        how: &Deletion,
    ) -> Result<()> {
        let (namespace, name) = names(meta);
        let params = DeleteParams {
            grace_period_seconds: how.grace_seconds,
            propagation_policy: how.propagation.clone(),
            preconditions: Some(Preconditions {
                uid: meta.uid.clone(),
                resource_version: how.resource_version.clone(),
            }),
            ..Default::default()
        };
        let request = built(Request::new(url::<K>(namespace)).delete(name, &params))?;
        let answer = self.client.request_status::<K>(request).await?;
        // An object in the answer may have been marked or removed: until the
        // watch tells, it counts as marked.
        store.observe_deletion(meta, answer.is_right(), self.now());
        Ok(())
    }

    /// Sends any request and reads the answer.
    pub async fn raw<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        self.raw_as(method, path, "application/json", body).await
    }

    /// Sends any request whose body is of type `content` and reads the answer.
    pub async fn raw_as<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, content)
            .body(body)
            .map_err(|error| Error::Api(kube::Error::HttpError(error)))?;
        Ok(self.client.request(request).await?)
    }
}

fn names(meta: &ObjectMeta) -> (&str, &str) {
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}
