//! Numbers of the nf_tables netlink family (`include/uapi/linux/netfilter/nf_tables.h`, `nfnetlink.h`), as far as we
//! use them. Attribute numbers of one kind of object share a module of its name.

/// Subsystem number of nf_tables, the high byte of every message type (NFNL_SUBSYS_NFTABLES).
pub const SUBSYSTEM: u16 = 10;
/// Start of a transaction (NFNL_MSG_BATCH_BEGIN).
pub const BATCH_BEGIN: u16 = 16;
/// End of a transaction (NFNL_MSG_BATCH_END).
pub const BATCH_END: u16 = 17;
/// Family of tables that see IPv4 and IPv6 (NFPROTO_INET).
pub const FAMILY_INET: u8 = 1;
/// NFPROTO_IPV4.
pub const FAMILY_IPV4: u8 = 2;
/// NFPROTO_IPV6.
pub const FAMILY_IPV6: u8 = 10;
/// Attribute number of every list member (NFTA_LIST_ELEM).
pub const LIST_ELEMENT: u16 = 1;

/// Message types (enum nf_tables_msg_types), to be joined with [`SUBSYSTEM`].
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod message {
    pub const NEW_TABLE: u16 = 0;
    pub const GET_TABLE: u16 = 1;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const DELETE_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const DELETE_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const GET_SET: u16 = 10;
    pub const DELETE_SET: u16 = 11;
    pub const NEW_ELEMENTS: u16 = 12;
    pub const GET_ELEMENTS: u16 = 13;
    pub const DELETE_ELEMENTS: u16 = 14;
}

/// NFTA_TABLE_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
}

/// NFTA_CHAIN_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
}

/// NFTA_HOOK_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod hook {
    pub const NUMBER: u16 = 1;
    pub const PRIORITY: u16 = 2;
}

/// NFTA_RULE_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

/// NFTA_SET_*, with NFTA_SET_DESC_SIZE and the set flags.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LENGTH: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LENGTH: u16 = 7;
    pub const DESCRIPTION: u16 = 9;
    pub const ID: u16 = 10;
    pub const USERDATA: u16 = 13;
    pub const DESCRIPTION_SIZE: u16 = 1;
    pub const FLAG_ANONYMOUS: u32 = 0x1;
    pub const FLAG_CONSTANT: u32 = 0x2;
    pub const FLAG_INTERVAL: u32 = 0x4;
    pub const FLAG_MAP: u32 = 0x8;
    /// Data type of verdict maps (NFT_DATA_VERDICT).
    pub const DATA_VERDICT: u32 = 0xffff_ff00;
}

/// NFTA_SET_ELEM_LIST_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod elements {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const LIST: u16 = 3;
    pub const SET_ID: u16 = 4;
}

/// NFTA_SET_ELEM_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod element {
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_END: u16 = 10;
    /// The key is the first one after an interval (NFT_SET_ELEM_INTERVAL_END).
    pub const FLAG_INTERVAL_END: u32 = 0x1;
    /// The catch-all element (NFT_SET_ELEM_CATCHALL).
    pub const FLAG_CATCH_ALL: u32 = 0x2;
}

/// NFTA_DATA_* and NFTA_VERDICT_*, with the verdict codes.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
    pub const DROP: i32 = 0;
    pub const ACCEPT: i32 = 1;
    pub const JUMP: i32 = -3;
    pub const RETURN: i32 = -5;
}

/// NFTA_EXPR_*, and the attributes, keys and codes of each expression.
#[allow(missing_docs, reason = "the kernel's own names")]
pub mod expression {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;
    /// First of the sixteen 32-bit registers (NFT_REG32_00).
    pub const REGISTER: u32 = 8;
    /// The register verdicts go to (NFT_REG_VERDICT).
    pub const VERDICT_REGISTER: u32 = 0;

