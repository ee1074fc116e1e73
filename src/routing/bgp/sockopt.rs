//! What sockets of BGP and BFD ask of the kernel beyond TCP and UDP: MD5 signatures (RFC 2385) and hop limits (GTSM,
//! RFC 5082; RFC 5881).
//!
//! A setting that the kernel refuses is an error of the peer, never ignored: a session without the authentication it
//! was configured with must not come up. Layouts and numbers: `include/uapi/linux/tcp.h`, `in.h`, `in6.h`.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use crate::net::{Family, Prefix};

/// The longest MD5 key the kernel takes, in bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const MAX_KEY: usize = 80;

const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// Size of `struct tcp_md5sig`: address 128, flags 1, prefix length 1, key length 2, interface 4, key 80.
const MD5SIG: usize = 216;

/// Requires TCP-MD5 signatures from, and sends them to, every address of `peers`. On a listener this covers sessions
/// of dynamic neighbours too. An empty key removes the requirement.
///
/// # Errors
/// `InvalidInput` for a key above [`MAX_KEY`]; otherwise what the kernel answered, `ENOPROTOOPT` where it was built
/// without MD5 signatures.
pub fn set_md5(socket: &impl AsFd, peers: Prefix, key: &[u8]) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &md5sig(peers, key)?)
}

/// Sends with this hop limit: 1 for a neighbour on the link, 255 with GTSM, the configured one for multihop.
///
/// # Errors
/// What the kernel answered.
pub fn set_hop_limit(socket: &impl AsFd, family: Family, hops: u8) -> io::Result<()> {
    let value = i32::from(hops).to_ne_bytes();
    match family {
        Family::V4 => set(socket, libc::IPPROTO_IP, libc::IP_TTL, &value),
        Family::V6 => set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &value),
    }
}

/// Lets the kernel hold no more than this many bytes that it has not sent yet (`TCP_NOTSENT_LOWAT`): what is on its way
/// is not limited by it.
///
/// # Errors
/// What the kernel answered.
pub fn set_unsent_limit(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes.to_ne_bytes())
}

/// Drops segments that have come further than `hops` routers (RFC 5082): those with a hop limit below 256 - `hops`.
///
/// # Errors
/// What the kernel answered.
pub fn set_max_distance(socket: &impl AsFd, family: Family, hops: u8) -> io::Result<()> {
    let value = 256_i32.saturating_sub(i32::from(hops.max(1))).to_ne_bytes();
    match family {
        Family::V4 => set(socket, libc::IPPROTO_IP, IP_MINTTL, &value),
        Family::V6 => set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value),
    }
}

/// Drops datagrams that did not arrive with a hop limit of 255, so that nobody beyond the link can send one (RFC 5881 5).
/// For UDP, where [`set_max_distance`] has no effect; set it before the socket is bound.
///
/// # Errors
/// What the kernel answered.
pub fn only_from_the_link(socket: &impl AsFd, family: Family) -> io::Result<()> {
    // The filter runs at the UDP header; the IP header is reached by an offset of its own.
    let network = libc::SKF_NET_OFF.cast_unsigned();
    let hop_limit = match family {
        Family::V4 => 8,
        Family::V6 => 7,
    };
    let code = |code: u32| u16::try_from(code).map_err(io::Error::other);
    let filter = [
        libc::sock_filter {
            code: code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS)?,
            jt: 0,
            jf: 0,
            k: network + hop_limit,
        },
        libc::sock_filter { code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K)?, jt: 0, jf: 1, k: 255 },
        libc::sock_filter { code: code(libc::BPF_RET | libc::BPF_K)?, jt: 0, jf: 0, k: u32::MAX },
        libc::sock_filter { code: code(libc::BPF_RET | libc::BPF_K)?, jt: 0, jf: 0, k: 0 },
    ];
    set_filter(socket, &filter)
}

