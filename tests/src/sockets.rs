//! The kernel's TCP sockets (IPv4) of one port, by `sock_diag(7)`.
//!
//! `/proc/net/tcp` says the same, and every closed connection of the last minute besides: after some thousands of those,
//! reading it takes longer than what is to be seen lasts.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Message types and flags of netlink(7).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
/// Length of a message's head.
const HEAD: usize = 16;
/// Where `inet_diag_msg` keeps what is of interest, and its length.
const REMOTE_PORT: usize = 6;
const REMOTE_ADDRESS: usize = 24;
const INODE: usize = 68;
const LENGTH: usize = 72;
const IPV4: u8 = 2;
const TCP: u8 = 6;

/// Which sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that listen.
    Listening,
    /// Those of a connection that a process still has: established, or half closed.
    Connected,
}

impl Which {
    /// A bit per state of the kernel's `tcp_states.h`.
    fn states(self) -> u32 {
        match self {
            Which::Listening => 1 << 10,
            Which::Connected => [1, 4, 5, 8, 9, 11].iter().map(|state| 1u32 << state).sum(),
        }
    }
}

/// One socket.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Its other end; no address where it listens.
    pub remote: SocketAddr,
    /// What `/proc/PID/fd` calls it.
    pub inode: u64,
}

/// The sockets whose own port this is.
pub fn of_port(port: u16, which: Which) -> Vec<Socket> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .expect("the kernel answers questions about sockets (CONFIG_INET_DIAG)");
    send(netlink.as_raw_fd(), &request(port, which), MsgFlags::empty()).expect("the question is taken");
    let (mut found, mut buffer) = (Vec::new(), vec![0u8; 64 * 1024]);
    loop {
        let got = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("an answer");
        if !read(&buffer[..got], &mut found) {
            return found;
        }
    }
}

fn request(port: u16, which: Which) -> Vec<u8> {
    let mut body = vec![IPV4, TCP, 0, 0];
    body.extend(which.states().to_ne_bytes());
    body.extend(port.to_be_bytes());
    // Any port, address and interface at the other end, and no particular socket.
    body.resize(56, 0);
    let mut message = ((HEAD + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_DUMP.to_ne_bytes());
    message.resize(HEAD, 0);
    message.extend(body);
    message
}

/// Reads the messages of one datagram; false after the last.
fn read(mut bytes: &[u8], found: &mut Vec<Socket>) -> bool {
    while bytes.len() >= HEAD {
        let length = u32::from_ne_bytes(array(bytes, 0)) as usize;
        let body = &bytes[HEAD..length];
        match u16::from_ne_bytes(array(bytes, 4)) {
            DONE => return false,
            ERROR => panic!("the kernel does not say which sockets there are: {body:?}"),
            _ => assert!(body.len() >= LENGTH, "{} bytes about a socket", body.len()),
        }
        let address = Ipv4Addr::from(array::<4>(body, REMOTE_ADDRESS));
        let port = u16::from_be_bytes(array(body, REMOTE_PORT));
        let remote = SocketAddr::V4(SocketAddrV4::new(address, port));
        found.push(Socket { remote, inode: u64::from(u32::from_ne_bytes(array(body, INODE))) });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    true
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the message is long enough")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn listeners_and_accepted_connections_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let client = TcpStream::connect(address).expect("connect");
        let accepted = listener.accept().expect("accept");
        assert_eq!(of_port(address.port(), Which::Listening).len(), 1);
        let connected = of_port(address.port(), Which::Connected);
        let remotes: Vec<SocketAddr> = connected.iter().map(|socket| socket.remote).collect();
        assert_eq!(remotes, [client.local_addr().expect("address")]);
        drop((client, accepted, listener));
        assert!(of_port(address.port(), Which::Listening).is_empty());
    }
}
