//! Code that every client of the API shares: controllers, scheduler, node agents
//! and the command line.

pub mod events;
pub mod instances;
pub mod reflector;
pub mod supervise;
