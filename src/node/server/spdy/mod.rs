use http::HeaderMap;
pub(crate) fn wanted(_h: &HeaderMap) -> bool {
    false
}
pub(crate) mod command {
    use super::super::remote::Streams;
    use super::super::{Answer, text};
    use std::sync::Arc;
    pub(crate) fn serve(
        _a: Arc<crate::agent::Agent>,
        _s: Streams,
        _r: http::Request<hyper::body::Incoming>,
    ) -> Answer {
        text(http::StatusCode::BAD_REQUEST, "SPDY is not served yet")
    }
}
