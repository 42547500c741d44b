//! The line to the heir, as the one who leaves sees it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::wire::{Answer, Packet, listen, read_answer};

/// Connections on their way at once: enough that two event loops need few turns for thousands, and no more than may wait
/// for a heir that is slow.
pub const WINDOW: usize = 64;

/// A heir that answers nothing for once or twice this long gets no more: its event loop stands still, or it was stopped.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that the line holds, so that large packets of a whole window need not wait for each other.
const LINE_BUFFER: usize = 1024 * 1024;

/// The right to be on the way.
pub type Turn = OwnedSemaphorePermit;

/// A connection that was taken apart to move.
pub trait Leaver {
    /// Its descriptor.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// What goes with it.
    fn packet(&self) -> Packet;
    /// The heir has it.
    fn moved(self: Box<Self>);
    /// The heir has it not, and never touched it. It is not sent again.
    fn stays(self: Box<Self>);
}

/// See the module.
pub struct Heir {
    line: AsyncFd<OwnedFd>,
    window: Arc<Semaphore>,
    unanswered: RefCell<VecDeque<(Box<dyn Leaver>, Turn)>>,
    answered: Cell<u64>,
}

impl Heir {
    /// Takes over the end of a line. To be called within the runtime.
    pub fn new(line: OwnedFd) -> io::Result<Heir> {
        // The kernel gives what it allows; with less some packets wait.
        let _ = SockRef::from(&line).set_send_buffer_size(LINE_BUFFER);
        Ok(Heir {
            line: listen(line)?,
            window: Arc::new(Semaphore::new(WINDOW)),
            unanswered: RefCell::default(),
            answered: Cell::new(0),
        })
    }

