//! Errors and header parsing shared by upgrades to all protocols.

use http::{HeaderMap, StatusCode, header};

/// Error returned when a connection cannot be upgraded as requested.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The request has no `Sec-WebSocket-Key` header.
    #[error("no Sec-WebSocket-Key")]
    MissingKey,
    /// The client offers no version that the server supports. The field lists the supported ones.
    #[error("unable to negotiate protocol: server supports {0:?}")]
    UnsupportedVersion(Vec<&'static str>),
    /// The response has an invalid header value.
    #[error(transparent)]
    Response(#[from] http::Error),
}

impl UpgradeError {
    /// Returns the status code for the response to the failed upgrade.
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::MissingKey => StatusCode::BAD_REQUEST,
            Self::UnsupportedVersion(_) => StatusCode::FORBIDDEN,
            Self::Response(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Returns whether a comma-separated header contains a word, ignoring case.
pub(crate) fn header_lists(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    header_values(headers, name).any(|v| v.eq_ignore_ascii_case(word))
}

/// Returns the values of a comma-separated header, trimmed.
pub(crate) fn header_values(
    headers: &HeaderMap,
    name: header::HeaderName,
) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_searched_without_case() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, "keep-alive, Upgrade".parse().unwrap());
        headers.append(header::CONNECTION, "x".parse().unwrap());
        for (word, listed) in [("upgrade", true), ("X", true), ("keep", false), ("", false)] {
            assert_eq!(
                header_lists(&headers, header::CONNECTION, word),
                listed,
                "{word}"
            );
        }
    }

    #[test]
    fn errors_have_the_status_codes_of_their_causes() {
        let unsupported = UpgradeError::UnsupportedVersion(vec!["a", "b"]);
        assert_eq!(unsupported.status_code(), StatusCode::FORBIDDEN);
        assert_eq!(
            unsupported.to_string(),
            r#"unable to negotiate protocol: server supports ["a", "b"]"#
        );
        assert_eq!(
            UpgradeError::MissingKey.status_code(),
            StatusCode::BAD_REQUEST
        );
    }
}
