//! The environment shared by all controllers: client, informers, event recorder and settings.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{
    DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use rkube_client::error::{Error, Result, api_message, optional};

use crate::config::Config;
use crate::events::{FIELD_MANAGER, Recorder};
use crate::informers::{Object, Store};
use crate::kinds::Informers;

/// Options for deleting an object.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Grace period in seconds; defaults to the object's.
    pub grace_seconds: Option<u32>,
    /// Propagation policy; defaults to the kind's.
    pub propagation: Option<PropagationPolicy>,
    /// Resource version as a precondition.
    pub resource_version: Option<String>,
}

/// The environment shared by all controllers; clones share it.
#[derive(Clone)]
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The settings.
    pub config: Arc<Config>,
    /// The shared informers.
    pub informers: Arc<Informers>,
    /// The event recorder.
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
    /// Returns this environment with another client: that of one controller.
    pub fn acting_as(&self, client: Client) -> Self {
        Self {
            client,
            ..self.clone()
        }
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Reads an object from the API server, bypassing the informers.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K> {
        let request = built(Request::new(url::<K>(namespace)).get(name, &GetParams::default()))?;
        Ok(self.client.request(request).await?)
    }

    /// Creates an object and adds the response to the store.
    pub async fn create<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or_default();
        let request = built(Request::new(url::<K>(namespace)).create(&post(), json(object)?))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Replaces an object and updates the store with the response.
    pub async fn update<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let (namespace, name) = namespace_and_name(object.metadata());
        let request =
            built(Request::new(url::<K>(namespace)).replace(name, &post(), json(object)?))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Replaces an object's status and updates the store with the response.
    pub async fn update_status<K: Object>(&self, store: &Store<K>, object: &K) -> Result<Arc<K>> {
        let (namespace, name) = namespace_and_name(object.metadata());
        let request = built(Request::new(url::<K>(namespace)).replace_subresource(
            "status",
            name,
            &post(),
            json(object)?,
        ))?;
        Ok(store.observe(self.client.request(request).await?))
    }

    /// Patches an object or a subresource and updates the store with the response.
    pub async fn patch<K: Object, P: Serialize + Debug>(
        &self,
        store: &Store<K>,
        meta: &ObjectMeta,
        subresource: Option<&str>,
        patch: &Patch<P>,
    ) -> Result<Arc<K>> {
        let (namespace, name) = namespace_and_name(meta);
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

    /// Deletes the object with this UID and updates the store.
    ///
    /// # Errors
    ///
    /// Fails with 404 if the object is already gone.
    pub async fn delete<K: Object>(
        &self,
        store: &Store<K>,
        meta: &ObjectMeta,
        how: &Deletion,
    ) -> Result<()> {
        let (namespace, name) = namespace_and_name(meta);
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
        // The object may have been marked for deletion or removed. Until the watch reports it,
        // assume that it was only marked.
        store.observe_deletion(meta, answer.is_right(), self.now());
        Ok(())
    }

    /// Sends a request with a JSON body and decodes the response.
    pub async fn raw<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        self.raw_as(method, path, "application/json", body).await
    }

    /// Sends a request with a body of media type `content` and decodes the response.
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

fn namespace_and_name(meta: &ObjectMeta) -> (&str, &str) {
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}
