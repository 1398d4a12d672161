//! Compares API servers, request by request.
//!
//! [`generate`] makes objects of every kind from small valid ones and the schema: zero values,
//! empty lists, nulls, duplicates, unknown fields, wrong types, numbers at the ends of their
//! ranges, odd strings. [`pair`] sends each to two servers through a [`life`] and compares what
//! they say and store. [`script`] does the same with fixed requests, which are in `requests/`.
//! [`laws`] needs one server only: it checks what holds for every object, such as that applying
//! what was read changes nothing.

pub mod compare;
pub mod generate;
pub mod known;
pub mod laws;
pub mod life;
pub mod openapi;
pub mod own;
pub mod pair;
pub mod random;
pub mod report;
pub mod script;
pub mod server;
pub mod step;
pub mod tables;

pub use generate::{Case, Generator};
pub use server::{Answer, Server};
