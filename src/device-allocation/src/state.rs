//! What is allocated already.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use k8s_openapi::api::resource::v1::AllocationResult;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::Quantity;

/// The identity of a device in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// Name of its driver.
    pub driver: String,
    /// Name of its pool.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
}

impl DeviceId {
    /// Returns the identity with these names.
    pub fn new(driver: &str, pool: &str, device: &str) -> Self {
        Self {
            driver: driver.to_owned(),
            pool: pool.to_owned(),
            device: device.to_owned(),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Returns the amount that a text of the API denotes. The server has validated it.
pub(crate) fn amount(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

/// Amounts of capacity by name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// The devices and capacities that claims hold.
#[derive(Clone, Debug, Default)]
pub struct AllocatedState {
    /// Devices that belong to one claim alone.
    dedicated: HashSet<DeviceId>,
    /// Devices that claims share, and how much of them is consumed.
    shared: HashMap<DeviceId, Amounts>,
}

impl AllocatedState {
    /// Adds the devices of an allocation. Access for administrators holds nothing.
    pub fn add(&mut self, allocation: &AllocationResult) {
        let devices = allocation.devices.as_ref();
        let results = devices.and_then(|d| d.results.as_ref());
        for result in results.into_iter().flatten() {
            if result.admin_access == Some(true) {
                continue;
            }
            let id = DeviceId::new(&result.driver, &result.pool, &result.device);
            if result.share_id.is_none() {
                self.dedicated.insert(id);
                continue;
            }
            let consumed = result.consumed_capacity.iter().flatten();
            self.consume(id, consumed.map(|(name, text)| (name.as_str(), text)));
        }
    }

    /// Adds a device that belongs to one claim alone.
    pub fn dedicate(&mut self, id: DeviceId) {
        self.dedicated.insert(id);
    }

    /// Adds capacity that is consumed of a shared device.
    pub fn consume<'a>(
        &mut self,
        id: DeviceId,
        amounts: impl IntoIterator<Item = (&'a str, &'a Text)>,
    ) {
        let consumed = self.shared.entry(id).or_default();
        for (name, text) in amounts {
            let sum = consumed.entry(name.to_owned()).or_insert(Quantity::ZERO);
            *sum = *sum + amount(text);
        }
    }

    /// Returns whether the device belongs to one claim alone.
    pub(crate) fn is_dedicated(&self, id: &DeviceId) -> bool {
        self.dedicated.contains(id)
    }

    /// Returns what is consumed of a shared device, `None` if no claim has it.
    pub(crate) fn consumed(&self, id: &DeviceId) -> Option<&Amounts> {
        self.shared.get(id)
    }

    /// Returns whether any claim has the device.
    pub fn holds(&self, id: &DeviceId) -> bool {
        self.dedicated.contains(id) || self.shared.contains_key(id)
    }
}
