//! Cached objects: the encoded bytes, shared with the store, and the data that selectors need.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde::Deserialize;

/// An object in the cache: encoded once, shared by all reads and watches.
///
/// The parsed tree is created when first needed (by authorization or admission) and then kept as
/// long as the object.
pub struct CachedObject {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The revision of the last write, served as `resourceVersion`.
    pub revision: u64,
    /// `metadata.labels`.
    pub labels: Pairs,
    /// The values of selectable fields, other than name and namespace.
    pub fields: Pairs,
    /// JSON in the stored version, without `resourceVersion`.
    stored: Bytes,
    /// The offset in `stored` at which `resourceVersion` is inserted: the start of the metadata's
    /// members.
    revision_at: usize,
    /// The offset of the member `kind` in `stored`, if it is before the metadata, as in everything
    /// that this server writes.
    kind_at: Option<usize>,
    /// Offset of the member `apiVersion`, if it is before the metadata.
    version_at: Option<usize>,
    tree: OnceLock<Arc<Object>>,
    protobuf: OnceLock<Protobuf>,
}

/// The protobuf encoding of an object.
pub struct Protobuf {
    /// The complete response body, with its envelope.
    pub body: Bytes,
    message: Range<usize>,
}

impl Protobuf {
    /// Returns the message without its envelope, as embedded in lists.
    pub fn message(&self) -> &[u8] {
        &self.body[self.message.clone()]
    }
}

/// Key-value pairs in a compact form.
pub type Pairs = Box<[(Box<str>, Box<str>)]>;

/// The members of an object that [`CachedObject`] needs if there is no field extractor.
#[derive(Deserialize, Default)]
struct CachedFields {
    #[serde(default)]
    metadata: CachedMetadata,
}

#[derive(Deserialize, Default)]
struct CachedMetadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Extracts the values of a kind's selectable fields.
pub type FieldExtractor = Arc<dyn Fn(&Object) -> Vec<(Box<str>, Box<str>)> + Send + Sync>;

impl CachedObject {
    /// Creates a cached object from its stored JSON. Returns `None` if the value is not JSON with
    /// metadata, that is, if another program wrote it.
    pub fn new(
        namespace: &str,
        name: &str,
        revision: u64,
        stored: &Bytes,
        extractor: Option<&FieldExtractor>,
    ) -> Option<Self> {
        let mut stored = stored.clone();
        let mut layout = layout(&stored)?;
        if stored[layout.metadata..].starts_with(KEY) {
            stored = without_revision(&stored)?;
            layout = self::layout(&stored)?;
        }
        let (labels, fields) = match extractor {
            Some(extract) => {
                let tree: Object = serde_json::from_slice(&stored).ok()?;
                let labels = tree["metadata"]["labels"]
                    .as_object()
                    .map(|labels| {
                        labels
                            .iter()
                            .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
                            .collect()
                    })
                    .unwrap_or_default();
                (labels, extract(&tree).into_boxed_slice())
            }
            None => {
                let skeleton: CachedFields = serde_json::from_slice(&stored).ok()?;
                let labels = skeleton.metadata.labels.unwrap_or_default();
                (
                    labels
                        .into_iter()
                        .map(|(k, v)| (k.into(), v.into()))
                        .collect(),
                    Pairs::default(),
                )
            }
        };
        Some(Self {
            namespace: namespace.into(),
            name: name.into(),
            revision,
            labels,
            fields,
            stored,
            revision_at: layout.metadata,
            kind_at: layout.kind,
            version_at: layout.version,
            tree: OnceLock::new(),
            protobuf: OnceLock::new(),
        })
    }

