use super::*;
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn known(seed: u8, server_key: &ServerKey) -> (KnownKey, String) {
    let (id, whole) = mint(&[seed; 42]);
    let stored = server_key.store(&whole);
    (KnownKey::new(id, Principal::named("acme", "alice"), stored, None), whole)
}

fn verdict(table: &KeyTable, shown: &str) -> Result<String, KeyFault> {
    table.verify(shown, NOW).map(|key| key.id.to_string())
}

#[test]
fn a_key_has_the_form_that_scanners_look_for() {
    let (id, whole) = mint(&std::array::from_fn(|index| u8::try_from(index).unwrap()));
    assert_eq!(id.as_str(), "aaaqeayeaudaocaj");
    assert_eq!(whole.len(), 69);
    assert!(whole.starts_with("ptk_aaaqeayeaudaocaj.CgsMDQ4P"), "{whole}");
    let shown = ShownKey::parse(&whole).unwrap();
    assert_eq!(shown.id(), id.as_str());
    assert_eq!(format!("{shown:?}"), "ptk_aaaqeayeaudaocaj.[secret]");
}

#[test]
fn a_key_is_accepted_until_its_time_is_over() {
    let (key, whole) = known(1, &ServerKey::none());
    let cases = [
        ("without an end", None, None, Ok(())),
        ("before its end", Some(NOW + DAY), None, Ok(())),
        ("at its end", Some(NOW), None, Err(KeyFault::Expired)),
        ("after its end", Some(NOW - DAY), None, Err(KeyFault::Expired)),
        ("revoked", Some(NOW + DAY), Some(NOW - DAY), Err(KeyFault::Revoked)),
        ("revoked later, by a clock that is wrong", None, Some(NOW + DAY), Err(KeyFault::Revoked)),
    ];
    for (name, expires, revoked, expected) in cases {
        let holder = Principal::clone(&key.holder);
        let key = KnownKey { revoked, ..KnownKey::new(key.id.clone(), holder, key.stored, expires) };
        assert_eq!(key.holder.auth, AuthMethod::ApiKey);
        let table = KeyTable::new([], [key]);
        assert_eq!(verdict(&table, &whole).map(drop), expected, "{name}");
    }
}

#[test]
fn who_has_not_the_secret_learns_nothing_of_a_key() {
    let (mut key, whole) = known(1, &ServerKey::none());
    key.revoked = Some(NOW);
    let table = KeyTable::new([], [key]);
    let (_, stranger) = mint(&[2; 42]);
    // The id of the one and a secret, well formed, that is not its own.
    let mut random = [3; 42];
    random[..10].fill(1);
    let (_, forged) = mint(&random);
    assert_eq!(whole[..20], forged[..20]);
    let cut = &whole[..whole.len() - 1];
    let mistyped = whole.replace(&whole[30..31], if &whole[30..31] == "A" { "B" } else { "A" });
    let cases = [
        ("never given out", stranger.as_str(), KeyFault::Unknown),
        ("another secret", &forged, KeyFault::WrongSecret),
        ("cut short", cut, KeyFault::Malformed),
        ("mistyped", &mistyped, KeyFault::Malformed),
        ("nothing", "", KeyFault::Malformed),
        ("a token", "eyJhbGciOiJub25lIn0.e30.", KeyFault::Malformed),
        ("the id alone", &whole[..20], KeyFault::Malformed),
        ("what is stored", &ServerKey::none().store(&whole).to_string(), KeyFault::Malformed),
    ];
    for (name, shown, expected) in cases {
        assert_eq!(verdict(&table, shown), Err(expected), "{name}");
    }
}

#[test]
fn keys_of_one_principal_stand_beside_each_other() {
    let (old, old_text) = known(1, &ServerKey::none());
    let (new, new_text) = known(2, &ServerKey::none());
    let table = KeyTable::new([], [old.clone(), new.clone()]);
    assert_eq!(verdict(&table, &old_text), Ok(old.id.to_string()));
    assert_eq!(verdict(&table, &new_text), Ok(new.id.to_string()));
}

#[test]
fn a_key_is_of_no_use_where_its_server_key_is_not() {
    let (ours, other) = (ServerKey::new(&[1; 32]), ServerKey::new(&[2; 32]));
    let (key, whole) = known(1, &ours);
    let cases = [
        ("its own", vec![ours.clone()], true),
        ("among several", vec![other.clone(), ours.clone()], true),
        ("another", vec![other], false),
        ("none", vec![], false),
    ];
    for (name, server_keys, expected) in cases {
        let table = KeyTable::new(server_keys, [key.clone()]);
        assert_eq!(verdict(&table, &whole).is_ok(), expected, "{name}");
        assert_eq!(table.has_server_key(key.stored.server_key), expected, "{name}");
    }
}

#[test]
fn what_is_stored_reads_back_and_shows_nothing() {
    for server_key in [ServerKey::none(), ServerKey::new(&[7; 32])] {
        let (key, whole) = known(1, &server_key);
        let text = key.stored.to_string();
        assert_eq!(StoredKey::parse(&text), Some(key.stored), "{text}");
        let secret = &whole[21..];
        assert!(!text.contains(secret) && !format!("{key:?}{server_key:?}").contains(secret));
    }
    for wrong in [
        "",
        "hmac-sha256:none:",
        "hmac-sha256:none:AAAA",
        "sha256:none:AAAA",
        "hmac-sha256:NONE:AAAA",
        "hmac-sha256:+1234567:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(StoredKey::parse(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_other_text_passes_for_a_key(seed in any::<[u8; 10]>(), at in 0_usize..69, with in "[ -~]") {
        let mut random = [9; 42];
        random[..10].copy_from_slice(&seed);
        let (_, whole) = mint(&random);
        let mut changed = whole.clone();
        changed.replace_range(at..=at, &with);
        prop_assert_eq!(ShownKey::parse(&changed).is_some(), changed == whole);
    }

    #[test]
    fn anything_may_be_shown(text in ".{0,90}") {
        let (key, _) = known(1, &ServerKey::none());
        prop_assert!(KeyTable::new([], [key]).verify(&text, NOW).is_err());
        prop_assert!(StoredKey::parse(&text).is_none_or(|stored| stored.to_string() == text));
    }
}

#[test]
fn a_checksum_does_not_make_a_key_of_what_has_another_form() {
    let sealed = |id: &str, secret: &[u8]| {
        let sum = checksum(id, secret);
        format!("{PREFIX}{id}.{}", URL_SAFE_NO_PAD.encode([secret, &sum].concat()))
    };
    let id = "a".repeat(ID_CHARACTERS);
    assert!(ShownKey::parse(&sealed(&id, &[7; SECRET_BYTES])).is_some());
    for odd in [&id[1..], &format!("{id}a"), ""] {
        assert!(ShownKey::parse(&sealed(odd, &[7; SECRET_BYTES])).is_none(), "{odd}");
    }
    assert!(ShownKey::parse(&sealed(&id, &[7; SECRET_BYTES - 3])).is_none());
}
