//! The number of slots: growing by a new socket, shrinking without losing a connection.
//!
//! A closed member of a `SO_REUSEPORT` group takes its accept queue with it. So a slot retires in this order:
//! steer the kernel's choice away → poll until its accept queue is empty → grace for handshakes under way → the worker
//! accepts what is left and closes its copy → the master closes its copy, **last** → choose among all again.
//! One slot retires at a time: with two, the moment in which the group's indexes move could send a client to the other.

use super::Supervisor;
use super::event::{Action, ChildId, Fact, MILLISECOND, Ns, Role, SECOND, SlotId};
use super::state::{Child, Life, Retiring, Slot};

/// How often the accept queue of a retiring slot is read.
const POLL: Ns = 50 * MILLISECOND;
/// A handshake that began before the steering ends in the old slot. Its SYN-ACK may be lost and sent again after 1 s and
/// after 2 s more (RFC 6298 and `net.ipv4.tcp_synack_retries`); 250 ms was enough on a loopback, 3 s covers the first
/// retransmissions on a real network.
const GRACE: Ns = 3 * SECOND;

impl Supervisor {
    pub(super) fn retiring_slot(&self) -> Option<SlotId> {
        self.slots.iter().find(|(_, slot)| slot.retiring.is_some()).map(|(id, _)| *id)
    }

    /// Moves the number of slots towards the target by one step.
    pub(super) fn scale(&mut self, now: Ns) {
        self.continue_retiring(now);
        let active = self.slots.values().filter(|slot| slot.retiring.is_none()).count();
        match active.cmp(&(self.target as usize)) {
            std::cmp::Ordering::Less => self.grow(now),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => self.shrink(now),
        }
    }

    fn grow(&mut self, now: Ns) {
        let cancellable = |slot: &Slot| slot.retiring.is_some() && !slot.is_leaving();
        if let Some((id, slot)) = self.slots.iter_mut().find(|(_, slot)| cancellable(slot)) {
            slot.retiring = None;
            let fact = Fact::RetiringCancelled(*id);
            self.steer_group(now);
            self.log(fact);
        }
        let mut active = self.slots.values().filter(|slot| slot.retiring.is_none()).count();
        let mut number = 0;
        while active < self.target as usize {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.slots.entry(SlotId(number)) {
                entry.insert(Slot::default());
                self.out.push(Action::OpenListener(SlotId(number)));
                active += 1;
            }
            number += 1;
        }
    }

