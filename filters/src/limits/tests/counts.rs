//! Counts beyond one configuration or one process, and tables that are full.

use super::*;

#[test]
fn counts_survive_a_swap_and_a_changed_rate_keeps_what_is_spent() {
    let mut bed = Bed::new(&[per_principal(rate(10, 100))]);
    let ann = Sent::by("ann");
    assert_eq!(bed.sent(&ann, 6), 6);
    bed.swap(&[rule("other", &[KeyPart::Tool], rate(100, 1)), per_principal(rate(10, 100))]);
    assert_eq!(bed.sent(&ann, 2), 2);
    bed.swap(&[per_principal(rate(20, 20))]);
    assert_eq!(bed.sent(&ann, 50), 12, "eight of twenty were spent");
    bed.swap(&[rule("per_principal", &[KeyPart::Tenant], rate(20, 20))]);
    assert_eq!(bed.sent(&ann, 50), 20, "something else is counted under the name");
    bed.swap(&[]);
    assert_eq!(bed.sent(&ann, 50), 50);
    bed.swap(&[rule("per_principal", &[KeyPart::Tenant], rate(20, 20))]);
    assert_eq!(bed.sent(&ann, 50), 20, "a rule that was away begins anew");
}

#[test]
fn permits_that_are_held_over_a_swap_are_counted_and_freed() {
    let concurrent = || rule("concurrent", &[KeyPart::Principal], Meter::Concurrency { most: 2 });
    let mut bed = Bed::new(&[concurrent()]);
    let ann = Sent::by("ann");
    let held = bed.admit(&ann).unwrap();
    bed.swap(&[concurrent()]);
    let other = bed.admit(&ann).unwrap();
    assert!(bed.admit(&ann).is_err());
    drop(held);
    let third = bed.admit(&ann).unwrap();
    assert!(bed.admit(&ann).is_err());
    drop((other, third));
    assert_eq!(bed.limits.rules()[0].counters.keys(), 0);
}

#[test]
fn strangers_fill_a_table_of_their_own_and_share_one_count_beyond_it() {
    let bed = Bed::with_room(&[per_principal(rate(2, 3_600))], 64 * 64);
    let address = |number: u32| Sent::from_address(std::net::Ipv4Addr::from(number));
    let admitted = (0..20_000).filter(|number| bed.sends(&address(*number))).count();
    let active = &bed.limits.rules()[0];
    let kept = active.counters.keys();
    assert!(kept <= 64 * 64 / 16, "{kept}");
    assert_eq!(admitted, kept + 2, "all others have one count");
    assert_eq!(active.counters.take_overflowed(), 20_000 - kept as u64);
    for subject in 0..1_000 {
        assert_eq!(bed.sent(&Sent::by(&subject.to_string()), 3), 2, "a caller with a name is not touched");
    }
    bed.clock.advance(3_600 * SECOND);
    assert_eq!(bed.sent(&address(50_000), 3), 2, "keys that owe nothing make room");
}

#[test]
fn full_table_makes_room_for_keys_of_calls_that_several_rules_count() {
    let rules =
        [per_principal(rate(2, 60)), rule("per_tool", &[KeyPart::Principal, KeyPart::Tool], rate(2, 60))];
    let bed = Bed::with_room(&rules, 64);
    for subject in 0..1_000 {
        bed.sends(&Sent::by(&subject.to_string()));
    }
    assert!(!bed.sends(&Sent::by("late")), "all share a count that is used up");
    bed.clock.advance(60 * SECOND);
    let again = (1_000..1_030).filter(|subject| bed.sends(&Sent::by(&subject.to_string()))).count();
    assert!(again > 20, "{again}: keys that owe nothing have made room");
}

#[test]
fn table_takes_another_size_with_all_that_is_counted() {
    let rules = [
        per_principal(rate(2, 60)),
        rule("concurrent", &[KeyPart::Principal], Meter::Concurrency { most: 1 }),
    ];
    let mut bed = Bed::new(&rules);
    let (ann, bob) = (Sent::by("ann"), Sent::by("bob"));
    assert_eq!(bed.sent(&ann, 5), 2);
    let held = bed.admit(&bob).unwrap();
    bed.limits = Limits::new(&rules, 64_000, &bed.counters, Arc::<ManualClock>::clone(&bed.clock));
    assert_eq!((bed.sent(&ann, 5), bed.sent(&bob, 5)), (0, 0));
    drop(held);
    assert_eq!(bed.sent(&bob, 5), 2, "the call that was not sent was given back");
}

