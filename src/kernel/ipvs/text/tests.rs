//! Against what `ipvsadm` 1.31 printed on Linux 6.12 after the same commands; `tests/vm` compares with the tool itself.

use super::*;
use crate::testing::contract::ipvs::showcase;

const SAVED: &str = "\
-A -f -1 -s rr
-A -t 10.0.0.9:0 -s rr -p 60
-a -t 10.0.0.9:0 -r 10.2.2.2:0 -g -w 1
-A -t 10.96.0.1:443 -s rr
-a -t 10.96.0.1:443 -r 10.0.0.1:443 -i -w 5 --tun-type ipip
-a -t 10.96.0.1:443 -r 10.0.0.2:6443 -m -w 5
-a -t 10.96.0.1:443 -r 10.0.0.3:443 -i -w 65535 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 10.96.0.1:443 -r 10.0.0.4:443 -i -w 1 --tun-type gre --tun-nocsum
-a -t 10.96.0.1:443 -r 10.0.0.5:443 -m -w 2147483647
-A -t 10.96.0.12:80 -s mh -p 70 -b mh-port
-A -t 10.96.0.13:80 -s wlc -b flag-2,flag-3
-A -t 10.96.0.200:80 -s sh -p 70 -b sh-fallback
-A -u 255.255.255.254:65535 -s rr -p 300 -M 255.255.255.128
-a -u 255.255.255.254:65535 -r [fd00:1111:2222:3333:4444:5555:6666:7778]:65535 -i -w 1 --tun-type ipip
-a -u 255.255.255.254:65535 -r 255.255.255.253:65535 -m -w 1
-A -u 10.96.0.10:53 -s mh -o -b mh-fallback,mh-port
-a -u 10.96.0.10:53 -r 10.1.0.3:53 -g -w 0
-A -u 10.96.0.14:80 -s mh -p 70 -o -b \n\
-A --sctp-service 10.96.0.11:3868 -s lblc -b flag-1,flag-3
-a --sctp-service 10.96.0.11:3868 -r 192.168.100.100:3868 -m -w 1
-A -t [fd00::1]:80 -s sh -p 10800 -b sh-port
-a -t [fd00::1]:80 -r [fd00:1::5]:8080 -m -w 1
-A -t [fd00:1111:2222:3333:4444:5555:6666:7777]:65535 -s wrr -p 300 -M 64
-a -t [fd00:1111:2222:3333:4444:5555:6666:7777]:65535 -r [fd00:1111:2222:3333:4444:5555:6666:7778]:65535 -m -w 1
-A -u [::ffff:1.2.3.4]:53 -s rr
-A -u [2001:db8::1:0:0:1]:53 -s rr
-A -f 77 -s wlc -p 60 -M 255.255.255.0
-a -f 77 -r 10.0.0.1:0 -g -w 1
-a -f 77 -r 10.0.0.2:0 -i -w 1 --tun-type ipip
-A -f 78 -6 -s sed
-a -f 78 -6 -r [fd00::7]:0 -m -w 1
";

const LISTED: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  -1 rr
TCP  10.0.0.9:0 rr persistent 60
  -> 10.2.2.2:0                   Route   1      0          0         \n\
TCP  10.96.0.1:443 rr
  -> 10.0.0.1:443                 Tunnel  5      0          0         \n\
\x20 -> 10.0.0.2:6443                Masq    5      0          0         \n\
\x20 -> 10.0.0.3:443                 Tunnel  65535  0          0         \n\
\x20 -> 10.0.0.4:443                 Tunnel  1      0          0         \n\
\x20 -> 10.0.0.5:443                 Masq    2147483647 0          0         \n\
TCP  10.96.0.12:80 mh (mh-port) persistent 70
TCP  10.96.0.13:80 wlc (flag-2,flag-3)
TCP  10.96.0.200:80 sh (sh-fallback) persistent 70
UDP  255.255.255.254:65535 rr persistent 300 mask 255.255.255.128
  -> [fd00:1111:2222:3333:4444:5555:6666:7778]:65535 Tunnel  1      0          0         \n\
\x20 -> 255.255.255.253:65535        Masq    1      0          0         \n\
UDP  10.96.0.10:53 mh (mh-fallback,mh-port) ops
  -> 10.1.0.3:53                  Route   0      0          0         \n\
