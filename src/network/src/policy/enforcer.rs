//! Application of the compiled rules to the kernel.

use parking_lot::Mutex;

use super::compile::TABLE;
use crate::error::Result;
use crate::nft::{Family, Nftables, Table};

/// The families that policies have tables of.
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// The rules of network policies in one network namespace.
pub struct PolicyEnforcer {
    nft: Nftables,
    /// By family, as [`FAMILIES`].
    applied: Mutex<[Applied; 2]>,
}

/// The state of the kernel's table.
enum Applied {
    /// Unknown: nothing was applied yet, or the last attempt failed.
    Unknown,
    /// This table, or none.
    Known(Option<Table>),
}

impl PolicyEnforcer {
    /// Returns an enforcer for the calling thread's network namespace. Rules that an earlier one
    /// left stay in effect until the first [`apply`](Self::apply).
    pub fn new() -> Result<Self> {
        Ok(Self {
            nft: Nftables::open()?,
            applied: Mutex::new([Applied::Unknown, Applied::Unknown]),
        })
    }

    /// Makes the kernel's tables equal to `wanted`, with a transaction each, or deletes those that
    /// are not wanted. Returns whether anything was written; only differences are.
    pub fn apply(&self, mut wanted: Vec<Table>) -> Result<bool> {
        let mut applied = self.applied.lock();
        let mut changed = false;
        for (family, applied) in FAMILIES.into_iter().zip(&mut *applied) {
            let place = wanted.iter().position(|table| table.family == family);
            let wanted = place.map(|place| wanted.swap_remove(place));
            changed |= self.apply_family(family, wanted, applied)?;
        }
        Ok(changed)
    }

    fn apply_family(
        &self,
        family: Family,
        wanted: Option<Table>,
        applied: &mut Applied,
    ) -> Result<bool> {
        // Unknown until the transaction is complete.
        let old = match std::mem::replace(applied, Applied::Unknown) {
            Applied::Unknown => None,
            Applied::Known(None) if wanted.is_none() => {
                *applied = Applied::Known(None);
                return Ok(false);
            }
            Applied::Known(table) => table,
        };
        let changed = match &wanted {
            None => self.nft.delete_table(family, TABLE)?,
            Some(wanted) => match self.nft.apply(old.as_ref(), wanted) {
                Ok(changed) => changed,
                // Another program changed or flushed the table, so replace it.
                Err(error) if old.is_some() => {
                    tracing::warn!(%error, "the rules of network policies are not as left; replacing them");
                    self.nft.apply(None, wanted)?
                }
                Err(error) => return Err(error.into()),
            },
        };
        *applied = Applied::Known(wanted);
        Ok(changed)
    }
}