    pub mod immediate {
        pub const DREG: u16 = 1;
        pub const DATA: u16 = 2;
    }
    pub mod bitwise {
        pub const SREG: u16 = 1;
        pub const DREG: u16 = 2;
        pub const LENGTH: u16 = 3;
        pub const MASK: u16 = 4;
        pub const XOR: u16 = 5;
    }
    pub mod compare {
        pub const SREG: u16 = 1;
        pub const OPERATION: u16 = 2;
        pub const DATA: u16 = 3;
        pub const EQUAL: u32 = 0;
        pub const NOT_EQUAL: u32 = 1;
        pub const GREATER: u32 = 4;
    }
    pub mod lookup {
        pub const SET: u16 = 1;
        pub const SREG: u16 = 2;
        pub const DREG: u16 = 3;
        pub const SET_ID: u16 = 4;
        pub const FLAGS: u16 = 5;
        pub const FLAG_INVERT: u32 = 0x1;
    }
    pub mod payload {
        pub const DREG: u16 = 1;
        pub const BASE: u16 = 2;
        pub const OFFSET: u16 = 3;
        pub const LENGTH: u16 = 4;
        pub const NETWORK: u32 = 1;
        pub const TRANSPORT: u32 = 2;
    }
    pub mod exthdr {
        pub const DREG: u16 = 1;
        pub const TYPE: u16 = 2;
        pub const OFFSET: u16 = 3;
        pub const LENGTH: u16 = 4;
        pub const OPERATION: u16 = 6;
        pub const SREG: u16 = 7;
        pub const TCP_OPTION: u32 = 1;
        /// TCP option number of the maximum segment size (RFC 9293, 3.2).
        pub const MAXSEG: u8 = 2;
    }
    pub mod meta {
        pub const DREG: u16 = 1;
        pub const KEY: u16 = 2;
        pub const SREG: u16 = 3;
        pub const MARK: u32 = 3;
        pub const IIFNAME: u32 = 6;
        pub const OIFNAME: u32 = 7;
        pub const NFPROTO: u32 = 15;
        pub const L4PROTO: u32 = 16;
    }
    pub mod ct {
        pub const DREG: u16 = 1;
        pub const KEY: u16 = 2;
        pub const DIRECTION: u16 = 3;
        pub const KEY_STATE: u32 = 0;
        pub const KEY_DIRECTION: u32 = 1;
        pub const KEY_PROTO_DST: u32 = 12;
        pub const KEY_DST_IP: u32 = 20;
        pub const KEY_DST_IP6: u32 = 22;
        pub const ORIGINAL: u8 = 0;
    }
    pub mod fib {
        pub const DREG: u16 = 1;
        pub const RESULT: u16 = 2;
        pub const FLAGS: u16 = 3;
        pub const RESULT_ADDRESS_TYPE: u32 = 3;
        pub const FLAG_SADDR: u32 = 0x1;
        pub const FLAG_DADDR: u32 = 0x2;
        /// An address of this host (RTN_LOCAL).
        pub const TYPE_LOCAL: u32 = 2;
    }
    pub mod nat {
        pub const TYPE: u16 = 1;
        pub const FAMILY: u16 = 2;
        pub const ADDRESS_MIN: u16 = 3;
        pub const FLAGS: u16 = 7;
        pub const SOURCE: u32 = 0;
    }
    pub mod masquerade {
        pub const FLAGS: u16 = 1;
    }
    /// NF_NAT_RANGE_PROTO_RANDOM_FULLY.
    pub const NAT_FULLY_RANDOM: u32 = 0x10;
    pub mod limit {
        pub const RATE: u16 = 1;
        pub const UNIT: u16 = 2;
        pub const BURST: u16 = 3;
        pub const TYPE: u16 = 4;
        pub const FLAGS: u16 = 5;
        pub const PACKETS: u32 = 0;
    }
    pub mod log {
        pub const GROUP: u16 = 1;
    }
    pub mod reject {
        pub const TYPE: u16 = 1;
        pub const CODE: u16 = 2;
        /// ICMP of the packet's own family (NFT_REJECT_ICMPX_UNREACH).
        pub const ICMPX: u32 = 2;
        pub const PORT_UNREACHABLE: u8 = 1;
    }
}

/// Type numbers of the `nft` program (its `enum datatypes`): the kernel only keeps them, `nft list` reads them.
#[allow(missing_docs, reason = "nft's own words")]
pub mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const PROTOCOL: u32 = 12;
    pub const PORT: u32 = 13;
    pub const ICMP_TYPE: u32 = 14;
    pub const MARK: u32 = 19;
    pub const ICMPV6_TYPE: u32 = 29;
    pub const INTERFACE: u32 = 41;
    /// Bits of one field's number in the number of a joined key.
    pub const BITS: u32 = 6;
}

/// Entries of the user data blobs that the kernel keeps for the `nft` program (libnftnl's `udata.h`): type and length
/// in one byte each, then the value.
#[allow(missing_docs, reason = "libnftnl's own words")]
pub mod userdata {
    pub const RULE_COMMENT: u8 = 0;
    pub const SET_KEY_BYTEORDER: u8 = 0;
    pub const SET_DATA_BYTEORDER: u8 = 1;
    pub const BYTEORDER_NONE: u32 = 0;
    pub const BYTEORDER_HOST: u32 = 1;
    pub const BYTEORDER_BIG: u32 = 2;
}
