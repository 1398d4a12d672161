//! Content negotiation: the encoding and the representation that a client requests.

use http::{HeaderMap, header};
use rkube_api::status::{Details, Status};

/// The encoding of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Encoding {
    /// Returns the media type for `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => rkube_api::protobuf::MEDIA_TYPE,
        }
    }
}

/// The representation of an object that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The complete object.
    Whole,
    /// A `Table` in this version of `meta.k8s.io`.
    Table(&'static str),
    /// `PartialObjectMetadata` in this version of `meta.k8s.io`.
    Metadata(&'static str),
    /// `PartialObjectMetadataList` in this version of `meta.k8s.io`.
    MetadataList(&'static str),
}

/// The result of content negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The response's encoding.
    pub encoding: Encoding,
    /// The object's representation.
    pub view: View,
}

/// The media types that an endpoint can produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTypes {
    /// JSON and YAML; for documents that are not API objects.
    Document,
    /// All encodings of a complete API object.
    Plain,
    /// All encodings, tables and metadata; for built-in kinds.
    Builtin,
    /// As [`Self::Builtin`], but protobuf for metadata only; for custom resources.
    Custom,
    /// The event stream of [`Self::Builtin`].
    BuiltinWatch,
    /// The event stream of [`Self::Custom`].
    CustomWatch,
    /// As [`Self::BuiltinWatch`], without tables: for watches that begin with a list.
    BuiltinWatchList,
    /// As [`Self::CustomWatch`], without tables: for watches that begin with a list.
    CustomWatchList,
}

impl MediaTypes {
    /// Returns the media types of a watch of the same objects.
    pub fn watched(self) -> Self {
        match self {
            Self::Builtin => Self::BuiltinWatch,
            Self::Custom => Self::CustomWatch,
            other => other,
        }
    }

    /// Returns the media types of a watch that sends all objects first and then marks their end.
    pub fn watch_listed(self) -> Self {
        match self {
            Self::Builtin => Self::BuiltinWatchList,
            Self::Custom => Self::CustomWatchList,
            other => other,
        }
    }

    fn is_watch(self) -> bool {
        matches!(
            self,
            Self::BuiltinWatch | Self::CustomWatch | Self::BuiltinWatchList | Self::CustomWatchList
        )
    }

    /// Returns the encodings, in the order of preference for wildcards.
    fn encodings(self) -> &'static [Encoding] {
        match self {
            Self::Document => &[Encoding::Json, Encoding::Yaml],
            Self::Plain | Self::Builtin | Self::Custom => {
                &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf]
            }
            // Event streams have no YAML form, but who prefers it gets nothing else.
            _ => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
        }
    }

    fn has_views(self) -> bool {
        !matches!(self, Self::Document | Self::Plain)
    }

    /// Returns whether `view` is available in `encoding`.
    fn has(self, encoding: Encoding, view: View) -> bool {
        match (encoding, view) {
            (Encoding::Protobuf, View::Table(_)) => false,
            (Encoding::Protobuf, View::Whole) => !matches!(
                self,
                Self::Custom | Self::CustomWatch | Self::CustomWatchList
            ),
            (_, View::Table(_)) => !matches!(self, Self::BuiltinWatchList | Self::CustomWatchList),
            _ => true,
        }
    }

    /// Returns whether upstream's router serves the endpoint, and not the handler of custom
    /// resources.
    fn is_routed(self) -> bool {
        matches!(
            self,
            Self::Builtin | Self::BuiltinWatch | Self::BuiltinWatchList
        )
    }

    /// Returns the 406 error of upstream's router.
    fn not_offered(self) -> Status {
        let streams = match self.is_watch() {
            true => {
                ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
            }
            false => "",
        };
        let message = format!(
            "406: Not Acceptable\n\nAvailable representations: {}{streams}",
            OFFERED.join(", ")
        );
        Status::new(406, "NotAcceptable", message).with_details(Details::default())
    }

    /// Returns the 406 error, which lists the available media types.
    fn refusal(self) -> Status {
        Status::not_acceptable(match self {
            Self::Document => &["application/json", "application/yaml"],
            _ if self.is_watch() => &[
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ],
            _ => &OFFERED,
        })
    }
}

/// The media types accepted in request bodies.
const OFFERED: [&str; 3] = [
    "application/json",
    "application/yaml",
    rkube_api::protobuf::MEDIA_TYPE,
];

struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    fn param(&self, key: &str) -> Option<&str> {
        let found = self.params.iter().find(|(k, _)| *k == key);
        found.map(|(_, v)| *v)
    }
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
    // The sort is stable: among equal qualities the client's order decides, and exact types precede
    // wildcards.
    let open = |media: &str| (media.starts_with('*'), media.ends_with('*'));
    all.sort_by(|a, b| {
        b.quality
            .total_cmp(&a.quality)
            .then_with(|| open(a.media).cmp(&open(b.media)))
    });
    all
}

