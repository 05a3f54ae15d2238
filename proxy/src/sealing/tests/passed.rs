//! Sessions whose messages pass.

use super::*;

#[test]
fn passed_session_is_borne_by_anybody_who_is_not_verified_and_a_served_one_by_nobody() {
    let seals = seals(&[NEW]);
    let nobody = Identity::Anonymous { source: [127, 0, 0, 1].into() };
    let presented = Identity::Presented { digest: Digest([7; 16]) };
    let bearers = Binding { server: &SERVER, caller: CallerKey::for_passed(&presented) };
    for (passes, is_borne) in [(true, true), (false, false)] {
        let text =
            SessionToken { passes, ..session(vec![upstream_session("own")]) }.seal(&seals, &bearers).text;
        for (caller, may) in [(&nobody, true), (&presented, is_borne), (&principal("acme", "anna"), false)] {
            let name = SessionName::open(&seals, &binding(&SERVER, caller), &text);
            let name = name.and_then(|name| Arc::new(name).for_caller(caller));
            assert_eq!(name.is_some(), may, "{passes} {caller:?}");
            let own = name.and_then(|name| Some(name.passed.as_ref()?.own_id.clone()));
            assert_eq!(own.as_deref(), (passes && may).then_some("own"), "{caller:?}");
        }
    }
    let (anna, bert) = (principal("acme", "anna"), principal("acme", "bert"));
    let own = Binding { server: &SERVER, caller: CallerKey::for_passed(&anna) };
    let text =
        SessionToken { passes: true, ..session(vec![upstream_session("own")]) }.seal(&seals, &own).text;
    let opens = |caller| SessionName::open(&seals, &binding(&SERVER, caller), &text);
    assert!(Arc::new(opens(&anna).unwrap()).for_caller(&anna).is_some());
    assert_eq!(opens(&bert), None);
    let name = opens(&anna).unwrap();
    let numbers = [&anna, &presented, &nobody].map(|caller| name.number_for(CallerKey::for_seals(caller)));
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "each credential has a session of its own");
}
