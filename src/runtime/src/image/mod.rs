//! Images: references, content, unpacking, archives and registries.

pub mod archive;
pub mod builtin;
pub mod compression;
pub mod digest;
mod limits;
mod lock;
pub mod manifest;
pub mod reference;
pub mod registry;
pub mod store;
pub mod unpack;
