//! Generic netlink families: names to numbers (`include/uapi/linux/genetlink.h`).

use super::attr::Attributes;
use super::batch::Batch;
use super::error::{Fault, Refusal};
use super::socket::Socket;

/// `GENL_ID_CTRL`.
const CONTROLLER: u16 = 16;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`.
const FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_NAME: u16 = 2;
/// Bytes of `struct genlmsghdr`, which precede the attributes.
pub const HEADER: usize = 4;

/// A family and the number it has until its module is loaded anew.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    number: Option<u16>,
}

impl Family {
    /// A family by name, not yet looked up.
    pub const fn new(name: &'static str) -> Family {
        Family { name, number: None }
    }

    /// Its message type, asked for once. The kernel loads the module for it where it may.
    ///
    /// # Errors
    /// ENOENT where the kernel has no such family and could not load it.
    pub fn number(&mut self, socket: &mut Socket) -> Result<u16, Fault> {
        if let Some(number) = self.number {
            return Ok(number);
        }
        let mut request = Batch::new();
        request.message(CONTROLLER, 0).generic(GET_FAMILY, 1).attributes().text(FAMILY_NAME, self.name);
        let found = socket.query(&mut request, |_, payload| {
            Attributes::after(payload, HEADER).find(FAMILY_ID).and_then(|id| id.u16())
        })?;
        let number = found.first().copied().ok_or(Fault::Refused(Refusal {
            errno: Refusal::ENOENT,
            message: None,
            offset: None,
        }))?;
        self.number = Some(number);
        Ok(number)
    }

    /// Forget the number: a message to it was answered with ENOENT, so the module may have been loaded anew. Returns
    /// the new number where it really changed.
    ///
    /// # Errors
    /// As for [`number`](Family::number).
    pub fn renumber(&mut self, socket: &mut Socket) -> Result<Option<u16>, Fault> {
        let old = self.number.take();
        let new = self.number(socket)?;
        Ok((old != Some(new)).then_some(new))
    }
}
