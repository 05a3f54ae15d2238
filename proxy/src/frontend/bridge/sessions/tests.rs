use super::*;
use crate::testing::{responses, within};
use portunus_config::{MapEnvironment, load_text};
use std::path::Path;

fn session() -> Arc<Session> {
    let profile = Arc::new(Profile::silent("client", "1"));
    Arc::new(Session::new([7; 16], ServerId("*|/mcp".into()), Revision::V2025_11_25, profile, true))
}

fn upstream() -> Arc<Upstream> {
    let text =
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: http://127.0.0.1:9/mcp\nservers:\n  /mcp: up\n";
    let loaded = load_text(text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap();
    Arc::clone(&loaded.snapshot.upstreams[0])
}

fn home() -> Home {
    Home::new("here".into(), 1).unwrap()
}

fn asked(session: &Session) -> (Option<Id>, mpsc::Receiver<(String, Arc<str>, Reply)>) {
    let (answers, answered) = mpsc::channel(1);
    let id = session.ask(&home(), Waiting::Call { upstream: upstream(), key: "k".into(), answers });
    (id.map(|id| Id::of(&id).unwrap()), answered)
}

#[test]
fn calls_of_a_session_are_told_apart_and_bounded() {
    let session = session();
    let first = session.run(&Id::from(0)).unwrap();
    assert!(session.run(&Id::from(0)).is_none(), "under way");
    let text = session.run(&Id::of("\"0\"").unwrap());
    assert!(text.is_some(), "a text is another id than a number");
    let more: Vec<_> = (1..).map_while(|id| session.run(&Id::from(id))).collect();
    assert_eq!(more.len(), MAX_CALLS - 2);
    drop(first);
    assert!(session.run(&Id::from(0)).is_some(), "over");
}

#[tokio::test]
async fn a_call_is_cancelled_by_its_own_id_and_by_the_end_of_its_session() {
    let session = session();
    let (one, two) = (session.run(&Id::from(1)).unwrap(), session.run(&Id::from(2)).unwrap());
    assert!(session.cancel(&Id::from(1)) && !session.cancel(&Id::from(3)));
    within("its call", one.call().cancelled()).await;
    let other = tokio::time::timeout(std::time::Duration::ZERO, two.call().cancelled());
    assert!(other.await.is_err(), "it was not meant");
    session.end();
    within("the other", two.call().cancelled()).await;
    assert!(session.is_over());
}

#[test]
fn a_question_is_answered_once_and_only_while_its_call_lives() {
    let session = session();
    let (first, second) = (asked(&session).0.unwrap(), asked(&session).0.unwrap());
    assert!(matches!(session.answered(&first), Some(Waiting::Call { .. })));
    assert!(session.answered(&first).is_none(), "twice");
    session.forget(&[second.meaning().to_owned()]);
    assert!(session.answered(&second).is_none(), "too late");
    let third = asked(&session).0.unwrap();
    assert_ne!(first, third);
    session.end();
    assert!(session.answered(&third).is_none(), "after its session");
}

#[test]
fn questions_that_wait_are_bounded() {
    let session = session();
    let waiting: Vec<_> = std::iter::from_fn(|| asked(&session).0).collect();
    assert_eq!(waiting.len(), MAX_QUESTIONS);
    session.answered(&waiting[0]);
    assert!(asked(&session).0.is_some());
}

#[test]
fn subscriptions_are_bounded_and_know_what_is_new() {
    let session = session();
    let up: Arc<str> = "up".into();
    let texts = Shares::new(1 << 20);
    let subscribe = |number: usize| {
        let uri: Arc<str> = format!("a:{number}").into();
        session.subscribe(&up, &uri, &format!("up/a:{number}").into(), &texts)
    };
    for number in 0..MAX_URIS {
        assert_eq!(subscribe(number), Some(true));
    }
    assert_eq!((subscribe(0), subscribe(MAX_URIS)), (Some(false), None));
    let first: Arc<str> = "a:0".into();
    assert_eq!(session.served_uri(&up, &first).as_deref(), Some("up/a:0"));
    assert!(session.unsubscribe(&up, &first) && !session.unsubscribe(&up, &first));
    assert_eq!((session.uris_at("up").len(), session.uris_at("other").len()), (MAX_URIS - 1, 0));
    assert_eq!(subscribe(MAX_URIS), Some(true));
}

#[tokio::test]
async fn only_who_listens_is_told_and_only_so_much() {
    let session = session();
    let said = || Word::Said("x".into());
    assert!(session.push(said()) == Err(Untold::Nobody) && !session.is_listening());
    let mut former = session.listen(responses());
    let mut stream = session.listen(responses());
    assert!(within("the end of the former stream", former.recv()).await.is_none());
    assert_eq!((0..).take_while(|_| session.push(said()).is_ok()).count(), MAX_PUSHED);
    assert_eq!(session.push(said()), Err(Untold::Full));
    assert!(stream.recv().await.is_some() && session.push(said()).is_ok());
    drop(stream);
    assert!(!session.is_listening());
}
