//! Clients inside the server's own process.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use rkube_auth::UserInfo;
use tower::Service;

use crate::{ApiServer, Body, BoxError, body};

/// The server as a tower service for one user of the same process.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
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
    /// The service for `user`.
    pub fn new(server: Arc<ApiServer>, user: UserInfo) -> Self {
        Self { server, user }
    }
}

pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> kube::Client {
    let service = InProcess::new(server.clone(), UserInfo::authenticated(user, groups));
    kube::Client::new(service, "default")
}
