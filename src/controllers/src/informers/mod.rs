//! Shared informers: one list and watch per kind, shared by all controllers.
//!
//! A [`Store`] caches the objects of a kind, and a reflector keeps it up to date. Controllers read
//! the stores and register handlers for changes, which only enqueue keys.
//!
//! The results of a controller's own writes are added to the store immediately
//! ([`Store::observe`]), so that the next sync of the item sees them. This replaces upstream's
//! "expectations".

mod events;
mod reflector;
mod store;

pub use reflector::{Sink, Source, reflect};
pub use store::{Change, Key, Object, Store, Versioned};
