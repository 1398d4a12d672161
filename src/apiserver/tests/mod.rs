//! The server as its clients see it, over an embedded store in a temporary folder.

mod basics;
mod encodings;
mod extensions;
mod kubectl;
mod runtime;
mod shared;
mod streams;
mod support;
mod watches;
