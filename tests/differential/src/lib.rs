//! Compares API servers, request by request.
//!
//! [`generate`] makes objects of every kind from small valid ones and the schema: zero values,
//! empty lists, nulls, duplicates, unknown fields, wrong types, numbers at the ends of their
//! ranges, odd strings. [`pair`] sends each to two servers and compares what they say and store.
//! [`laws`] needs one server only: it checks what holds for every object, such as that applying
//! what was read changes nothing.

pub mod compare;
pub mod generate;
pub mod laws;
pub mod own;
pub mod pair;
pub mod random;
pub mod server;

pub use generate::{Case, Generator};
pub use server::{Answer, Server};
