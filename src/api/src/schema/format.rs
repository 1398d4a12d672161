//! The layout of the schema blob, shared by its reader and by its generator in
//! `tests/schema`. All numbers are little-endian, all references are indices.
//!
//! ```text
//! header    7 × u32   byte offsets of the sections, in the order below
//! strings   (n+1) × u32 offsets into the pool that follows, then the pool
//! defs      sorted by name; name u16, flags u8, chunk u8, first field u16, fields u16, description u16, type u16
//! fields    each definition's, sorted by name; name u16, type u16, flags u8, 0 u8, default u16
//! types     tag u8, flags u8, a u16, b u16
//! lists     list type u8, strategy u8, number of keys u8, 0 u8, merge key u16, 5 × key u16
//! chunks    (n+1) × u32 offsets into the zlib streams that follow: NUL-ended descriptions
//! ```

#![allow(
    dead_code,
    reason = "reader and generator include this file, and neither uses all of it"
)]

pub const DEF_SIZE: usize = 12;
pub const FIELD_SIZE: usize = 8;
pub const TYPE_SIZE: usize = 6;
pub const LIST_SIZE: usize = 16;
pub const MAX_KEYS: usize = 5;
/// "No string", "no list facts".
pub const NONE: u16 = u16::MAX;

pub mod tag {
    /// a: definition, b: strategy bits.
    pub const OBJECT: u8 = 0;
    /// a: value type, b: strategy bits.
    pub const MAP: u8 = 1;
    /// a: item type, b: list facts.
    pub const ARRAY: u8 = 2;
    /// a: format string.
    pub const STRING: u8 = 3;
    /// a: format string.
    pub const INTEGER: u8 = 4;
    /// a: format string.
    pub const NUMBER: u8 = 5;
    pub const BOOLEAN: u8 = 6;
    // The rest have their definition in a.
    pub const INT_OR_STRING: u8 = 7;
    pub const QUANTITY: u8 = 8;
    pub const TIME: u8 = 9;
    pub const MICRO_TIME: u8 = 10;
    pub const ANY: u8 = 11;
    pub const SCHEMA_OR: u8 = 12;
}

pub mod flag {
    /// On a definition or a use of one: changed as a whole.
    pub const ATOMIC: u8 = 1;
    /// On a use: changed field by field even if its definition is atomic.
    pub const GRANULAR: u8 = 2;
    /// On a field.
    pub const REQUIRED: u8 = 4;
    /// On a field: a struct that Go holds by value, so that it is always there.
    pub const EMBEDDED: u8 = 8;
    /// On a field: left out of the encoding when it has the zero value of its type.
    pub const OMIT_ZERO: u8 = 16;
    /// On a field: encoded also when it is unset.
    pub const ALWAYS: u8 = 32;
    /// On a field that is always encoded: `null` when it is unset, rather than a zero value.
    pub const NULL: u8 = 64;
}

pub mod strategy {
    pub const MERGE: u8 = 1;
    pub const REPLACE: u8 = 2;
    pub const RETAIN_KEYS: u8 = 4;
}

pub mod list_type {
    pub const ATOMIC: u8 = 0;
    pub const SET: u8 = 1;
    pub const MAP: u8 = 2;
    pub const UNSET: u8 = 3;
}
