//! The line from a worker that leaves, as its heir sees it.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;

use socket2::SockRef;
use tokio::io::Interest;

use super::wire::{self, Arrived, Packet};

/// Connections taken before the other tasks of the event loop have a turn.
const AT_ONCE: u32 = 32;

/// Takes connections over until the line ends, or `enough` resolves: then what is on its way is taken still, and nothing
/// further can be sent.
///
/// `enter` makes room for a connection and gives what starts serving it; none = it cannot be had, and stays where it was.
pub async fn take_over<S>(
    line: OwnedFd,
    enough: impl Future<Output = ()>,
    enter: impl Fn(OwnedFd, Packet) -> Option<S>,
) -> io::Result<()>
where
    S: FnOnce(),
{
    let line = wire::listen(line)?;
    let mut buffer = vec![0; wire::BUFFER];
    let mut enough = pin!(enough);
    let mut taken = 0;
    loop {
        let arrived = tokio::select! {
            biased;
            () = &mut enough => break,
            arrived = line.async_io(Interest::READABLE, |line| wire::receive(line.as_fd(), &mut buffer)) => arrived?,
        };
        if settle(line.get_ref(), arrived, &enter)?.is_none() {
            return Ok(());
        }
        taken += 1;
        if taken % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    // From here on a send fails, and what was sent before can still be read.
    SockRef::from(line.get_ref()).shutdown(Shutdown::Read)?;
    while settle(line.get_ref(), wire::receive(line.get_ref().as_fd(), &mut buffer)?, &enter)?.is_some() {}
    Ok(())
}

/// Answers for what arrived, then serves it; none at the end. Without an answer it is not touched.
fn settle<S: FnOnce()>(
    line: &OwnedFd,
    arrived: Arrived,
    enter: impl Fn(OwnedFd, Packet) -> Option<S>,
) -> io::Result<Option<()>> {
    let entered = match arrived {
        Arrived::Connection(descriptor, packet) => enter(descriptor, packet),
        Arrived::Unusable => None,
        Arrived::End => return Ok(None),
    };
    wire::answer(line.as_fd(), entered.is_some())?;
    if let Some(serve) = entered {
        serve();
    }
    Ok(Some(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::fd::AsRawFd;

    use bytes::Bytes;

    use crate::net::activity::{Phase, Rest};
    use crate::net::handover::wire::Answer;

    fn send(line: &OwnedFd, count: u8) {
        for door in 0..count {
            let rest = Rest { phase: Phase::Idle, since_ns: 1 };
            let packet = Packet { door, rest, bytes: Bytes::new() };
            packet.send(line.as_fd(), line.as_fd()).expect("sent");
        }
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_taken_although_it_is_enough() {
        let (leaver, line) = forkgate_shared::control::worker_line().expect("line");
        send(&leaver, 3);
        let served = Cell::new(0);
        let serve = || served.set(served.get() + 1);
        // The second finds no room.
        let enter = |_, packet: Packet| (packet.door != 1).then_some(serve);
        take_over(line, std::future::ready(()), enter).await.expect("taken");
        assert_eq!(served.get(), 2);
        let heard = [(); 4].map(|()| wire::read_answer(leaver.as_fd()).expect("heard"));
        assert_eq!(heard, [Answer::Taken, Answer::Refused, Answer::Taken, Answer::End]);
    }

    #[tokio::test]
    async fn what_was_on_its_way_when_the_leaver_went_is_served() {
        for answers_unread in [false, true] {
            let (leaver, line) = forkgate_shared::control::worker_line().expect("line");
            if answers_unread {
                wire::answer(line.as_fd(), true).expect("said");
            }
            send(&leaver, 3);
            drop(leaver);
            let served = Cell::new(0);
            let serve = || served.set(served.get() + 1);
            let enter = |_, _| Some(serve);
            take_over(line, std::future::pending(), enter).await.expect("taken");
            assert_eq!(served.get(), 3, "answers unread: {answers_unread}");
        }
    }

    #[tokio::test]
    async fn who_sends_no_more_still_hears_the_answers() {
        let (leaver, line) = forkgate_shared::control::worker_line().expect("line");
        send(&leaver, 1);
        SockRef::from(&leaver).shutdown(Shutdown::Write).expect("shut");
        take_over(line, std::future::pending(), |_, _| Some(|| ())).await.expect("taken");
        let heard = [(); 2].map(|()| wire::read_answer(leaver.as_fd()).expect("heard"));
        assert_eq!(heard, [Answer::Taken, Answer::End]);
    }

    #[tokio::test]
    async fn who_cannot_answer_touches_nothing() {
        let (leaver, line) = forkgate_shared::control::worker_line().expect("line");
        send(&leaver, 1);
        SockRef::from(&line).set_nonblocking(true).expect("set");
        let mut answers = 0;
        // Until nothing fits: the leaver reads nothing.
        while nix::sys::socket::send(line.as_raw_fd(), b"-", nix::sys::socket::MsgFlags::MSG_NOSIGNAL).is_ok()
        {
            answers += 1;
        }
        assert!(answers > crate::net::handover::heir::WINDOW, "all answers of a window fit");
        let enter = |_, _| Some(|| panic!("it was not answered for"));
        let taken = take_over(line, std::future::pending(), enter).await;
        assert_eq!(taken.expect_err("no answer").kind(), io::ErrorKind::WouldBlock);
    }
}
