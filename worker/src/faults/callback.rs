//! The same in an async closure that a dependency calls: hyper serves one request on a pair of sockets.

use std::convert::Infallible;
use std::future::poll_fn;
use std::hint::black_box;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

type Served = Result<Response<Empty<Bytes>>, Infallible>;

/// A callback whose one poll uses a whole CPU.
#[inline(never)]
pub(super) async fn burning_in_a_callback(until: Instant) {
    let service = service_fn(async |_: Request<Incoming>| -> Served {
        let mut state = 1u64;
        while Instant::now() < until {
            for turn in 0..1000 {
                state = black_box(state.rotate_left(5) ^ turn);
            }
        }
        Ok(Response::default())
    });
    serve_one(service).await;
}

/// A callback that wakes itself and never waits.
#[inline(never)]
pub(super) async fn spinning_in_a_callback(until: Instant) {
    let service = service_fn(async |_: Request<Incoming>| -> Served {
        poll_fn(|cx| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        Ok(Response::default())
    });
    serve_one(service).await;
}

/// Whatever goes wrong here ends the fault, and a test that waits for it says so.
async fn serve_one<S>(service: S)
where
    S: HttpService<Incoming, ResBody = Empty<Bytes>, Error = Infallible>,
{
    let Ok((mut client, server)) = UnixStream::pair() else { return };
    if client.write_all(b"GET / HTTP/1.1\r\nHost: fault\r\nConnection: close\r\n\r\n").await.is_ok() {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(server), service).await;
    }
}
