//! Faults on order, in builds with the feature `faults` only: what the watchdog must find, planted into a running worker.
//!
//! `POST /_fault/NAME` on either port harms the worker that answers. The table of names, with what comes of each, is
//! `docs/faults.md`. A report must name what was planted, so each fault is a function with a name that says what it does,
//! and what burns or waits stands in that function itself, not in one that it calls.
//!
//! | parameter | means |
//! |---|---|
//! | `seconds=N` | the fault ends by itself after N seconds (1 to 3600; 600 when not given) |
//! | `rate=N` | `leak`: MiB per second (1 to 1024; 64 when not given) |
//! | `in=request` | the fault happens in the request's own task, and the answer comes after it |

mod callback;
mod end;
pub(crate) mod essential;
mod memory;
mod slow;
mod spin;
mod stall;
mod uninterruptible;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use serde::Serialize;

use crate::answer;
use crate::body::Body;
use crate::lifecycle::task;

/// A fault ends after this where the order does not say when: nobody waits longer for a watchdog.
const USUAL_SECONDS: u64 = 600;
const MOST_SECONDS: u64 = 3600;
const USUAL_RATE: u64 = 64;
const MOST_RATE: u64 = 1024;
/// From the answer to the fault: long enough for the answer to be on its way. In a request, which has an age then, from its
/// beginning.
const HEAD_START: Duration = Duration::from_millis(50);

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Spin,
    YieldSpin,
    PingPong,
    EofSpin,
    Stall,
    StallCpu,
    StallUninterruptible,
    Callback,
    CallbackSpin,
    Leak,
    Slow,
    WatchdogDead,
    AcceptDead,
    Panic,
    Exit,
    Abort,
}

const ALL: [(&str, Fault); 16] = [
    ("spin", Fault::Spin),
    ("yield-spin", Fault::YieldSpin),
    ("pingpong", Fault::PingPong),
    ("eof-spin", Fault::EofSpin),
    ("stall", Fault::Stall),
    ("stall-cpu", Fault::StallCpu),
    ("stall-uninterruptible", Fault::StallUninterruptible),
    ("callback", Fault::Callback),
    ("callback-spin", Fault::CallbackSpin),
    ("leak", Fault::Leak),
    ("slow", Fault::Slow),
    ("watchdog-dead", Fault::WatchdogDead),
    ("accept-dead", Fault::AcceptDead),
    ("panic", Fault::Panic),
    ("exit", Fault::Exit),
    ("abort", Fault::Abort),
];

/// How it is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    span: Duration,
    mib_per_second: u64,
    in_request: bool,
}

impl Order {
    /// Reads a query; what it does not understand is as if it were not there.
    fn parse(query: &str) -> Order {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str, usual: u64, most: u64| {
            value(name).and_then(|text| text.parse().ok()).unwrap_or(usual).clamp(1, most)
        };
        Order {
            span: Duration::from_secs(number("seconds", USUAL_SECONDS, MOST_SECONDS)),
            mib_per_second: number("rate", USUAL_RATE, MOST_RATE),
            in_request: value("in") == Some("request"),
        }
    }
}

#[derive(Serialize)]
struct Planted {
    pid: u32,
    fault: &'static str,
}

/// Does what was ordered; none for a fault that does not exist. The answer is 202 and comes before the fault begins, except
/// where the fault is in the request.
pub async fn commit(name: &str, query: Option<&str>) -> Option<Response<Body>> {
    let (name, fault) = *ALL.iter().find(|(known, _)| *known == name)?;
    let order = Order::parse(query.unwrap_or_default());
    tracing::warn!(fault = name, seconds = order.span.as_secs(), "a fault is ordered");
    let status = if order.in_request || matches!(fault, Fault::Slow | Fault::Panic) {
        if order.in_request {
            tokio::time::sleep(HEAD_START).await;
        }
        happen(fault, order).await;
        StatusCode::OK
    } else {
        task::spawn(name, async move {
            tokio::time::sleep(HEAD_START).await;
            happen(fault, order).await;
        });
        StatusCode::ACCEPTED
    };
    Some(answer::json_of(status, &Planted { pid: std::process::id(), fault: name }))
}

/// Boxed: a request that orders no fault has no room for one.
fn happen(fault: Fault, order: Order) -> Pin<Box<dyn Future<Output = ()>>> {
    let until = Instant::now() + order.span;
    match fault {
        Fault::Spin => Box::pin(spin::self_waking(until)),
        Fault::YieldSpin => Box::pin(spin::yielding(until)),
        Fault::PingPong => Box::pin(spin::ping_pong(until)),
        Fault::EofSpin => Box::pin(spin::reading_at_the_end(until)),
        Fault::Stall => Box::pin(async move { stall::blocked_in_a_poll(order.span) }),
        Fault::StallCpu => Box::pin(async move { stall::burning_in_a_poll(until) }),
        Fault::StallUninterruptible => {
            Box::pin(async move { uninterruptible::waiting_for_a_vfork(order.span) })
        }
        Fault::Callback => Box::pin(callback::burning_in_a_callback(until)),
        Fault::CallbackSpin => Box::pin(callback::spinning_in_a_callback(until)),
        Fault::Leak => Box::pin(memory::leaking(order.mib_per_second, until)),
        Fault::Slow => Box::pin(slow::honestly_slow()),
        Fault::WatchdogDead => Box::pin(async { essential::without_a_watchdog() }),
        Fault::AcceptDead => Box::pin(async { essential::accepting_nobody() }),
        Fault::Panic => Box::pin(async { end::panicking() }),
        Fault::Exit => Box::pin(async { end::exiting() }),
        Fault::Abort => Box::pin(async { end::aborting() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_have_bounds() {
        let usual = Order { span: Duration::from_secs(600), mib_per_second: 64, in_request: false };
        let in_request = Order { in_request: true, ..usual };
        for (query, order) in [
            ("", usual),
            ("seconds=x&rate=-1", usual),
            ("seconds=0&rate=0", Order { span: Duration::from_secs(1), mib_per_second: 1, ..usual }),
            ("in=request", in_request),
            (
                "seconds=99999&in=request&rate=5000",
                Order { span: Duration::from_secs(3600), mib_per_second: 1024, ..in_request },
            ),
        ] {
            assert_eq!(Order::parse(query), order, "{query}");
        }
    }

    #[test]
    fn faults_that_end_by_themselves_do() {
        let order = Order { span: Duration::from_millis(20), mib_per_second: 1, in_request: true };
        let run = async {
            for (name, fault) in ALL {
                let for_ever = matches!(fault, Fault::WatchdogDead | Fault::AcceptDead);
                if !for_ever && !matches!(fault, Fault::Panic | Fault::Exit | Fault::Abort) {
                    let ended = tokio::time::timeout(Duration::from_secs(20), happen(fault, order)).await;
                    assert!(ended.is_ok(), "{name}");
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, run);
    }
}
