//! A model of the kernel's `SO_REUSEPORT` group: which socket has which index.
//!
//! The kernel numbers members in the order of `listen()`; when one is closed, **the last takes its index**. A steering
//! program names indexes, so a model that is wrong sends clients to a socket that nobody serves.

use super::event::SlotId;

/// Members in kernel order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupOrder(Vec<SlotId>);

impl GroupOrder {
    /// A socket began to listen.
    pub fn opened(&mut self, slot: SlotId) {
        self.0.push(slot);
    }

    /// A socket's last copy was closed.
    pub fn closed(&mut self, slot: SlotId) {
        if let Some(index) = self.index(slot) {
            self.0.swap_remove(index);
        }
    }

    /// All indexes but these members'.
    pub fn without(&self, slots: &[SlotId]) -> Vec<u32> {
        (0u32..).zip(&self.0).filter(|(_, member)| !slots.contains(member)).map(|(index, _)| index).collect()
    }

    /// Indexes that mean the same member before and after `slot` is closed, and not `slot`. Empty when there is none;
    /// then an index that is out of range after the closing makes the kernel hash over what is left.
    pub fn stable_without(&self, slot: SlotId) -> Vec<u32> {
        let last = self.0.len().saturating_sub(1) as u32;
        self.without(&[slot]).into_iter().filter(|index| *index < last).collect()
    }

    fn index(&self, slot: SlotId) -> Option<usize> {
        self.0.iter().position(|member| *member == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(slots: &[u32]) -> GroupOrder {
        GroupOrder(slots.iter().copied().map(SlotId).collect())
    }

    #[test]
    fn closing_moves_the_last_member_into_the_gap() {
        let mut order = group(&[0, 1, 2, 3]);
        order.closed(SlotId(1));
        assert_eq!(order, group(&[0, 3, 2]));
        order.closed(SlotId(2));
        assert_eq!(order, group(&[0, 3]));
        order.opened(SlotId(1));
        assert_eq!(order, group(&[0, 3, 1]));
    }

    #[test]
    fn steering_around_a_closing_uses_indexes_that_do_not_change_their_meaning() {
        let mut order = group(&[0, 3, 1, 2]);
        assert_eq!(order.without(&[SlotId(3)]), [0, 2, 3]);
        let stable = order.stable_without(SlotId(3));
        let before: Vec<_> = stable.iter().map(|index| order.0[*index as usize]).collect();
        order.closed(SlotId(3));
        let after: Vec<_> = stable.iter().map(|index| order.0[*index as usize]).collect();
        assert_eq!((before.as_slice(), after.as_slice()), (&[SlotId(0), SlotId(1)][..], &before[..]));
        assert_eq!(group(&[3, 0]).stable_without(SlotId(3)), [] as [u32; 0]);
    }
}
