//! Configurations that change while calls are under way: each call is found, judged and sent under one revision, and
//! answered under it or under the one in force.

mod world;

use super::*;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use world::World;

/// The first word of a revision, which is shown as `LABEL (DIGEST)`.
fn label(revision: &Value) -> Option<&str> {
    revision.as_str()?.split(' ').next()
}

/// Reads until the call has said that it is under way.
async fn begun(stream: &mut TcpStream) -> String {
    let mut said = String::new();
    let begun = async {
        while !said.contains("notifications/progress") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "{said}");
            said.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    within("the progress of a call", begun).await;
    said
}

/// The rest of an answer, and the result in it.
async fn result(mut said: String, stream: &mut TcpStream) -> Value {
    within("the answer", stream.read_to_string(&mut said)).await.unwrap();
    let messages = said.lines().filter_map(|line| line.strip_prefix("data: "));
    let messages = messages.map(|text| serde_json::from_str::<Value>(text).unwrap());
    let answers: Vec<Value> = messages.filter(|message| message["id"] == 7).collect();
    assert_eq!(answers.len(), 1, "{said}");
    assert!(answers[0]["result"].is_object(), "{said}");
    answers[0]["result"].clone()
}

/// The revision that a call was sent, judged and inspected under, of which there is one.
fn revision_of(result: &Value) -> String {
    let said = &result["structuredContent"];
    assert_eq!((&said["sent"], &said["judged"]), (&said["sent"], &said["sent"]), "{result}");
    assert_eq!(result["content"][0]["text"], said["sent"], "{result}");
    said["sent"].as_str().unwrap().to_owned()
}

/// Has calls served with a swap before or after each of their polls; the revisions of each, and the one in force before.
async fn swapped_at_each_poll(
    world: &World,
    client: &str,
    is_after: bool,
) -> HashMap<String, (String, usize)> {
    let mut revisions = HashMap::new();
    world.plan.is_after.store(is_after, Ordering::SeqCst);
    for at in 1.. {
        world.next_revision(true)();
        let id = format!("{is_after}-{at}");
        let call = world.call(client, &id, json!({"rev": "JUDGED"})).await;
        let before = world.revision.load(Ordering::SeqCst);
        *world.plan.swap.lock().unwrap() = Some(Box::new(world.next_revision(true)));
        world.plan.at.store(at, Ordering::SeqCst);
        let mut stream = world.send(call).await;
        let said = begun(&mut stream).await;
        world.go.add_permits(1);
        let revision = revision_of(&result(said, &mut stream).await);
        revisions.insert(id, (revision, before));
        if world.plan.swap.lock().unwrap().take().is_some() {
            return revisions;
        }
    }
    unreachable!("a call ends")
}

#[tokio::test]
async fn call_is_of_one_revision_wherever_a_swap_comes() {
    for (client, server) in
        [("modern", "modern"), ("legacy", "legacy"), ("modern", "legacy"), ("legacy", "modern")]
    {
        let world = World::start(server, &format!("swaps-{client}")).await;
        let mut revisions = swapped_at_each_poll(&world, client, false).await;
        revisions.extend(swapped_at_each_poll(&world, client, true).await);
        let alive = world.plan.most_alive.load(Ordering::SeqCst);
        assert!(alive <= 2, "{client} at {server}: {alive} snapshots were alive");
        let by_former = |(revision, before): &&(String, usize)| *revision == format!("r{before}");
        let former = revisions.values().filter(by_former).count();
        assert!(former > 4 && revisions.len() - former > 2, "{client} at {server}: {revisions:?}");
        let records = world.records();
        for (id, (revision, before)) in revisions {
            let record = &records[&id];
            assert_eq!(label(&record["bundle_revision"]), Some(&*revision), "{client} at {server}: {record}");
            assert!(record.get("revision_answered").is_none(), "{client} at {server}: {record}");
            assert!([before, before + 1].map(|one| format!("r{one}")).contains(&revision), "{record}");
        }
    }
}

/// Does something once another condition holds, without a clock.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    within(what, reached).await;
}

