use super::*;
use crate::testing::Bed;
use portunus_config::MapEnvironment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ONE: Owner = Owner::V4([192, 0, 2, 1]);
const TWO: Owner = Owner::V4([192, 0, 2, 2]);

fn failed() -> Result<IntrospectionAnswer, String> {
    Err("down".to_owned())
}

fn said() -> Result<IntrospectionAnswer, String> {
    Ok(IntrospectionAnswer::Of(String::new()))
}

#[test]
fn an_issuer_that_answers_nobody_is_left_alone_for_a_while() {
    let mut health = Health::default();
    let now = Duration::from_secs(100);
    health.note(&failed(), TWO, now);
    (2..MAX_FAILURES).for_each(|_| {
        health.note(&failed(), ONE, now);
    });
    assert!(!health.is_left_alone(ONE, now));
    health.note(&said(), ONE, now);
    health.note(&failed(), TWO, now);
    (1..MAX_FAILURES).for_each(|_| {
        health.note(&failed(), ONE, now);
    });
    for owner in [ONE, TWO, Owner::Nobody] {
        assert!(health.is_left_alone(owner, now));
        assert!(!health.is_left_alone(owner, now + LEAVE_ALONE));
    }
    health.note(&said(), ONE, now);
    assert!(!health.is_left_alone(ONE, now));
}

#[test]
fn what_one_callers_tokens_bring_about_is_held_against_that_caller_alone() {
    let (mut health, now) = (Health::default(), Duration::from_secs(100));
    (0..2 * MAX_FAILURES).for_each(|_| {
        health.note(&failed(), ONE, now);
    });
    assert!(health.is_left_alone(ONE, now) && !health.is_left_alone(TWO, now));
    health.note(&failed(), TWO, now);
    assert!(health.is_left_alone(ONE, now) && health.is_left_alone(TWO, now), "it is the issuer");
}

#[test]
fn one_question_goes_first_when_an_issuer_is_asked_again() {
    let inspector = Inspector::default();
    let (then, now) = (Duration::from_secs(100), Duration::from_secs(100) + LEAVE_ALONE);
    let note = |answer, at| {
        inspector.health().note(&answer, ONE, at);
    };
    (0..MAX_FAILURES).for_each(|_| note(failed(), then));
    let may_ask = |at| inspector.may_ask(ONE, at).is_ok();
    assert!(!may_ask(now - Duration::from_millis(1)));
    assert!(may_ask(now) && !may_ask(now));
    note(Ok(IntrospectionAnswer::Refused), now);
    assert!(may_ask(now) && !may_ask(now), "a token that is refused says nothing of the issuer");
    note(failed(), now);
    assert!(!may_ask(now + LEAVE_ALONE / 2), "one failure more is enough");
    note(said(), now);
    assert!(may_ask(now) && may_ask(now));
}

#[test]
fn the_log_says_when_an_issuer_begins_to_fail_and_when_it_answers_again() {
    let (mut health, now) = (Health::default(), Duration::from_secs(100));
    let mut note = |answer| health.note(&answer, ONE, now);
    assert_eq!(note(said()), None);
    assert_eq!(note(failed()), Some(News::Fails));
    assert_eq!([note(failed()), note(Ok(IntrospectionAnswer::Refused)), note(failed())], [None, None, None]);
    assert_eq!(note(said()), Some(News::AnswersAgain { failed: 3 }));
    assert_eq!(note(said()), None);
}

#[test]
fn only_statuses_about_the_question_refuse_a_token() {
    let about = |status: u16| is_about_token(StatusCode::from_u16(status).unwrap());
    assert!([400, 413, 414, 422, 431].into_iter().all(about));
    assert!(![200, 203, 302, 401, 403, 404, 405, 408, 410, 425, 429, 500, 503].into_iter().any(about));
}

/// An issuer that answers every question by a status, or none of them; and a gateway that asks it.
async fn asking(status: Option<&'static str>) -> (Bed, Arc<Inspection>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 16 << 10];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let Some(status) = status else { continue };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.ok();
                }
            });
        }
    });
    let document = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n\
         identity:\n  url: https://gw.example\n  \
         introspection: {{issuer: idp, url: 'http://{address}/ask', client: {{id: gw, secret: 'file:secret'}}}}\n"
    );
    let files = [("secret".into(), "s3cret".to_owned())].into();
    let bed = Bed::among(&document, MapEnvironment { files, ..MapEnvironment::default() });
    let active = bed.gateway.active();
    let inspection = Arc::clone(&active.snapshot.identities.as_ref().unwrap().inspections[0]);
    (bed, inspection)
}

#[tokio::test]
async fn tokens_that_an_issuer_takes_amiss_are_refused_and_leave_it_open_to_others() {
    let (bed, inspection) = asking(Some("400 Bad Request")).await;
    let inspectors = &bed.gateway.estate.callers.inspectors;
    for owner in [ONE, TWO] {
        for number in 0..=MAX_FAILURES {
            let token = format!("{number}{}", "x".repeat(9_000));
            let known = inspectors.ask(&bed.gateway, &inspection, &token, owner).await.unwrap();
            assert_eq!(known.outcome.as_ref().err(), Some(&Fault::Inactive));
        }
    }
    let inspector = Arc::clone(inspectors.lock().values().next().unwrap());
    assert_eq!((inspector.health().failures, inspector.refused.len()), (0, 6), "of both alike");
}

#[tokio::test]
async fn a_question_takes_one_place_so_that_the_last_are_there_for_newcomers() {
    let (bed, inspection) = asking(None).await;
    let inspector = Arc::new(Inspector { waiting: Shares::new(4), ..Inspector::default() });
    let _held = inspector.waiting.take(ONE, 3).unwrap();
    let ask = |owner| inspector.question(&bed.gateway, &inspection, "token", owner);
    assert!(matches!(ask(ONE), Err(Trouble::Unavailable(_))));
    assert!(matches!(ask(TWO), Ok(Question::Asked(_, None))));
    assert_eq!(inspector.waiting.held(), 4);
}

#[test]
fn a_token_cannot_add_fields_to_a_form() {
    assert_eq!(escaped("a&b=c+d%"), "a%26b%3Dc%2Bd%25");
}