    /// Returns the same object at another revision. The last state of a deleted object is sent with
    /// the revision of the deletion.
    pub fn at(&self, revision: u64) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            stored: self.stored.clone(),
            revision_at: self.revision_at,
            kind_at: self.kind_at,
            version_at: self.version_at,
            tree: OnceLock::new(),
            protobuf: OnceLock::new(),
        }
    }

    /// Returns the object as a tree, parsed on first use and then shared.
    pub fn tree(&self) -> Arc<Object> {
        self.tree.get_or_init(|| Arc::new(self.parse())).clone()
    }

    /// Returns the object in protobuf, encoded on first use and then shared by all reads and
    /// watches.
    ///
    /// # Errors
    ///
    /// 500 if the object does not match its kind's schema.
    pub fn protobuf(&self) -> Result<&Protobuf, Status> {
        if let Some(made) = self.protobuf.get() {
            return Ok(made);
        }
        let encoded = match self.tree.get() {
            Some(tree) => rkube_api::protobuf::encode(tree)?,
            None => rkube_api::protobuf::encode(&self.parse())?,
        };
        let (body, message) = encoded.into_parts();
        let made = Protobuf {
            body: body.into(),
            message,
        };
        Ok(self.protobuf.get_or_init(|| made))
    }

    /// Returns the JSON in the stored version, with `resourceVersion`.
    pub fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.json_len());
        self.put_json(&mut out);
        out.freeze()
    }

    /// Appends the result of [`Self::json`] to `out`.
    pub fn put_json(&self, out: &mut impl BufMut) {
        put_with_revision(&self.stored, self.revision_at, self.revision, out);
    }

    /// Appends the result of [`Self::json`] without `apiVersion` and `kind`, as items of lists of
    /// built-in kinds are.
    pub fn put_item(&self, out: &mut impl BufMut) {
        let stored = &self.stored[..];
        // Both members are before the metadata, so that a comma follows their values.
        let member_end = |at: usize, key: &[u8]| Some(string_end(stored, at + key.len() - 1)? + 2);
        let members = self
            .version_at
            .zip(self.kind_at)
            .and_then(|(version, kind)| {
                let version_end = member_end(version, VERSION)?;
                Some((version, version_end, kind, member_end(kind, KIND)?))
            });
        let Some((version, version_end, kind, kind_end)) = members else {
            return self.put_json(out);
        };
        out.put_slice(&stored[..version]);
        // The two members may be neighbours.
        out.put_slice(stored.get(version_end..kind).unwrap_or_default());
        put_with_revision(
            &stored[kind_end..],
            self.revision_at - kind_end,
            self.revision,
            out,
        );
    }

    /// Returns an upper bound of the length of [`Self::json`].
    pub fn json_len(&self) -> usize {
        self.stored.len() + REVISION_LEN
    }

    /// Returns the stored JSON, without `resourceVersion`.
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// Appends the object's metadata with `resourceVersion` to `out`.
    pub fn put_metadata(&self, out: &mut impl BufMut) {
        let metadata = metadata_of(&self.stored, self.revision_at).unwrap_or(b"{}");
        put_with_revision(metadata, 1, self.revision, out);
    }

    /// Returns the object as an owned tree; unlike [`Self::tree`], does not keep a parsed copy.
    pub fn parse(&self) -> Object {
        match self.tree.get() {
            Some(tree) => (**tree).clone(),
            None => {
                let mut object: Object = serde_json::from_slice(&self.stored)
                    .expect("a cached object was parsed when it came in");
                meta::set_resource_version(&mut object, &self.revision.to_string());
                object
            }
        }
    }

    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(k, _)| **k == *key)
            .map(|(_, v)| &**v)
    }

    /// Returns the value of a selectable field.
    pub fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self
                .fields
                .iter()
                .find(|(f, _)| **f == *field)
                .map(|(_, v)| &**v),
        }
    }
}

/// Returns `json` with `metadata.resourceVersion` set to `revision`. Copies the surrounding bytes
/// instead of parsing them. Returns `None` if `json` has no metadata.
pub fn with_revision(json: &[u8], revision: u64) -> Option<Bytes> {
    let at = metadata_start(json)?;
    if json[at..].starts_with(KEY) {
        return with_revision(&without_revision(json)?, revision);
    }
    let mut out = BytesMut::with_capacity(json.len() + REVISION_LEN);
    put_with_revision(json, at, revision, &mut out);
    Some(out.freeze())
}

