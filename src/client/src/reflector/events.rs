//! Parses watch events in a single pass.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use kube::api::WatchEvent;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// Parses a watch event.
///
/// API servers write `type` before `object`, so that the object is deserialized directly. In the
/// opposite order it is buffered as a [`Value`] first.
pub fn read<K: DeserializeOwned>(line: &str) -> serde_json::Result<WatchEvent<K>> {
    let mut reader = serde_json::Deserializer::from_str(line);
    let event = serde::Deserializer::deserialize_map(&mut reader, EventVisitor(PhantomData))?;
    reader.end()?;
    Ok(event)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

struct EventVisitor<K>(PhantomData<K>);

impl<'de, K: DeserializeOwned> Visitor<'de> for EventVisitor<K> {
    type Value = WatchEvent<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a watch event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kind: Option<Kind> = None;
        let mut early: Option<Value> = None;
        let mut event = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (&*key, kind) {
                ("type", _) => kind = Some(map.next_value()?),
                ("object", None) => early = Some(map.next_value()?),
                ("object", Some(kind)) => {
                    event = Some(match kind {
                        Kind::Added => WatchEvent::Added(map.next_value()?),
                        Kind::Modified => WatchEvent::Modified(map.next_value()?),
                        Kind::Deleted => WatchEvent::Deleted(map.next_value()?),
                        Kind::Bookmark => WatchEvent::Bookmark(map.next_value()?),
                        Kind::Error => WatchEvent::Error(map.next_value()?),
                    });
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (event, kind, early) {
            (Some(event), _, _) => Ok(event),
            (None, Some(kind), Some(object)) => late(kind, &object).map_err(A::Error::custom),
            (None, None, _) => Err(A::Error::missing_field("type")),
            (None, _, None) => Err(A::Error::missing_field("object")),
        }
    }
}

/// Converts an event whose object preceded its type. The object is converted to text and parsed
/// again, to avoid instantiating a second deserializer of `K` for this rare case.
fn late<K: DeserializeOwned>(kind: Kind, object: &Value) -> serde_json::Result<WatchEvent<K>> {
    let text = object.to_string();
    Ok(match kind {
        Kind::Added => WatchEvent::Added(serde_json::from_str(&text)?),
        Kind::Modified => WatchEvent::Modified(serde_json::from_str(&text)?),
        Kind::Deleted => WatchEvent::Deleted(serde_json::from_str(&text)?),
        Kind::Bookmark => WatchEvent::Bookmark(serde_json::from_str(&text)?),
        Kind::Error => WatchEvent::Error(serde_json::from_str(&text)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn name(line: &str) -> serde_json::Result<Option<String>> {
        Ok(match read::<ConfigMap>(line)? {
            WatchEvent::Added(object)
            | WatchEvent::Modified(object)
            | WatchEvent::Deleted(object) => object.metadata.name,
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => Some(status.message),
        })
    }

    #[test]
    fn events_are_read_in_either_order() {
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let object = r#""object":{"kind":"ConfigMap","metadata":{"name":"a"}}"#;
            let usual = format!(r#"{{"type":"{kind}",{object},"more":[1]}}"#);
            assert_eq!(name(&usual).unwrap().as_deref(), Some("a"));
            let other = format!(r#"{{{object},"type":"{kind}"}}"#);
            assert_eq!(name(&other).unwrap().as_deref(), Some("a"));
        }
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7"}}}"#;
        assert_eq!(name(bookmark).unwrap().as_deref(), Some("7"));
        let error = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"gone","reason":"Expired","code":410}}"#;
        assert_eq!(name(error).unwrap().as_deref(), Some("gone"));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"type":"ADDED"}"#,
            r#"{"object":{}}"#,
            r#"{"type":"NEW","object":{}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":7}}}"#,
            r#"{"type":"ADDED","object":{}} x"#,
        ] {
            assert!(name(line).is_err(), "{line}");
        }
    }
}
