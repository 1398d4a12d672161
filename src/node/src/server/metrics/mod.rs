//! Pages of metrics in the Prometheus text format.

mod agent;
mod cadvisor;
mod families;
mod page;
mod probes;
mod resource;
mod subjects;

pub(crate) use agent::serve as agent;
pub(crate) use cadvisor::serve as cadvisor;
pub(crate) use probes::serve as probes;
pub(crate) use resource::serve as resource;
