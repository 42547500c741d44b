//! Names of upstreams to addresses: one lookup at a time per name, its outcome kept for a moment.
//!
//! `getaddrinfo` blocks one of the worker's few blocking threads, for as long as the name server pleases. Without this a
//! burst of new connections to one slow name would keep every other lookup, and whatever else blocks, waiting.
//! What is kept is only where to connect: whether an address is allowed is asked at every connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::UpstreamError;
use super::connect::Origin;
use crate::lifecycle::task;

/// How long addresses are used without asking again: a burst of connections, yet less than the usual time to live of a
/// record that moves (30 s).
const KEEP: Duration = Duration::from_secs(10);
/// The same for a failure: long enough for a burst, short enough that nobody waits for it once the name resolves.
const KEEP_FAILURE: Duration = Duration::from_secs(1);

type Outcome = Result<Rc<[SocketAddr]>, UpstreamError>;

/// What is known about names.
#[derive(Default)]
pub struct Names(RefCell<HashMap<(String, u16), Rc<Name>>>);

#[derive(Default)]
struct Name {
    state: RefCell<State>,
    found: Notify,
}

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// A task is at it, which outlives the callers who wait for it.
    Asking,
    Known(Outcome, Instant),
}

impl Name {
    fn known(&self) -> Option<Outcome> {
        match &*self.state.borrow() {
            State::Known(outcome, until) if Instant::now() < *until => Some(outcome.clone()),
            _ => None,
        }
    }

    fn is_asking(&self) -> bool {
        matches!(*self.state.borrow(), State::Asking)
    }
}

impl Names {
    /// Where connections to `origin` may go, in the order to try; asks `lookup` when that is not known.
    pub async fn addresses<F>(&self, origin: &Origin, lookup: impl Fn(String, u16) -> F) -> Outcome
    where
        F: Future<Output = std::io::Result<Vec<SocketAddr>>> + 'static,
    {
        if let Ok(ip) = origin.host.parse::<IpAddr>() {
            return Ok(Rc::new([SocketAddr::new(ip, origin.port)]));
        }
        let name = self.name(origin);
        loop {
            if let Some(outcome) = name.known() {
                return outcome;
            }
            if !name.is_asking() {
                *name.state.borrow_mut() = State::Asking;
                let (asked, lookup) = (Rc::clone(&name), lookup(origin.host.clone(), origin.port));
                task::spawn("resolve an upstream's name", async move {
                    let (outcome, keep) = match lookup.await {
                        Ok(addresses) => (Ok(addresses.into()), KEEP),
                        Err(error) => (Err(UpstreamError::NoAddress(error.to_string())), KEEP_FAILURE),
                    };
                    *asked.state.borrow_mut() = State::Known(outcome, Instant::now() + keep);
                    asked.found.notify_waiters();
                });
            }
            name.found.notified().await;
        }
    }

    /// Forgets on the way what is out of date: there are never more names than upstreams called within [`KEEP`].
    fn name(&self, origin: &Origin) -> Rc<Name> {
        let mut names = self.0.borrow_mut();
        let key = (origin.host.clone(), origin.port);
        if let Some(name) = names.get(&key) {
            return Rc::clone(name);
        }
        names.retain(|_, name| name.is_asking() || name.known().is_some());
        Rc::clone(names.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn origin(host: &str) -> Origin {
        Origin { tls: false, host: host.to_owned(), port: 80 }
    }

    /// Makes everything known older.
    fn pass(names: &Names, time: Duration) {
        for name in names.0.borrow().values() {
            if let State::Known(_, until) = &mut *name.state.borrow_mut() {
                *until -= time;
            }
        }
    }

    async fn in_worker(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn one_lookup_serves_all_who_want_it_for_a_while() {
        in_worker(async {
            let names = Names::default();
            let asked = Rc::new(Cell::new(0));
            let fails = Rc::new(Cell::new(false));
            let lookup = |_: String, _: u16| {
                let (asked, fails) = (Rc::clone(&asked), Rc::clone(&fails));
                async move {
                    asked.set(asked.get() + 1);
                    tokio::task::yield_now().await;
                    if fails.get() {
                        Err(std::io::Error::other("no"))
                    } else {
                        Ok(vec![([10, 0, 0, 1], 80).into()])
                    }
                }
            };
            let (one, other) = (origin("one"), origin("other"));
            tokio::select! {
                biased;
                _ = names.addresses(&one, lookup) => panic!("nobody has asked yet"),
                () = std::future::ready(()) => {}
            }
            let (a, b, c) = tokio::join!(
                names.addresses(&one, lookup),
                names.addresses(&one, lookup),
                names.addresses(&other, lookup)
            );
            assert!(a.is_ok() && a == b && a == c);
            assert_eq!(asked.get(), 2, "once per name, also when the first caller gave up");

            pass(&names, KEEP);
            fails.set(true);
            assert!(names.addresses(&one, lookup).await.is_err());
            assert!(names.addresses(&one, lookup).await.is_err());
            assert_eq!(asked.get(), 3);
            pass(&names, KEEP_FAILURE);
            fails.set(false);
            assert!(names.addresses(&one, lookup).await.is_ok());
            assert_eq!(asked.get(), 4);
        })
        .await;
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        in_worker(async {
            let names = Names::default();
            for ip in ["127.0.0.1", "::1"] {
                let nobody = |_, _| async { unreachable!("nobody asks") };
                let got = names.addresses(&origin(ip), nobody).await.expect("an address");
                assert_eq!(got[0], SocketAddr::new(ip.parse().expect("an address"), 80));
            }
        })
        .await;
    }
}
