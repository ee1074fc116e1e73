//! Numbers of the nf_tables netlink family (`include/uapi/linux/netfilter/nf_tables.h`, `nfnetlink.h`), as far as we
//! use them. Attribute numbers of one kind of object share a module of its name.

/// Subsystem number of nf_tables, the high byte of every message type (NFNL_SUBSYS_NFTABLES).
pub(crate) const SUBSYSTEM: u16 = 10;
/// Start of a transaction (NFNL_MSG_BATCH_BEGIN).
pub(crate) const BATCH_BEGIN: u16 = 16;
/// End of a transaction (NFNL_MSG_BATCH_END).
pub(crate) const BATCH_END: u16 = 17;
/// Family of tables that see IPv4 and IPv6 (NFPROTO_INET).
pub(crate) const FAMILY_INET: u8 = 1;
/// NFPROTO_IPV4.
pub(crate) const FAMILY_IPV4: u8 = 2;
/// Family of tables that see frames of bridges (NFPROTO_BRIDGE).
pub(crate) const FAMILY_BRIDGE: u8 = 7;
/// NFPROTO_IPV6.
pub(crate) const FAMILY_IPV6: u8 = 10;
/// Attribute number of every list member (NFTA_LIST_ELEM).
pub(crate) const LIST_ELEMENT: u16 = 1;

/// Message types (enum nf_tables_msg_types), to be joined with [`SUBSYSTEM`].
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod message {
    pub(crate) const NEW_TABLE: u16 = 0;
    pub(crate) const GET_TABLE: u16 = 1;
    pub(crate) const DELETE_TABLE: u16 = 2;
    pub(crate) const NEW_CHAIN: u16 = 3;
    pub(crate) const GET_CHAIN: u16 = 4;
    pub(crate) const DELETE_CHAIN: u16 = 5;
    pub(crate) const NEW_RULE: u16 = 6;
    pub(crate) const GET_RULE: u16 = 7;
    pub(crate) const DELETE_RULE: u16 = 8;
    pub(crate) const NEW_SET: u16 = 9;
    pub(crate) const GET_SET: u16 = 10;
    pub(crate) const DELETE_SET: u16 = 11;
    pub(crate) const NEW_ELEMENTS: u16 = 12;
    pub(crate) const GET_ELEMENTS: u16 = 13;
    pub(crate) const DELETE_ELEMENTS: u16 = 14;
    pub(crate) const GET_OBJECT: u16 = 19;
    pub(crate) const GET_FLOWTABLE: u16 = 23;
}

/// NFTA_TABLE_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
}

/// NFTA_CHAIN_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
}

/// NFTA_HOOK_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod hook {
    pub(crate) const NUMBER: u16 = 1;
    pub(crate) const PRIORITY: u16 = 2;
}

/// NFTA_RULE_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
}

/// NFTA_SET_*, with NFTA_SET_DESC_SIZE and the set flags.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LENGTH: u16 = 7;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const DESCRIPTION_SIZE: u16 = 1;
    pub(crate) const FLAG_ANONYMOUS: u32 = 0x1;
    pub(crate) const FLAG_CONSTANT: u32 = 0x2;
    pub(crate) const FLAG_INTERVAL: u32 = 0x4;
    pub(crate) const FLAG_MAP: u32 = 0x8;
    /// Data type of verdict maps (NFT_DATA_VERDICT).
    pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;
}

/// NFTA_OBJ_* and NFTA_FLOWTABLE_*, which begin alike.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod object {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
}

/// NFTA_SET_ELEM_LIST_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod elements {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const LIST: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
}

/// NFTA_SET_ELEM_*.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod element {
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_END: u16 = 10;
    /// The key is the first one after an interval (NFT_SET_ELEM_INTERVAL_END).
    pub(crate) const FLAG_INTERVAL_END: u32 = 0x1;
    /// The catch-all element (NFT_SET_ELEM_CATCHALL).
    pub(crate) const FLAG_CATCH_ALL: u32 = 0x2;
}

/// NFTA_DATA_* and NFTA_VERDICT_*, with the verdict codes.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
    pub(crate) const DROP: i32 = 0;
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const RETURN: i32 = -5;
}

