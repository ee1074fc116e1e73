//! Ops as `ip fou` commands (pure).

use std::fmt::{self, Display, Formatter};

use super::Op;
use crate::net::Family;

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let port = self.port();
        let flag = match port.family {
            Family::V4 => "",
            Family::V6 => "-6 ",
        };
        match self {
            Op::AddPort(_) => write!(f, "ip {flag}fou add port {} gue", port.number),
            Op::DeletePort(_) => write!(f, "ip {flag}fou del port {}", port.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;

    #[test]
    fn ops_read_as_ip_commands() {
        let four = Port { family: Family::V4, number: 5555 };
        assert_eq!(Op::AddPort(four).to_string(), "ip fou add port 5555 gue");
        assert_eq!(Op::DeletePort(four).to_string(), "ip fou del port 5555");
        assert_eq!(Op::AddPort(Port { family: Family::V6, ..four }).to_string(), "ip -6 fou add port 5555 gue");
    }
}
