//! Which encoding and which view of an object a client wants.

use http::{HeaderMap, header};
use rkube_api::status::Status;

/// How a response is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, for requests alone.
    Protobuf,
}

impl Encoding {
    /// As in `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => crate::protobuf::MEDIA_TYPE,
        }
    }
}

/// What of an object a client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Whole,
    /// Rows for people to read, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata alone, in this version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// The outcome of content negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How to encode.
    pub encoding: Encoding,
    /// What to show.
    pub view: View,
}

/// What is said when nothing fits: what would.
const OFFERED: [&str; 2] = ["application/json", "application/yaml"];

struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let mut quality = 1.0;
            let mut params = Vec::new();
            for part in parts {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                if key == "q" {
                    quality = value.parse().unwrap_or(1.0);
                } else {
                    params.push((key, value));
                }
            }
            Some(Clause {
                media,
                params,
                quality,
            })
        })
        .collect();
    // Stable: what the client names first wins among equals.
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

/// Picks the first thing that the client accepts and the server has. Views of
/// objects are only offered when `views` says so.
pub fn accept(headers: &HeaderMap, views: bool) -> Result<Accepted, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Accepted {
            encoding: Encoding::Json,
            view: View::Whole,
        });
    }
    for clause in &clauses {
        let encoding = match clause.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let param = |key: &str| {
            clause
                .params
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| *v)
        };
        let version = match param("v") {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        };
        let view = match (param("as"), param("g"), version) {
            (None, ..) => Some(View::Whole),
            (Some("Table"), Some("meta.k8s.io"), Some(version)) if views => {
                Some(View::Table(version))
            }
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some(version),
            ) if views => Some(View::Metadata(version)),
            _ => None,
        };
        if let Some(view) = view {
            return Ok(Accepted { encoding, view });
        }
    }
    Err(Status::not_acceptable(&OFFERED))
}

/// The encoding of a request's body.
pub fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        crate::protobuf::MEDIA_TYPE => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(&OFFERED)),
    }
}

/// The media type of a request's body, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(value: &str) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(header::ACCEPT, value.parse().unwrap());
        }
        accept(&headers, true).map_err(|s| s.code)
    }

    #[test]
    fn picks_what_there_is() {
        let json = Accepted {
            encoding: Encoding::Json,
            view: View::Whole,
        };
        assert_eq!(ask(""), Ok(json));
        assert_eq!(ask("*/*"), Ok(json));
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf,application/json"),
            Ok(json)
        );
        assert_eq!(ask("application/cbor"), Err(406));
        assert_eq!(ask("application/json;stream=watch"), Ok(json));
        assert_eq!(
            ask("application/yaml"),
            Ok(Accepted {
                encoding: Encoding::Yaml,
                view: View::Whole
            })
        );
        assert_eq!(
            ask("application/json;q=0.1, application/yaml")
                .unwrap()
                .encoding,
            Encoding::Yaml
        );
    }

    #[test]
    fn views_are_asked_for_by_parameters() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(ask(kubectl).unwrap().view, View::Table("v1"));
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap().view,
            View::Metadata("v1")
        );
        assert_eq!(
            ask("application/json;as=Table;v=v2;g=meta.k8s.io"),
            Err(406)
        );
    }
}
