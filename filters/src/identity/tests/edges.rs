//! Guards that something else would stand in for in most tests: each is met here by itself.

use super::*;
use rcgen::{CertificateParams, KeyPair as CertificateKey, SanType};

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;

/// What verifying gives of a token with this header and these claims, signed by the key of the set.
fn verified(header: &str, payload: &str) -> Result<Verified, Fault> {
    let signer = Signer::new(Algorithm::Es256);
    let keys = key_set(&[signer.jwk(",\"kid\":\"k1\"")]);
    let token = signer.token(Algorithm::Es256, header, payload);
    issuer().verify(&Token::read(&token)?, &keys, NOW)
}

fn claimed(claim: &str, value: &str) -> Result<Verified, Fault> {
    verified(HEADER, &claims(&[(claim, Some(value))]))
}

#[test]
fn a_header_has_a_bound_of_its_own() {
    let padded = |length: usize| {
        let pad = "x".repeat(length);
        verified(
            &format!("{{\"alg\":\"ES256\",\"kid\":\"k1\",\"typ\":\"JWT\",\"x\":\"{pad}\"}}"),
            &claims(&[]),
        )
    };
    assert_eq!(padded(3 << 10).map(drop), Ok(()));
    assert_eq!(padded(4 << 10).map(drop), Err(Fault::Malformed));
    let named = |length: usize| {
        let id = "k".repeat(length);
        verified(&format!("{{\"alg\":\"ES256\",\"kid\":\"{id}\",\"typ\":\"JWT\"}}"), &claims(&[]))
    };
    assert_eq!(named(256).map(drop), Err(Fault::UnknownKey));
    assert_eq!(named(257).map(drop), Err(Fault::Malformed));
}

