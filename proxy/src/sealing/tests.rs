mod passed;

use super::*;
use crate::drain::Phases;
use crate::frontend::bridge::sessions::Session;
use crate::identify::ConnectionState;
use http::HeaderValue;
use portunus_base::UpstreamUrl;
use portunus_config::{ServerId, UpstreamMark};

use portunus_filters::Identity;
use portunus_filters::authorize::Place;
use portunus_filters::call::TaskCall;
use portunus_filters::identity::{Digest, Principal};
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::Profile;
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const OLD: &[u8] = b"the key of last year, long enough to be one";
const NEW: &[u8] = b"the key of this year, long enough to be one";

static SERVER: LazyLock<ServerId> = LazyLock::new(|| ServerId("*|/mcp".into()));
static OTHER_SERVER: LazyLock<ServerId> = LazyLock::new(|| ServerId("*|/team/mcp".into()));

fn seals(keys: &[&[u8]]) -> Seals {
    Seals::of(keys.iter().copied()).unwrap()
}

fn principal(tenant: &str, subject: &str) -> Identity {
    Identity::Principal(Principal::named(tenant, subject).into())
}

fn binding<'a>(server: &'a ServerId, identity: &Identity) -> Binding<'a> {
    Binding { server, caller: CallerKey::for_seals(identity) }
}

fn anna() -> Binding<'static> {
    binding(&SERVER, &principal("acme", "anna"))
}

fn home() -> Home {
    Home::new("replica-a".into(), 7).unwrap()
}

fn mark(name: &str) -> UpstreamMark {
    UpstreamMark::of(name, &UpstreamUrl::parse("http://127.0.0.1:9101/mcp").unwrap())
}

fn handle(text: &str) -> HandleToken {
    let call = TaskCall {
        arguments: Some(r#"{"a":1}"#.into()),
        redact: vec![Place::parse("/content/*/text").unwrap(), Place::parse("salary").unwrap()],
        max_result_bytes: Some(1 << 20),
    };
    HandleToken { upstream: mark("crm"), text: text.into(), tool: "find".into(), call }
}

fn session(upstream_sessions: Vec<SealedUpstreamSession>) -> SessionToken {
    let version = Revision::V2025_11_25;
    SessionToken {
        issued: 1_700_000_000,
        version,
        number: [9; 16],
        home: home(),
        passes: false,
        abilities: 5,
        client: "{}".into(),
        upstream_sessions,
    }
}

fn upstream_session(id: &str) -> SealedUpstreamSession {
    SealedUpstreamSession { upstream: mark("crm"), id: id.into(), version: Revision::V2025_06_18 }
}

#[test]
fn a_connection_remembers_a_session_for_its_server_and_caller_alone() {
    let seals = seals(&[NEW]);
    let text = session(vec![]).seal(&seals, &anna()).text;
    let connection_state = ConnectionState::new(Phases::default());
    let bert = binding(&SERVER, &principal("acme", "bert"));
    let elsewhere = binding(&OTHER_SERVER, &principal("acme", "anna"));
    let recalled = |seals: &Seals, binding: &Binding<'_>, text: &str| {
        connection_state
            .recall(seals, binding, &HeaderValue::from_str(text).unwrap(), Duration::ZERO)
            .map(|recalled| recalled.name.number)
    };
    let others = || [&bert, &elsewhere].map(|binding| recalled(&seals, binding, &text));
    assert_eq!(others(), [None, None]);
    for _ in 0..2 {
        assert_eq!(recalled(&seals, &anna(), &text), Some([9; 16]));
        assert_eq!(others(), [None, None]);
        assert_eq!(recalled(&seals, &anna(), &text[1..]), None);
    }
    let nobody_opens = Seals::of([OLD]).unwrap();
    assert!(recalled(&nobody_opens, &anna(), &text).is_some(), "it was opened before");
}

#[test]
fn a_session_in_use_is_looked_up_now_and_then_and_is_not_recalled_once_it_has_ended() {
    let seals = seals(&[NEW]);
    let text = session(vec![]).seal(&seals, &anna()).text;
    let connection_state = ConnectionState::new(Phases::default());
    let (then, later) = (Duration::from_millis(999), Duration::from_secs(1));
    let field = HeaderValue::from_str(&text).unwrap();
    let recall = |now| connection_state.recall(&seals, &anna(), &field, now).unwrap();
    let profile = Arc::new(Profile::silent("client", "1"));
    let new = || Session::new([9; 16], SERVER.clone(), Revision::V2025_11_25, Arc::clone(&profile), true);
    let (found, other) = (Arc::new(new()), Arc::new(new()));
    let first = recall(then);
    assert!(first.session.is_none(), "it was never found");
    connection_state.found(&first.name, &found, later);
    connection_state.found(&Arc::new((*first.name).clone()), &other, later);
    assert!(recall(then).session.is_some_and(|session| Arc::ptr_eq(&session, &found)));
    assert!(recall(later).session.is_none(), "it is to be looked up");
    found.end();
    assert!(recall(then).session.is_none(), "it has ended");
    connection_state.found(&first.name, &other, later);
    drop(other);
    assert!(recall(then).session.is_none(), "nobody keeps it");
}