#[expect(unsafe_code, reason = "a socket filter has no safe wrapper in the libraries of the daemon")]
fn set_filter(socket: &impl AsFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed and so open; the kernel reads `program` and the `len` instructions it points
    // to, which both outlive the call, changes neither, and keeps a copy.
    let answer = unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::ptr::from_ref(&program).cast(), size)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct tcp_md5sig` with the prefix flag, so that one call covers a range.
fn md5sig(peers: Prefix, key: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(key.len()).ok().filter(|_| key.len() <= MAX_KEY).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the key has {} bytes, at most {MAX_KEY} fit", key.len()))
    })?;
    let mut bytes = Vec::with_capacity(MD5SIG);
    match peers.network() {
        IpAddr::V4(address) => {
            bytes.extend(libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default().to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.extend(libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default().to_ne_bytes());
            bytes.extend([0; 2 + 4]);
            bytes.extend(address.octets());
        }
    }
    bytes.resize(128, 0);
    bytes.extend([TCP_MD5SIG_FLAG_PREFIX, peers.prefix_len()]);
    bytes.extend(length.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(key);
    bytes.resize(MD5SIG, 0);
    Ok(bytes)
}

#[expect(unsafe_code, reason = "these options have no safe wrapper in the libraries of the daemon")]
fn set(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed and so open; the kernel reads `length` bytes of `value`, which outlives the
    // call, and keeps no pointer to it.
    let answer = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn the_key_lies_where_the_kernel_looks_for_it() {
        let bytes = md5sig(prefix("192.0.2.0/24"), b"secret").expect("fits");
        assert_eq!(bytes.len(), MD5SIG);
        assert_eq!(&bytes[4..8], &[192, 0, 2, 0]);
        assert_eq!(&bytes[128..130], &[1, 24]);
        assert_eq!(&bytes[136..142], b"secret");
        let bytes = md5sig(prefix("2001:db8::1/128"), b"").expect("fits");
        assert_eq!(&bytes[8..12], &[0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(bytes[129], 128);
    }

    #[test]
    fn a_key_that_is_too_long_is_refused_before_the_kernel_sees_it() {
        let error = md5sig(prefix("192.0.2.1/32"), &[7; 81]).expect_err("81 bytes");
        assert!(error.to_string().contains("81 bytes"), "{error}");
    }

    /// The hop limit of packets on loopback is what the sender set: 64 passes a distance of 200, not one of 1.
    #[test]
    fn segments_from_too_far_never_reach_the_socket() {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listener");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        set_max_distance(&far, Family::V4, 1).expect("GTSM");
        set_hop_limit(&near, Family::V4, 64).expect("hop limit");
        far.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        near.write_all(b"x").expect("sent");
        assert!(far.read(&mut [0; 1]).is_err(), "a segment with hop limit 64 came through");
        set_hop_limit(&near, Family::V4, 255).expect("hop limit");
        far.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        assert_eq!(far.read(&mut [0; 1]).expect("the retransmission has the new hop limit"), 1);
    }

    #[test]
    fn datagrams_from_beyond_the_link_are_dropped_in_both_families() {
        for (family, host) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let Ok(socket) = std::net::UdpSocket::bind((host, 0)) else { continue };
            only_from_the_link(&socket, family).expect("a filter");
            socket.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            let sender = std::net::UdpSocket::bind((host, 0)).expect("a socket");
            for (hops, text) in [(64, b"far "), (254, b"far "), (255, b"near")] {
                set_hop_limit(&sender, family, hops).expect("hop limit");
                sender.send_to(text, socket.local_addr().expect("bound")).expect("sent");
            }
            let mut buffer = [0; 8];
            let (length, _) = socket.recv_from(&mut buffer).expect("the near one");
            assert_eq!(&buffer[..length], b"near");
        }
    }

    /// Both sides have the key: connected. Where the kernel knows no signatures the call must say so.
    #[test]
    fn a_session_with_the_same_key_comes_up() {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listener");
        match set_md5(&listener, prefix("127.0.0.0/8"), b"secret") {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}");
                let _ = writeln!(std::io::stderr(), "skipped: this kernel has no TCP-MD5 signatures");
                return;
            }
        }
        let address = listener.local_addr().expect("bound");
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
            .expect("socket");
        set_md5(&socket, prefix("127.0.0.1/32"), b"secret").expect("key");
        rustix::net::connect(&socket, &address).expect("signed with the same key");
        assert!(listener.accept().is_ok());
    }
}
