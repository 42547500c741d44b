//! What the kernel does with those who want to connect: which members of a `SO_REUSEPORT` group it chooses among, whether a
//! listener hears them at all, and how many wait in its accept queue.
//!
//! A classic BPF program on the group picks a random index, with a weight each. It needs no privilege. Connections that are
//! queued stay where they are; an index out of range makes the kernel hash over all members.
//!
//! A listener that is *deaf* has a socket filter that drops the first packet of a handshake, SYN without ACK. Handshakes
//! under way end as usual, and so do the connections that it gave rise to. Who begins one is told nothing and tries again
//! after a second (RFC 6298).

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};

/// Most members that a program names; `BPF_MAXINSNS` is 4096 and a member takes two instructions.
pub const MAX_MEMBERS: usize = 2000;

/// `SKF_AD_OFF + SKF_AD_RANDOM` of `linux/filter.h`: loads a random number.
const LOAD_RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
/// `SO_DETACH_REUSEPORT_BPF` of `asm-generic/socket.h`; libc lacks it.
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// Lets the kernel choose among these indexes of the group that `member` belongs to, by their weights.
///
/// Fails with `InvalidInput` for no index, more than [`MAX_MEMBERS`], or no weight at all.
pub fn steer(member: &impl AsFd, indexes: &[(u32, u32)]) -> io::Result<()> {
    let total: u32 = indexes.iter().map(|(_, weight)| weight).sum();
    if total == 0 || indexes.len() > MAX_MEMBERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no index, too many, or no weight"));
    }
    attach(member, libc::SO_ATTACH_REUSEPORT_CBPF, random_of(indexes, total))
}

/// Lets the kernel choose by hash among all again; fine when nothing was attached.
pub fn unsteer(member: &impl AsFd) -> io::Result<()> {
    match set(member, SO_DETACH_REUSEPORT_BPF, &0i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Makes a TCP listener deaf; false where that takes a right that this process has not got: newer kernels (6.18 does) want
/// `CAP_NET_ADMIN` for a filter on TCP.
pub fn deafen(listener: &impl AsFd) -> io::Result<bool> {
    match attach(listener, libc::SO_ATTACH_FILTER, no_syn()) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        result => result.map(|()| true),
    }
}

/// A deaf listener hears again.
pub fn hear(listener: &impl AsFd) -> io::Result<()> {
    match set(listener, libc::SO_DETACH_FILTER, &0i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Connections in a TCP listener's accept queue.
pub fn queue_length(listener: &impl AsFd) -> io::Result<u32> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    let fd = listener.as_fd().as_raw_fd();
    let at = (&raw mut info).cast();
    // SAFETY: the kernel writes at most `len` bytes into `info`.
    if unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // For a listener the kernel reports the accept queue here (tcp_get_info in net/ipv4/tcp.c).
    Ok(info.tcpi_unacked)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// A = random; A %= total; for each index: if A < the weights up to here return index.
fn random_of(indexes: &[(u32, u32)], total: u32) -> Vec<libc::sock_filter> {
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, LOAD_RANDOM),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, total),
    ];
    let mut up_to_here = 0;
    for (index, weight) in indexes {
        up_to_here += weight;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, up_to_here));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, *index));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}

/// A = the flags of the TCP header, where a listener's filter begins to read; of SYN and ACK only SYN: drop.
fn no_syn() -> Vec<libc::sock_filter> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    vec![
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

fn attach(socket: &impl AsFd, option: libc::c_int, mut program: Vec<libc::sock_filter>) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(socket, option, &filter)
}

fn set<T>(socket: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of_val(value) as libc::socklen_t);
    // SAFETY: `value` is readable for `len` bytes; a program's instructions are copied before the call returns.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const *value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::{SockRef, Socket};

    use super::*;

    fn group(members: usize) -> Vec<Socket> {
        let mut sockets: Vec<Socket> = Vec::new();
        for _ in 0..members {
            let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
            socket.set_reuse_port(true).expect("option");
            let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
            let address = sockets.first().map_or(any, |first| first.local_addr().expect("address"));
            socket.bind(&address).expect("bind");
            socket.listen(1024).expect("listen");
            sockets.push(socket);
        }
        sockets
    }

    #[test]
    fn connections_go_where_the_program_says_and_as_often() {
        const CONNECTIONS: usize = 400;
        let sockets = group(3);
        steer(&sockets[0], &[(0, 1), (2, 3)]).expect("steer");
        let address = sockets[0].local_addr().expect("address").as_socket().expect("ip");
        let clients: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(address).expect("connect")).collect();
        let lengths: Vec<u32> = sockets.iter().map(|socket| queue_length(socket).expect("length")).collect();
        assert_eq!(lengths[1], 0, "steered away from 1: {lengths:?}");
        // A quarter is 100; five times the deviation of chance is 44.
        assert!((56..=144).contains(&lengths[0]), "a quarter of {}: {lengths:?}", clients.len());
        unsteer(&sockets[0]).expect("unsteer");
        unsteer(&sockets[0]).expect("nothing to detach is fine");
    }

    #[test]
    fn nobody_and_too_many_are_refused() {
        let sockets = group(1);
        assert!(steer(&sockets[0], &[]).is_err());
        assert!(steer(&sockets[0], &[(0, 0)]).is_err());
        assert!(steer(&sockets[0], &vec![(0, 1); MAX_MEMBERS + 1]).is_err());
        assert!(steer(&sockets[0], &vec![(0, 1); MAX_MEMBERS]).is_ok());
    }

    #[test]
    fn a_deaf_listener_keeps_whom_it_knows_and_meets_nobody() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let address = listener.local_addr().expect("address");
            let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(150));
            let mut known = connect().expect("connect");
            if !deafen(&listener).expect("deafen") {
                assert!(!nix::unistd::geteuid().is_root(), "root may");
                continue;
            }
            assert!(connect().is_err(), "unheard");
            let (mut served, _) = listener.accept().expect("it was queued before");
            std::io::Write::write_all(&mut known, b"x").expect("write");
            std::io::Read::read_exact(&mut served, &mut [0]).expect("the connection lives");
            hear(&listener).expect("hear");
            hear(&listener).expect("nothing to detach is fine");
            connect().expect("heard again");
            SockRef::from(&listener).shutdown(std::net::Shutdown::Both).expect("shut");
            assert!(connect().is_err(), "shut");
            drop(served);
        }
    }
}
