//! Answers to browsers that ask for another origin's resources.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::settings::Cors;

/// Returns the origin of a request.
pub fn origin<B>(request: &Request<B>) -> Option<HeaderValue> {
    request.headers().get(ORIGIN).cloned()
}

/// Returns the headers of the answer to an `OPTIONS` request; `None` for other methods.
pub fn preflight<B>(cors: &Cors, request: &Request<B>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    if *request.method() != Method::OPTIONS {
        return None;
    }
    let mut headers = HeaderMap::new();
    allow(cors, origin(request).as_ref(), &mut headers);
    if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age));
    }
    let all = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    Some(all.collect())
}

/// Adds the headers that allow an origin, if it is allowed.
pub fn allow(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let all = cors.origins.iter().any(|o| o == "*");
    let allowed = match origin {
        _ if all => Some(HeaderValue::from_static("*")),
        Some(origin) => {
            // Other origins get other answers, which caches must know.
            headers.append(VARY, HeaderValue::from_static("Origin"));
            let text = origin.to_str().unwrap_or_default();
            let fits = cors.origins.iter().any(|pattern| matches(pattern, text));
            fits.then(|| origin.clone())
        }
        None => None,
    };
    let Some(allowed) = allowed else {
        return;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        let value = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
    if let Some(expose) = &cors.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

/// Whether an origin fits a pattern with at most one `*`, which stands for one or more labels.
fn matches(pattern: &str, origin: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(origin),
        Some((start, end)) => {
            let (origin, start, end) = (
                origin.to_ascii_lowercase(),
                start.to_ascii_lowercase(),
                end.to_ascii_lowercase(),
            );
            let middle = origin
                .strip_prefix(&start)
                .and_then(|rest| rest.strip_suffix(&end));
            let label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            middle.is_some_and(|m| !m.is_empty() && m.chars().all(label))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_fit_patterns() {
        for (pattern, origin, fits) in [
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "http://a.test", false),
            ("https://*.a.test", "https://b.a.test", true),
            ("https://*.a.test", "https://a.test", false),
            ("https://*.a.test", "https://evil/.a.test", false),
            ("https://*.a.test:8080", "https://b.a.test:8080", true),
        ] {
            assert_eq!(matches(pattern, origin), fits, "{pattern} {origin}");
        }
    }
}
