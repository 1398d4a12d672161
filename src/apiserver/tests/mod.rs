//! The server as its clients see it, over an embedded store in a temporary folder.

mod basics;
mod support;
mod watches;
