//! Encodes JSON schemas as the blob of `schema/format.rs`.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Map, Value};

use crate::encoding::Encoding;
use crate::facts;
use crate::format::{MAX_KEYS, NONE, flag, list_type, strategy, tag};

type TypeRecord = (u8, u8, u16, u16);

#[derive(Clone, PartialEq, Eq, Hash)]
struct ListRecord {
    list_type: u8,
    strategy: u8,
    merge_key: u16,
    keys: Vec<u16>,
}

struct FieldRecord {
    name: String,
    ty: u16,
    flags: u8,
    default: u16,
}

struct DefRecord {
    name: u16,
    flags: u8,
    chunk: u8,
    fields: Vec<FieldRecord>,
    description: u16,
    ty: u16,
}

#[derive(Default)]
struct Writer {
    strings: Vec<String>,
    string_ids: HashMap<String, u16>,
    types: Vec<TypeRecord>,
    type_ids: HashMap<TypeRecord, u16>,
    lists: Vec<ListRecord>,
    list_ids: HashMap<ListRecord, u16>,
    def_ids: BTreeMap<String, u16>,
    encoding: Encoding,
}

fn id(length: usize) -> u16 {
    u16::try_from(length)
        .ok()
        .filter(|n| *n != NONE)
        .expect("the schema fits 16-bit indices")
}

/// The facts of one field.
#[derive(Default)]
struct Facts {
    list: Option<(u8, u8, Vec<&'static str>)>,
    merge_key: Option<&'static str>,
    strategy: u8,
    flags: u8,
    default: Option<&'static str>,
}

fn facts_of(def: &str, field: &str) -> Facts {
    let mut facts = Facts::default();
    for entry in facts::LIST_MAPS {
        if entry.def == def && entry.fields.contains(&field) {
            let bits = match entry.patch {
                facts::Patch::None => 0,
                facts::Patch::Merge => strategy::MERGE,
                facts::Patch::MergeRetainKeys => strategy::MERGE | strategy::RETAIN_KEYS,
            };
            if bits != 0 {
                facts.merge_key = Some(entry.keys[0]);
            }
            facts.list = Some((list_type::MAP, bits, entry.keys.to_vec()));
        }
    }
    for (of, fields, merged) in facts::SETS {
        if *of == def && fields.contains(&field) {
            facts.list = Some((
                list_type::SET,
                if *merged { strategy::MERGE } else { 0 },
                Vec::new(),
            ));
        }
    }
    for (of, name, key) in facts::ATOMIC_MERGED {
        if *of == def && *name == field {
            facts.list = Some((list_type::ATOMIC, strategy::MERGE, Vec::new()));
            facts.merge_key = Some(key);
        }
    }
    if facts::UNTYPED_LISTS.contains(&(def, field)) {
        facts.list = Some((list_type::UNSET, 0, Vec::new()));
    }
    if facts::ATOMIC_FIELDS.contains(&(def, field)) {
        facts.flags |= flag::ATOMIC;
    }
    if facts::GRANULAR_FIELDS.contains(&(def, field)) {
        facts.flags |= flag::GRANULAR;
    }
    if let Some((_, _, bits)) = facts::OBJECT_STRATEGIES
        .iter()
        .find(|(d, f, _)| (*d, *f) == (def, field))
    {
        facts.strategy = *bits;
    }
    facts.default = facts::DEFAULTS
        .iter()
        .find(|(d, f, _)| (*d, *f) == (def, field))
        .map(|(_, _, v)| *v);
    facts
}

/// Returns the tag of a definition that is not a plain object.
fn special(name: &str) -> Option<u8> {
    Some(match name {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => tag::INT_OR_STRING,
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => tag::QUANTITY,
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time" => tag::TIME,
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime" => tag::MICRO_TIME,
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
        | "io.k8s.apimachinery.pkg.runtime.RawExtension"
        | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => tag::ANY,
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
        | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            tag::SCHEMA_OR
        }
        _ => return None,
    })
}

