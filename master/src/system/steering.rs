//! Which members of a `SO_REUSEPORT` group the kernel chooses among, and how long a member's accept queue is.
//!
//! A classic BPF program on the group picks a random index of a list. It needs no privilege. Connections that are
//! queued stay where they are; an index out of range makes the kernel hash over all members.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};

/// Most members that a program names; `BPF_MAXINSNS` is 4096 and a member takes two instructions.
pub const MAX_MEMBERS: usize = 2000;

/// `SKF_AD_OFF + SKF_AD_RANDOM` of `linux/filter.h`: loads a random number.
const LOAD_RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
/// `SO_DETACH_REUSEPORT_BPF` of `asm-generic/socket.h`; libc lacks it.
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// Lets the kernel choose among these indexes of the group that `member` belongs to.
///
/// Fails with `InvalidInput` for no index or more than [`MAX_MEMBERS`].
pub fn steer(member: &impl AsFd, indexes: &[u32]) -> io::Result<()> {
    if indexes.is_empty() || indexes.len() > MAX_MEMBERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no index, or too many"));
    }
    let mut program = random_of(indexes);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(member, libc::SO_ATTACH_REUSEPORT_CBPF, &filter)
}

/// Lets the kernel choose by hash among all again; fine when nothing was attached.
pub fn unsteer(member: &impl AsFd) -> io::Result<()> {
    match set(member, SO_DETACH_REUSEPORT_BPF, &0i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Connections in a listener's accept queue.
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

/// A = random; A %= n; if A == i return indexes[i].
fn random_of(indexes: &[u32]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, LOAD_RANDOM),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, indexes.len() as u32),
    ];
    for (nth, index) in (0..).zip(indexes) {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, nth));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, *index));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}

fn set<T>(socket: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of_val(value) as libc::socklen_t);
    // SAFETY: `value` is readable for `len` bytes; a program's instructions are copied before the call returns.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const *value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use crate::system::listeners;

    use super::*;

    const CONNECTIONS: u32 = 60;

    fn steered_on(address: &str) {
        let mut address: SocketAddr = address.parse().expect("address");
        let mut sockets = Vec::new();
        for _ in 0..4 {
            let socket = listeners::slot(address, 512).expect("listen");
            address = listeners::address(&socket).expect("address");
            sockets.push(socket);
        }
        let mut clients = Vec::new();
        let mut arrived = |sockets: &[std::os::fd::OwnedFd]| {
            let lengths =
                || sockets.iter().map(|socket| queue_length(socket).expect("length")).collect::<Vec<u32>>();
            let before = lengths();
            for _ in 0..CONNECTIONS {
                clients.push(TcpStream::connect(address).expect("connect"));
            }
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            loop {
                let new: Vec<u32> = lengths().iter().zip(&before).map(|(now, before)| now - before).collect();
                if new.iter().sum::<u32>() == CONNECTIONS {
                    return new;
                }
                assert!(std::time::Instant::now() < deadline, "{new:?} of {CONNECTIONS} arrived");
            }
        };
        steer(&sockets[0], &[0, 1, 3]).expect("steer");
        assert_eq!(arrived(&sockets)[2], 0, "steered away from 2");
        steer(&sockets[0], &[2]).expect("steer");
        assert_eq!(arrived(&sockets), [0, 0, CONNECTIONS, 0], "steered to 2");
        // The last member takes the index of a closed one.
        sockets.swap_remove(1);
        steer(&sockets[0], &[1]).expect("steer");
        assert_eq!(arrived(&sockets), [0, CONNECTIONS, 0], "index 1 is now the socket that was the last");
        unsteer(&sockets[0]).expect("unsteer");
        assert!(arrived(&sockets).iter().filter(|new| **new > 0).count() > 1, "chosen by hash again");
        unsteer(&sockets[0]).expect("nothing to detach is fine");
    }

    #[test]
    fn connections_go_only_where_the_program_says() {
        steered_on("127.0.0.1:0");
        steered_on("[::1]:0");
    }

    #[test]
    fn nobody_and_too_many_are_refused() {
        let socket = listeners::slot("127.0.0.1:0".parse().expect("address"), 1).expect("listen");
        assert!(steer(&socket, &[]).is_err());
        assert!(steer(&socket, &vec![0; MAX_MEMBERS + 1]).is_err());
        assert!(steer(&socket, &vec![0; MAX_MEMBERS]).is_ok());
    }
}
