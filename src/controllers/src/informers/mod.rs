//! Shared informers: one list and watch a kind, for all controllers.
//!
//! A [`Store`] mirrors the objects of a kind; a reflector keeps it true.
//! Controllers read stores and are told of changes through handlers, which
//! only put keys into work queues. A controller's own writes go into the store
//! at once ([`Store::observe`]), so that its next look at the same item sees
//! them: this takes the place of upstream's "expectations".

mod events;
mod reflector;
mod store;

pub use reflector::{Sink, Source, reflect};
pub use store::{Change, Key, Object, Store, Versioned};