#[tokio::test]
async fn call_is_answered_by_its_own_revision_until_the_second_swap() {
    for (client, server) in
        [("modern", "modern"), ("legacy", "legacy"), ("modern", "legacy"), ("legacy", "modern")]
    {
        let world = World::start(server, &format!("answers-{client}")).await;
        for swaps in 0..=3 {
            world.next_revision(true)();
            let id = format!("{swaps}-swaps");
            let call = world.call(client, &id, json!({"rev": "JUDGED"})).await;
            let own = world.revision.load(Ordering::SeqCst);
            world.plan.at.store(usize::MAX, Ordering::SeqCst);
            let mut stream = world.send(call).await;
            let said = begun(&mut stream).await;
            for _ in 0..swaps {
                world.next_revision(true)();
            }
            until("two snapshots", || world.alive() == 2).await;
            world.go.add_permits(1);
            assert_eq!(revision_of(&result(said, &mut stream).await), format!("r{own}"));
        }
        let records = world.records();
        for swaps in 0..=3 {
            let record = &records[&format!("{swaps}-swaps")];
            let judged = label(&record["bundle_revision"]).unwrap();
            let number: usize = judged[1..].parse().unwrap();
            let in_force = format!("r{}", number + swaps);
            let expected = (swaps > 1).then_some(&*in_force);
            assert_eq!(label(&record["revision_answered"]), expected, "{client} at {server}: {record}");
        }
    }
}

/// The result of a call whose server asks something after some swaps, or what its client is asked.
async fn asked_after(world: &World, (client, swaps): (&str, usize), allowed: bool) -> Value {
    world.next_revision(allowed)();
    let call =
        world.call(client, &format!("{swaps}-{allowed}"), json!({"rev": "JUDGED", "asks": true})).await;
    world.plan.at.store(usize::MAX, Ordering::SeqCst);
    let mut stream = world.send(call).await;
    let said = begun(&mut stream).await;
    for _ in 0..swaps {
        world.next_revision(!allowed)();
    }
    until("two snapshots", || world.alive() == 2).await;
    world.go.add_permits(1);
    result(said, &mut stream).await
}

#[tokio::test]
async fn question_of_a_call_is_judged_by_its_revision_until_the_second_swap() {
    for (swaps, allowed) in [(1, true), (1, false), (2, true), (2, false)] {
        let world = World::start("legacy", "questions").await;
        let result = asked_after(&world, ("modern", swaps), allowed).await;
        let is_asked = result["resultType"] == "input_required";
        assert_eq!(is_asked, if swaps == 1 { allowed } else { !allowed }, "{swaps} {allowed}: {result}");
        world.records();
    }
}

#[tokio::test]
async fn long_calls_under_many_swaps_hold_no_snapshot_and_are_all_answered() {
    const CALLS: usize = 1_000;
    const SWAPS: usize = 150;
    let world = World::start("modern", "long").await;
    let mut streams = Vec::new();
    for number in 0..CALLS {
        let call = world.call("modern", &format!("c-{number}"), json!({"rev": "JUDGED"})).await;
        world.plan.at.store(usize::MAX, Ordering::SeqCst);
        let mut stream = world.send(call).await;
        let said = begun(&mut stream).await;
        streams.push((said, stream));
    }
    for _ in 0..SWAPS {
        world.next_revision(true)();
        world.stand.bed.clock.advance(Duration::from_secs(4));
        until("two snapshots", || world.alive() <= 2).await;
    }
    world.go.add_permits(CALLS);
    for (said, mut stream) in streams {
        assert_eq!(revision_of(&result(said, &mut stream).await), "r0");
    }
    assert!(world.alive() <= 2);
    let records = world.records();
    assert_eq!(records.len(), CALLS);
    let (own, in_force) = (Some("r0"), format!("r{SWAPS}"));
    for record in records.values() {
        let labels = (label(&record["bundle_revision"]), label(&record["revision_answered"]));
        assert_eq!(labels, (own, Some(&*in_force)), "{record}");
    }
}

#[tokio::test]
async fn connection_to_an_upstream_is_kept_until_no_configuration_in_force_has_it() {
    let world = World::start("modern", "connections").await;
    let gateway = &world.stand.bed.gateway;
    let active = gateway.active();
    let pool = active.pool(&active.snapshot.upstreams[0]).unwrap();
    drop(active);
    let mut streams = Vec::new();
    for id in ["first", "second"] {
        let call = world.call("modern", id, json!({"rev": "JUDGED"})).await;
        world.plan.at.store(usize::MAX, Ordering::SeqCst);
        let mut stream = world.send(call).await;
        streams.push((begun(&mut stream).await, stream));
    }
    world.go.add_permits(1);
    let (said, mut stream) = streams.remove(0);
    result(said, &mut stream).await;
    until("an idle connection", || pool.idle_count() > 0).await;
    world.next_revision(true)();
    assert_eq!((pool.idle_count(), pool.active_count()), (0, 1));
    world.go.add_permits(1);
    let (said, mut stream) = streams.remove(0);
    result(said, &mut stream).await;
    until("the end of the call", || pool.active_count() == 0).await;
    assert_eq!(pool.idle_count(), 0);
    assert_eq!(world.alive(), 2, "the pool is the former snapshot's");
    world.records();
}
