//! The service on which device plugins register.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use rkube_component_helpers::resource::is_extended;

use super::Manager;
use crate::api::device_plugin as api;
use crate::grpc::{Code, Reply, Service, Status, answer};
use crate::wire::Message as _;

/// The service on which plugins register.
pub(super) struct Registration(pub Arc<Manager>);

impl Registration {
    async fn register(manager: Arc<Manager>, request: Bytes) -> Result<Reply, Status> {
        let invalid = |message: String| Status::new(Code::Unknown, message);
        let request = api::RegisterRequest::decode(&request)
            .map_err(|e| Status::new(Code::Internal, e.to_string()))?;
        if request.version != api::VERSION {
            return Err(invalid(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is [{:?}]",
                request.version,
                api::VERSION
            )));
        }
        if !is_extended(&request.resource_name) {
            return Err(invalid(format!(
                "the ResourceName {:?} is invalid",
                request.resource_name
            )));
        }
        let socket = manager.dir.join(request.endpoint.trim_start_matches('/'));
        let done = manager.connect(&request.resource_name, &socket).await;
        done.map_err(invalid)?;
        answer(&api::Empty {})
    }
}

impl Service for Registration {
    fn call(
        &self,
        method: &str,
        request: Bytes,
    ) -> Option<BoxFuture<'static, Result<Reply, Status>>> {
        let manager = self.0.clone();
        (method == api::REGISTER)
            .then(|| Box::pin(Self::register(manager, request)) as BoxFuture<'static, _>)
    }
}
