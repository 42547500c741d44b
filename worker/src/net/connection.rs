//! Drives one client connection from accept to close: hyper, and the deadlines of [`Activity`].
//!
//! No timer exists for a connection that needs none: one is made when the first deadline appears, which in the usual
//! life of a connection (whole heads, readers that read) never happens.
//!
//! A connection at rest whose worker has an heir is taken apart in a moment in which hyper holds nothing but bytes that it
//! has read: [`Driven::Leaves`]. Until it is its turn it is served as ever.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use forkgate_shared::rows::monotonic_ns;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::time::{Instant, Sleep};

use super::activity::{Activity, Expiry, Limits};
use super::handover::heir::{Heir, Turn};
use super::io::ClientIo;
use super::open::OpenConnections;
use super::request_body::RequestBody;

/// hyper's buffer per direction: the largest request head, and what may wait for a slow reader before its answer's
/// source is no longer asked. hyper's own 400 KB would hide for long that a reader has stopped.
pub const MAX_BUFFER: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// Closed by either side between requests, or after an announced last answer.
    Closed,
    /// The peer broke it off or sent something that is no HTTP.
    Broken(hyper::Error),
    /// A deadline passed.
    Expired(Expiry),
}

/// What became of a connection.
pub enum Driven {
    /// It is over.
    Ended(End),
    /// It is at rest and has its turn to move; what was read and not used is put back.
    Leaves(ClientIo, Rc<Heir>, Turn),
}

/// Serves a connection until it ends or moves. `pipeline_flush` of hyper stays off: with it an answer waits in hyper's buffer
/// for as long as a part of a further request lies in the read buffer, that is, until the peer sends more.
pub async fn drive<A, B>(
    io: ClientIo,
    activity: Rc<Activity>,
    open: &OpenConnections,
    limits: Limits,
    answer: impl Fn(Request<RequestBody>) -> A,
) -> Driven
where
    A: Future<Output = Result<Response<B>, Infallible>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        answer(request.map(|body| RequestBody::new(body, Rc::clone(&activity))))
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER).header_read_timeout(None);
    let mut connection = builder.serve_connection(io, service);
    let (mut alarm, mut place) = (Alarm::default(), Place::default());
    let ended = poll_fn(|cx| {
        activity.driven_by(cx.waker());
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ok(result.map_or_else(End::Broken, |()| End::Closed)));
            }
            if let Some(leaves) = place.poll_turn(cx, &activity, open) {
                return Poll::Ready(Err(leaves));
            }
            let announcing_since_ns = activity.announced_since_ns().or(open.announcing_since_ns());
            let Some((at_ns, expiry)) = activity.next_expiry(&limits, announcing_since_ns) else {
                return Poll::Pending;
            };
            if alarm.poll_until(cx, at_ns).is_pending() {
                return Poll::Pending;
            }
            match expiry {
                Expiry::GraceOver if !alarm.grace_used => {
                    alarm.grace_used = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Expiry::StalledReader => {
                    activity.give_up();
                    return Poll::Ready(Ok(End::Expired(expiry)));
                }
                Expiry::SlowHead | Expiry::GraceOver | Expiry::LingerOver => {
                    return Poll::Ready(Ok(End::Expired(expiry)));
                }
            }
        }
    })
    .await;
    match ended {
        Ok(end) => Driven::Ended(end),
        Err((heir, turn)) => {
            let parts = connection.into_parts();
            let mut io = parts.io;
            io.put_back(parts.read_buf);
            Driven::Leaves(io, heir, turn)
        }
    }
}

/// A connection's place among those that wait to move.
#[derive(Default)]
struct Place {
    waits: Option<Waits>,
}

/// For whom, and for the turn.
type Waits = (Rc<Heir>, Pin<Box<dyn Future<Output = Option<Turn>>>>);

