//! Code that every client of the API shares: controllers, scheduler, node agents
//! and the command line.
//!
//! [`reflector`] lists and watches. [`informers`] keep what it delivers, with indexes and change
//! handlers; a [`controller`] declares which of these changes make which items of its [`queue`] due.
//! Loops with a state of their own read [`reflector::Changes`] instead. [`events`] records events.

pub mod controller;
pub mod election;
pub mod error;
pub mod events;
pub mod informers;
pub mod instances;
pub mod owners;
pub mod queue;
pub mod reflector;
pub mod supervise;
