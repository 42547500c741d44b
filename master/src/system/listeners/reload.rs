//! Changing the addresses while the gateway runs: propose, then commit or discard; see the module above.

use forkgate_shared::descriptors::{MAX_ADMIN_LISTENERS, MAX_LISTENERS};
use forkgate_shared::settings::{Bind, Binds};

use super::address::{Address, State};
use super::bind::ListenError;
use super::{ADMIN_BIND, BIND, Listeners, Wanted, probe};
use crate::supervisor::Ns;

impl Listeners {
    /// Takes what is wanted and not there. When that fails nothing has changed.
    pub fn propose(&mut self, wanted: &Wanted) -> Result<(), ListenError> {
        self.discard();
        let made = self.make_missing(wanted);
        if made.is_err() {
            self.drop_added();
        } else {
            self.proposal = Some(wanted.clone());
        }
        made
    }

    fn make_missing(&mut self, wanted: &Wanted) -> Result<(), ListenError> {
        self.refuse_to_leave_units(wanted)?;
        for entry in wanted.bind.iter() {
            if self.clients.iter().any(|address| address.bind == *entry) {
                continue;
            }
            refuse_ours(BIND, entry, &self.admin)?;
            let ours = || self.clients.iter().filter(|address| address.bind.collides(entry));
            let probed = if ours().next().is_some() { Ok(()) } else { probe(entry) };
            // The kernel prefers the narrower of two listeners, also when it is deaf.
            let is_within = ours().any(|address| address.state == State::InForce && is_wide(&address.bind));
            let made = probed.and_then(|()| {
                let mut address = Address::for_clients(entry, self.slots.iter().copied())?;
                if !is_within {
                    address.reserve(wanted.backlog)?;
                }
                Ok(address)
            });
            self.clients.push(made.map_err(|error| ListenError::of(BIND, entry, error))?);
        }
        let entry = Bind::Tcp(wanted.admin_bind);
        if !self.admin.iter().any(|address| address.bind == entry) {
            refuse_ours(ADMIN_BIND, &entry, self.admin.iter().chain(&self.clients))?;
            let made = Address::shared(wanted.admin_bind).and_then(|mut address| {
                address.reserve(wanted.backlog)?;
                Ok(address)
            });
            self.admin.push(made.map_err(|error| ListenError::of(ADMIN_BIND, &entry, error))?);
        }
        for (name, addresses, most) in
            [(BIND, &self.clients, MAX_LISTENERS), (ADMIN_BIND, &self.admin, MAX_ADMIN_LISTENERS)]
        {
            if addresses.len() > most {
                return Err(ListenError::TooMany { name });
            }
        }
        Ok(())
    }

    /// What a socket unit listens at is not ours to give up.
    fn refuse_to_leave_units(&self, wanted: &Wanted) -> Result<(), ListenError> {
        let is_left = |address: &&Address| address.is_activated() && !is_wanted(Some(wanted), &address.bind);
        for (name, addresses) in [(BIND, &self.clients), (ADMIN_BIND, &self.admin)] {
            if let Some(left) = addresses.iter().find(is_left) {
                return Err(ListenError::Activated { name, address: left.bind.to_string() });
            }
        }
        Ok(())
    }

    /// Puts the proposal into force, then begins to retire the rest. True when addresses were added, which workers that have
    /// them must be told.
    pub fn commit(&mut self, now: Ns) -> bool {
        let Some(wanted) = self.proposal.take() else { return false };
        let (backlog, shares) = (wanted.backlog, self.shares.as_ref());
        let mut added = false;
        let admin_bind = Binds::from(wanted.admin_bind);
        for (wanted, addresses) in [(&wanted.bind, &mut self.clients), (&admin_bind, &mut self.admin)] {
            let (wanted, rest): (Vec<_>, Vec<_>) =
                addresses.iter_mut().partition(|address| wanted.contains(&address.bind));
            for address in wanted {
                added |= address.state == State::Added;
                let is_new = address.state != State::InForce;
                match address.listen(backlog, shares) {
                    Ok(()) if is_new => tracing::info!(address = %address.shown(), "listening here too"),
                    Ok(()) => {}
                    Err(error) => tracing::error!(address = %address.bind, %error, "cannot listen here"),
                }
            }
            for address in rest.into_iter().filter(|address| address.state == State::InForce) {
                tracing::info!(address = %address.bind, "no longer listening here; who is connected is served on");
                address.retire(now);
            }
        }
        self.backlog = backlog;
        self.store.is_stale = true;
        added
    }