impl Place {
    /// Gives the turn if the connection is at rest. hyper was polled just before and waits for more bytes: of a
    /// connection at rest it holds nothing to write.
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity,
        open: &OpenConnections,
    ) -> Option<(Rc<Heir>, Turn)> {
        let Some(heir) = open.heir().filter(|_| activity.rest().is_some()) else {
            self.waits = None;
            return None;
        };
        let (_, turn) = self.waits.get_or_insert_with(|| {
            let turn = Box::pin(heir.turn());
            (Rc::clone(&heir), turn)
        });
        match turn.as_mut().poll(cx) {
            Poll::Pending => None,
            Poll::Ready(turn) => {
                self.waits = None;
                turn.map(|turn| (heir, turn))
            }
        }
    }
}

/// A timer that is made when it is first needed.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    grace_used: bool,
}

impl Alarm {
    /// Ready when the monotonic clock has reached `at_ns`; otherwise the task is woken then.
    fn poll_until(&mut self, cx: &mut Context<'_>, at_ns: u64) -> Poll<()> {
        let left = at_ns.saturating_sub(monotonic_ns());
        if left == 0 {
            return Poll::Ready(());
        }
        let deadline = Instant::now() + Duration::from_nanos(left);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        sleep.as_mut().reset(deadline);
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use bytes::Bytes;
    use forkgate_shared::rows::Rows;
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use crate::net::activity::{LABEL, Phase};
    use crate::net::io::ByteCounters;

    const LIMITS: Limits = Limits { head: FOREVER, send: Some(FOREVER), grace: FOREVER };
    const FOREVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    /// A client and the server's side of its connection.
    async fn pair(rows: &Arc<Rows>) -> (TcpStream, ClientIo, Rc<Activity>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        let activity = Rc::new(Activity::default());
        let io = ClientIo::new(server, Rc::clone(&activity), Some(ByteCounters::new(Arc::clone(rows), 0)));
        (client, io, activity)
    }

    /// Serves with a handler that answers `/big` with 64 MiB, `/refused` without reading, `/refused-late` likewise when there
    /// is an heir, and else with the body.
    async fn serve(
        io: ClientIo,
        activity: Rc<Activity>,
        limits: Limits,
        open: Rc<OpenConnections>,
    ) -> Driven {
        let registered = open.register(Rc::clone(&activity));
        let at_work = Rc::clone(&activity);
        let answer = |request: Request<RequestBody>| {
            let (at_work, open) = (Rc::clone(&at_work), Rc::clone(&open));
            at_work.request_begins([0; LABEL]);
            async move {
                let path = request.uri().path().to_owned();
                let answer = match path.as_str() {
                    "/big" => Bytes::from(vec![b'x'; 64 << 20]),
                    "/refused" => Bytes::from_static(b"no"),
                    "/refused-late" => {
                        while open.heir().is_none() {
                            tokio::task::yield_now().await;
                        }
                        Bytes::from_static(b"no")
                    }
                    _ => request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
                };
                at_work.answer_complete();
                Ok(Response::new(Full::new(answer)))
            }
        };
        let driven = drive(io, activity, &open, limits, answer).await;
        drop(registered);
        driven
    }

    /// A client, and its connection until it ends.
    async fn connect(
        limits: Limits,
        open: &Rc<OpenConnections>,
        rows: &Arc<Rows>,
    ) -> (TcpStream, impl Future<Output = End>) {
        let (client, io, activity) = pair(rows).await;
        let driven = serve(io, activity, limits, Rc::clone(open));
        let ended = async move {
            match driven.await {
                Driven::Ended(end) => end,
                Driven::Leaves(..) => panic!("there is no heir"),
            }
        };
        (client, ended)
    }

    fn world() -> (Rc<OpenConnections>, Arc<Rows>) {
        (Rc::default(), Arc::new(Rows::create(1).expect("rows").0))
    }

    async fn read_until(client: &mut TcpStream, ending: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(ending.as_bytes()) {
            let read = tokio::time::timeout(Duration::from_secs(10), client.read_buf(&mut text)).await;
            let n = read.expect("an answer in time").expect("read");
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_the_rest_of_a_pipelined_request() {
        let (open, rows) = world();
        let (mut client, driven) = connect(LIMITS, &open, &rows).await;
        let talk = async {
            client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nonePOST").await.expect("write");
            read_until(&mut client, "one").await;
            client.write_all(b" / HTTP/1.1\r\ncontent-length: 3\r\n\r\ntwo").await.expect("write");
            read_until(&mut client, "two").await;
            drop(client);
        };
        let (end, ()) = tokio::join!(driven, talk);
        assert!(matches!(end, End::Closed), "{end:?}");
        let counters = &rows.row(0).counters;
        assert_eq!(counters.bytes_in.load(Relaxed), 2 * 41);
        assert!(counters.bytes_out.load(Relaxed) > 6);
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut_and_an_idle_connection_is_not() {
        let (open, rows) = world();
        let (mut client, driven) = connect(Limits { head: SOON, ..LIMITS }, &open, &rows).await;
        let talk = async {
            client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nok").await.expect("write");
            read_until(&mut client, "ok").await;
            tokio::time::sleep(SOON * 2).await;
            client.write_all(b"POST / HT").await.expect("write");
            assert_eq!(client.read(&mut [0; 8]).await.expect("a clean end"), 0);
        };
        let (end, ()) = tokio::join!(driven, talk);
        assert!(matches!(end, End::Expired(Expiry::SlowHead)), "{end:?}");
    }

    #[tokio::test]
    async fn a_connection_that_never_says_anything_is_closed_without_a_word() {
        let (open, rows) = world();
        let (mut client, driven) = connect(Limits { head: SOON, ..LIMITS }, &open, &rows).await;
        let talk = async { client.read(&mut [0; 8]).await.expect("a clean end") };
        let (end, read) = tokio::join!(driven, talk);
        assert!(matches!(end, End::Expired(Expiry::SlowHead)), "{end:?}");
        assert_eq!((read, open.count()), (0, 0));
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_reset() {
        let (open, rows) = world();
        let (mut client, driven) = connect(Limits { send: Some(SOON), ..LIMITS }, &open, &rows).await;
        client.write_all(b"GET /big HTTP/1.1\r\n\r\n").await.expect("write");
        let end = driven.await;
        assert!(matches!(end, End::Expired(Expiry::StalledReader)), "{end:?}");
        let mut rest = Vec::new();
        let error = client.read_to_end(&mut rest).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn an_answer_arrives_whole_although_the_request_was_not_read() {
        let (open, rows) = world();
        let (mut client, driven) = connect(LIMITS, &open, &rows).await;
        let talk = async {
            client
                .write_all(b"POST /refused HTTP/1.1\r\ncontent-length: 400000\r\n\r\n")
                .await
                .expect("write");
            client.write_all(&vec![b'y'; 200_000]).await.expect("write");
            tokio::time::sleep(SOON).await;
            client.write_all(&vec![b'y'; 200_000]).await.expect("the server still reads");
            read_until(&mut client, "\r\n\r\nno").await;
            assert_eq!(client.read(&mut [0; 8]).await.expect("a clean end"), 0);
            drop(client);
        };
        let (end, ()) = tokio::join!(driven, talk);
        assert!(matches!(end, End::Closed), "{end:?}");
    }

    #[tokio::test]
    async fn a_drain_leaves_an_idle_connection_its_grace_and_a_busy_one_its_answer() {
        let (open, rows) = world();
        let limits = Limits { grace: SOON, ..LIMITS };
        let (mut idle, idle_driven) = connect(limits, &open, &rows).await;
        let (mut busy, busy_driven) = connect(limits, &open, &rows).await;
        let talk = async {
            busy.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\no").await.expect("write");
            tokio::task::yield_now().await;
            open.announce();
            assert_eq!(idle.read(&mut [0; 8]).await.expect("a clean end"), 0);
            drop(idle);
            busy.write_all(b"k").await.expect("write");
            read_until(&mut busy, "ok").await;
            assert_eq!(busy.read(&mut [0; 8]).await.expect("a clean end"), 0);
            drop(busy);
            open.all_closed().await;
        };
        let (idle_end, busy_end, ()) = tokio::join!(idle_driven, busy_driven, talk);
        assert!(matches!((&idle_end, &busy_end), (End::Closed, End::Closed)), "{idle_end:?} {busy_end:?}");
    }

    fn heir() -> (Rc<Heir>, std::os::fd::OwnedFd) {
        let (line, theirs) = forkgate_shared::control::worker_line().expect("line");
        (Rc::new(Heir::new(line).expect("heir")), theirs)
    }

    #[tokio::test]
    async fn a_connection_at_rest_moves_with_what_was_read_and_a_busy_one_after_its_answer() {
        let (open, rows) = world();
        let (mut client, io, activity) = pair(&rows).await;
        let (heir, _theirs) = heir();
        let whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n";
        let talk = async {
            client.write_all(whole).await.expect("write");
            client.write_all(b"o").await.expect("write");
            while activity.phase().0 != Phase::Request {
                tokio::task::yield_now().await;
            }
            open.move_to(Rc::clone(&heir));
            client.write_all(b"kPOST / HT").await.expect("write");
            let answer = read_until(&mut client, "ok").await;
            assert!(!answer.contains("connection: close"), "{answer}");
        };
        let (driven, ()) = tokio::join!(serve(io, Rc::clone(&activity), LIMITS, Rc::clone(&open)), talk);
        let Driven::Leaves(io, _, turn) = driven else { panic!("it is at rest") };
        assert_eq!(&io.ahead()[..], b"POST / HT");
        drop(turn);
        // It finds nobody who takes it, and is served on.
        let talk = async {
            client.write_all(b"TP/1.1\r\ncontent-length: 3\r\n\r\ntwo").await.expect("write");
            read_until(&mut client, "two").await;
            drop(client);
        };
        let (driven, ()) = tokio::join!(serve(io, activity, LIMITS, Rc::default()), talk);
        assert!(matches!(driven, Driven::Ended(End::Closed)));
        assert_eq!(rows.row(0).counters.bytes_in.load(Relaxed), 81, "each byte is counted once");
    }

    #[tokio::test]
    async fn what_was_refused_unread_does_not_move_and_its_body_is_no_request() {
        let (open, rows) = world();
        let (mut client, io, activity) = pair(&rows).await;
        let (heir, _theirs) = heir();
        let talk = async {
            client
                .write_all(b"POST /refused-late HTTP/1.1\r\ncontent-length: 400\r\n\r\n")
                .await
                .expect("write");
            while activity.phase().0 != Phase::Request {
                tokio::task::yield_now().await;
            }
            open.move_to(Rc::clone(&heir));
            read_until(&mut client, "\r\n\r\nno").await;
            let _ = client.write_all(b"GET /smuggled HTTP/1.1\r\n\r\n").await;
            assert_eq!(client.read(&mut [0; 8]).await.expect("a clean end"), 0, "it was no request");
            drop(client);
        };
        let (driven, ()) = tokio::join!(serve(io, Rc::clone(&activity), LIMITS, Rc::clone(&open)), talk);
        assert!(matches!(driven, Driven::Ended(End::Closed)));
    }

    #[tokio::test]
    async fn who_was_refused_is_not_sent_again_and_has_its_grace() {
        let (open, rows) = world();
        let (mut client, io, activity) = pair(&rows).await;
        open.move_to(heir().0);
        activity.announce();
        let limits = Limits { grace: SOON, ..LIMITS };
        let talk = async {
            assert_eq!(client.read(&mut [0; 8]).await.expect("a clean end"), 0);
            drop(client);
        };
        let (driven, ()) = tokio::join!(serve(io, activity, limits, open), talk);
        assert!(matches!(driven, Driven::Ended(End::Closed)));
    }

    #[tokio::test]
    async fn without_a_turn_a_connection_is_served_on() {
        let (open, rows) = world();
        let (mut client, io, activity) = pair(&rows).await;
        let (heir, _theirs) = heir();
        let mut turns = Vec::new();
        for _ in 0..crate::net::handover::heir::WINDOW {
            turns.push(heir.turn().await.expect("a place"));
        }
        open.move_to(heir);
        let talk = async {
            client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nok").await.expect("write");
            read_until(&mut client, "ok").await;
            turns.pop();
        };
        let (driven, ()) = tokio::join!(serve(io, activity, LIMITS, open), talk);
        assert!(matches!(driven, Driven::Leaves(..)));
    }
}
