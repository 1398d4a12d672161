//! The server as its clients see it, over an embedded store in a temporary folder.

mod aggregation;
mod basics;
mod conversion;
mod encodings;
mod extensions;
mod hostile;
mod kubectl;
mod replay;
mod streams;
mod support;
mod watches;