/// The text before the version of an object.
const VERSION: &[u8] = b"\"apiVersion\":\"";
/// The text before the kind of an object.
const KIND: &[u8] = b"\"kind\":\"";
/// The text before a revision.
const KEY: &[u8] = b"\"resourceVersion\":\"";
/// Upper bound of the bytes that a revision adds: key, digits, quote and comma.
const REVISION_LEN: usize = KEY.len() + 22;

/// Appends `json` with a revision inserted at offset `at`, right after the opening brace of its
/// metadata.
fn put_with_revision(json: &[u8], at: usize, revision: u64, out: &mut impl BufMut) {
    out.put_slice(&json[..at]);
    out.put_slice(KEY);
    out.put_slice(itoa::Buffer::new().format(revision).as_bytes());
    out.put_slice(if json[at..].first() == Some(&b'}') {
        b"\""
    } else {
        b"\","
    });
    out.put_slice(&json[at..]);
}

/// Returns JSON without the revision that [`put_with_revision`] inserted.
fn without_revision(json: &[u8]) -> Option<Bytes> {
    let at = metadata_start(json)?;
    let tail = json[at..].strip_prefix(KEY)?;
    let tail = &tail[tail.iter().position(|b| *b == b'"')? + 1..];
    let tail = tail.strip_prefix(b",").unwrap_or(tail);
    Some([&json[..at], tail].concat().into())
}

/// Offsets in the encoding of an object.
struct Layout {
    /// Of the first member of the top-level `metadata` object.
    metadata: usize,
    /// Of the top-level member `kind`, if it is before the metadata.
    kind: Option<usize>,
    /// Of the top-level member `apiVersion`, if it is before the kind.
    version: Option<usize>,
}

/// Returns the offset of the first member of the top-level `metadata` object.
fn metadata_start(json: &[u8]) -> Option<usize> {
    layout(json).map(|layout| layout.metadata)
}

/// Returns the offsets of an object's members. The input must be compact JSON as `serde_json`
/// writes it.
fn layout(json: &[u8]) -> Option<Layout> {
    const KEY: &[u8] = b"\"metadata\":{";
    let mut depth = 0usize;
    let (mut kind, mut version) = (None, None);
    let mut i = 0;
    while i < json.len() {
        match json[i] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let is_key = depth == 1 && json[i - 1] != b':';
                if is_key && json[i..].starts_with(KEY) {
                    let metadata = i + KEY.len();
                    return Some(Layout {
                        metadata,
                        kind,
                        version,
                    });
                }
                if is_key && kind.is_none() && json[i..].starts_with(VERSION) {
                    version = Some(i);
                }
                if is_key && json[i..].starts_with(KIND) {
                    kind = Some(i);
                }
                i = string_end(json, i)?;
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// Returns the offset of the closing quote of the string that starts at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        i += memchr::memchr2(b'"', b'\\', json.get(i..)?)?;
        if json[i] == b'"' {
            return Some(i);
        }
        i += 2;
    }
}

