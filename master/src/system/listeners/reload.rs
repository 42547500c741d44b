//! Changing the addresses while the gateway runs: propose, then commit or discard; see the module above.

use forkgate_shared::descriptors::{MAX_ADMIN_LISTENERS, MAX_LISTENERS};
use forkgate_shared::settings::{Bind, Binds};

use super::address::{Address, State};
use super::bind::ListenError;
use super::{ADMIN_BIND, BIND, Listeners, Wanted, probe};
use crate::supervisor::Ns;

impl Listeners {
    /// Binds what is wanted and not there. When that fails nothing has changed.
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
        for entry in wanted.bind.iter() {
            if self.clients.iter().any(|address| address.bind == *entry) {
                continue;
            }
            refuse_ours(BIND, entry, &self.admin)?;
            let ours = self.clients.iter().any(|address| address.bind.collides(entry));
            let probed = if ours { Ok(()) } else { probe(entry) };
            let made = probed.and_then(|()| Address::for_clients(entry, self.slots.iter().copied()));
            self.clients.push(made.map_err(|error| ListenError::of(BIND, entry, error))?);
        }
        let entry = Bind::Tcp(wanted.admin_bind);
        if !self.admin.iter().any(|address| address.bind == entry) {
            refuse_ours(ADMIN_BIND, &entry, self.admin.iter().chain(&self.clients))?;
            let made = Address::shared(wanted.admin_bind);
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

    /// Puts the proposal into force and begins to retire the rest. True when addresses were added, which workers that have
    /// them must be told.
    pub fn commit(&mut self, now: Ns) -> bool {
        let Some(wanted) = self.proposal.take() else { return false };
        let (backlog, shares) = (wanted.backlog, self.shares.as_ref());
        let mut added = false;
        let admin_bind = Binds::from(wanted.admin_bind);
        for (wanted, addresses) in [(&wanted.bind, &mut self.clients), (&admin_bind, &mut self.admin)] {
            for address in addresses {
                let is_wanted = wanted.contains(&address.bind);
                added |= address.state == State::Added;
                if !is_wanted && address.state == State::InForce {
                    tracing::info!(address = %address.bind, "no longer listening here; who is connected is served on");
                    address.retire(now);
                } else if is_wanted {
                    if address.state != State::InForce {
                        tracing::info!(address = %address.shown(), "listening here too");
                    }
                    if let Err(error) = address.listen(backlog, shares) {
                        tracing::error!(address = %address.bind, %error, "cannot listen here");
                    }
                }
            }
        }
        self.backlog = backlog;
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
            addresses.retain(|address| address.state != State::Added);
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