#[test]
fn a_token_opens_only_for_its_purpose_server_and_caller() {
    let seals = seals(&[NEW]);
    let text = seals.seal(Purpose::Session, &anna(), b"contents");
    assert_eq!(seals.open(Purpose::Session, &anna(), &text).as_deref(), Some(&b"contents"[..]));
    for purpose in Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Session) {
        assert_eq!(seals.open(purpose, &anna(), &text), None, "{purpose:?}");
    }
    let stolen = [
        ("another server", binding(&OTHER_SERVER, &principal("acme", "anna"))),
        ("another subject", binding(&SERVER, &principal("acme", "bert"))),
        ("another tenant", binding(&SERVER, &principal("umbrella", "anna"))),
        ("a name that runs together", binding(&SERVER, &principal("acmea", "nna"))),
        ("nobody", binding(&SERVER, &Identity::Anonymous { source: [127, 0, 0, 1].into() })),
        ("a stranger", binding(&SERVER, &Identity::Presented { digest: Digest([0; 16]) })),
    ];
    for (name, binding) in stolen {
        assert_eq!(seals.open(Purpose::Session, &binding, &text), None, "{name}");
    }
}

#[test]
fn anonymous_callers_take_their_tokens_along_and_share_nothing_kept_here() {
    let at = |last| Identity::Anonymous { source: [192, 0, 2, last].into() };
    assert_eq!(CallerKey::for_seals(&at(1)), CallerKey::for_seals(&at(2)));
    assert_ne!(CallerKey::for_tables(&at(1), &[]), CallerKey::for_tables(&at(2), &[]));
    let six = Identity::Anonymous { source: "2001:db8::1".parse().unwrap() };
    let keys = [at(1), at(2), six, principal("a", "bc"), principal("ab", "c"), principal("", "abc")];
    let distinct: HashSet<CallerKey> =
        keys.iter().map(|identity| CallerKey::for_tables(identity, &[])).collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn a_state_is_bound_to_what_servers_are_shown_of_its_caller() {
    let anonymous = Identity::Anonymous { source: [192, 0, 2, 1].into() };
    for identity in [anonymous, principal("acme", "anna"), Identity::Presented { digest: Digest([1; 16]) }] {
        let shown = |value: &[u8]| CallerKey::for_states(&identity, &[("x-key", value)]);
        let keys = [shown(b"a"), shown(b"b"), CallerKey::for_states(&identity, &[])];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "{identity:?}");
    }
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let (before, between, after) = (seals(&[OLD]), seals(&[NEW, OLD]), seals(&[NEW]));
    let (old, new) =
        (before.seal(Purpose::State, &anna(), b"old"), between.seal(Purpose::State, &anna(), b"new"));
    let open = |seals: &Seals, text: &str| seals.open(Purpose::State, &anna(), text);
    assert_eq!(open(&between, &old).as_deref(), Some(&b"old"[..]));
    assert_eq!(open(&after, &new).as_deref(), Some(&b"new"[..]));
    assert_eq!(open(&after, &old), None);
    assert_eq!(open(&before, &new), None);
}

#[test]
fn without_configured_keys_a_process_opens_only_its_own() {
    let (one, other) = (seals(&[]), seals(&[]));
    let text = one.seal(Purpose::Handle, &anna(), b"mine");
    assert!(one.open(Purpose::Handle, &anna(), &text).is_some());
    assert!(other.open(Purpose::Handle, &anna(), &text).is_none());
    assert!(!one.are_shared() && seals(&[NEW]).are_shared());
}

#[test]
fn replicas_with_the_same_keys_digest_credentials_alike() {
    let sign = |seals: &Seals| ring::hmac::sign(seals.identity_key(), b"Bearer x").as_ref().to_vec();
    assert_eq!(sign(&seals(&[NEW, OLD])), sign(&seals(&[NEW])));
    assert_ne!(sign(&seals(&[])), sign(&seals(&[])));
}

