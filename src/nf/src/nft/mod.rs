//! A client for nf_tables over netlink, without the `nft` program.
//!
//! A [`Table`] is a plain value: sets, maps, and chains of rules, which consist of [`Expr`]essions.
//! [`Nftables::apply`] makes the kernel's table equal to it in a single transaction. Either all
//! changes take effect or none, and no packet is filtered by a partial table. A rule's expressions
//! are shown by `nft --debug=netlink`.
//!
//! Numbers in packets are in network byte order. Numbers computed by the kernel (marks, `numgen`,
//! connection states) are in native byte order. [`Data`] has a constructor for each.

mod encode;
mod encode_expr;
mod expr;
mod kernel;
mod nfta;
mod table;
#[cfg(test)]
mod tests;

pub use expr::{
    CmpOp, Ct, Data, Expr, Meta, NatKind, PayloadBase, Reg, Reject, SetRef, Verdict, ct_state,
    ct_status,
};
pub use kernel::Nftables;
pub use table::{
    Chain, ChainKind, Element, Family, Field, Hook, HookKind, Key, Name, Rule, Set, SetData, Table,
    Value, priority,
};