#[test]
fn call_that_was_not_sent_gives_nothing_back_to_a_rate_that_has_changed() {
    let mut bed = Bed::new(&[per_principal(rate(10, 100))]);
    let ann = Sent::by("ann");
    let unsent = bed.admit(&ann).unwrap();
    bed.swap(&[per_principal(rate(100, 1))]);
    assert_eq!(bed.sent(&ann, 200), 99);
    drop(unsent);
    assert_eq!(bed.sent(&ann, 200), 0);
}

#[test]
fn counts_of_quotas_and_budgets_survive_the_process_and_others_do_not() {
    let quota = |most| per_principal(Meter::Quota { most, period: Period::Day, zone: Tz::UTC });
    let other = || rule("rate", &[KeyPart::Principal], rate(5, 3_600));
    let bed = Bed::new(&[quota(5), other()]);
    assert_eq!(bed.sent(&Sent::by("ann"), 3), 3);
    assert_eq!(bed.sent(&Sent::from_address([192, 0, 2, 7]), 2), 2);
    let bytes = bed.counters.to_bytes(bed.clock.now().into());
    let later = |rules: &[Rule], digest_key: [u64; 2]| {
        let mut later = Bed::new(&[]);
        later.counters = Counters::new(digest_key);
        later.swap(rules);
        later
    };
    let restored = later(&[quota(6)], [1, 2]);
    restored.counters.take_back(&bytes, restored.clock.now().into()).unwrap();
    assert_eq!(restored.sent(&Sent::by("ann"), 9), 3, "three of six were spent");
    assert_eq!(restored.sent(&Sent::from_address([192, 0, 2, 7]), 9), 4);
    let rates = later(&[other()], [1, 2]);
    rates.counters.take_back(&bytes, rates.clock.now().into()).unwrap();
    assert_eq!(rates.sent(&Sent::by("ann"), 9), 5, "a rate begins anew");
    let elsewhere = later(&[quota(6)], [3, 4]);
    elsewhere.counters.take_back(&bytes, elsewhere.clock.now().into()).unwrap();
    assert_eq!(elsewhere.sent(&Sent::by("ann"), 9), 6, "digests under another key are nobody's");
    let monthly = per_principal(Meter::Quota { most: 6, period: Period::Month, zone: Tz::UTC });
    let another = later(&[monthly], [1, 2]);
    another.counters.take_back(&bytes, another.clock.now().into()).unwrap();
    assert_eq!(another.sent(&Sent::by("ann"), 9), 6, "another window counts anew");
    let tomorrow = later(&[quota(6)], [1, 2]);
    tomorrow.clock.advance(86_400 * SECOND);
    tomorrow.counters.take_back(&bytes, tomorrow.clock.now().into()).unwrap();
    assert_eq!(tomorrow.limits.rules()[0].counters.keys(), 0);
    for cut in 0..bytes.len() {
        let broken = later(&[quota(6)], [1, 2]);
        let taken = broken.counters.take_back(&bytes[..cut], broken.clock.now().into());
        assert!(taken.is_err() || cut == 16, "{cut}");
    }
}

#[test]
fn sweeping_gives_memory_back() {
    let bed = Bed::new(&[per_principal(rate(1, 60))]);
    (0..10_000).for_each(|subject| assert!(bed.sends(&Sent::by(&subject.to_string()))));
    bed.counters.sweep(bed.clock.now().into());
    assert_eq!(bed.limits.rules()[0].counters.keys(), 10_000);
    bed.clock.advance(60 * SECOND);
    bed.counters.sweep(bed.clock.now().into());
    assert_eq!(bed.limits.rules()[0].counters.keys(), 0);
}

#[test]
fn call_that_waits_for_its_client_holds_no_permit_and_goes_on_without_room() {
    let bed = Bed::new(&[rule("concurrent", &[KeyPart::Principal], Meter::Concurrency { most: 1 })]);
    let ann = Sent::by("ann");
    let first = bed.admit(&ann).unwrap().unwrap();
    first.commit();
    assert!(bed.admit(&ann).is_err());
    first.suspend();
    first.suspend();
    let second = bed.admit(&ann).unwrap().unwrap();
    assert!(bed.admit(&ann).is_err());
    first.resume();
    drop(second);
    assert!(bed.admit(&ann).is_err(), "the one that goes on is under way again");
    first.suspend();
    drop(first);
    assert_eq!(bed.limits.rules()[0].counters.keys(), 0, "what was free is not freed again");
    assert!(bed.sends(&ann));
}