#[test]
fn no_two_tokens_are_alike() {
    let seals = seals(&[NEW]);
    let tokens: HashSet<String> = (0..1000).map(|_| seals.seal(Purpose::Session, &anna(), b"")).collect();
    assert_eq!(tokens.len(), 1000);
}

#[test]
fn a_text_has_one_spelling() {
    let seals = seals(&[NEW]);
    let text = seals.seal(Purpose::Session, &anna(), b"12");
    let opens = |text: &str| seals.open(Purpose::Session, &anna(), text).is_some();
    assert!(opens(&text));
    // 35 bytes end in a character of which two bits are unused.
    let last = text.chars().last().unwrap();
    let twin = (u32::from(last) + 1).try_into().unwrap();
    let respelt = |last: char| format!("{}{last}", &text[..text.len() - 1]);
    let spellings =
        [format!("{text}="), format!("{text} "), format!(" {text}"), respelt(twin), String::new()];
    for spelling in spellings {
        assert!(!opens(&spelling), "{spelling:?}");
    }
}

#[test]
fn what_is_longer_than_any_token_is_not_even_decoded() {
    let seals = seals(&[NEW]);
    for purpose in Purpose::ALL {
        let most = vec![0; purpose.max_plain()];
        let text = seals.seal(purpose, &anna(), &most);
        assert!(text.len() <= purpose.max_text(), "{purpose:?}");
        assert_eq!(seals.open(purpose, &anna(), &text), Some(most), "{purpose:?}");
        let more = seals.seal(purpose, &anna(), &vec![0; purpose.max_plain() + 1]);
        assert_eq!(seals.open(purpose, &anna(), &more), None, "{purpose:?}");
    }
}

#[test]
fn keys_that_are_none_are_refused_by_the_place_they_came_from() {
    let refused = |keys: &[(&str, &str)]| {
        let secrets: Vec<_> = keys.iter().map(|(name, value)| secret(name, value)).collect();
        Seals::new(&secrets).err().map(|error| error.to_string())
    };
    let good = "0123456789abcdef0123456789abcdef";
    assert_eq!(refused(&[("A", good)]), None);
    let short = refused(&[("A", good), ("B", "hunter2")]).unwrap();
    assert!(short.contains("env:B") && !short.contains("hunter2"), "{short}");
    let twice = refused(&[("A", good), ("B", good)]).unwrap();
    assert!(twice.contains("env:B stands there twice"), "{twice}");
}

/// A secret as configurations bring it.
fn secret(name: &str, value: &str) -> portunus_base::Secret {
    portunus_base::Secret::new(value.to_owned(), format!("env:{name}")).unwrap()
}

