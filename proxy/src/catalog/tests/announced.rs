//! Lists of which a change was announced.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_list_is_newer_than_every_change_that_was_announced_before_it_was_wanted() {
    const NAMES: [&[&str]; 4] = [&["w"], &["x"], &["y"], &["z"]];
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["v"], None));
    stage.script.say("b", Says::Tools(&[], None));
    stage.show().await;
    for (turn, names) in NAMES.into_iter().enumerate() {
        // At once: nothing has settled.
        stage.script.say("a", Says::Tools(names, None));
        stage.changed(0);
        assert_eq!(stage.show().await, names, "{turn}");
        assert_eq!(stage.show().await, names, "{turn}");
        assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (turn + 2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_announcing_is_asked_once_in_a_while() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], None));
    stage.script.say("b", Says::Tools(&[], None));
    stage.show().await;
    let begun = tokio::time::Instant::now();
    for _ in 0..9 {
        for _ in 0..100 {
            stage.changed(0);
        }
        stage.show().await;
    }
    assert_eq!(stage.script.asked("a"), 10);
    let coalesce = stage.server.cache.coalesce;
    assert!(begun.elapsed() >= coalesce * 8 && begun.elapsed() < coalesce * 9, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_began_before_a_change_does_not_satisfy_who_was_told_of_it() {
    let stage = Stage::plain();
    stage.script.say("b", Says::Tools(&[], None));
    stage.script.say("a", Says::Tools(&["older"], None));
    stage.show().await;
    stage.script.say("a", Says::Later(&["old"]));
    stage.changed(0);
    let before = stage.show();
    let told = async {
        stage.settle().await;
        stage.script.say("a", Says::Tools(&["new"], None));
        stage.changed(0);
        // Opened only now: the first attempt ends after the change.
        let opened = async { stage.script.gate.send_replace(true) };
        tokio::join!(stage.show(), opened).0
    };
    let (before, told) = tokio::join!(before, told);
    assert_eq!((before.as_slice(), told.as_slice()), (&["old".to_owned()][..], &["new".to_owned()][..]));
    assert_eq!(stage.script.asked("a"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_down_and_announces_a_change_is_asked_at_once() {
    let stage = Stage::plain();
    stage.script.say("b", Says::Tools(&[], None));
    stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
    assert!(stage.show().await.is_empty());
    stage.script.say("a", Says::Tools(&["back"], None));
    assert!(stage.show().await.is_empty(), "it is known to be down");
    stage.changed(0);
    assert_eq!(stage.show().await, ["back"]);
}
