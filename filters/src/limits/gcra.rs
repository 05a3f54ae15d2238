//! The generic cell rate algorithm (ITU-T I.371, annex A.3), exact, with one word of state for each key.
//!
//! The word is the theoretical arrival time (TAT): the time at which the key will have paid for everything that it was
//! admitted. A key whose TAT has passed owes nothing, so its entry can be dropped without changing any later answer.

use std::time::Duration;

/// A rate with its burst. Times are nanoseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    interval_ns: u64,
    capacity_ns: u64,
}

impl Gcra {
    /// `count` per `per`, at most `burst` at once. The interval is rounded up to whole nanoseconds, so that the rate is never
    /// exceeded.
    pub fn new(count: u64, per: Duration, burst: u64) -> Gcra {
        let per_ns = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval_ns = per_ns.div_ceil(count.max(1)).max(1);
        Gcra { interval_ns, capacity_ns: interval_ns.saturating_mul(burst.max(1)) }
    }

    /// The TAT after one more at `now_ns`.
    ///
    /// # Errors
    /// Nanoseconds until one more is admitted, if it is not now.
    pub fn admit(self, tat_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let next = tat_ns.max(now_ns).saturating_add(self.interval_ns);
        match (next - now_ns).checked_sub(self.capacity_ns) {
            None | Some(0) => Ok(next),
            Some(wait) => Err(wait),
        }
    }

    /// Takes back what is not yet paid at `now_ns` of one that was admitted. `now` and `then`, after it was admitted, are each a
    /// TAT and the nanoseconds that were given back before.
    ///
    /// Time that has passed is not given back, and no nanosecond twice, or a burst could be exceeded: what was given back since
    /// has brought the end of its payment forward.
    pub fn refund(self, (tat_ns, given_ns): (u64, u64), then: (u64, u64), now_ns: u64) -> (u64, u64) {
        let end_ns = then.0.saturating_add(then.1).saturating_sub(given_ns);
        let amount = end_ns.saturating_sub(now_ns).min(self.interval_ns).min(tat_ns);
        (tat_ns - amount, given_ns.saturating_add(amount))
    }

    /// The time after which a whole burst is admitted again.
    pub fn time_of_burst(self) -> Duration {
        Duration::from_nanos(self.capacity_ns)
    }

    /// True if it admits whatever `other` admits.
    pub fn admits_all_of(self, other: Gcra) -> bool {
        let bursts = [self, other].map(|gcra| gcra.capacity_ns / gcra.interval_ns);
        self.interval_ns <= other.interval_ns && bursts[0] >= bursts[1]
    }

    /// How many more are admitted at `now_ns`.
    pub fn remaining(self, tat_ns: u64, now_ns: u64) -> u64 {
        self.capacity_ns.saturating_sub(tat_ns.saturating_sub(now_ns)) / self.interval_ns
    }

    /// How many were admitted and are not paid for at `now_ns`.
    pub fn spent(self, tat_ns: u64, now_ns: u64) -> u64 {
        tat_ns.saturating_sub(now_ns).div_ceil(self.interval_ns)
    }

    /// The TAT that leaves a key with as many spent under this rate as `tat_ns` did under another.
    pub fn rescaled(self, before: Gcra, tat_ns: u64, now_ns: u64) -> u64 {
        let owed = u128::from(tat_ns.saturating_sub(now_ns)) * u128::from(self.interval_ns);
        let owed = owed / u128::from(before.interval_ns);
        now_ns.saturating_add(u64::try_from(owed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Admissions at `times_ns` one after the other.
    fn admitted(gcra: Gcra, times_ns: &[u64]) -> Vec<bool> {
        let mut tat = 0;
        let admit = |now: &u64| gcra.admit(tat, *now).map(|next| tat = next).is_ok();
        times_ns.iter().map(admit).collect()
    }

    #[test]
    fn burst_is_admitted_at_once_and_then_one_for_each_interval() {
        let gcra = Gcra::new(10, Duration::from_secs(10), 3);
        let times = [0, 0, 0, 0, SECOND - 1, SECOND, SECOND, 2 * SECOND, 60 * SECOND, 60 * SECOND];
        let expected = [true, true, true, false, false, true, false, true, true, true];
        assert_eq!(admitted(gcra, &times), expected);
    }

    #[test]
    fn refusal_names_the_time_at_which_one_more_is_admitted() {
        let gcra = Gcra::new(1, Duration::from_secs(1), 1);
        let tat = gcra.admit(0, 5).unwrap();
        let wait = gcra.admit(tat, 7).unwrap_err();
        assert!(gcra.admit(tat, 7 + wait - 1).is_err());
        assert!(gcra.admit(tat, 7 + wait).is_ok());
    }

    #[test]
    fn changed_rate_keeps_what_is_spent() {
        let (slow, fast) =
            (Gcra::new(10, Duration::from_secs(100), 10), Gcra::new(20, Duration::from_secs(20), 20));
        let mut tat = 7;
        for _ in 0..4 {
            tat = slow.admit(tat, 7).unwrap();
        }
        assert_eq!((slow.spent(tat, 7), slow.remaining(tat, 7)), (4, 6));
        let tat = fast.rescaled(slow, tat, 7);
        assert_eq!((fast.spent(tat, 7), fast.remaining(tat, 7)), (4, 16));
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_burst_and_rate(
            count in 1u64..50, per_s in 1u64..100, burst in 1u64..50,
            mut times in prop::collection::vec(0u64..200 * SECOND, 1..300),
        ) {
            times.sort_unstable();
            let gcra = Gcra::new(count, Duration::from_secs(per_s), burst);
            let passed: Vec<u64> = times.iter().zip(admitted(gcra, &times)).filter(|(_, ok)| *ok).map(|(at, _)| *at).collect();
            for (from, start) in passed.iter().enumerate() {
                for (to, end) in passed.iter().enumerate().skip(from) {
                    let most = u128::from(burst) + u128::from(end - start) * u128::from(count) / (u128::from(per_s) * u128::from(SECOND));
                    prop_assert!((to - from + 1) as u128 <= most);
                }
            }
        }

        #[test]
        fn refunds_restore_what_remained_at_once_and_never_exceed_a_burst(
            steps in prop::collection::vec((0u64..2 * SECOND, 0usize..4), 1..80),
        ) {
            let gcra = Gcra::new(1, Duration::from_secs(1), 3);
            // A TAT and what was given back; calls that are under way, and those that were sent.
            let (mut state, mut now, mut kept, mut under_way) = ((0, 0), 0, Vec::new(), Vec::new());
            for (pause, choice) in steps {
                now += pause;
                if choice == 0 && !under_way.is_empty() {
                    let (_, then) = under_way.remove(under_way.len() / 2);
                    state = gcra.refund(state, then, now);
                    continue;
                }
                let Ok(next) = gcra.admit(state.0, now) else { continue };
                let before = gcra.remaining(state.0, now);
                let at_once = gcra.refund((next, state.1), (next, state.1), now);
                prop_assert_eq!(gcra.remaining(at_once.0, now), before);
                state.0 = next;
                under_way.push((now, state));
                if choice == 1 {
                    kept.push(under_way.remove(0).0);
                }
            }
            kept.extend(under_way.iter().map(|(at, _)| *at));
            kept.sort_unstable();
            for (from, start) in kept.iter().enumerate() {
                for (to, end) in kept.iter().enumerate().skip(from) {
                    prop_assert!((to - from + 1) as u64 <= 3 + (end - start) / SECOND);
                }
            }
        }
    }
}
