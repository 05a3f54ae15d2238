use super::*;
use portunus_filters::identity::Digest;
use portunus_filters::{Arrival, Clock, Identity, ManualClock};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

fn at(last: u8) -> Owner {
    Owner::at([10, 0, 0, last].into())
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[test]
fn an_owner_is_who_was_verified_or_where_it_is_and_nothing_that_it_says() {
    let named = |identity, source: &str| {
        let source = source.parse().unwrap();
        let at = ManualClock::default().now();
        Arrival { listener: "l".into(), source, identity, request_id: "r".into(), at }.owner()
    };
    let anonymous = |source: &str| named(Identity::Anonymous { source: source.parse().unwrap() }, source);
    let shown = |digest, source: &str| named(Identity::Presented { digest: Digest([digest; 16]) }, source);
    let principal = |name: &str, source: &str| {
        let principal = portunus_filters::identity::Principal::named("t", name);
        named(Identity::Principal(Arc::new(principal)), source)
    };
    assert_eq!(principal("anna", "10.0.0.1"), principal("anna", "10.0.0.2"));
    assert_ne!(principal("anna", "10.0.0.1"), principal("bert", "10.0.0.1"));
    assert_eq!(shown(1, "10.0.0.1"), shown(2, "10.0.0.1"), "what nobody has verified");
    assert_eq!(shown(1, "10.0.0.1"), anonymous("10.0.0.1"));
    assert_ne!(anonymous("10.0.0.1"), anonymous("10.0.0.2"));
    assert_eq!(anonymous("2001:db8:0:1::1"), anonymous("2001:db8:0:1:ffff::2"), "one network of 64 bits");
    assert_ne!(anonymous("2001:db8:0:1::1"), anonymous("2001:db8:0:2::1"));
    assert_eq!(anonymous("::ffff:10.0.0.1"), anonymous("10.0.0.1"));
}

#[test]
fn the_last_quarter_is_for_those_who_hold_little() {
    let shares = Shares::new(8);
    let hog: Vec<_> = (0..9).filter_map(|_| shares.take(at(1), 1)).collect();
    assert_eq!(hog.len(), 6);
    let newcomers = [shares.take(at(2), 1), shares.take(at(3), 1)];
    assert!(newcomers.iter().all(Option::is_some) && shares.held() == 8);
    assert!(shares.take(at(4), 1).is_none() && shares.take(Owner::Nobody, 1).is_none());
    drop(hog);
    assert!(shares.take(at(2), 4).is_some() && shares.take(at(2), 5).is_none());
    drop(newcomers);
    assert_eq!(shares.held(), 0);
}

#[test]
fn who_holds_one_has_its_second_beside_one_who_holds_all_others() {
    let shares = Shares::new(16);
    let hog: Vec<_> = (0..20).filter_map(|_| shares.take(at(1), 1)).collect();
    assert_eq!(hog.len(), 12);
    let modest: Vec<_> = (0..4).filter_map(|_| shares.take(at(2), 1)).collect();
    assert_eq!(modest.len(), 4, "up to an equal share");
    drop(modest);
    let mut grown = shares.take(at(2), 1).unwrap();
    assert!(grown.grow(3) && !grown.grow(1) && grown.amount() == 4);
    assert!(shares.take(at(1), 1).is_none(), "the hog has more than its share");
    drop((grown, hog));
    assert_eq!(shares.held(), 0);
}

#[test]
fn who_is_held_to_no_share_may_have_all() {
    let shares = Shares::new(4);
    let all: Vec<_> = (0..5).filter_map(|_| shares.take(Owner::Nobody, 1)).collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn those_who_wait_are_served_in_turn_by_owner() {
    let shares = Shares::new(1);
    let held = shares.take(at(1), 1).unwrap();
    let mut hog: Vec<_> = (0..3).map(|_| Box::pin(shares.wait(at(1), 1))).collect();
    assert!(hog.iter_mut().all(|one| poll(one.as_mut()).is_none()));
    let mut other = pin!(shares.wait(at(2), 1));
    assert!(poll(other.as_mut()).is_none());
    drop(held);
    let first = poll(hog[0].as_mut()).expect("the first who came");
    assert!(poll(hog[1].as_mut()).is_none());
    drop(first);
    assert!(poll(hog[1].as_mut()).is_none(), "the other owner's turn");
    let second = poll(other.as_mut()).expect("its turn");
    drop(second);
    assert!(poll(hog[1].as_mut()).is_some());
}

#[test]
fn who_stops_waiting_leaves_nothing_behind() {
    let shares = Shares::new(1);
    let held = shares.take(at(1), 1).unwrap();
    let mut left = Box::pin(shares.wait(at(2), 1));
    let mut granted = Box::pin(shares.wait(at(3), 1));
    assert!(poll(left.as_mut()).is_none() && poll(granted.as_mut()).is_none());
    drop(left);
    drop(held);
    assert_eq!(shares.held(), 1, "granted, and not yet looked at");
    drop(granted);
    assert_eq!(shares.held(), 0);
    assert!(shares.take(at(1), 1).is_some() && shares.lock().turns.is_empty());
}

#[test]
fn who_waited_behind_a_larger_amount_is_served_when_that_one_leaves() {
    let shares = Shares::new(10);
    let mut held = shares.take(at(2), 9).unwrap();
    let mut large = Box::pin(shares.wait(at(1), 8));
    let mut small = Box::pin(shares.wait(at(1), 2));
    assert!(poll(large.as_mut()).is_none() && poll(small.as_mut()).is_none());
    held.shrink(5);
    assert!(poll(small.as_mut()).is_none(), "those of one owner are served in the order in which they came");
    drop(large);
    assert!(poll(small.as_mut()).is_some());
}