    /// Takes the proposal back. True when addresses were taken back, which workers that have them must be told.
    pub fn discard(&mut self) -> bool {
        self.proposal = None;
        self.drop_added()
    }

    fn drop_added(&mut self) -> bool {
        let before = self.clients.len() + self.admin.len();
        for addresses in [&mut self.clients, &mut self.admin] {
            addresses.retain(|address| {
                let stays = address.state != State::Added;
                if !stays {
                    address.give_up();
                }
                stays
            });
        }
        self.clients.len() + self.admin.len() < before
    }

    /// When [`Listeners::continue_retiring`] has something to do.
    pub fn next_deadline(&self) -> Option<Ns> {
        let next = |address: &Address| match &address.state {
            State::Retiring(retiring) if !self.is_coming_back(&address.bind) => Some(retiring.next_poll),
            _ => None,
        };
        self.clients.iter().chain(&self.admin).filter_map(next).min()
    }

    /// Shuts down the retiring addresses in which nobody waits any more, but for those that a reload brings back.
    pub fn continue_retiring(&mut self, now: Ns) {
        let proposal = self.proposal.as_ref();
        for addresses in [&mut self.clients, &mut self.admin] {
            addresses.retain_mut(|address| {
                let is_over = !is_wanted(proposal, &address.bind) && address.continue_retiring(now);
                if is_over {
                    tracing::info!(address = %address.bind, "this address is gone");
                }
                !is_over
            });
        }
    }

    fn is_coming_back(&self, entry: &Bind) -> bool {
        is_wanted(self.proposal.as_ref(), entry)
    }
}

fn is_wanted(proposal: Option<&Wanted>, entry: &Bind) -> bool {
    proposal.is_some_and(|wanted| wanted.bind.contains(entry) || entry.tcp() == Some(wanted.admin_bind))
}

fn is_wide(entry: &Bind) -> bool {
    entry.tcp().is_some_and(|address| address.ip().is_unspecified())
}

