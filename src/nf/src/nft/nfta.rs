//! Numbers of the netlink attributes of nf_tables, from `linux/netfilter/nf_tables.h`.
//!
//! The names are those of the header without the prefix `NFTA_`. The values of attributes (`NFT_…`)
//! are in the crate `libc`.

/// Item of a list of attributes.
pub(super) const LIST_ELEM: u16 = 1;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;

pub(super) const HOOK_HOOKNUM: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_TIMEOUT: u16 = 11;
pub(super) const SET_USERDATA: u16 = 13;

pub(super) const SET_DESC_SIZE: u16 = 1;

pub(super) const SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const SET_ELEM_LIST_SET: u16 = 2;
pub(super) const SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const SET_ELEM_LIST_SET_ID: u16 = 4;

pub(super) const SET_ELEM_KEY: u16 = 1;
pub(super) const SET_ELEM_DATA: u16 = 2;
pub(super) const SET_ELEM_FLAGS: u16 = 3;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;

pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

pub(super) const IMMEDIATE_DREG: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;

pub(super) const CMP_SREG: u16 = 1;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;

pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;

pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SREG: u16 = 3;

pub(super) const PAYLOAD_DREG: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LEN: u16 = 4;

pub(super) const CT_DREG: u16 = 1;
pub(super) const CT_KEY: u16 = 2;
pub(super) const CT_DIRECTION: u16 = 3;

pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_SREG: u16 = 2;
pub(super) const LOOKUP_DREG: u16 = 3;
pub(super) const LOOKUP_SET_ID: u16 = 4;
pub(super) const LOOKUP_FLAGS: u16 = 5;

pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
pub(super) const NAT_REG_ADDR_MIN: u16 = 3;
pub(super) const NAT_REG_PROTO_MIN: u16 = 5;

pub(super) const MASQ_FLAGS: u16 = 1;

pub(super) const REDIR_REG_PROTO_MIN: u16 = 1;
pub(super) const REDIR_FLAGS: u16 = 3;

pub(super) const FIB_DREG: u16 = 1;
pub(super) const FIB_RESULT: u16 = 2;
pub(super) const FIB_FLAGS: u16 = 3;

pub(super) const NG_DREG: u16 = 1;
pub(super) const NG_MODULUS: u16 = 2;
pub(super) const NG_TYPE: u16 = 3;
pub(super) const NG_OFFSET: u16 = 4;

pub(super) const LIMIT_RATE: u16 = 1;
pub(super) const LIMIT_UNIT: u16 = 2;
pub(super) const LIMIT_BURST: u16 = 3;
pub(super) const LIMIT_TYPE: u16 = 4;

pub(super) const REJECT_TYPE: u16 = 1;
pub(super) const REJECT_ICMP_CODE: u16 = 2;

pub(super) const DYNSET_SET_NAME: u16 = 1;
pub(super) const DYNSET_OP: u16 = 3;
pub(super) const DYNSET_SREG_KEY: u16 = 4;
pub(super) const DYNSET_TIMEOUT: u16 = 6;