impl Writer {
    fn string(&mut self, text: &str) -> u16 {
        if let Some(id) = self.string_ids.get(text) {
            return *id;
        }
        let new = id(self.strings.len());
        self.strings.push(text.to_owned());
        self.string_ids.insert(text.to_owned(), new);
        new
    }

    fn ty(&mut self, record: TypeRecord) -> u16 {
        if let Some(id) = self.type_ids.get(&record) {
            return *id;
        }
        let new = id(self.types.len());
        self.types.push(record);
        self.type_ids.insert(record, new);
        new
    }

    fn list(&mut self, record: ListRecord) -> u16 {
        if let Some(id) = self.list_ids.get(&record) {
            return *id;
        }
        let new = id(self.lists.len());
        self.lists.push(record.clone());
        self.list_ids.insert(record, new);
        new
    }

    fn field_flags(
        &self,
        def: &str,
        field: &str,
        required: &[&str],
        schema: &Value,
        property: &Value,
    ) -> u8 {
        let not_required = facts::NOT_REQUIRED.contains(&(def, field))
            || field == "metadata" && is_kind(schema) && def != facts::METADATA_REQUIRED;
        let is_required =
            required.contains(&field) && !not_required || facts::REQUIRED.contains(&(def, field));
        let encoding = match self.encoding.flags(def, field) {
            Some(encoding) => encoding,
            // Types without protobuf, whose required fields are texts.
            None if is_required => flag::ALWAYS,
            None => 0,
        };
        let plain = reference(property).is_some_and(|r| special(r).is_none());
        let mut flags = encoding;
        if is_required {
            flags |= flag::REQUIRED;
        }
        if plain && self.encoding.is_embedded(def, field) {
            flags |= flag::EMBEDDED;
        }
        flags
    }

    fn schema(&mut self, schema: &Value, facts: &Facts, path: &str) -> u16 {
        if let Some(reference) = reference(schema) {
            let def = *self
                .def_ids
                .get(reference)
                .unwrap_or_else(|| panic!("{path}: {reference} is not defined"));
            return match special(reference) {
                Some(tag) => self.ty((tag, 0, def, 0)),
                None => self.ty((tag::OBJECT, facts.flags, def, u16::from(facts.strategy))),
            };
        }
        let format = schema.get("format").and_then(Value::as_str);
        let format = format.map_or(NONE, |f| self.string(f));
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => self.ty((tag::STRING, 0, format, 0)),
            Some("integer") => self.ty((tag::INTEGER, 0, format, 0)),
            Some("number") => self.ty((tag::NUMBER, 0, format, 0)),
            Some("boolean") => self.ty((tag::BOOLEAN, 0, 0, 0)),
            Some("array") => {
                let item = self.schema(&schema["items"], &Facts::default(), path);
                let (list_type, strategy, keys) =
                    facts
                        .list
                        .clone()
                        .unwrap_or((list_type::ATOMIC, 0, Vec::new()));
                assert!(keys.len() <= MAX_KEYS, "{path} has too many keys");
                let record = ListRecord {
                    list_type,
                    strategy,
                    merge_key: facts.merge_key.map_or(NONE, |k| self.string(k)),
                    keys: keys.iter().map(|k| self.string(k)).collect(),
                };
                let list = self.list(record);
                self.ty((tag::ARRAY, 0, item, list))
            }
            Some("object") => match schema.get("additionalProperties") {
                Some(value) => {
                    // Lists inside maps have no list type.
                    let inner = Facts {
                        list: Some((list_type::UNSET, 0, Vec::new())),
                        ..Facts::default()
                    };
                    let value = self.schema(value, &inner, path);
                    self.ty((tag::MAP, facts.flags, value, u16::from(facts.strategy)))
                }
                None => self.ty((tag::ANY, 0, NONE, 0)),
            },
            other => panic!("{path}: a schema of type {other:?}: {schema}"),
        }
    }

    /// Adds a definition's types and strings, and its descriptions to its chunk.
    fn definition<'a>(
        &mut self,
        name: &str,
        schema: &'a Value,
        chunks: &mut Chunks<'a>,
    ) -> DefRecord {
        let short = facts::short(name);
        let chunk = chunks.index_of(name);
        let texts = &mut chunks.texts[chunk];
        let first = id(texts.len());
        texts.push(description(schema));
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut fields = Vec::new();
        let mut properties: Vec<(&String, &Value)> = schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .collect();
        properties.sort_unstable_by_key(|(name, _)| *name);
        for (field, property) in properties {
            texts.push(description(property));
            let facts = facts_of(short, field);
            let ty = self.schema(property, &facts, &format!("{name}.{field}"));
            let default = facts.default.map_or(NONE, |d| self.string(d));
            self.string(field);
            fields.push(FieldRecord {
                name: field.clone(),
                ty,
                flags: self.field_flags(short, field, &required, schema, property),
                default,
            });
        }
        let def = self.def_ids[name];
        let ty = match special(name) {
            Some(tag) => self.ty((tag, 0, def, 0)),
            None => self.ty((tag::OBJECT, 0, def, 0)),
        };
        let flags = if facts::ATOMIC_DEFS.contains(&short) {
            flag::ATOMIC
        } else {
            0
        };
        DefRecord {
            name: self.string(name),
            flags,
            chunk: u8::try_from(chunk).expect("fewer than 256 packages"),
            fields,
            description: first,
            ty,
        }
    }
}

fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref");
    let all_of = || schema.get("allOf")?.as_array()?.first()?.get("$ref");
    direct.or_else(all_of)?.as_str()?.rsplit('/').next()
}

fn description(schema: &Value) -> &str {
    schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns whether a definition is a kind rather than a part of one.
fn is_kind(schema: &Value) -> bool {
    schema["properties"].get("apiVersion").is_some()
        && schema["properties"].get("metadata").is_some()
}

/// Checks that every fact names a definition and a field that exist.
///
/// # Panics
/// When one does not: it is a typing error.
fn check_facts(definitions: &Map<String, Value>) {
    let has = |def: &str, field: Option<&str>| {
        let schema = definitions
            .iter()
            .find(|(name, _)| facts::short(name) == def)
            .unwrap_or_else(|| panic!("facts.rs names {def}, which is not defined"))
            .1;
        if let Some(field) = field {
            assert!(
                schema["properties"].get(field).is_some(),
                "facts.rs names {def}.{field}, which is not defined"
            );
        }
    };
    for entry in facts::LIST_MAPS {
        entry.fields.iter().for_each(|f| has(entry.def, Some(f)));
    }
    for (def, fields, _) in facts::SETS {
        fields.iter().for_each(|f| has(def, Some(f)));
    }
    facts::ATOMIC_MERGED
        .iter()
        .for_each(|(d, f, _)| has(d, Some(f)));
    facts::OBJECT_STRATEGIES
        .iter()
        .for_each(|(d, f, _)| has(d, Some(f)));
    facts::DEFAULTS.iter().for_each(|(d, f, _)| has(d, Some(f)));
    for (def, field) in facts::NOT_REQUIRED.iter().chain(facts::REQUIRED) {
        has(def, Some(field));
    }
    for (def, field) in facts::UNTYPED_LISTS
        .iter()
        .chain(facts::ATOMIC_FIELDS)
        .chain(facts::GRANULAR_FIELDS)
    {
        has(def, Some(field));
    }
    facts::ATOMIC_DEFS.iter().for_each(|d| has(d, None));
}

/// Descriptions by package, so that one group version's can be read alone.
struct Chunks<'a> {
    /// Names of packages, sorted; a chunk's index is its package's place here.
    packages: Vec<&'a str>,
    texts: Vec<Vec<&'a str>>,
}

impl<'a> Chunks<'a> {
    fn new(definitions: &'a Map<String, Value>) -> Self {
        let mut packages: Vec<&str> = definitions.keys().map(|name| package(name)).collect();
        packages.sort_unstable();
        packages.dedup();
        let texts = vec![Vec::new(); packages.len()];
        Self { packages, texts }
    }

