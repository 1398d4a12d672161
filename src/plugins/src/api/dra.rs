//! `DRAPlugin` in the versions `v1` and `v1beta1`, and `v1alpha1.DRAResourceHealth`.
//!
//! Both versions have the same messages, but for the share of a device, which `v1` adds.

use std::collections::BTreeMap;

/// A version of the service `DRAPlugin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl Service {
    /// All versions, the preferred one first.
    pub const ALL: [Self; 2] = [Self::V1, Self::V1Beta1];

    /// Returns the name with which a driver registers the version.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1.DRAPlugin",
            Self::V1Beta1 => "v1beta1.DRAPlugin",
        }
    }

    /// Returns the method `NodePrepareResources`.
    pub fn prepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            Self::V1Beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        }
    }

    /// Returns the method `NodeUnprepareResources`.
    pub fn unprepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            Self::V1Beta1 => {
                "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources"
            }
        }
    }
}

/// Method `NodeWatchResources`.
pub const WATCH_HEALTH: &str = "/v1alpha1.DRAResourceHealth/NodeWatchResources";

crate::message! {
    /// Claims to prepare.
    struct NodePrepareResourcesRequest {
        /// The claims.
        1 => claims: Vec<Claim>,
    }
    /// Prepared claims.
    struct NodePrepareResourcesResponse {
        /// The results by the claims' UIDs.
        1 => claims: BTreeMap<String, NodePrepareResourceResponse>,
    }
    /// A prepared claim.
    struct NodePrepareResourceResponse {
        /// Its devices.
        1 => devices: Vec<Device>,
        /// Why it is not prepared.
        2 => error: String,
    }
    /// An allocated device.
    struct Device {
        /// The requests of the claim that it satisfies; all if empty.
        1 => request_names: Vec<String>,
        /// Its pool.
        2 => pool_name: String,
        /// Its name.
        3 => device_name: String,
        /// Its names in the Container Device Interface.
        4 => cdi_device_ids: Vec<String>,
        /// The share of a device that several claims use.
        5 => share_id: Option<String>,
    }
    /// Claims that are no longer used.
    struct NodeUnprepareResourcesRequest {
        /// The claims.
        1 => claims: Vec<Claim>,
    }
    /// Claims that are no longer prepared.
    struct NodeUnprepareResourcesResponse {
        /// The results by the claims' UIDs.
        1 => claims: BTreeMap<String, NodeUnprepareResourceResponse>,
    }
    /// A claim that is no longer prepared.
    struct NodeUnprepareResourceResponse {
        /// Why it still is.
        1 => error: String,
    }
    /// A claim.
    struct Claim {
        /// Its namespace.
        1 => namespace: String,
        /// Its UID.
        2 => uid: String,
        /// Its name.
        3 => name: String,
    }
    /// Asks for the health of devices.
    struct NodeWatchResourcesRequest {}
    /// Identifies a device of a driver.
    struct DeviceIdentifier {
        /// Its pool.
        1 => pool_name: String,
        /// Its name.
        2 => device_name: String,
    }
    /// The health of a device.
    struct DeviceHealth {
        /// The device.
        1 => device: Option<DeviceIdentifier>,
        /// 1 if it is healthy, 2 if it is not; otherwise nothing is known.
        2 => health: i32,
        /// When that was found, in seconds since 1970.
        3 => last_updated_time: i64,
        /// How long that holds without a new message, in seconds.
        4 => health_check_timeout_seconds: i64,
        /// What is wrong.
        5 => message: String,
    }
    /// The health of devices.
    struct NodeWatchResourcesResponse {
        /// The devices.
        1 => devices: Vec<DeviceHealth>,
    }
}
