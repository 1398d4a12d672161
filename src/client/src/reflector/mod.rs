//! Keeps a local copy of objects up to date with a list and a watch.
//!
//! A [`Source`] names the objects, a [`Sink`] receives them; [`reflect`] connects the two and
//! never returns. [`Changes`] is the same as a stream.
//!
//! - A watch that ends resumes where it was. If the server does not know that revision any more,
//!   everything is listed again, and the sink learns of deletions from the new list.
//! - Failures are retried with back-off, and not before the time that the server asks for.
//! - An object that cannot be read hides no other one, and does not look deleted: it is reported as
//!   [`Unreadable`].

use kube::Client;

mod events;
mod feed;
mod run;
mod stream;
mod types;

pub use stream::{Changes, Event};
pub use types::{Initial, Listed, Sink, Source, Unreadable, Versioned};

/// Keeps `sink` up to date. Never returns.
pub async fn reflect<K: Versioned>(client: Client, source: Source, sink: impl Sink<K> + 'static) {
    run::run(client, source, Box::new(feed::Typed::new(sink))).await;
}
