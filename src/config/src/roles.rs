//! Internal roles of the binary: the first argument of each process of a cluster.
//!
//! This is the only list of their names. The runtime's helpers `shim` and `pause` are
//! private to it.

/// PID 1 of a node's services: `init`, or `init machine` in a virtual machine.
pub const INIT: &str = "init";
/// PID 1 of a virtual machine, before its root file system is set up.
pub const VM_INIT: &str = "vm-init";
/// PID 1 of a node's Docker container, before the node is set up.
pub const DOCKER_INIT: &str = "docker-init";
/// PID 1 of a native node, before the node is set up.
pub const NATIVE_INIT: &str = "native-init";
/// PID 1 of a container of the node image that nothing manages: a cluster that configures itself.
pub const SERVER: &str = "server";
/// Store, API server, controllers and scheduler.
pub const CONTROL_PLANE: &str = "control-plane";
/// The node agent (kubelet).
pub const AGENT: &str = "agent";
/// The ingress controller, on the control-plane node, while its addon is enabled.
pub const INGRESS: &str = "ingress";
/// The programs of the built-in demo images.
pub const DEMO: &str = "demo";
/// The primary supervisor of a native cluster, on the host.
pub const SUPERVISE: &str = "supervise";
/// The standby supervisor of a native cluster, on the host.
pub const STANDBY: &str = "standby";
/// The supervisor of a virtual machine, on the host.
pub const VM_SUPERVISE: &str = "vm-supervise";

/// Roles that run inside nodes, and therefore on Linux only.
pub const IN_NODES: [&str; 9] = [
    INIT,
    VM_INIT,
    DOCKER_INIT,
    NATIVE_INIT,
    SERVER,
    CONTROL_PLANE,
    AGENT,
    INGRESS,
    DEMO,
];
