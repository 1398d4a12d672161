//! Transactions that bring the kernel's tables to a desired state.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::encode::{Batch, GETTABLE, NEWTABLE, family_number, message_type, nfgen};
use super::nfta;
use super::table::{Family, Key, Table, Value};
use crate::netlink::{Attributes, NetlinkError, Socket, in_netns};

/// A connection to nf_tables in one network namespace.
pub struct Nftables {
    socket: Socket,
}

impl Nftables {
    /// Opens a connection in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(SockProtocol::NetlinkNetFilter)
            .map(|socket| Self { socket })
            .map_err(|errno| NetlinkError::new("cannot open a netfilter socket", errno))
    }

    /// Opens a connection in the network namespace that `netns` refers to.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        in_netns(netns, Self::open)?
    }

    /// Makes the kernel's table equal to `new`, in one transaction.
    /// `old` is the table as last applied. With it, only differences are written, and elements that
    /// rules added to sets are kept. Without it, the table is replaced. Returns whether anything
    /// was written.
    pub fn apply(&self, old: Option<&Table>, new: &Table) -> Result<bool, NetlinkError> {
        if old == Some(new) {
            return Ok(false);
        }
        // A set cannot be replaced while rules refer to it, so a changed type means replacing the
        // table.
        let same_sets = |old: &&Table| {
            old.name == new.name
                && old.family == new.family
                && old.sets.iter().all(|(name, set)| {
                    new.sets
                        .get(name)
                        .is_none_or(|now| Arc::ptr_eq(now, set) || now.same_shape(set))
                })
        };
        self.transaction(new, |batch| match old.filter(same_sets) {
            Some(old) => differences(batch, old, new),
            None => {
                // Deleting a missing table is an error, so it is added first.
                batch.new_table();
                batch.delete_table();
                batch.new_table();
                differences(batch, &Table::new(new.family, new.name.as_str()), new);
            }
        })?;
        Ok(true)
    }

    /// Deletes a table. Returns whether it existed.
    pub fn delete_table(&self, family: Family, name: &str) -> Result<bool, NetlinkError> {
        let table = Table::new(family, name);
        match self.transaction(&table, |batch| batch.delete_table()) {
            Ok(()) => Ok(true),
            // Kernels without the family have no such table either.
            Err(error)
                if matches!(
                    error.errno,
                    Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the names of the family's tables.
    pub fn tables(&self, family: Family) -> Result<Vec<String>, NetlinkError> {
        let family = family_number(family);
        self.socket
            .dump(
                message_type(GETTABLE),
                |w| nfgen(w, family, 0),
                |kind, payload| {
                    if kind != message_type(NEWTABLE) || payload.first() != Some(&family) {
                        return None;
                    }
                    let (_, name) = Attributes(payload.get(4..)?)
                        .find(|(kind, _)| *kind == nfta::TABLE_NAME)?;
                    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                    Some(String::from_utf8_lossy(&name[..end]).into_owned())
                },
            )
            .map_err(|refusal| refusal.because("cannot list packet filter tables"))
    }

    /// Writes a batch for `table` and commits it. An error names the rejected message.
    fn transaction(
        &self,
        table: &Table,
        write: impl Fn(&mut Batch<'_>),
    ) -> Result<(), NetlinkError> {
        let mut subjects = Vec::new();
        let result = self.socket.batch(|first| {
            let mut batch = Batch::new(table, first);
            write(&mut batch);
            let (bytes, about) = batch.finish();
            subjects = about;
            (bytes, subjects.len() as u32)
        });
        result.map_err(|(refusal, index)| {
            let subject = subjects.get(index as usize).map_or("", String::as_str);
            refusal.because(format!(
                "cannot change packet filter table {}: {subject}",
                table.name
            ))
        })
    }
}

/// Writes the differences from `old` to `new`. The order ensures that no message refers to a chain
/// or set that does not exist.
fn differences(batch: &mut Batch<'_>, old: &Table, new: &Table) {
    // A base chain's hook cannot be changed, so the chain is recreated.
    let chain_stays = |name: &str| match (old.chains.get(name), new.chains.get(name)) {
        (Some(was), Some(now)) => was.hook == now.hook,
        _ => false,
    };
    let rules_stay = |name: &str| {
        chain_stays(name)
            && (Arc::ptr_eq(&old.chains[name], &new.chains[name])
                || old.chains[name].rules == new.chains[name].rules)
    };
    let same_set = |name: &str| match (old.sets.get(name), new.sets.get(name)) {
        (Some(was), Some(now)) => Arc::ptr_eq(was, now),
        _ => false,
    };

    // Delete references before their targets.
    for (name, set) in old.sets.iter().filter(|(name, _)| !same_set(name)) {
        if let Some(now) = new.sets.get(name) {
            let gone = |(key, value): &(&Key, &Value)| now.elements.get(*key) != Some(*value);
            batch.delete_elements(name, set.elements.iter().filter(gone));
        }
    }
    for (name, chain) in &old.chains {
        if !rules_stay(name) && !chain.rules.is_empty() {
            batch.flush_chain(name);
        }
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        batch.delete_set(name);
    }
    for name in old.chains.keys().filter(|name| !chain_stays(name)) {
        batch.delete_chain(name);
    }
    // Create targets before references.
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            batch.new_set(name, set);
            batch.new_ranges(name, set);
        }
    }
    for (name, chain) in &new.chains {
        if !chain_stays(name) {
            batch.new_chain(name, chain);
        }
    }
    for (name, chain) in &new.chains {
        if !rules_stay(name) {
            for rule in &chain.rules {
                batch.new_rule(name, rule);
            }
        }
    }
    for (name, set) in new.sets.iter().filter(|(name, _)| !same_set(name)) {
        let was = old.sets.get(name);
        let added = |(key, value): &(&Key, &Value)| {
            was.and_then(|was| was.elements.get(*key)) != Some(*value)
        };
        batch.new_elements(name, set.elements.iter().filter(added));
    }
}
