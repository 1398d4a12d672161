//! Shared informers: one list and watch per kind, shared by all controllers.
//!
//! A [`Store`] caches the objects of a kind, and a reflector keeps it up to date. Controllers read
//! the stores and register handlers for changes, which only enqueue keys.
//!
//! The results of a controller's own writes are added to the store immediately
//! ([`Store::observe`]), so that the next sync of the item sees them. This replaces upstream's
//! "expectations".

mod store;
mod types;

pub use crate::reflector::{Listed, Sink, Source, Versioned, reflect};
pub use store::Store;
pub use types::{Change, Key, Object};