/// Selects the client's most preferred media type that is available.
///
/// # Errors
///
/// 406 if none is available.
pub fn accept(headers: &HeaderMap, offer: MediaTypes) -> Result<Accepted, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Accepted {
            encoding: Encoding::Json,
            view: View::Whole,
        });
    }
    // The router compares the names of media types, without parameters, before the handler does.
    let known = |media: &str| media == "*/*" || OFFERED.contains(&media);
    if offer.is_routed() && !clauses.iter().any(|clause| known(clause.media)) {
        return Err(offer.not_offered());
    }
    for clause in &clauses {
        let Some(view) = view(clause, offer) else {
            continue;
        };
        let fits = |encoding: &Encoding| {
            let media = encoding.content_type();
            let named = clause.media == media
                || clause.media == "*/*"
                || clause.media == "application/*"
                || clause.media == "*";
            // A `stream` parameter only matches event streams.
            let streams = clause
                .param("stream")
                .is_none_or(|s| s.is_empty() || s == "watch" && *encoding != Encoding::Yaml);
            named && streams && offer.has(*encoding, view)
        };
        if let Some(encoding) = offer.encodings().iter().find(|e| fits(e)) {
            if offer.is_watch() && *encoding == Encoding::Yaml {
                break;
            }
            return Ok(Accepted {
                encoding: *encoding,
                view,
            });
        }
    }
    Err(offer.refusal())
}

/// Returns the representation that a clause asks for, or `None` if it is not available.
fn view(clause: &Clause<'_>, offer: MediaTypes) -> Option<View> {
    let version = match clause.param("v") {
        Some("v1") => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        _ => None,
    };
    match (clause.param("as"), clause.param("g"), version) {
        (None, None, _) if clause.param("v").is_none() => Some(View::Whole),
        (Some("Table"), Some("meta.k8s.io"), Some(version)) if offer.has_views() => {
            Some(View::Table(version))
        }
        (Some("PartialObjectMetadata"), Some("meta.k8s.io"), Some(version))
            if offer.has_views() =>
        {
            Some(View::Metadata(version))
        }
        (Some("PartialObjectMetadataList"), Some("meta.k8s.io"), Some(version))
            if offer.has_views() =>
        {
            Some(View::MetadataList(version))
        }
        _ => None,
    }
}

/// Returns the encoding of a request's body from its `Content-Type`.
///
/// # Errors
///
/// 415 if the media type is not supported.
pub fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    match media_type(headers).to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        rkube_api::protobuf::MEDIA_TYPE => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(&OFFERED)),
    }
}

/// Returns the media type of a request's body, without parameters.
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

    const JSON: Accepted = Accepted {
        encoding: Encoding::Json,
        view: View::Whole,
    };
    const PROTOBUF: Accepted = Accepted {
        encoding: Encoding::Protobuf,
        view: View::Whole,
    };

    fn ask_for(value: &str, offer: MediaTypes) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(header::ACCEPT, value.parse().unwrap());
        }
        accept(&headers, offer).map_err(|s| s.code)
    }

    fn ask(value: &str) -> Result<Accepted, u16> {
        ask_for(value, MediaTypes::Builtin)
    }

    #[test]
    fn picks_what_there_is() {
        assert_eq!(ask(""), Ok(JSON));
        assert_eq!(ask("*/*"), Ok(JSON));
        assert_eq!(ask("application/cbor"), Err(406));
        assert_eq!(ask("application/cbor,*/*;q=0.1"), Ok(JSON));
        assert_eq!(ask("application/json;stream=watch"), Ok(JSON));
        assert_eq!(ask("application/json;stream=other"), Err(406));
        assert_eq!(ask("application/yaml").unwrap().encoding, Encoding::Yaml);
        assert_eq!(
            ask_for("application/yaml", MediaTypes::BuiltinWatch),
            Err(406),
            "there are no streams of YAML"
        );
        assert_eq!(
            ask_for(
                "application/yaml,application/json",
                MediaTypes::BuiltinWatch
            ),
            Err(406),
            "what is preferred decides"
        );
        assert_eq!(
            ask("application/*"),
            Err(406),
            "the router knows no such name"
        );
        assert_eq!(
            ask_for("application/*", MediaTypes::Custom),
            Ok(JSON),
            "custom resources have no router"
        );
        assert_eq!(ask_for("text/*", MediaTypes::Custom), Err(406));
        assert_eq!(
            ask("application/json;q=0.1, application/yaml")
                .unwrap()
                .encoding,
            Encoding::Yaml
        );
    }

    #[test]
    fn protobuf_is_for_what_has_a_protobuf_form() {
        const GO: &str = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(ask(GO), Ok(PROTOBUF));
        assert_eq!(ask_for(GO, MediaTypes::Custom), Ok(JSON));
        assert_eq!(ask_for(GO, MediaTypes::Document), Ok(JSON));
        assert_eq!(ask_for(GO, MediaTypes::Plain), Ok(PROTOBUF));
        let alone = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(ask_for(alone, MediaTypes::BuiltinWatch), Ok(PROTOBUF));
        assert_eq!(ask_for(alone, MediaTypes::CustomWatch), Err(406));
        assert_eq!(
            ask("*/*, application/vnd.kubernetes.protobuf"),
            Ok(PROTOBUF),
            "what is named wins over what is left open"
        );
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf;q=0.5,application/json"),
            Ok(JSON)
        );
    }

    #[test]
    fn views_are_asked_for_by_parameters() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(ask(kubectl).unwrap().view, View::Table("v1"));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        for offer in [MediaTypes::Builtin, MediaTypes::Custom] {
            let accepted = ask_for(metadata, offer).unwrap();
            assert_eq!(accepted.view, View::MetadataList("v1"));
            assert_eq!(accepted.encoding, Encoding::Protobuf);
        }
        let chosen = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        assert_eq!(
            ask(chosen).unwrap().view,
            View::MetadataList("v1"),
            "the clause that is chosen decides"
        );
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"),
            Err(406)
        );
        assert_eq!(
            ask("application/json;as=Table;v=v2;g=meta.k8s.io"),
            Err(406)
        );
    }
}
