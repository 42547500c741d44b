//! Reading a request's body: bounded in size and in time, without a copy when it arrives in one piece.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::refusal::Refusal;

/// How long a body may make no progress. Longer than any pause of a working network.
const NO_PROGRESS: Duration = Duration::from_secs(30);

/// How long a body may take in all: 4 MiB at 14 KiB/s. Keeps one that drips a byte at a time from staying for ever.
const IN_ALL: Duration = Duration::from_secs(300);

/// Largest unwanted body that is read to keep a connection alive; reading costs less than a new connection.
const DISCARDED: u64 = 64 * 1024;

/// How long an unwanted body may make no progress.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// First allocation for a body in several pieces: what its length says, but no more than this is believed unseen.
const FIRST_ALLOCATION: u64 = 256 * 1024;

/// Reads the whole body. A length over `max` is refused before anything is read.
pub(super) async fn read_body<B>(body: B, max: u64) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    read_within(body, max, NO_PROGRESS).await
}

async fn read_within<B>(mut body: B, max: u64, no_progress: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = body.size_hint().lower();
    if announced > max {
        return Err(Refusal::BodyTooLarge(max));
    }
    let Some(first) = next_chunk(&mut body, no_progress).await? else { return Ok(Bytes::new()) };
    if first.len() as u64 > max {
        return Err(Refusal::BodyTooLarge(max));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let deadline = Instant::now() + IN_ALL;
    let mut whole = BytesMut::with_capacity(first.len().max(announced.min(FIRST_ALLOCATION) as usize));
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(chunk) = next_chunk(&mut body, no_progress.min(deadline - Instant::now())).await? {
        if (whole.len() + chunk.len()) as u64 > max {
            return Err(Refusal::BodyTooLarge(max));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Takes what nobody wanted of a request's body off the connection, so that the next request can follow. When it is
/// too much for that the body stays unread, and the connection ends with the answer.
pub(super) async fn discard<B>(body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    let small = body.size_hint().upper().is_some_and(|length| length <= DISCARDED);
    if small && !body.is_end_stream() {
        // A failure leaves it unread too.
        let _ = read_within(body, DISCARDED, DISCARD_TIME).await;
    }
}

/// The next piece of data; trailers are passed over.
async fn next_chunk<B>(body: &mut B, patience: Duration) -> Result<Option<Bytes>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        match tokio::time::timeout(patience, body.frame()).await {
            Err(_) => return Err(Refusal::SlowBody),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Refusal::BrokenBody),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::{Frame, SizeHint};

    /// Chunks, then the end, then (with `stalls`) nothing for ever.
    struct Chunks {
        chunks: VecDeque<Result<Bytes, ()>>,
        announced: Option<u64>,
        stalls: bool,
    }

    fn chunks(parts: &[&'static [u8]]) -> Chunks {
        let chunks = parts.iter().map(|part| Ok(Bytes::from_static(part))).collect();
        Chunks { chunks, announced: None, stalls: false }
    }

    impl Body for Chunks {
        type Data = Bytes;
        type Error = ();
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            match self.chunks.pop_front() {
                None if self.stalls => Poll::Pending,
                next => Poll::Ready(next.map(|chunk| chunk.map(Frame::data))),
            }
        }
        fn is_end_stream(&self) -> bool {
            self.chunks.is_empty() && !self.stalls
        }
        fn size_hint(&self) -> SizeHint {
            self.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        const PIECE: &[u8] = b"{\"jsonrpc\":\"2.0\"}";
        let bytes = read_body(chunks(&[PIECE]), 100).await.expect("read");
        assert_eq!(bytes.as_ptr(), PIECE.as_ptr());
        assert_eq!(read_body(chunks(&[b"ab", b"c"]), 3).await.expect("read"), "abc");
        assert_eq!(read_body(chunks(&[]), 3).await.expect("read"), "");
    }

    #[tokio::test]
    async fn a_body_is_refused_by_its_length_or_when_it_grows_over_the_limit() {
        let mut announced = chunks(&[]);
        (announced.announced, announced.stalls) = (Some(101), true);
        assert_eq!(read_body(announced, 100).await, Err(Refusal::BodyTooLarge(100)));
        assert_eq!(read_body(chunks(&[b"abcd"]), 3).await, Err(Refusal::BodyTooLarge(3)));
        assert_eq!(read_body(chunks(&[b"ab", b"cd"]), 3).await, Err(Refusal::BodyTooLarge(3)));
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_given_up() {
        let mut stalled = chunks(&[b"a"]);
        stalled.stalls = true;
        assert_eq!(read_within(stalled, 100, Duration::from_millis(1)).await, Err(Refusal::SlowBody));
    }

    #[tokio::test]
    async fn an_unwanted_body_is_discarded_when_it_is_small() {
        let left_of = async |announced: Option<u64>| {
            let mut body = Chunks { announced, ..chunks(&[b"ab", b"c"]) };
            discard(&mut body).await;
            body.chunks.len()
        };
        assert_eq!(left_of(Some(3)).await, 0);
        assert_eq!(left_of(Some(DISCARDED + 1)).await, 2);
        assert_eq!(left_of(None).await, 2, "of unknown length");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_broken() {
        let mut broken = chunks(&[b"a"]);
        broken.chunks.push_back(Err(()));
        assert_eq!(read_body(broken, 100).await, Err(Refusal::BrokenBody));
    }
}
