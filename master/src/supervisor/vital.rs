//! What who watches the master from outside, a service manager, has to know: is it alive in more than its process, and does
//! it wait for something that may take its time.
//!
//! | state | sound |
//! |---|---|
//! | a worker is ready | yes |
//! | none is, and one boots, drains or has a time at which it is tried | yes: `GATEWAY_GIVE_UP` says how long that may go on, and why it did not work |
//! | none is, and nothing is waited for | no: nothing would ever change |
//! | everything ends | yes: that has limits of its own |

use super::Supervisor;
use super::event::Ns;
use super::state::{Child, Life, Reload};

impl Supervisor {
    /// False when nobody serves and there is no way to anybody who will.
    pub fn is_sound(&self, now: Ns) -> bool {
        let ends = matches!(self.life, Life::Stopping(_) | Life::Over);
        ends || self.slots.values().any(|slot| self.runs(slot.primary)) || self.has_time(now)
    }

    /// True while the gateway starts, changes as a whole or ends, and something in that still has time.
    pub fn waits(&self, now: Ns) -> bool {
        let is_reloading = !matches!(self.reload, Reload::Idle | Reload::Checking { only: true, .. });
        let is_calm = self.life == Life::Serving && !is_reloading && !self.holds_reloads();
        !is_calm && self.has_time(now)
    }

    /// A limit lies ahead at which something will be done.
    fn has_time(&self, now: Ns) -> bool {
        let children = self.children.values().filter_map(Child::deadline);
        let slots = self.slots.values().flat_map(|slot| slot.deadlines());
        children.chain(slots).chain(self.crash_deadlines()).any(|at| at > now)
    }
}

#[cfg(test)]
mod tests {
    use crate::supervisor::scenes::{serving, worker};
    use crate::supervisor::state::Slot;
    use crate::supervisor::world::{BOOT, GRACEFUL, World, plan};
    use crate::supervisor::{Action, Event, MILLISECOND, Order, SECOND, SlotId};

    fn sound_and_waiting(world: &World) -> (bool, bool) {
        (world.supervisor.is_sound(world.now), world.supervisor.waits(world.now))
    }

    #[test]
    fn it_waits_while_it_starts_reloads_and_ends_and_not_in_between() {
        let mut world = World::new(2, 1);
        world.event(Event::Start);
        assert_eq!(sound_and_waiting(&world), (true, true), "migrating");
        world.boot(world.child(0).expect("migrate"));
        assert_eq!(sound_and_waiting(&world), (true, true), "booting");
        world.boot_all();
        assert_eq!(sound_and_waiting(&world), (true, false));
        world.event(Event::Order(Order::Reload));
        assert_eq!(sound_and_waiting(&world), (true, true), "reloading");
        world.refuse();
        assert_eq!(sound_and_waiting(&world), (true, false));
        world.event(Event::Order(Order::Drain));
        assert_eq!(sound_and_waiting(&world), (true, true), "draining");
        world.kills_hang = true;
        world.advance(GRACEFUL + SECOND);
        assert_eq!(sound_and_waiting(&world), (true, false), "it has done what it can");
    }

    #[test]
    fn without_a_worker_it_is_sound_as_long_as_one_is_tried() {
        let mut world = serving(1);
        world.exit(worker(&world, 0), false);
        assert_eq!(sound_and_waiting(&world), (true, false), "back-off");
        world.advance(130 * MILLISECOND);
        assert_eq!(sound_and_waiting(&world), (true, false), "booting");
        world.kills_hang = true;
        world.advance(3 * BOOT);
        assert!(sound_and_waiting(&world).0, "another one is tried");
        let mut lost = world.supervisor.clone();
        lost.children.clear();
        lost.slots.values_mut().for_each(|slot| *slot = Slot { open: true, ..Slot::default() });
        lost.crash_loop = Default::default();
        assert!(!lost.is_sound(world.now), "nobody is there, and nothing will happen");
    }

    #[test]
    fn slots_of_a_master_before_are_served_and_those_beyond_the_plan_retire() {
        let mut world = World::finding(plan(2), (0..4).map(SlotId).collect(), 1);
        world.event(Event::Start);
        world.boot_all();
        assert_eq!(world.serving(), 4, "nobody who waits in their queues is forgotten");
        for _ in 0..20 {
            world.advance(SECOND);
            world.drained_leave();
        }
        let closed = world.log.iter().filter(|action| matches!(action, Action::CloseListener(_)));
        assert_eq!(
            closed.collect::<Vec<_>>(),
            [&Action::CloseListener(SlotId(3)), &Action::CloseListener(SlotId(2))]
        );
        assert_eq!((world.serving(), world.kernel.as_slice()), (2, &[SlotId(0), SlotId(1)][..]));
        assert_eq!(world.breaches, []);
    }
}
