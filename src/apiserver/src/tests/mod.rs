//! Tests of the server through its client interface, with an embedded store in a temporary
//! directory.

mod aggregation;
mod answers;
mod basics;
mod connections;
mod conversion;
mod encodings;
mod extensions;
mod full_disk;
mod hostile;
mod identities;
mod kubectl;
mod parity;
mod policies;
mod replay;
mod reservations;
mod runtime;
mod scopes;
mod shared;
mod streams;
mod support;
mod usage;
mod watches;