    /// Returns the chunk that holds the descriptions of a definition.
    fn index_of(&self, definition: &str) -> usize {
        self.packages
            .binary_search(&package(definition))
            .expect("every package is listed")
    }
}

/// Returns the package of a definition: its name without the kind.
fn package(definition: &str) -> &str {
    let (package, _) = definition
        .rsplit_once('.')
        .expect("definitions have a package");
    package
}

/// Encodes all definitions as the blob.
pub fn encode(definitions: &Map<String, Value>) -> Vec<u8> {
    check_facts(definitions);
    let mut w = Writer::default();
    for (i, name) in definitions.keys().enumerate() {
        w.def_ids.insert(name.clone(), id(i));
    }
    assert!(
        definitions.keys().is_sorted(),
        "definitions are looked up by binary search"
    );
    let mut chunks = Chunks::new(definitions);
    let defs: Vec<DefRecord> = definitions
        .iter()
        .map(|(name, schema)| w.definition(name, schema, &mut chunks))
        .collect();
    join(&[
        offsets(w.strings.iter().map(|s| s.as_bytes().to_vec())),
        defs_section(&defs),
        fields_section(&w, &defs),
        types_section(&w),
        lists_section(&w),
        offsets(chunks.texts.iter().map(|texts| compress(texts))),
    ])
}

/// Joins the sections behind a header of their offsets and the end's.
fn join(sections: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = (sections.len() + 1) * 4;
    for section in sections {
        out.extend(u32::try_from(at).expect("the blob is small").to_le_bytes());
        at += section.len();
    }
    out.extend(u32::try_from(at).expect("the blob is small").to_le_bytes());
    sections.iter().for_each(|s| out.extend(s));
    out
}

/// Encodes a section of pieces: their count, offsets, and the pieces themselves.
fn offsets(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let pieces: Vec<Vec<u8>> = pieces.collect();
    let mut out = Vec::new();
    out.extend(
        u32::try_from(pieces.len())
            .expect("few pieces")
            .to_le_bytes(),
    );
    let mut at = 0u32;
    for piece in &pieces {
        out.extend(at.to_le_bytes());
        at += u32::try_from(piece.len()).expect("a piece is small");
    }
    out.extend(at.to_le_bytes());
    pieces.iter().for_each(|p| out.extend(p));
    while out.len() % 4 != 0 {
        out.push(0);
    }
    out
}

fn defs_section(defs: &[DefRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut first = 0usize;
    for def in defs {
        out.extend(def.name.to_le_bytes());
        out.extend([def.flags, def.chunk]);
        out.extend(id(first).to_le_bytes());
        out.extend(id(def.fields.len()).to_le_bytes());
        out.extend(def.description.to_le_bytes());
        out.extend(def.ty.to_le_bytes());
        first += def.fields.len();
    }
    out
}

fn fields_section(w: &Writer, defs: &[DefRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in defs.iter().flat_map(|d| &d.fields) {
        out.extend(w.string_ids[&field.name].to_le_bytes());
        out.extend(field.ty.to_le_bytes());
        out.extend([field.flags, 0]);
        out.extend(field.default.to_le_bytes());
    }
    out
}

fn types_section(w: &Writer) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, flags, a, b) in &w.types {
        out.extend([*tag, *flags]);
        out.extend(a.to_le_bytes());
        out.extend(b.to_le_bytes());
    }
    out
}

fn lists_section(w: &Writer) -> Vec<u8> {
    let mut out = Vec::new();
    for list in &w.lists {
        out.extend([
            list.list_type,
            list.strategy,
            u8::try_from(list.keys.len()).expect("few keys"),
            0,
        ]);
        out.extend(list.merge_key.to_le_bytes());
        for i in 0..MAX_KEYS {
            out.extend(list.keys.get(i).copied().unwrap_or(NONE).to_le_bytes());
        }
    }
    out
}

fn compress(texts: &[&str]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for text in texts {
        encoder
            .write_all(text.as_bytes())
            .expect("memory takes writes");
        encoder.write_all(&[0]).expect("memory takes writes");
    }
    encoder.finish().expect("memory takes writes")
}