#[test]
fn a_session_gives_back_what_it_was_given() {
    let seals = seals(&[NEW]);
    let token = session(vec![upstream_session("5f1c0a52-7b2f-4a9e-8f43-7a6f6a1f8a11"), upstream_session("")]);
    let sealed = token.seal(&seals, &anna());
    assert!(sealed.text.len() <= 512 && sealed.text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(sealed.left_out.is_empty());
    let SessionToken { issued, number, home, .. } = token.clone();
    let name = SessionName { issued, number, home, passed: None };
    assert_eq!(SessionName::open(&seals, &anna(), &sealed.text), Some(name));
    assert_eq!(SessionToken::open(&seals, &anna(), &sealed.text), Some(token));
}

#[test]
fn upstream_sessions_that_do_not_fit_are_named() {
    let seals = seals(&[NEW]);
    let long = "x".repeat(150);
    let table = [
        (
            "two of three",
            vec![upstream_session(&long), upstream_session(&long), upstream_session("short")],
            vec![1],
        ),
        ("longer than any", vec![upstream_session(&"x".repeat(256)), upstream_session("short")], vec![0]),
        ("many", vec![upstream_session("5f1c0a52-7b2f-4a9e-8f43-7a6f6a1f8a11"); 8], vec![6, 7]),
        (
            "no session id",
            vec![upstream_session("a b"), upstream_session("a\u{e9}"), upstream_session("a")],
            vec![0, 1],
        ),
    ];
    for (name, upstream_sessions, left_out) in table {
        let sealed = session(upstream_sessions.clone()).seal(&seals, &anna());
        assert!(sealed.text.len() <= 512, "{name}");
        assert_eq!(sealed.left_out, left_out, "{name}");
        let opened = SessionToken::open(&seals, &anna(), &sealed.text).unwrap();
        assert_eq!(opened.upstream_sessions.len() + left_out.len(), upstream_sessions.len(), "{name}");
    }
}

#[test]
fn sessions_and_parked_calls_end_in_time() {
    let (issued, second) = (Duration::from_secs(1_700_000_000), Duration::from_secs(1));
    let (seals, hour) = (seals(&[NEW]), Duration::from_secs(3600));
    let name = SessionName::open(&seals, &anna(), &session(Vec::new()).seal(&seals, &anna()).text).unwrap();
    assert!(!name.is_over(issued + hour - second, hour) && name.is_over(issued + hour, hour));
    // A replica whose clock is behind.
    assert!(!name.is_over(issued - hour, hour));
    let state = state(None);
    let ends = Duration::from_secs(state.expires);
    assert!(!state.is_over(ends - second) && state.is_over(ends));
}

fn state(inner: Option<&str>) -> StateToken {
    StateToken {
        home: home(),
        serial: 41,
        digest: [7; 16],
        expires: 1_700_000_600,
        inner: inner.map(Into::into),
    }
}

/// Another token under the key of handles.
#[derive(Debug, PartialEq, Eq)]
struct Other(Box<str>);

impl Token for Other {
    const PURPOSE: Purpose = Purpose::Handle;
    const FORM: u8 = 2;

    fn write(&self, out: &mut Writer) {
        out.text(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Option<Other> {
        Some(Other(from.text()?.into()))
    }
}

#[test]
fn tokens_that_share_a_key_are_told_apart() {
    let seals = seals(&[NEW]);
    let handle = handle("task-1");
    let other = Other("crm".into());
    let handle_text = handle.seal(&seals, &anna()).unwrap();
    let other_text = other.seal(&seals, &anna()).unwrap();
    assert_eq!(HandleToken::open(&seals, &anna(), &handle_text), Some(handle));
    assert_eq!(Other::open(&seals, &anna(), &other_text), Some(other));
    assert_eq!(HandleToken::open(&seals, &anna(), &other_text), None);
    assert_eq!(Other::open(&seals, &anna(), &handle_text), None);
}

#[test]
fn a_mark_is_a_server_at_a_place() {
    let of = |name, url| UpstreamMark::of(name, &UpstreamUrl::parse(url).unwrap());
    let marks = [
        of("crm", "http://127.0.0.1:1/mcp"),
        of("search", "http://127.0.0.1:1/mcp"),
        of("crm", "http://127.0.0.1:2/mcp"),
        of("crm", "http://127.0.0.1:1/mcp2"),
        of("crm", "https://127.0.0.1:1/mcp"),
    ];
    assert_eq!(marks.iter().collect::<HashSet<_>>().len(), marks.len());
}

#[test]
fn what_a_server_gives_to_carry_is_bounded() {
    let seals = seals(&[NEW]);
    let carrying = |length| handle(&"c".repeat(length));
    assert!(carrying(4000).seal(&seals, &anna()).is_ok());
    for length in [8 << 10, 70_000] {
        let oversize = carrying(length).seal(&seals, &anna()).unwrap_err();
        assert_eq!(oversize.max_bytes, Purpose::Handle.max_plain());
    }
    assert!(state(Some(&"s".repeat(40_000))).seal(&seals, &anna()).is_ok());
    assert!(state(Some(&"s".repeat(66_000))).seal(&seals, &anna()).is_err());
}

#[test]
fn a_home_has_a_name_that_fits() {
    let names =
        [("a", true), ("0123456789abcdef", true), ("", false), ("0123456789abcdefg", false), ("a b", false)];
    for (name, fits) in names {
        assert_eq!(Home::new(name.into(), 1).is_some(), fits, "{name:?}");
    }
}

#[test]
fn what_no_token_writes_is_none() {
    fn plain<T: Token>(token: &T) -> Vec<u8> {
        let mut out = Writer::new(T::FORM);
        token.write(&mut out);
        out.finish().unwrap()
    }
    fn changed(plain: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut changed = plain.to_vec();
        change(&mut changed);
        changed
    }
    let (parked, sealed) = (plain(&state(None)), plain(&session(vec![upstream_session("id")])));
    let handle = plain(&handle("t"));
    assert!(StateToken::decode(&parked).is_some() && SessionToken::decode(&sealed).is_some());
    let last = |to: u8| move |plain: &mut Vec<u8>| *plain.last_mut().unwrap() = to;
    assert_eq!(StateToken::decode(&changed(&parked, |plain| plain.push(0))), None, "more");
    assert_eq!(HandleToken::decode(&changed(&handle, |plain| plain.push(0))), None, "more");
    assert_eq!(StateToken::decode(&changed(&parked, |plain| plain[0] += 1)), None, "another form");
    assert_eq!(HandleToken::decode(&changed(&handle, |plain| plain[0] += 1)), None, "another form");
    let mut earlier = Writer::new(1);
    earlier.bytes(mark("crm").as_bytes());
    earlier.text("t");
    assert_eq!(HandleToken::decode(&earlier.finish().unwrap()), None, "of a version without rules");
    let with_text = plain(&state(Some("inner")));
    let flag = parked.len() - 1;
    assert_eq!(StateToken::decode(&changed(&with_text, |plain| plain[flag] = 2)), None, "no flag");
    assert_eq!(SessionToken::decode(&changed(&sealed, last(b' '))), None, "no session id");
    let wordy =
        SessionToken { client: "c".repeat(SessionToken::MAX_CLIENT + 1).into(), ..session(Vec::new()) };
    assert_eq!(SessionToken::decode(&plain(&wordy)).unwrap().client, "".into());
    let longest = SessionToken { client: "c".repeat(SessionToken::MAX_CLIENT).into(), ..session(Vec::new()) };
    let mut longer = plain(&longest);
    assert_eq!(SessionToken::decode(&longer), Some(longest), "the longest client that is written");
    let length = longer.len() - SessionToken::MAX_CLIENT - 1;
    longer[length] += 1;
    longer.push(b'c');
    assert_eq!(SessionToken::decode(&longer), None, "a client that is never written");
    let hex = mark("crm").to_string();
    assert_eq!(UpstreamMark::of_hex(&hex), Some(mark("crm")));
    for wrong in [&hex[1..], &format!("0{hex}"), &format!("+{}", &hex[1..])] {
        assert_eq!(UpstreamMark::of_hex(wrong), None, "{wrong}");
    }
}

/// Whether bytes that read as a token are exactly what that token writes.
fn is_exact<T: Token>(plain: &[u8]) -> bool {
    T::decode(plain).is_none_or(|token| {
        let mut out = Writer::new(T::FORM);
        token.write(&mut out);
        out.finish().as_deref() == Some(plain)
    })
}

proptest! {
    #[test]
    fn what_was_changed_does_not_open(
        plain in prop::collection::vec(any::<u8>(), 0..300),
        place in any::<prop::sample::Index>(),
        flip in 1u8..=255,
        cut in any::<prop::sample::Index>(),
    ) {
        let seals = seals(&[NEW, OLD]);
        let text = seals.seal(Purpose::Session, &anna(), &plain);
        prop_assert_eq!(seals.open(Purpose::Session, &anna(), &text), Some(plain));
        let mut bytes = text.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        if let Ok(changed) = std::str::from_utf8(&bytes) {
            prop_assert_eq!(seals.open(Purpose::Session, &anna(), changed), None);
        }
        prop_assert_eq!(seals.open(Purpose::Session, &anna(), &text[..cut.index(text.len())]), None);
    }

    #[test]
    fn any_session_fits_and_reads_back(
        issued in any::<u64>(),
        number in any::<[u8; 16]>(),
        name in "[!-~]{1,16}",
        boot in any::<u32>(),
        ids in prop::collection::vec("[!-~]{0,300}", 0..40),
    ) {
        let seals = seals(&[NEW]);
        let home = Home::new(name.into(), boot).unwrap();
        let upstream_sessions: Vec<SealedUpstreamSession> = ids.iter().map(|id| upstream_session(id)).collect();
        let mut token = SessionToken { issued, version: Revision::V2025_03_26, number, home, passes: false, abilities: 0, client: Box::default(), upstream_sessions };
        let sealed = token.seal(&seals, &anna());
        prop_assert!(sealed.text.len() <= 512);
        let mut index = 0;
        token.upstream_sessions.retain(|_| { index += 1; !sealed.left_out.contains(&(index - 1)) });
        prop_assert_eq!(SessionToken::open(&seals, &anna(), &sealed.text), Some(token));
    }

    #[test]
    fn contents_have_one_form(form in 0u8..4, rest in prop::collection::vec(any::<u8>(), 0..120)) {
        let plain = [&[form][..], &rest].concat();
        prop_assert!(is_exact::<SessionToken>(&plain));
        prop_assert!(is_exact::<StateToken>(&plain));
        prop_assert!(is_exact::<HandleToken>(&plain));
        prop_assert!(is_exact::<Other>(&plain));
    }
}
