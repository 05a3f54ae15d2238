use super::*;
use crate::testing::within;

const RULES: ReplayRules = ReplayRules { events: 4, bytes: 100 };
const REQUEST: &str = "7";

fn replay() -> Arc<Replay> {
    Replay::new(RULES, 0x2a, Arc::default())
}

fn request() -> Id {
    Id::of(REQUEST).unwrap()
}

fn call(replay: &Arc<Replay>) -> (Pen, Tail) {
    replay.call(Some(&request()))
}

/// What a tail has at once.
async fn heard(tail: &mut Tail) -> Vec<Event> {
    let mut heard = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, tail.next()).await {
        heard.push(event);
    }
    heard
}

fn messages(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.message.text()).collect()
}

/// Writes with nobody there who would have to take it.
async fn write(pen: &Pen, texts: &[&str]) {
    for text in texts {
        pen.write(&Released::own(text.to_string())).await;
    }
}

async fn answer(pen: Pen, text: &str) {
    pen.answer(&Released::own(text.to_owned()), |request| {
        Released::own(format!("instead of {}", request.as_json()))
    })
    .await;
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed_once_and_in_order() {
    let replay = replay();
    let (pen, mut tail) = call(&replay);
    pen.write(&Released::own("a")).await;
    let first = heard(&mut tail).await;
    assert_eq!(messages(&first), ["a"]);
    drop(tail);
    write(&pen, &["b"]).await;
    let mut tail = replay.resume(&first[0].id).unwrap();
    assert!(!tail.missed);
    let rest = async {
        pen.write(&Released::own("c")).await;
        answer(pen, "answer").await;
    };
    let listen = async {
        let mut all = Vec::new();
        while let Some(event) = tail.next().await {
            all.push(event);
        }
        all
    };
    let ((), all) = tokio::join!(rest, listen);
    assert_eq!(messages(&all), ["b", "c", "answer"]);
    let ids: std::collections::HashSet<_> = first.iter().chain(&all).map(|event| &event.id).collect();
    assert_eq!(ids.len(), 4);
    let mut again = replay.resume(&all[0].id).unwrap();
    assert_eq!(messages(&heard(&mut again).await), ["c", "answer"], "as often as it wants");
    assert_eq!(again.next().await.map(|event| event.message), None, "the stream is over");
    assert_eq!(replay.resume(&all[2].id).err(), Some(Lost::Nothing), "nothing follows an answer");
}

#[tokio::test]
async fn the_start_of_a_stream_can_be_come_back_to() {
    let replay = replay();
    let (pen, tail) = call(&replay);
    let start = tail.start.clone();
    drop(tail);
    let tail = replay.resume(&start).unwrap();
    assert_ne!(tail.start, start, "no two events have the same id");
    drop(tail);
    answer(pen, "answer").await;
    assert_eq!(messages(&heard(&mut replay.resume(&start).unwrap()).await), ["answer"]);
}

#[tokio::test]
async fn a_tail_takes_the_place_of_the_former() {
    let replay = replay();
    let (pen, mut former) = call(&replay);
    let mut tail = replay.resume(&former.start).unwrap();
    assert!(former.next().await.is_none());
    drop(former);
    write(&pen, &["a"]).await;
    assert_eq!(messages(&heard(&mut tail).await), ["a"], "what the former leaves is not its place");
}

#[tokio::test]
async fn streams_are_not_mixed_up() {
    let replay = replay();
    let (one, tail) = call(&replay);
    let (other, _) = call(&replay);
    let own = replay.own_pen().unwrap();
    let start = tail.start.clone();
    drop(tail);
    write(&own, &["own"]).await;
    write(&other, &["other"]).await;
    write(&one, &["one"]).await;
    assert_eq!(messages(&heard(&mut replay.resume(&start).unwrap()).await), ["one"]);
}

#[tokio::test]
async fn the_oldest_make_room_by_number_and_by_bytes() {
    let all = Arc::new(AtomicUsize::new(0));
    let replay = Replay::new(RULES, 1, Arc::clone(&all));
    let (pen, tail) = call(&replay);
    let start = tail.start.clone();
    drop(tail);
    write(&pen, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(all.load(Ordering::Relaxed), RULES.events);
    let mut tail = replay.resume(&start).unwrap();
    assert!(tail.missed);
    assert_eq!(messages(&heard(&mut tail).await), ["b", "c", "d", "e"]);
    drop(tail);
    let long = "x".repeat(98);
    write(&pen, &[&long]).await;
    let mut tail = replay.resume(&start).unwrap();
    assert_eq!(messages(&heard(&mut tail).await), ["d", "e", &long]);
    drop((tail, pen, replay));
    assert_eq!(all.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_that_is_too_long_goes_out_and_is_kept_as_what_says_so() {
    let replay = replay();
    let (pen, mut tail) = call(&replay);
    let start = tail.start.clone();
    let long = "x".repeat(RULES.bytes + 1);
    let (event, ()) = tokio::join!(tail.next(), answer(pen, &long));
    assert_eq!(event.map(|event| event.message), Some(Released::own(long)));
    let kept = heard(&mut replay.resume(&start).unwrap()).await;
    assert_eq!(messages(&kept), ["instead of 7"]);
    assert!(kept[0].last);
}

#[tokio::test]
async fn a_call_that_ends_without_an_answer_is_forgotten() {
    let replay = replay();
    let (pen, tail) = call(&replay);
    let start = tail.start.clone();
    drop(tail);
    write(&pen, &["a"]).await;
    drop(pen);
    assert!(matches!(replay.resume(&start).err(), Some(Lost::Answer(id, _)) if id == request()));
    let pages = replay.pages();
    assert_eq!((pages.kept.len(), pages.bytes, pages.streams.len()), (0, 0, 1));
}

#[tokio::test]
async fn a_call_whose_events_made_room_is_forgotten() {
    let replay = replay();
    let (pen, tail) = call(&replay);
    let start = tail.start.clone();
    drop(tail);
    answer(pen, "answer").await;
    let own = replay.own_pen().unwrap();
    write(&own, &["a", "b", "c"]).await;
    assert!(replay.resume(&start).is_ok());
    write(&own, &["d"]).await;
    let Some(Lost::Answer(_, id)) = replay.resume(&start).err() else { panic!("it was kept") };
    assert_eq!(replay.resume(&id).err(), Some(Lost::Nothing), "it is told once");
    assert_eq!(replay.pages().streams.len(), 1);
}

#[tokio::test]
async fn ids_of_another_session_are_unknown() {
    let (replay, other) = (replay(), Replay::new(RULES, 0x2b, Arc::default()));
    let ((_pen, tail), (_other_pen, other_tail)) = (call(&replay), call(&other));
    drop(tail);
    assert!(matches!(replay.resume(&other_tail.start).err(), Some(Lost::Answer(..))));
    assert_eq!(replay.resume("17").err(), Some(Lost::Nothing));
    let (pen, other_pen) = (replay.own_pen().unwrap(), other.own_pen().unwrap());
    let start = other.own().start.clone();
    write(&pen, &["secret"]).await;
    write(&other_pen, &["a"]).await;
    let mut tail = replay.resume(&start).unwrap();
    assert!(tail.missed, "what its client missed is not known");
    assert!(heard(&mut tail).await.is_empty());
    let (future, end) = (start.replace("2b.0.0-", "2a.0.9-"), "0000002a.1.9.7");
    assert!(replay.resume(&future).unwrap().missed, "not written yet");
    assert!(replay.resume(end).is_err(), "not written yet");
}

#[tokio::test]
async fn the_own_stream_has_one_pen_and_outlives_it() {
    let replay = replay();
    let pen = replay.own_pen().unwrap();
    assert!(replay.own_pen().is_none());
    assert!(replay.is_deserted());
    let mut tail = replay.own();
    assert!(!replay.is_deserted());
    pen.write(&Released::own("a")).await;
    let seen = heard(&mut tail).await[0].id.clone();
    drop(pen);
    assert!(tail.next().await.is_none() && !replay.is_deserted(), "nothing is kept");
    let mut tail = replay.resume(&seen).unwrap();
    let pen = replay.own_pen().unwrap();
    pen.write(&Released::own("b")).await;
    assert_eq!(messages(&heard(&mut tail).await), ["b"]);
    drop(tail);
    assert!(replay.is_deserted());
}

#[tokio::test(start_paused = true)]
async fn a_pen_is_deserted_when_nobody_has_listened_for_long_enough() {
    let replay = replay();
    let (pen, tail) = call(&replay);
    let (short, patience) = (Duration::from_secs(9), Duration::from_secs(10));
    let within = async |time| tokio::time::timeout(time, pen.deserted(patience)).await.is_ok();
    assert!(!within(Duration::from_secs(60)).await, "somebody listens");
    let start = tail.start.clone();
    drop(tail);
    assert!(!within(short).await);
    // Asking anew does not begin anew, but coming back does.
    assert!(within(Duration::from_millis(1001)).await);
    let tail = replay.resume(&start).unwrap();
    assert!(!within(Duration::from_secs(60)).await);
    let (deserted, ()) = tokio::join!(within(short + patience), async {
        tokio::time::sleep(short).await;
        drop(tail);
    });
    assert!(deserted, "told while it waits");
}

#[tokio::test]
async fn who_comes_back_is_not_made_to_wait_for_a_connection_that_takes_nothing() {
    let replay = replay();
    let (pen, former) = call(&replay);
    write(&pen, &["a"]).await;
    let stuck = tokio::spawn(async move {
        pen.write(&Released::own("b")).await;
        pen
    });
    tokio::task::yield_now().await;
    assert!(!stuck.is_finished(), "one event is on its way at a time");
    let mut back = replay.resume(&former.start).unwrap();
    let pen = within("the pen", stuck).await.unwrap();
    let texts = [back.next().await.unwrap().message, back.next().await.unwrap().message];
    assert_eq!(texts.map(|message| message.text().to_owned()), ["a", "b"]);
    drop(pen);
}

#[tokio::test]
async fn of_two_who_come_back_to_one_stream_the_former_hears_no_more() {
    let replay = replay();
    let (pen, first) = call(&replay);
    let start = first.start.clone();
    drop(first);
    write(&pen, &["a", "b", "c"]).await;
    let mut one = replay.resume(&start).unwrap();
    assert_eq!(one.next().await.unwrap().message.text(), "a");
    let mut other = replay.resume(&start).unwrap();
    assert!(within("its end", one.next()).await.is_none());
    for _ in 0..200 {
        other = replay.resume(&start).unwrap();
    }
    assert_eq!(other.next().await.unwrap().message.text(), "a");
    assert_eq!(replay.pages().streams.len(), 2, "coming back leaves nothing behind");
    drop(one);
    assert!(replay.pages().streams[&1].tail.is_some(), "that of the last stays");
    drop(other);
    assert!(replay.pages().streams[&1].is_left());
    drop(pen);
    assert!(!replay.pages().streams.contains_key(&1));
}

#[tokio::test]
async fn only_so_many_calls_go_on_without_their_client() {
    let replay = replay();
    let calls: Vec<_> = (0..4).map(|_| call(&replay)).collect();
    let starts: Vec<String> = calls.iter().map(|(_, tail)| tail.start.clone()).collect();
    let mut pens: Vec<_> = calls.into_iter().map(|(pen, _)| pen).collect();
    let superfluous = |stream| replay.superfluous(stream, 2).is_some();
    // All have left before the first is looked at.
    let first: Vec<bool> = (1..=4).map(superfluous).collect();
    assert_eq!(first, [false, false, true, true]);
    assert!(!superfluous(1), "one that goes on is looked at again");
    let back = replay.resume(&starts[0]).unwrap();
    assert!(!superfluous(1) && !superfluous(3) && superfluous(4), "somebody listens to the first");
    drop(back);
    assert!(superfluous(1), "its place was given away");
    drop(pens.remove(1));
    assert!(!superfluous(1) && !superfluous(OWN) && !superfluous(99));
}

#[tokio::test]
async fn numbers_that_no_event_has_lead_nowhere() {
    let replay = replay();
    let (pen, tail) = call(&replay);
    write(&pen, &["a"]).await;
    let max = u64::MAX;
    for place in [format!("1.{max}"), format!("1.{max}-{max}"), format!("{max}.1"), format!("{max}.{max}")] {
        let shown = format!("{:08x}.{place}", replay.table);
        assert!(matches!(replay.resume(&shown), Err(Lost::Nothing)), "{shown}");
    }
    let own = replay.resume(&format!("{:08x}.0.{max}", replay.table)).unwrap();
    assert!(own.missed && own.is_own());
    let endless = format!("{:08x}.1.{}", replay.table, "9".repeat(10_000));
    assert!(matches!(replay.resume(&endless), Err(Lost::Nothing)));
    drop((pen, tail));
}
