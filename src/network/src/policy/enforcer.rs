//! Application of the compiled rules to the kernel.

use parking_lot::Mutex;

use super::compile::TABLE;
use crate::error::Result;
use crate::nft::{Family, Nftables, Table};

/// The rules of network policies in one network namespace.
pub struct PolicyEnforcer {
    nft: Nftables,
    applied: Mutex<Applied>,
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
            applied: Mutex::new(Applied::Unknown),
        })
    }

    /// Makes the kernel's table equal to `wanted` in one transaction, or deletes it. Returns whether
    /// anything was written; only differences are.
    pub fn apply(&self, wanted: Option<Table>) -> Result<bool> {
        let mut applied = self.applied.lock();
        // Unknown until the transaction is complete.
        let old = match std::mem::replace(&mut *applied, Applied::Unknown) {
            Applied::Unknown => None,
            Applied::Known(None) if wanted.is_none() => {
                *applied = Applied::Known(None);
                return Ok(false);
            }
            Applied::Known(table) => table,
        };
        let changed = match &wanted {
            None => self.nft.delete_table(Family::Ip, TABLE)?,
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