UDP  10.96.0.14:80 mh () persistent 70 ops
SCTP 10.96.0.11:3868 lblc (flag-1,flag-3)
  -> 192.168.100.100:3868         Masq    1      0          0         \n\
TCP  [fd00::1]:80 sh (sh-port) persistent 10800
  -> [fd00:1::5]:8080             Masq    1      0          0         \n\
TCP  [fd00:1111:2222:3333:4444:5555:6666:7777]:65535 wrr persistent 300 mask 64
  -> [fd00:1111:2222:3333:4444:5555:6666:7778]:65535 Masq    1      0          0         \n\
UDP  [::ffff:1.2.3.4]:53 rr
UDP  [2001:db8::1:0:0:1]:53 rr
FWM  77 wlc persistent 60 mask 255.255.255.0
  -> 10.0.0.1:0                   Route   1      0          0         \n\
\x20 -> 10.0.0.2:0                   Tunnel  1      0          0         \n\
FWM  78 IPv6 sed
  -> [fd00::7]:0                  Masq    1      0          0         \n";

#[test]
fn prints_what_ipvsadm_saves_and_lists() {
    let table = showcase();
    assert_eq!(Saved(&table).to_string(), SAVED);
    assert_eq!(Listed::new(&table).to_string(), LISTED);
    let empty = Table::new();
    assert_eq!(Saved(&empty).to_string(), "");
    assert_eq!(Listed::new(&empty).to_string().lines().count(), 3);
}

#[test]
fn ops_are_lines_for_ipvsadm_restore() {
    use super::super::{RealServerKey, Scheduler};
    let address = "10.96.0.1".parse().unwrap();
    let key = VirtualServerKey::Address { address, protocol: Protocol::Tcp, port: 80 };
    let spec = VirtualServerSpec {
        scheduler: Scheduler::new("mh"),
        scheduler_flags: 0b110,
        persistence: Some(60),
        persistence_prefix: 24,
        one_packet: false,
    };
    let real_key = RealServerKey { address: "10.0.0.1".parse().unwrap(), port: 8080 };
    let real = RealServer {
        key: real_key,
        forwarding: Forwarding::Tunnel(TunnelType::Gue { port: 6080 }),
        weight: 3,
        upper_threshold: 10,
        lower_threshold: 4,
    };
    let mark = VirtualServerKey::Mark { mark: u32::MAX, family: Family::V6 };
    let lines = [
        (Op::AddVirtualServer(key, spec.clone()), "-A -t 10.96.0.1:80 -s mh -p 60 -M 255.255.255.0 -b mh-port,flag-3"),
        (Op::SetVirtualServer(key, spec), "-E -t 10.96.0.1:80 -s mh -p 60 -M 255.255.255.0 -b mh-port,flag-3"),
        (Op::DeleteVirtualServer(mark), "-D -f 4294967295 -6"),
        (
            Op::AddRealServer(key, real),
            "-a -t 10.96.0.1:80 -r 10.0.0.1:8080 -i -w 3 -x 10 -y 4 --tun-type gue --tun-port 6080 --tun-nocsum",
        ),
        (
            Op::SetRealServer(key, RealServer { forwarding: Forwarding::Route, ..real }),
            "-e -t 10.96.0.1:80 -r 10.0.0.1:8080 -g -w 3 -x 10 -y 4",
        ),
        (Op::DeleteRealServer(key, real_key), "-d -t 10.96.0.1:80 -r 10.0.0.1:8080"),
    ];
    for (op, line) in lines {
        assert_eq!(op.to_string(), line);
    }
}

#[test]
fn sorting_survives_an_order_with_cycles() {
    let cyclic = [0x0a00_0000_u32, 0x6400_0000, 0xc000_0000, 0x0a00_0001, 0xffff_ffff, 0];
    let sorted = in_tool_order(cyclic.to_vec(), |a, b| by_difference(*a, *b));
    let mut same = sorted.clone();
    same.sort_unstable();
    assert_eq!(same, [0, 0x0a00_0000, 0x0a00_0001, 0x6400_0000, 0xc000_0000, 0xffff_ffff]);
    let consistent = [0x0a00_0001_u32, 0xc0a8_0001, 0x0a00_0000];
    let sorted = in_tool_order(consistent.to_vec(), |a, b| by_difference(*a, *b));
    assert_eq!(sorted, [0xc0a8_0001, 0x0a00_0000, 0x0a00_0001]);
}
