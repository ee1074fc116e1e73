//! One suite for each kernel trait, to be passed by the fake and by the real kernel alike: this keeps fakes honest.

pub mod nft;
pub mod rtnl;