    pub(super) fn listener_opened(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.open = true;
        }
    }

    pub(super) fn listener_failed(&mut self, id: SlotId) {
        if self.slots.get(&id).is_some_and(|slot| !slot.open) {
            self.slots.remove(&id);
            self.target = self.target.saturating_sub(1).max(1);
            self.out.push(Action::Target(self.target));
            self.log(Fact::ListenerFailed(id));
        }
    }

    /// Begins to retire the highest slot, when the others can carry its load.
    fn shrink(&mut self, now: Ns) {
        if self.life != Life::Serving || self.retiring_slot().is_some() {
            return;
        }
        let Some((&id, slot)) = self.slots.last_key_value() else { return };
        let others =
            self.slots.iter().filter(|(other, slot)| **other != id && self.runs(slot.primary)).count();
        if !slot.open || slot.standby.is_some() || others < self.quorum() as usize {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.retiring = Some(Retiring {
                since: now,
                queue: None,
                grace_until: None,
                next_poll: now + POLL,
                leaving: None,
            });
        }
        self.steer_group(now);
        self.out.push(Action::QueryQueue(id));
        self.log(Fact::Retiring(id));
    }

    pub(super) fn queue_length(&mut self, id: SlotId, length: u32, now: Ns) {
        if let Some(retiring) = self.slots.get_mut(&id).and_then(|slot| slot.retiring.as_mut()) {
            retiring.queue = Some(length);
            if length == 0 && retiring.grace_until.is_none() {
                retiring.grace_until = Some(now + GRACE);
            }
        }
    }

    fn continue_retiring(&mut self, now: Ns) {
        let Some(id) = self.retiring_slot() else { return };
        let Some(slot) = self.slots.get(&id) else { return };
        let Some(mut retiring) = slot.retiring else { return };
        if retiring.leaving.is_some() {
            let holders: Vec<ChildId> = self.holders(id).collect();
            if holders.is_empty() {
                self.close_retired(id, now);
            } else if retiring.next_poll <= now {
                self.out.extend(holders.into_iter().map(Action::QueryListener));
                self.poll_again(id, now);
            }
            return;
        }
        let worker = slot.primary;
        let patience_over =
            now >= retiring.since + worker.map_or(0, |worker| self.graceful(worker)).max(2 * GRACE);
        let empty = retiring.grace_until.is_some_and(|until| until <= now) && retiring.queue == Some(0);
        if (empty || patience_over) && self.others_carry(id) {
            match worker {
                None if self.holders(id).next().is_none() => return self.close_retired(id, now),
                None => {}
                Some(worker) if self.runs(Some(worker)) => {
                    retiring.leaving = Some(worker);
                    if let Some(heir) = self.heir_of_retired(id) {
                        self.out.push(Action::Introduce { leaver: worker, heir });
                    }
                    self.leave(worker, Action::SendRetire(worker), now, now + self.graceful(worker));
                }
                Some(_) => {}
            }
        }
        if retiring.next_poll <= now {
            retiring.next_poll = now + POLL;
            if retiring.leaving.is_none() {
                self.out.push(Action::QueryQueue(id));
            }
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.retiring = Some(retiring);
        }
    }

    /// Enough others are ready now; they were when the slot began to retire, but one may have crashed since.
    fn others_carry(&self, id: SlotId) -> bool {
        let ready =
            self.slots.iter().filter(|(other, slot)| **other != id && self.runs(slot.primary)).count();
        ready >= self.quorum() as usize
    }

    /// Who takes the connections of a slot that goes away: the worker of the next slot whose loop turns.
    fn heir_of_retired(&self, id: SlotId) -> Option<ChildId> {
        let later = self.slots.range(id..).skip(1);
        let around = later.chain(self.slots.range(..id));
        let takes = |child: ChildId| self.runs(Some(child)) && !self.is_suspect(Some(child));
        around.filter_map(|(_, slot)| slot.primary).find(|child| takes(*child))
    }

    /// Workers of this slot, the retiring one and those that drain since long, that still have a copy of its socket.
    fn holders(&self, id: SlotId) -> impl Iterator<Item = ChildId> {
        let of_slot = move |role: Role| matches!(role, Role::Worker { slot, .. } if slot == id);
        let holds = move |child: &&Child| child.holds_listener && of_slot(child.role);
        self.children.iter().filter(move |(_, child)| holds(child)).map(|(id, _)| *id)
    }

    fn poll_again(&mut self, id: SlotId, now: Ns) {
        if let Some(retiring) = self.slots.get_mut(&id).and_then(|slot| slot.retiring.as_mut()) {
            retiring.next_poll = now + POLL;
        }
    }

    pub(super) fn listener_closed(&mut self, child: ChildId) {
        if let Some(child) = self.children.get_mut(&child).filter(|child| child.leaves()) {
            child.holds_listener = false;
        }
    }

    /// Closes the last copy of the socket, which the kernel does not choose any more.
    fn close_retired(&mut self, id: SlotId, now: Ns) {
        self.out.push(Action::CloseListener(id));
        self.slots.remove(&id);
        self.steer_group(now);
        self.log(Fact::Retired(id));
    }

    /// TTIN.
    pub(super) fn more_workers(&mut self) {
        let cancels = self.slots.values().any(|slot| slot.retiring.is_some() && !slot.is_leaving());
        if self.target >= self.most_workers {
            self.log(Fact::NoMoreWorkers(self.most_workers));
        } else if self.rows.is_full() && !cancels {
            self.log(Fact::NoRowForMore);
        } else {
            self.target += 1;
            self.out.push(Action::Target(self.target));
        }
    }

    /// TTOU.
    pub(super) fn fewer_workers(&mut self) {
        if self.target <= 1 {
            self.log(Fact::LastWorker);
        } else {
            self.target -= 1;
            self.out.push(Action::Target(self.target));
        }
    }
}
