//! The kubelet's resource managers: which CPUs and which NUMA nodes' memory a container gets.
//!
//! - [`machine`] reads the machine's layout from sysfs.
//! - [`cpu`] is the CPU manager, [`memory`] the memory manager; both keep their state in a file.
//! - [`topology`] is the topology manager: it merges the hints of all [`HintProvider`]s and decides
//!   whether a pod is admitted.
//! - [`settings`] are the options, [`preemption`] chooses the pods that go for a critical one.
//! - [`Managers`] connects them for a node.
//!
//! Only the state files and the machine's layout are I/O; all decisions are pure.

pub mod checkpoint;
pub mod cpu;
pub mod cpuset;
pub mod machine;
mod managers;
pub mod mask;
pub mod memory;
pub mod pods;
pub mod preemption;
pub mod settings;
pub mod topology;

pub use cpuset::CpuSet;
pub use managers::{Managers, StartError};
pub use mask::NumaMask;
pub use pods::{ContainerDemand, PodDemand, Role};
pub use settings::Settings;
pub use topology::{Hint, HintProvider, Hints, Rejection};
