//! Requests and alternatives of requests, which have the same fields for the allocator.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    DeviceRequest, DeviceSelector, DeviceSubRequest, DeviceToleration, ExactDeviceRequest,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a request or one of its alternatives asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub mode: &'a str,
    pub count: i64,
    pub admin: bool,
    pub selectors: &'a [DeviceSelector],
    pub tolerations: Option<&'a [DeviceToleration]>,
    pub capacity: Option<&'a BTreeMap<String, Text>>,
}

impl<'a> Request<'a> {
    fn exact(name: &'a str, exact: &'a ExactDeviceRequest) -> Self {
        Self {
            name,
            class: &exact.device_class_name,
            mode: exact.allocation_mode.as_deref().unwrap_or_default(),
            count: exact.count.unwrap_or_default(),
            admin: exact.admin_access == Some(true),
            selectors: exact.selectors.as_deref().unwrap_or_default(),
            tolerations: exact.tolerations.as_deref(),
            capacity: exact.capacity.as_ref().and_then(|c| c.requests.as_ref()),
        }
    }

    fn alternative(sub: &'a DeviceSubRequest) -> Self {
        Self {
            name: &sub.name,
            class: &sub.device_class_name,
            mode: sub.allocation_mode.as_deref().unwrap_or_default(),
            count: sub.count.unwrap_or_default(),
            admin: false,
            selectors: sub.selectors.as_deref().unwrap_or_default(),
            tolerations: sub.tolerations.as_deref(),
            capacity: sub.capacity.as_ref().and_then(|c| c.requests.as_ref()),
        }
    }

    /// Returns what can satisfy a request, best first: the request itself, or its alternatives.
    pub(crate) fn all(request: &'a DeviceRequest) -> Vec<Self> {
        match (&request.first_available, &request.exactly) {
            (Some(subs), _) if !subs.is_empty() => subs.iter().map(Self::alternative).collect(),
            (_, Some(exact)) => vec![Self::exact(&request.name, exact)],
            // An unknown kind of request has no class, which the allocator refuses.
            _ => vec![Self {
                name: &request.name,
                class: "",
                mode: "",
                count: 0,
                admin: false,
                selectors: &[],
                tolerations: None,
                capacity: None,
            }],
        }
    }

    /// Returns whether all devices that match are wanted.
    pub(crate) fn wants_all(&self) -> bool {
        self.mode == "All"
    }
}
