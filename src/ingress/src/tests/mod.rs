//! Tests of the table and of the proxy.

mod guards;
mod harness;
mod matching;
mod requests;
mod streams;
