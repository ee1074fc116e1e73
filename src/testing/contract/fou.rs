//! What every [`Fou`] must do. It takes a namespace without FoU ports and panics where the promise is broken.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise must stop the test")]

use crate::kernel::error::Disposition;
use crate::kernel::fou::{Fou, Op, Port};
use crate::net::Family;

/// Ports are added, read back, refused twice, and removed.
pub fn ports_come_and_go(fou: &mut impl Fou) {
    assert_eq!(fou.ports().expect("ports can be read"), []);
    let four = Port { family: Family::V4, number: 5555 };
    let six = Port { family: Family::V6, ..four };
    let other = Port { number: 6000, ..four };
    let kinds = |results: Vec<Result<(), crate::kernel::Error>>| {
        results.into_iter().map(|result| result.map_err(|error| error.kind)).collect::<Vec<_>>()
    };
    let add = [Op::AddPort(four), Op::AddPort(four), Op::AddPort(six), Op::AddPort(other)];
    assert_eq!(kinds(fou.apply(&add)), [Ok(()), Err(Disposition::AlreadySo), Ok(()), Ok(())]);
    let mut found = fou.ports().expect("ports can be read");
    found.sort();
    let mut expected = [four, six, other];
    expected.sort();
    assert_eq!(found, expected);
    let delete = [Op::DeletePort(four), Op::DeletePort(four), Op::DeletePort(other)];
    assert_eq!(kinds(fou.apply(&delete)), [Ok(()), Err(Disposition::AlreadySo), Ok(())]);
    assert_eq!(fou.ports().expect("ports can be read"), [six]);
    assert_eq!(kinds(fou.apply(&[Op::DeletePort(six)])), [Ok(())]);
    assert_eq!(fou.ports().expect("ports can be read"), []);
    assert!(fou.apply(&[]).is_empty());
}