    /// Waits for a place in the window; none when the heir takes no more.
    pub fn turn(&self) -> impl Future<Output = Option<Turn>> + 'static {
        let window = Arc::clone(&self.window);
        async move { window.acquire_owned().await.ok() }
    }

    /// Sends a connection. It is told what became of it: now, or when the heir has answered.
    pub async fn give(&self, leaver: Box<dyn Leaver>, turn: Turn) {
        let packet = leaver.packet();
        let send = |line: &OwnedFd| packet.send(line.as_fd(), leaver.descriptor());
        match self.line.async_io(Interest::WRITABLE, send).await {
            Ok(()) => self.unanswered.borrow_mut().push_back((leaver, turn)),
            Err(error) => {
                tracing::debug!(%error, "a connection stays: it cannot be sent");
                self.end();
                leaver.stays();
            }
        }
    }

    /// Nothing further is sent; the heir takes what is on its way, answers, and ends the line. Its answers are still heard:
    /// an heir that finds the line shut in that direction knows that nobody serves what it was sent.
    fn end(&self) {
        self.window.close();
        // Fails when the line has ended already.
        let _ = SockRef::from(self.line.get_ref()).shutdown(Shutdown::Write);
    }

    /// Hears the answers until the line ends. `no_more` is called when the heir takes no further connection, perhaps
    /// more than once; `patience` is [`PATIENCE`].
    ///
    /// A line that cannot be heard leaves what is on its way to the heir, which may serve it already.
    pub async fn listen(&self, patience: Duration, no_more: impl Fn()) {
        let mut stands_at = None;
        let hears_the_end = loop {
            let answer = self.line.async_io(Interest::READABLE, |line| read_answer(line.as_fd()));
            match tokio::time::timeout(patience, answer).await {
                Ok(Ok(Answer::Taken)) => {
                    if let Some((leaver, _turn)) = self.oldest() {
                        leaver.moved();
                    }
                }
                // For the others there may be room: a port of their own, or a place that has become free.
                Ok(Ok(Answer::Refused)) => {
                    if let Some((leaver, _turn)) = self.oldest() {
                        leaver.stays();
                    }
                }
                Ok(Ok(Answer::End)) => break true,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the next worker cannot be heard: what is on its way is left to it");
                    break false;
                }
                Err(_) => {
                    if self.window.is_closed() {
                        no_more();
                    }
                    let at = (!self.unanswered.borrow().is_empty()).then(|| self.answered.get());
                    if at.is_some() && at == stands_at {
                        self.window.close();
                        no_more();
                    }
                    stands_at = at;
                }
            }
        };
        self.end();
        no_more();
        while let Some((leaver, _turn)) = self.oldest() {
            match hears_the_end {
                true => leaver.stays(),
                false => drop(leaver),
            }
        }
    }

    fn oldest(&self) -> Option<(Box<dyn Leaver>, Turn)> {
        self.answered.set(self.answered.get() + 1);
        self.unanswered.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    use bytes::Bytes;

    use crate::net::activity::{Phase, Rest};
    use crate::net::handover::wire::{self, Arrived};

    /// Writes down what becomes of it.
    struct Traveller(OwnedFd, u8, Rc<RefCell<Vec<(u8, &'static str)>>>);

    impl Leaver for Traveller {
        fn descriptor(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
        fn packet(&self) -> Packet {
            Packet { door: self.1, rest: Rest { phase: Phase::Idle, since_ns: 1 }, bytes: Bytes::new() }
        }
        fn moved(self: Box<Self>) {
            self.2.borrow_mut().push((self.1, "moved"));
        }
        fn stays(self: Box<Self>) {
            self.2.borrow_mut().push((self.1, "stays"));
        }
    }

    async fn send(heir: &Heir, count: u8, fates: &Rc<RefCell<Vec<(u8, &'static str)>>>) {
        for door in 0..count {
            let turn = heir.turn().await.expect("a place");
            let (descriptor, _) = nix::unistd::pipe().expect("pipe");
            heir.give(Box::new(Traveller(descriptor, door, Rc::clone(fates))), turn).await;
        }
    }

    fn take(line: &OwnedFd, taken: bool) {
        let arrived = wire::receive(line.as_fd(), &mut vec![0; wire::BUFFER]).expect("received");
        assert!(matches!(arrived, Arrived::Connection(..)));
        wire::answer(line.as_fd(), taken).expect("said");
    }

    #[tokio::test]
    async fn what_the_heir_has_not_answered_stays_when_it_dies() {
        let (ours, theirs) = forkgate_shared::control::worker_line().expect("line");
        let (heir, fates) = (Heir::new(ours).expect("heir"), Rc::default());
        send(&heir, 4, &fates).await;
        take(&theirs, true);
        take(&theirs, false);
        drop(theirs);
        let ends = Cell::new(0);
        heir.listen(PATIENCE, || ends.set(ends.get() + 1)).await;
        assert_eq!(*fates.borrow(), [(0, "moved"), (1, "stays"), (2, "stays"), (3, "stays")]);
        assert!(ends.get() > 0 && heir.turn().await.is_none(), "nobody is sent any more");
    }

    #[tokio::test]
    async fn who_is_refused_stays_and_the_others_move() {
        let (ours, theirs) = forkgate_shared::control::worker_line().expect("line");
        let (heir, fates) = (Heir::new(ours).expect("heir"), Rc::default());
        send(&heir, 2, &fates).await;
        let told = Cell::new(false);
        let scene = async {
            take(&theirs, false);
            take(&theirs, true);
            while fates.borrow().len() < 2 {
                tokio::task::yield_now().await;
            }
            assert!(!told.get() && heir.turn().await.is_some(), "there is room for others");
            drop(theirs);
        };
        tokio::join!(heir.listen(PATIENCE, || told.set(true)), scene);
        assert_eq!(*fates.borrow(), [(0, "stays"), (1, "moved")]);
    }

    #[tokio::test]
    async fn a_heir_that_stands_still_gets_no_more_and_keeps_what_it_may_yet_take() {
        let (ours, theirs) = forkgate_shared::control::worker_line().expect("line");
        let (heir, fates) = (Heir::new(ours).expect("heir"), Rc::default());
        send(&heir, 2, &fates).await;
        let (gone, told) = (tokio::sync::Notify::new(), Cell::new(false));
        let listens = heir.listen(Duration::from_millis(5), || {
            told.set(true);
            gone.notify_one();
        });
        let scene = async {
            gone.notified().await;
            assert!(heir.turn().await.is_none() && fates.borrow().is_empty());
            take(&theirs, true);
            take(&theirs, true);
            drop(theirs);
        };
        tokio::join!(listens, scene);
        assert!(told.get());
        assert_eq!(*fates.borrow(), [(0, "moved"), (1, "moved")]);
    }

    #[tokio::test]
    async fn no_more_than_a_window_is_on_its_way() {
        let (ours, theirs) = forkgate_shared::control::worker_line().expect("line");
        let (heir, fates) = (Heir::new(ours).expect("heir"), Rc::default());
        send(&heir, WINDOW as u8, &fates).await;
        let next = heir.turn();
        let scene = async {
            take(&theirs, true);
            assert!(next.await.is_some(), "an answer makes room");
            drop(theirs);
        };
        tokio::join!(heir.listen(PATIENCE, || {}), scene);
        assert_eq!(fates.borrow().len(), WINDOW);
    }
}
