//! Reads the schema blob, in place. The package `tests/schema` generates it.

use std::io::Read as _;

use super::format::{DEF_SIZE, FIELD_SIZE, LIST_SIZE, MAX_KEYS, NONE, TYPE_SIZE, flag, list_type};

static BLOB: &[u8] = include_bytes!("schema.bin");

const STRINGS: usize = 0;
const DEFS: usize = 1;
const FIELDS: usize = 2;
const TYPES: usize = 3;
const LISTS: usize = 4;
const CHUNKS: usize = 5;

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes([BLOB[at], BLOB[at + 1]])
}

fn u32_at(at: usize) -> usize {
    u32::from_le_bytes([BLOB[at], BLOB[at + 1], BLOB[at + 2], BLOB[at + 3]]) as usize
}

fn section(which: usize) -> usize {
    u32_at(which * 4)
}

/// Returns a piece, by index, of a section of offsets and pieces.
fn piece(which: usize, index: usize) -> &'static [u8] {
    let base = section(which);
    let count = u32_at(base);
    let pool = base + 4 + (count + 1) * 4;
    let start = u32_at(base + 4 + index * 4);
    let end = u32_at(base + 8 + index * 4);
    &BLOB[pool + start..pool + end]
}

/// Returns an interned string; `None` for [`NONE`].
pub fn string(index: u16) -> Option<&'static str> {
    if index == NONE {
        return None;
    }
    // The generator wrote it from a `str`.
    Some(std::str::from_utf8(piece(STRINGS, usize::from(index))).unwrap_or_default())
}

/// A type's record.
#[derive(Clone, Copy)]
pub struct TypeRecord {
    pub tag: u8,
    pub flags: u8,
    pub a: u16,
    pub b: u16,
}

pub fn ty(index: u16) -> TypeRecord {
    let at = section(TYPES) + usize::from(index) * TYPE_SIZE;
    TypeRecord {
        tag: BLOB[at],
        flags: BLOB[at + 1],
        a: u16_at(at + 2),
        b: u16_at(at + 4),
    }
}

/// A definition's record.
#[derive(Clone, Copy)]
pub struct DefRecord {
    pub name: &'static str,
    pub flags: u8,
    chunk: u8,
    first: u16,
    pub count: u16,
    description: u16,
    pub ty: u16,
}

pub fn def_count() -> u16 {
    ((section(FIELDS) - section(DEFS)) / DEF_SIZE) as u16
}

pub fn def(index: u16) -> DefRecord {
    let at = section(DEFS) + usize::from(index) * DEF_SIZE;
    DefRecord {
        name: string(u16_at(at)).unwrap_or_default(),
        flags: BLOB[at + 2],
        chunk: BLOB[at + 3],
        first: u16_at(at + 4),
        count: u16_at(at + 6),
        description: u16_at(at + 8),
        ty: u16_at(at + 10),
    }
}

pub fn find_def(name: &str) -> Option<u16> {
    let (mut low, mut high) = (0, def_count());
    while low < high {
        let middle = low + (high - low) / 2;
        match def(middle).name.cmp(name) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(middle),
        }
    }
    None
}

/// A field's record.
#[derive(Clone, Copy)]
pub struct FieldRecord {
    pub name: &'static str,
    pub ty: u16,
    pub required: bool,
    /// A struct that Go holds by value.
    pub embedded: bool,
    /// Left out of the encoding when it has the zero value.
    pub omit_zero: bool,
    /// Encoded also when it is unset: as `null` if `null_when_unset`, else as the zero value.
    pub always: bool,
    pub null_when_unset: bool,
    pub default: Option<&'static str>,
}

impl DefRecord {
    pub fn field(&self, index: u16) -> FieldRecord {
        let at = section(FIELDS) + usize::from(self.first + index) * FIELD_SIZE;
        let flags = BLOB[at + 4];
        FieldRecord {
            name: string(u16_at(at)).unwrap_or_default(),
            ty: u16_at(at + 2),
            required: flags & flag::REQUIRED != 0,
            embedded: flags & flag::EMBEDDED != 0,
            omit_zero: flags & flag::OMIT_ZERO != 0,
            always: flags & flag::ALWAYS != 0,
            null_when_unset: flags & flag::NULL != 0,
            default: string(u16_at(at + 6)),
        }
    }

    /// Returns the fields that every encoded object has: structs by value, and those that
    /// are encoded when unset.
    pub fn permanent_fields(self) -> impl Iterator<Item = FieldRecord> {
        let first = section(FIELDS) + usize::from(self.first) * FIELD_SIZE;
        (0..self.count)
            .filter(move |i| {
                let flags = BLOB[first + usize::from(*i) * FIELD_SIZE + 4];
                flags & (flag::EMBEDDED | flag::ALWAYS) != 0
            })
            .map(move |i| self.field(i))
    }

    pub fn find(&self, name: &str) -> Option<FieldRecord> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let field = self.field(middle);
            match field.name.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(field),
            }
        }
        None
    }
}

/// A list's record.
#[derive(Clone, Copy)]
pub struct ListRecord {
    pub list_type: u8,
    pub strategy: u8,
    pub merge_key: Option<&'static str>,
    keys: [u16; MAX_KEYS],
    count: u8,
}

pub fn list(index: u16) -> ListRecord {
    let at = section(LISTS) + usize::from(index) * LIST_SIZE;
    let mut keys = [NONE; MAX_KEYS];
    for (i, key) in keys.iter_mut().enumerate() {
        *key = u16_at(at + 6 + i * 2);
    }
    ListRecord {
        list_type: BLOB[at],
        strategy: BLOB[at + 1],
        count: BLOB[at + 2],
        merge_key: string(u16_at(at + 4)),
        keys,
    }
}

impl ListRecord {
    /// Returns whether the field has no list type.
    pub fn is_unset(&self) -> bool {
        self.list_type == list_type::UNSET
    }

    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        let keys = self.keys;
        (0..usize::from(self.count)).filter_map(move |i| string(keys[i]))
    }
}

/// The decompressed descriptions of one package's definitions and fields.
pub struct Descriptions {
    chunk: u8,
    texts: Vec<String>,
}

impl Descriptions {
    /// Decompresses the descriptions of a definition's package.
    pub fn read(def: &DefRecord) -> Self {
        let mut text = String::new();
        let mut decoder = flate2::read::ZlibDecoder::new(piece(CHUNKS, usize::from(def.chunk)));
        // The blob is part of the program, and only a damaged program has no descriptions.
        if decoder.read_to_string(&mut text).is_err() {
            text.clear();
        }
        Self {
            chunk: def.chunk,
            texts: text.split_terminator('\0').map(str::to_owned).collect(),
        }
    }

    pub fn covers(&self, def: &DefRecord) -> bool {
        self.chunk == def.chunk
    }

    pub fn definition(&self, def: &DefRecord) -> &str {
        self.text(usize::from(def.description))
    }

    pub fn field(&self, def: &DefRecord, index: u16) -> &str {
        self.text(usize::from(def.description) + 1 + usize::from(index))
    }

    fn text(&self, index: usize) -> &str {
        self.texts.get(index).map_or("", String::as_str)
    }
}