#[test]
fn a_token_that_names_no_key_is_denied_by_the_one_that_signed_it() {
    let known = verified(r#"{"alg":"ES256","typ":"JWT"}"#, &claims(&[])).unwrap();
    let denied = Revoked { keys: ["k1".into()].into(), ..Revoked::default() };
    assert!(denied.has(&known) && !Revoked::default().has(&known));
}

#[test]
fn a_binding_that_is_known_does_not_excuse_one_that_is_not() {
    let thumbprint = encode([7; 32]);
    assert_eq!(claimed("cnf", &format!("{{\"x5t#S256\":\"{thumbprint}\"}}")).map(drop), Ok(()));
    let both = format!("{{\"x5t#S256\":\"{thumbprint}\",\"jkt\":\"x\"}}");
    let short = format!("{{\"x5t#S256\":\"{}\"}}", encode([7; 31]));
    for odd in [both.as_str(), &short, "7", "null", "{\"x5t#S256\":\"=\"}"] {
        assert_eq!(claimed("cnf", odd).map(drop), Err(Fault::Binding), "{odd}");
    }
}

#[test]
fn audiences_are_texts_and_not_too_many() {
    let many = |count: usize| format!("[{}]", vec!["\"a\""; count].join(","));
    assert_eq!(claimed("aud", &many(64)).map(|known| known.audiences.len()), Ok(64));
    assert_eq!(claimed("aud", &many(65)).map(drop), Err(Fault::TooMuch));
    for odd in ["7", "{}", "[7]", "[[\"a\"]]", "null"] {
        assert_eq!(claimed("aud", odd).map(drop), Err(Fault::Malformed), "{odd}");
    }
}

#[test]
fn a_subject_may_be_a_number_and_no_other_thing_that_begins_like_one() {
    assert_eq!(claimed("sub", "42").map(|known| known.principal.subject.to_string()), Ok("42".to_owned()));
    for odd in ["4.2", "4e2", "42.0"] {
        assert_eq!(claimed("sub", odd).map(drop), Err(Fault::Unnamed), "{odd}");
    }
    let long = |length: usize| format!("[\"{}\"]", "r".repeat(length));
    assert_eq!(claimed("roles", &long(MAX_NAME_BYTES)).map(drop), Ok(()));
    assert_eq!(claimed("roles", &long(MAX_NAME_BYTES + 1)).map(drop), Err(Fault::TooMuch));
}

#[test]
fn an_answer_of_an_issuer_is_believed_no_longer_than_it_is_kept() {
    let keep = Duration::from_secs(30);
    let later = NOW.as_secs() + 3_600;
    let answer = format!("{{\"active\":true,\"sub\":\"anna\",\"exp\":{later}}}");
    let known = issuer().inspected(&answer, NOW, keep).unwrap();
    assert_eq!(known.principal.not_after, Some(NOW + keep));
}

#[test]
fn a_key_verifies_by_its_own_algorithm_alone() {
    let signer = Signer::new(Algorithm::Rs256);
    let keys = key_set(&[signer.jwk(",\"kid\":\"k1\",\"alg\":\"RS256\"")]);
    let signed = |algorithm: Algorithm| {
        let header = format!("{{\"alg\":\"{}\",\"kid\":\"k1\",\"typ\":\"JWT\"}}", algorithm.as_str());
        signer.token(algorithm, &header, &claims(&[]))
    };
    let verify = |token: &str| issuer().verify(&Token::read(token).unwrap(), &keys, NOW).map(drop);
    assert_eq!(verify(&signed(Algorithm::Rs256)), Ok(()));
    assert_eq!(verify(&signed(Algorithm::Rs384)), Err(Fault::UnknownKey));
    let key = keys.find(Some("k1"), Algorithm::Rs256).unwrap();
    assert!(key.verifies(Algorithm::Rs256, b"text", &signer.sign(Algorithm::Rs256, b"text")));
    assert!(!key.verifies(Algorithm::Rs384, b"text", &signer.sign(Algorithm::Rs384, b"text")));
}

#[test]
fn a_key_set_has_its_bounds_even_if_its_keys_are_good() {
    let set = |key: &str, beside: &str| {
        let good = Signer::new(Algorithm::Es256).jwk(key);
        KeySet::read(format!("{{\"keys\":[{good}]{beside}}}").as_bytes())
    };
    let pad = |length: usize| format!(",\"x\":[{}\"\"]", "\"\",".repeat(length));
    assert!(set("", &pad(100)).is_ok());
    assert!(set("", &pad(300)).is_err(), "an array of any length");
    let spaces = " ".repeat(KeySet::MAX_BYTES);
    assert_eq!(set("", &spaces).map(drop), Err("the key set is larger than 256 KiB"));
    let (_, skipped) = KeySet::read(
        format!(
            "{{\"keys\":[{},{}]}}",
            Signer::new(Algorithm::Es256).jwk(""),
            Signer::new(Algorithm::Es256).jwk(&format!(",\"kid\":\"{}\"", "k".repeat(257)))
        )
        .as_bytes(),
    )
    .unwrap();
    assert_eq!(skipped.first().map(|one| one.why), Some("its `kid` is no text, or too long"));
}

#[test]
fn a_certificate_is_read_whole_and_no_further_than_it_may_be() {
    let mut params = CertificateParams::default();
    let name = |number: usize| SanType::DnsName(format!("h{number}.internal").try_into().unwrap());
    params.subject_alt_names.extend((0..70).map(name));
    let der = params.self_signed(&CertificateKey::generate().unwrap()).unwrap().der().to_vec();
    assert_eq!(Certificate::read(&der).map(|read| read.dns.len()), Ok(64));
    let longer = [der.as_slice(), &[0]].concat();
    assert_eq!(Certificate::read(&longer).map(drop), Err(Fault::Certificate));
    let id = |length: usize| format!("spiffe://example.org/{}", "a".repeat(length - 21));
    assert!(spiffe_id(&id(2048)).is_some() && spiffe_id(&id(2049)).is_none());
}
