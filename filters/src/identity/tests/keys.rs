use super::*;

fn skipped(key: &str) -> Option<&'static str> {
    let good = Signer::new(Algorithm::Es256).jwk(",\"kid\":\"good\"");
    let (set, skipped) = KeySet::read(format!("{{\"keys\":[{key},{good}]}}").as_bytes()).unwrap();
    assert!(set.find(Some("good"), Algorithm::Es256).is_some());
    skipped.first().map(|one| one.why)
}

#[test]
fn keys_that_cannot_be_used_are_skipped_and_told() {
    let ec = |members: &str| Signer::new(Algorithm::Es256).jwk(members);
    let rsa =
        |n: &[u8], e: &[u8]| format!("{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"{}\"}}", encode(n), encode(e));
    let usual: &[u8] = &[1, 0, 1];
    let table = [
        (ec(""), None),
        (ec(",\"key_ops\":[\"verify\"]"), None),
        (rsa(&[0x80; 256], usual), None),
        (rsa(&[&[0][..], &[0x80; 256]].concat(), usual), None),
        (ec(",\"use\":\"enc\""), Some("its `use` is not `sig`")),
        (ec(",\"use\":7"), Some("its `use` is not `sig`")),
        (ec(",\"key_ops\":[\"encrypt\"]"), Some("its `key_ops` are without `verify`")),
        (ec(",\"alg\":\"RS256\""), Some("its `alg` is none of its kind of key")),
        (ec(",\"alg\":\"ES384\""), Some("its `alg` is none of its kind of key")),
        (ec(",\"alg\":\"HS256\""), Some("its `alg` is none that is known here")),
        (ec(",\"d\":\"AAAA\""), Some("it is a private key, which nobody should publish")),
        (ec(",\"kid\":7"), Some("its `kid` is no text, or too long")),
        (ec(",\"kty\":\"EC\""), Some("it is no JSON object with each member once")),
        ("7".into(), Some("it is no JSON object with each member once")),
        (
            r#"{"kty":"oct","k":"c2VjcmV0"}"#.into(),
            Some("it is a shared secret: whoever can verify with it can sign"),
        ),
        (rsa(&[0x7f; 256], usual), Some("its RSA modulus has less than 2048 bits")),
        (rsa(&[0x80; 1025], usual), Some("its RSA modulus has more than 8192 bits")),
        (rsa(&[0x80; 256], &[4]), Some("its RSA exponent is even, one or larger than 32 bits")),
        (rsa(&[0x80; 256], &[1]), Some("its RSA exponent is even, one or larger than 32 bits")),
        (rsa(&[0x80; 256], &[0]), Some("a number of it is zero")),
        (r#"{"kty":"EC","crv":"P-521","x":"","y":""}"#.into(), Some("its curve is neither P-256 nor P-384")),
        (r#"{"kty":"OKP","crv":"X25519","x":""}"#.into(), Some("its curve is not Ed25519")),
        (
            r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#.into(),
            Some("a coordinate of it has another length than its curve's"),
        ),
        (r#"{"kty":"AKP"}"#.into(), Some("its `kty` is none that is known here")),
    ];
    for (key, expected) in table {
        assert_eq!(skipped(&key), expected, "{key}");
    }
}

#[test]
fn a_set_without_a_usable_key_is_none() {
    for bad in [
        "",
        "[]",
        "{}",
        "{\"keys\":{}}",
        "{\"keys\":[]}",
        "{\"keys\":[{\"kty\":\"oct\"}]}",
        "{\"keys\":[],\"keys\":[]}",
    ] {
        assert!(KeySet::read(bad.as_bytes()).is_err(), "{bad}");
    }
    let large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "y".repeat(KeySet::MAX_BYTES));
    assert!(KeySet::read(large.as_bytes()).is_err());
}

#[test]
fn a_set_keeps_a_bounded_number_of_keys() {
    let keys: Vec<String> = (0..=KeySet::MAX_KEYS)
        .map(|index| Signer::new(Algorithm::EdDsa).jwk(&format!(",\"kid\":\"{index}\"")))
        .collect();
    let (set, skipped) = KeySet::read(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).unwrap();
    assert_eq!((set.len(), skipped.len()), (KeySet::MAX_KEYS, 1));
}

#[test]
fn a_token_without_a_key_id_is_of_the_only_key_that_fits() {
    let one = Signer::new(Algorithm::Es256).jwk(",\"kid\":\"a\"");
    let other = Signer::new(Algorithm::Es256).jwk(",\"kid\":\"b\"");
    let third = Signer::new(Algorithm::EdDsa).jwk(",\"kid\":\"a\"");
    let set = key_set(&[one.clone(), third.clone()]);
    assert!(set.find(None, Algorithm::Es256).is_some() && set.find(None, Algorithm::EdDsa).is_some());
    assert!(key_set(&[one, other, third]).find(None, Algorithm::Es256).is_none());
}