/// Returns the metadata of an encoded object, including braces. `start` is the result of
/// [`metadata_start`].
fn metadata_of(json: &[u8], start: usize) -> Option<&[u8]> {
    let from = start - 1;
    let mut depth = 0usize;
    let mut i = from;
    loop {
        match json.get(i)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(&json[from..=i]);
                }
            }
            b'"' => {
                i = string_end(json, i)?;
            }
            _ => {}
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn puts_the_revision_into_metadata() {
        let object = json!({"apiVersion": "v1", "data": {"metadata": {"x": "{\"metadata\":{"}}, "kind": "ConfigMap", "metadata": {"name": "a"}});
        let bytes = serde_json::to_vec(&object).unwrap();
        let with = with_revision(&bytes, 42).unwrap();
        let read: Object = serde_json::from_slice(&with).unwrap();
        assert_eq!(read["metadata"]["resourceVersion"], "42");
        assert_eq!(read["metadata"]["name"], "a");
        assert_eq!(read["data"], object["data"]);
        let again: Object = serde_json::from_slice(&with_revision(&with, 1234).unwrap()).unwrap();
        assert_eq!(
            again["metadata"],
            json!({"name": "a", "resourceVersion": "1234"})
        );
    }

    #[test]
    fn an_empty_metadata_takes_a_revision() {
        let with = with_revision(br#"{"kind":"X","metadata":{}}"#, 7).unwrap();
        assert_eq!(
            &with[..],
            br#"{"kind":"X","metadata":{"resourceVersion":"7"}}"#
        );
    }

    #[test]
    fn metadata_are_found_to_their_end() {
        let object = json!({"apiVersion": "v1", "data": {"metadata": {"x": 1}}, "kind": "ConfigMap", "metadata": {"annotations": {"a": "}]\"\\"}, "finalizers": ["{"], "name": "a"}, "x": {}});
        let bytes = serde_json::to_vec(&object).unwrap();
        let found = |json: &[u8]| metadata_of(json, metadata_start(json)?).map(<[u8]>::to_vec);
        let read: Object = serde_json::from_slice(&found(&bytes).unwrap()).unwrap();
        assert_eq!(read, object["metadata"]);
        assert_eq!(found(br#"{"metadata":{}}"#).as_deref(), Some(&b"{}"[..]));
        assert_eq!(found(br#"{"metadata":{"a":["#), None);
        assert_eq!(found(br#"{"metadata":{"a":"\"#), None);
        assert_eq!(found(b"{}"), None);
    }

    #[test]
    fn objects_are_shown_with_their_revision() {
        for metadata in [json!({}), json!({"name": "a"})] {
            let mut object = json!({"apiVersion": "v1", "kind": "X", "metadata": metadata});
            let stored = Bytes::from(object.to_string());
            let shown = with_revision(&stored, 3).unwrap();
            object["metadata"]["resourceVersion"] = "18446744073709551615".into();
            // A stored value that already has a revision is read in the same way.
            for stored in [stored, shown] {
                let cached = CachedObject::new("", "a", u64::MAX, &stored, None).unwrap();
                let read: Object = serde_json::from_slice(&cached.json()).unwrap();
                assert_eq!((&read, &cached.parse()), (&object, &object));
                assert!(cached.json().len() <= cached.json_len());
                let mut metadata = Vec::new();
                cached.put_metadata(&mut metadata);
                let metadata: Object = serde_json::from_slice(&metadata).unwrap();
                assert_eq!(metadata, object["metadata"]);
                assert_eq!(cached.at(7).parse()["metadata"]["resourceVersion"], "7");
            }
        }
    }

    #[test]
    fn items_lack_version_and_kind() {
        let all = json!({"apiVersion": "v1", "data": {"kind": "a", "metadata": {}}, "kind": "X", "lastTimestamp": null, "metadata": {"name": "a"}, "type": "kind"});
        let plain = json!({"apiVersion": "v1", "kind": "X", "metadata": {}});
        let later = json!({"addressType": "IPv4", "apiVersion": "v1", "endpoints": [], "kind": "X", "metadata": {}});
        let bare = json!({"kind": "X", "metadata": {}});
        for (mut object, stripped) in [(all, true), (plain, true), (later, true), (bare, false)] {
            let stored = Bytes::from(object.to_string());
            let cached = CachedObject::new("", "a", 7, &stored, None).unwrap();
            let mut item = Vec::new();
            cached.put_item(&mut item);
            object["metadata"]["resourceVersion"] = "7".into();
            if stripped {
                object.as_object_mut().unwrap().remove("apiVersion");
                object.as_object_mut().unwrap().remove("kind");
            }
            let read: Object = serde_json::from_slice(&item).unwrap();
            assert_eq!(read, object);
        }
    }

    #[test]
    fn what_has_no_metadata_is_refused() {
        assert!(with_revision(br#"{"kind":"metadata"}"#, 7).is_none());
        assert!(with_revision(br#"{"kind":"met"#, 7).is_none());
        assert!(with_revision(b"\"\\", 7).is_none());
    }

    #[test]
    fn a_value_named_metadata_is_not_taken_for_the_key() {
        let with = with_revision(br#"{"kind":"metadata","metadata":{"name":"a"}}"#, 7).unwrap();
        assert_eq!(
            &with[..],
            br#"{"kind":"metadata","metadata":{"resourceVersion":"7","name":"a"}}"#
        );
    }
}
