//! The messages and methods of the plugin protocols, from the field numbers of upstream's files.

pub mod device_plugin;
pub mod dra;
pub mod pod_resources;
pub mod registration;
