//! Dense numbers for principals.
//!
//! A number indexes tables of limits and counts. It belongs to tenant and subject, whatever they show,
//! and to another principal once this one was not seen for long: the generation tells whose it is.

use portunus_filters::identity::{Digest, Principal, PrincipalIndex};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most principals that have a number at once.
pub const MAX_PRINCIPALS: usize = 100_000;

/// Of tenant and subject, whose text its issuer chose.
type Name = Digest;

/// The numbers that are given out.
pub struct Interner {
    table: Mutex<Table>,
    most: usize,
}

#[derive(Default)]
struct Table {
    numbers: HashMap<Name, u32>,
    slots: Vec<PrincipalSlot>,
    /// Where to look next for one that can be taken.
    hand: usize,
}

struct PrincipalSlot {
    name: Name,
    generation: u32,
    /// Seen again since it was taken, or since the hand last came by.
    seen: bool,
}

impl Interner {
    /// Room for `most` principals, at least one.
    pub fn new(most: usize) -> Interner {
        Interner { table: Mutex::default(), most: most.max(1) }
    }

    /// The number of a principal; a new one takes the place of whom nobody has seen for longest,
    /// roughly, when there is no room.
    pub fn number(&self, principal: &Principal) -> PrincipalIndex {
        let name = principal.holder;
        let mut table = self.lock();
        if let Some(index) = table.numbers.get(&name).copied() {
            let slot = &mut table.slots[index as usize];
            slot.seen = true;
            return PrincipalIndex { index, generation: slot.generation };
        }
        let index = match table.slots.len() < self.most {
            true => {
                table.slots.push(PrincipalSlot { name, generation: 1, seen: false });
                table.slots.len() - 1
            }
            false => table.take_over(name),
        };
        let generation = table.slots[index].generation;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        table.numbers.insert(name, index);
        PrincipalIndex { index, generation }
    }

    /// How many principals have a number.
    pub fn count(&self) -> usize {
        self.lock().slots.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Gives the slot of one that was not seen for a round of the hand to another.
    fn take_over(&mut self, name: Name) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if std::mem::take(&mut slot.seen) {
                continue;
            }
            let before = std::mem::replace(&mut slot.name, name);
            slot.generation = slot.generation.wrapping_add(1).max(1);
            self.numbers.remove(&before);
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(interner: &Interner, subject: &str) -> (u32, u32) {
        let PrincipalIndex { index, generation } = interner.number(&Principal::named("t", subject));
        (index, generation)
    }

    #[test]
    fn a_principal_keeps_its_number_and_shares_it_with_nobody() {
        let interner = Interner::new(3);
        assert_eq!(
            ["a", "b", "a", "c"].map(|name| number(&interner, name)),
            [(0, 1), (1, 1), (0, 1), (2, 1)]
        );
        let other = interner.number(&Principal::named("u", "a"));
        assert!(other.generation == 2 && interner.count() == 3);
    }

    #[test]
    fn a_number_that_is_used_again_has_another_generation() {
        let interner = Interner::new(2);
        let first = [number(&interner, "a"), number(&interner, "b")];
        let newcomer = number(&interner, "c");
        assert!(first.iter().any(|(index, generation)| (*index, generation + 1) == newcomer));
        let everybody: Vec<(u32, u32)> = (0..100).map(|one| number(&interner, &one.to_string())).collect();
        let mut unique = everybody.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((unique.len(), interner.count()), (everybody.len(), 2));
    }

    #[test]
    fn who_is_seen_again_and_again_keeps_its_seat() {
        let interner = Interner::new(3);
        let busy = number(&interner, "busy");
        for one in 0..50 {
            number(&interner, &one.to_string());
            assert_eq!(number(&interner, "busy"), busy, "{one}");
        }
    }
}
