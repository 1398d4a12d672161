//! A registry of container images: the server side of the OCI distribution specification 1.1.
//!
//! [`Registry`] answers the requests, [`Store`] keeps blobs, manifests and tags in a directory.
//! A file is readable as a blob only after its digest was checked and its bytes are on disk, so
//! that a process which is killed at any moment leaves no blob with a wrong digest.

#![warn(missing_docs)]

mod auth;
mod error;
mod manifest;
mod name;
mod server;
mod store;

pub use auth::{Auth, AuthError, Scheme};
pub use name::{Algorithm, Digest, Repository};
pub use server::{Admitted, Options, Registry, Tls};
pub use store::{Collected, Store, Usage};
