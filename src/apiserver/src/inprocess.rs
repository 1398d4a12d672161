//! Clients of the server inside its own process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::Mutex;
use rkube_auth::UserInfo;
use tower::Service;

use crate::{ApiServer, Body, BoxError, body};

/// The server as a tower service that acts as one user of this process.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
    /// Dropped with the last clone, when the component has ended.
    _alive: Arc<()>,
}

/// The components that have an in-process client, by user name. A component keeps its client for as
/// long as it runs.
#[derive(Default)]
pub struct Components(Mutex<BTreeMap<String, Weak<()>>>);

impl Components {
    /// Returns whether a client of this user still exists.
    pub fn is_alive(&self, user: &str) -> bool {
        self.0
            .lock()
            .get(user)
            .is_some_and(|alive| alive.strong_count() > 0)
    }
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.server.clone();
        let mut request = request.map(body::boxed);
        request.extensions_mut().insert(self.user.clone());
        Box::pin(async move { Ok(server.call(request).await) })
    }
}

impl InProcess {
    /// Creates the service for `user`.
    pub fn new(server: Arc<ApiServer>, user: UserInfo) -> Self {
        let alive = Arc::new(());
        let name = user.name.clone();
        server
            .components
            .0
            .lock()
            .insert(name, Arc::downgrade(&alive));
        Self {
            server,
            user,
            _alive: alive,
        }
    }
}

/// Returns a client that sends its requests to `server` in process, as `user` in `groups`.
pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> kube::Client {
    let service = InProcess::new(server.clone(), UserInfo::authenticated(user, groups));
    kube::Client::new(service, "default")
}