/// NFTA_EXPR_*, and the attributes, keys and codes of each expression.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(crate) mod expression {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    /// First of the sixteen 32-bit registers (NFT_REG32_00).
    pub(crate) const REGISTER: u32 = 8;
    /// The register verdicts go to (NFT_REG_VERDICT).
    pub(crate) const VERDICT_REGISTER: u32 = 0;

    pub(crate) mod immediate {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const DATA: u16 = 2;
    }
    pub(crate) mod bitwise {
        pub(crate) const SREG: u16 = 1;
        pub(crate) const DREG: u16 = 2;
        pub(crate) const LENGTH: u16 = 3;
        pub(crate) const MASK: u16 = 4;
        pub(crate) const XOR: u16 = 5;
    }
    pub(crate) mod compare {
        pub(crate) const SREG: u16 = 1;
        pub(crate) const OPERATION: u16 = 2;
        pub(crate) const DATA: u16 = 3;
        pub(crate) const EQUAL: u32 = 0;
        pub(crate) const NOT_EQUAL: u32 = 1;
        pub(crate) const AT_MOST: u32 = 3;
        pub(crate) const GREATER: u32 = 4;
        pub(crate) const AT_LEAST: u32 = 5;
    }
    pub(crate) mod lookup {
        pub(crate) const SET: u16 = 1;
        pub(crate) const SREG: u16 = 2;
        pub(crate) const DREG: u16 = 3;
        pub(crate) const SET_ID: u16 = 4;
        pub(crate) const FLAGS: u16 = 5;
        pub(crate) const FLAG_INVERT: u32 = 0x1;
    }
    pub(crate) mod payload {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const BASE: u16 = 2;
        pub(crate) const OFFSET: u16 = 3;
        pub(crate) const LENGTH: u16 = 4;
        pub(crate) const LINK: u32 = 0;
        pub(crate) const NETWORK: u32 = 1;
        pub(crate) const TRANSPORT: u32 = 2;
    }
    pub(crate) mod exthdr {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const TYPE: u16 = 2;
        pub(crate) const OFFSET: u16 = 3;
        pub(crate) const LENGTH: u16 = 4;
        pub(crate) const OPERATION: u16 = 6;
        pub(crate) const SREG: u16 = 7;
        pub(crate) const TCP_OPTION: u32 = 1;
        /// TCP option number of the maximum segment size (RFC 9293, 3.2).
        pub(crate) const MAXSEG: u8 = 2;
    }
    pub(crate) mod meta {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const KEY: u16 = 2;
        pub(crate) const SREG: u16 = 3;
        pub(crate) const MARK: u32 = 3;
        pub(crate) const IIFNAME: u32 = 6;
        pub(crate) const OIFNAME: u32 = 7;
        pub(crate) const IIFTYPE: u32 = 8;
        /// Ethernet (ARPHRD_ETHER).
        pub(crate) const TYPE_ETHERNET: u16 = 1;
        pub(crate) const NFPROTO: u32 = 15;
        pub(crate) const L4PROTO: u32 = 16;
        /// The bridge a frame came in through a port of.
        pub(crate) const IBRNAME: u32 = 17;
    }
    pub(crate) mod ct {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const KEY: u16 = 2;
        pub(crate) const DIRECTION: u16 = 3;
        pub(crate) const SREG: u16 = 4;
        pub(crate) const KEY_STATE: u32 = 0;
        pub(crate) const KEY_DIRECTION: u32 = 1;
        pub(crate) const KEY_MARK: u32 = 3;
        pub(crate) const KEY_PROTO_DST: u32 = 12;
        pub(crate) const KEY_DST_IP: u32 = 20;
        pub(crate) const KEY_DST_IP6: u32 = 22;
        pub(crate) const ORIGINAL: u8 = 0;
        pub(crate) const REPLY: u8 = 1;
    }
    pub(crate) mod fib {
        pub(crate) const DREG: u16 = 1;
        pub(crate) const RESULT: u16 = 2;
        pub(crate) const FLAGS: u16 = 3;
        pub(crate) const RESULT_ADDRESS_TYPE: u32 = 3;
        pub(crate) const FLAG_SADDR: u32 = 0x1;
        pub(crate) const FLAG_DADDR: u32 = 0x2;
        /// An address of this host (RTN_LOCAL).
        pub(crate) const TYPE_LOCAL: u32 = 2;
    }
    pub(crate) mod nat {
        pub(crate) const TYPE: u16 = 1;
        pub(crate) const FAMILY: u16 = 2;
        pub(crate) const ADDRESS_MIN: u16 = 3;
        pub(crate) const FLAGS: u16 = 7;
        pub(crate) const SOURCE: u32 = 0;
    }
    pub(crate) mod masquerade {
        pub(crate) const FLAGS: u16 = 1;
    }
    /// NF_NAT_RANGE_PROTO_RANDOM_FULLY.
    pub(crate) const NAT_FULLY_RANDOM: u32 = 0x10;
    pub(crate) mod limit {
        pub(crate) const RATE: u16 = 1;
        pub(crate) const UNIT: u16 = 2;
        pub(crate) const BURST: u16 = 3;
        pub(crate) const TYPE: u16 = 4;
        pub(crate) const FLAGS: u16 = 5;
        pub(crate) const PACKETS: u32 = 0;
    }
    pub(crate) mod log {
        pub(crate) const GROUP: u16 = 1;
    }
    pub(crate) mod reject {
        pub(crate) const TYPE: u16 = 1;
        pub(crate) const CODE: u16 = 2;
        /// ICMP of the packet's own family (NFT_REJECT_ICMPX_UNREACH).
        pub(crate) const ICMPX: u32 = 2;
        pub(crate) const PORT_UNREACHABLE: u8 = 1;
    }
}

/// Type numbers of the `nft` program (its `enum datatypes`): the kernel only keeps them, `nft list` reads them.
#[allow(missing_docs, reason = "nft's own words")]
pub(crate) mod datatype {
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const PORT: u32 = 13;
    pub(crate) const ICMP_TYPE: u32 = 14;
    pub(crate) const MARK: u32 = 19;
    pub(crate) const ICMPV6_TYPE: u32 = 29;
    pub(crate) const INTERFACE: u32 = 41;
    /// Bits of one field's number in the number of a joined key.
    pub(crate) const BITS: u32 = 6;
}

/// Entries of the user data blobs that the kernel keeps for the `nft` program (libnftnl's `udata.h`): type and length
/// in one byte each, then the value.
#[allow(missing_docs, reason = "libnftnl's own words")]
pub(crate) mod userdata {
    pub(crate) const RULE_COMMENT: u8 = 0;
    pub(crate) const SET_KEY_BYTEORDER: u8 = 0;
    pub(crate) const SET_DATA_BYTEORDER: u8 = 1;
    pub(crate) const BYTEORDER_NONE: u32 = 0;
    pub(crate) const BYTEORDER_HOST: u32 = 1;
    pub(crate) const BYTEORDER_BIG: u32 = 2;
}
