//! The built-in types, read from the schema blob.

use super::blob;
use super::format::{self, flag, tag};
use super::types::TypeRef;

/// All built-in types.
#[derive(Debug)]
pub struct Schema(());

impl Schema {
    /// Returns the only instance.
    pub fn builtin() -> &'static Schema {
        static SCHEMA: Schema = Schema(());
        &SCHEMA
    }

    /// Returns the type with an OpenAPI definition name, as `io.k8s.api.core.v1.Pod`.
    pub fn definition(&self, name: &str) -> Option<TypeRef> {
        blob::find_def(name).map(|d| TypeRef(blob::def(d).ty))
    }

    /// Returns the names of all definitions, sorted.
    pub fn definitions(&self) -> impl Iterator<Item = &'static str> + use<> {
        (0..blob::def_count()).map(|d| blob::def(d).name)
    }

    /// Returns the type `ObjectMeta` of every object's metadata.
    pub fn object_meta(&self) -> TypeRef {
        // A test checks that it exists.
        self.definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap_or(TypeRef(0))
    }
}

impl TypeRef {
    pub(crate) fn record(self) -> blob::TypeRecord {
        blob::ty(self.0)
    }

    pub(crate) fn from_index(index: u16) -> Self {
        Self(index)
    }

    /// Returns the record of the definition that this type is or refers to.
    pub(crate) fn def(self) -> Option<blob::DefRecord> {
        let record = self.record();
        match record.tag {
            tag::MAP | tag::ARRAY | tag::STRING | tag::INTEGER | tag::NUMBER | tag::BOOLEAN => None,
            _ if record.a == format::NONE => None,
            _ => Some(blob::def(record.a)),
        }
    }

    /// Returns the OpenAPI name of the definition, for types that have one.
    pub fn definition_name(self) -> Option<&'static str> {
        self.def().map(|d| d.name)
    }

    pub(crate) fn list(self) -> Option<blob::ListRecord> {
        let record = self.record();
        (record.tag == tag::ARRAY).then(|| blob::list(record.b))
    }

    /// Returns the format of a scalar, as `int32`, `byte`, `date-time`.
    pub fn format(self) -> Option<&'static str> {
        let record = self.record();
        matches!(record.tag, tag::STRING | tag::INTEGER | tag::NUMBER)
            .then(|| blob::string(record.a))
            .flatten()
    }

    /// Returns the map type that the use of the type specifies, if it does.
    pub(crate) fn own_map_type(self) -> Option<&'static str> {
        let flags = self.record().flags;
        if flags & flag::ATOMIC != 0 {
            Some("atomic")
        } else if flags & flag::GRANULAR != 0 {
            Some("granular")
        } else {
            None
        }
    }
}
