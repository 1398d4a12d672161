//! Constraints over the attributes of all devices of a claim.

use std::collections::HashMap;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

/// A constraint, with what the search has added so far. Adding more devices never makes a violated
/// constraint true, so the search can stop at the first violation.
#[derive(Debug)]
pub(crate) struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    /// Number of devices.
    count: usize,
    /// The common value.
    common: Option<&'a DeviceAttribute>,
    /// The last value of each request. As upstream, a request has one.
    values: HashMap<&'a str, &'a DeviceAttribute>,
}

/// The name of a request, and of its alternative if it has any.
pub(crate) type Names<'a> = (&'a str, Option<&'a str>);

impl<'a> Constraint<'a> {
    /// Returns the constraint, `None` if its kind is not known.
    pub(crate) fn new(constraint: &'a DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match constraint {
            DeviceConstraint {
                match_attribute: Some(name),
                ..
            } => (name, false),
            DeviceConstraint {
                distinct_attribute: Some(name),
                ..
            } => (name, true),
            _ => return None,
        };
        Some(Self {
            requests: constraint.requests.as_deref().unwrap_or_default(),
            attribute,
            distinct,
            count: 0,
            common: None,
            values: HashMap::new(),
        })
    }

    fn concerns(&self, (request, alternative): Names<'_>) -> bool {
        let full = alternative.map(|alternative| format!("{request}/{alternative}"));
        self.requests.is_empty()
            || self
                .requests
                .iter()
                .any(|name| name == request || Some(name) == full.as_ref())
    }

    /// Adds a device. Returns false, and adds nothing, if that violates the constraint.
    pub(crate) fn add(&mut self, names: Names<'a>, device: &'a Device, driver: &str) -> bool {
        if !self.concerns(names) {
            return true;
        }
        let Some(found) = attribute(device, driver, self.attribute) else {
            return false;
        };
        let fits = match (self.count, self.distinct) {
            (0, _) => true,
            (_, false) => self
                .common
                .is_some_and(|common| same(found, common) == Some(true)),
            (_, true) => self
                .values
                .values()
                .all(|other| same(found, other) == Some(false)),
        };
        if !fits {
            return false;
        }
        if self.distinct {
            self.values.insert(names.0, found);
        } else if self.count == 0 {
            self.common = Some(found);
        }
        self.count += 1;
        true
    }

    /// Takes back what [`Self::add`] has added with the same arguments.
    pub(crate) fn remove(&mut self, names: Names<'a>) {
        if self.concerns(names) {
            self.values.remove(names.0);
            self.count -= 1;
        }
    }
}

/// Returns whether two attributes have the same value, `None` if the first has no known type.
fn same(a: &DeviceAttribute, b: &DeviceAttribute) -> Option<bool> {
    if a.string.is_some() {
        Some(a.string == b.string)
    } else if a.int.is_some() {
        Some(a.int == b.int)
    } else if a.bool.is_some() {
        Some(a.bool == b.bool)
    } else if a.version.is_some() {
        Some(a.version == b.version)
    } else {
        None
    }
}

/// Returns an attribute by its full name. The driver's domain may be left out in the device.
fn attribute<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        (domain == driver).then(|| attributes.get(id))?
    })
}
