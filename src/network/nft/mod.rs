//! Packet filter tables, spoken to the kernel directly (nf_tables over netlink).