/// Only groups for clients can be at addresses that cover each other.
fn refuse_ours<'a>(
    name: &'static str,
    entry: &Bind,
    among: impl IntoIterator<Item = &'a Address>,
) -> Result<(), ListenError> {
    match among.into_iter().find(|address| address.bind.collides(entry)) {
        Some(address) => Err(ListenError::Ours { name, address: entry.to_string(), ours: address.shown() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::path::Path;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::supervisor::{MILLISECOND, SECOND, SlotId};

    /// Ports that nobody has right now.
    fn free<const N: usize>() -> [SocketAddr; N] {
        let sockets = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free"));
        sockets.map(|socket| socket.local_addr().expect("address"))
    }

    fn wanted(bind: &str, admin_bind: SocketAddr) -> Wanted {
        Wanted { bind: Binds::parse(bind).expect("addresses"), admin_bind, backlog: 16 }
    }

    fn hears(address: SocketAddr) -> bool {
        TcpStream::connect_timeout(&address, Duration::from_millis(150)).is_ok()
    }

    /// Looks until nothing retires any more; nobody accepts here, so nobody may connect either.
    fn retire_all(listeners: &mut Listeners, mut now: Ns) {
        while listeners.next_deadline().is_some() {
            listeners.continue_retiring(now);
            now += 50 * MILLISECOND;
            assert!(now < 100 * SECOND, "it has an end");
        }
    }

    fn unix(path: &Path) -> String {
        format!("unix:{}", path.display())
    }

    #[test]
    fn what_is_proposed_listens_when_it_is_committed_and_is_gone_when_it_is_discarded() {
        let [old, new, admin, new_admin] = free();
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("http.sock");
        let mut listeners = Listeners::open(&wanted(&old.to_string(), admin), 2, Vec::new()).expect("open");
        let next = wanted(&format!("{new},{}", unix(&path)), new_admin);
        listeners.propose(&next).expect("free");
        assert!(hears(old) && !hears(new) && !hears(new_admin) && path.exists());
        for taken in [new, new_admin] {
            assert!(std::net::TcpListener::bind(taken).is_err(), "nobody else can listen there any more");
        }
        let worker = listeners.inherited(SlotId(1)).expect("a slot");
        assert_eq!((worker.clients.len(), worker.admin.len()), (3, 2), "the union");
        assert!(listeners.discard() && !path.exists());
        assert!(!listeners.discard(), "nothing left to take back");
        for free in [new, new_admin] {
            drop(std::net::TcpListener::bind(free).expect("free again"));
        }
        assert_eq!(listeners.shown(), [old.to_string()]);

        listeners.propose(&next).expect("still free");
        assert!(listeners.commit(SECOND), "workers are to be told");
        assert!(!hears(old) && hears(new) && !hears(admin) && hears(new_admin));
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        assert_eq!(listeners.shown(), [format!("{old} (retiring)"), new.to_string(), unix(&path)]);
        retire_all(&mut listeners, SECOND);
        assert_eq!(listeners.shown(), [new.to_string(), unix(&path)]);
        assert!(
            TcpStream::connect(old).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        listeners.close_all();
        assert!(!path.exists());
    }

    #[test]
    fn an_address_that_retires_can_come_back() {
        let [first, second, admin] = free();
        let mut listeners = Listeners::open(&wanted(&first.to_string(), admin), 2, Vec::new()).expect("open");
        let other = wanted(&second.to_string(), admin);
        listeners.propose(&other).expect("free");
        listeners.commit(SECOND);
        assert!(!hears(first));
        let both = wanted(&format!("{first},{second}"), admin);
        listeners.propose(&both).expect("both are ours");
        listeners.continue_retiring(90 * SECOND);
        assert_eq!(listeners.next_deadline(), None, "it is not shut while it may come back");
        listeners.discard();
        assert!(!hears(first), "it goes after all");
        listeners.propose(&both).expect("both are ours");
        assert!(!listeners.commit(91 * SECOND), "nobody needs to be told: who has it accepts from it");
        assert!(hears(first) && hears(second));
    }

    fn all_listen(listeners: &Listeners, slot: SlotId) -> bool {
        let sockets = listeners.inherited(slot).expect("a slot").clients;
        sockets.into_iter().all(|socket| SockRef::from(socket).is_listener().expect("option"))
    }

    #[test]
    fn a_slot_that_comes_meanwhile_accepts_wherever_the_others_do() {
        let [first, second, admin] = free();
        let mut listeners = Listeners::open(&wanted(&first.to_string(), admin), 2, Vec::new()).expect("open");
        listeners.propose(&wanted(&second.to_string(), admin)).expect("free");
        listeners.open_slot(SlotId(2)).expect("another slot");
        assert!(all_listen(&listeners, SlotId(2)) && !hears(second), "deaf, as others of an added one");
        listeners.commit(SECOND);
        listeners.open_slot(SlotId(3)).expect("another slot");
        assert!(all_listen(&listeners, SlotId(3)) && !hears(first), "deaf, as others that retire");
        listeners.propose(&wanted(&format!("{first},{second}"), admin)).expect("both are ours");
        listeners.commit(SECOND);
        for slot in [2, 3] {
            listeners.steer(Some(vec![(SlotId(slot), 1)]));
            assert!(hears(first) && hears(second));
        }
    }

    #[test]
    fn what_cannot_be_had_changes_nothing() {
        let [old, free, admin] = free();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let taken = (taken.local_addr().expect("address"), taken);
        let mut listeners = Listeners::open(&wanted(&old.to_string(), admin), 1, Vec::new()).expect("open");
        for (next, words) in [
            (wanted(&format!("{old},{free},{}", taken.0), admin), "in use by another process"),
            (wanted(&format!("{old},{free}"), taken.0), "in use by another process"),
            (wanted(&format!("{old},{admin}"), free), "still in use by this gateway"),
            (wanted(&free.to_string(), old), "still in use by this gateway"),
        ] {
            let error = listeners.propose(&next).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!((listeners.shown(), listeners.admin.len()), (vec![old.to_string()], 1));
            assert!(!listeners.commit(0), "nothing is proposed");
            assert!(hears(old) && hears(admin) && !hears(free));
        }
    }

    #[test]
    fn an_address_within_another_one_takes_over_from_it() {
        let [narrow, admin] = free();
        let wide = SocketAddr::from(([0, 0, 0, 0], narrow.port()));
        let mut listeners =
            Listeners::open(&wanted(&narrow.to_string(), admin), 2, Vec::new()).expect("open");
        for (next, addresses) in [(wide, wide), (narrow, narrow)] {
            listeners.propose(&wanted(&next.to_string(), admin)).expect("the other one is ours");
            assert!(hears(narrow), "the one in force has its clients until the commit");
            assert!(std::net::TcpListener::bind(next).is_err(), "nobody else can listen there");
            listeners.commit(SECOND);
            retire_all(&mut listeners, SECOND);
            assert!(hears(narrow));
            assert_eq!(listeners.shown(), [addresses.to_string()]);
        }
    }
}
