use super::*;
use ring::hmac;

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"at+jwt"}"#;

struct Provider {
    signer: Signer,
    keys: KeySet,
}

fn provider() -> Provider {
    let signer = Signer::new(Algorithm::Es256);
    let keys = key_set(&[signer.jwk(",\"kid\":\"k1\",\"alg\":\"ES256\",\"use\":\"sig\"")]);
    Provider { signer, keys }
}

impl Provider {
    fn verify(&self, issuer: &Issuer, token: &str) -> Result<Verified, Fault> {
        issuer.verify(&Token::read(token)?, &self.keys, NOW)
    }

    fn token(&self, header: &str, payload: &str) -> String {
        self.signer.token(Algorithm::Es256, header, payload)
    }
}

#[test]
fn a_token_of_every_algorithm_is_verified() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let keys = key_set(&[signer.jwk(",\"kid\":\"k\"")]);
        let header = format!("{{\"alg\":\"{}\",\"kid\":\"k\",\"typ\":\"JWT\"}}", algorithm.as_str());
        let token = signer.token(algorithm, &header, &claims(&[]));
        let verified = issuer().verify(&Token::read(&token).unwrap(), &keys, NOW).unwrap();
        assert_eq!(&*verified.principal.subject, "anna", "{algorithm:?}");
        assert_eq!(verified.principal.auth, AuthMethod::Jwt);
        assert_eq!(verified.key_id.as_deref(), Some("k"));
        let end = Duration::from_secs(NOW.as_secs() + 330);
        assert_eq!(verified.principal.not_after, Some(end));
        let other = Signer::new(algorithm);
        if !matches!(other, Signer::Rsa(_)) {
            let keys = key_set(&[other.jwk(",\"kid\":\"k\"")]);
            let refused = issuer().verify(&Token::read(&token).unwrap(), &keys, NOW);
            assert_eq!(refused, Err(Fault::Signature), "{algorithm:?}");
        }
    }
}

/// RFC 7515, appendix A.2.
#[test]
fn a_published_signature_is_verified() {
    let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                  cGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2\
                     Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjt\
                     QBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6\
                     IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let text = format!("{signed}.{signature}");
    let token = Token::read(&text).unwrap();
    let keys = key_set(&[Signer::new(Algorithm::Rs256).jwk("")]);
    let key = keys.find(None, Algorithm::Rs256).unwrap();
    let (signed, signature) = token.signed();
    assert!(key.verifies(Algorithm::Rs256, signed, signature));
    assert!(!key.verifies(Algorithm::Ps256, signed, signature));
}

#[test]
fn what_a_token_claims_has_to_hold() {
    let now = NOW.as_secs();
    let at = |seconds: u64| Some(seconds.to_string());
    type Change = (&'static str, Option<String>);
    let cases: [(&str, &[Change], Result<(), Fault>); 15] = [
        ("a good one", &[], Ok(())),
        ("another issuer", &[("iss", Some("\"https://evil.example\"".into()))], Err(Fault::Issuer)),
        ("a longer issuer", &[("iss", Some("\"https://idp.example/\"".into()))], Err(Fault::Issuer)),
        ("no issuer", &[("iss", None)], Err(Fault::Issuer)),
        ("expired", &[("exp", at(now - 30))], Err(Fault::Expired)),
        ("expired within the skew", &[("exp", at(now - 29))], Ok(())),
        ("no end", &[("exp", None)], Err(Fault::Expired)),
        ("an end in words", &[("exp", Some("\"never\"".into()))], Err(Fault::Malformed)),
        ("not yet", &[("nbf", at(now + 31))], Err(Fault::NotYet)),
        ("not yet within the skew", &[("nbf", at(now + 30))], Ok(())),
        ("issued in the future", &[("iat", at(now + 31))], Err(Fault::NotYet)),
        ("no subject", &[("sub", None)], Err(Fault::Unnamed)),
        ("bound by a key", &[("cnf", Some("{\"jkt\":\"x\"}".into()))], Err(Fault::Binding)),
        ("bound in no way", &[("cnf", Some("{}".into()))], Err(Fault::Binding)),
        ("a chain of actors that is none", &[("act", Some("7".into()))], Err(Fault::Actors)),
    ];
    let provider = provider();
    for (name, changes, expected) in cases {
        let changes: Vec<(&str, Option<&str>)> =
            changes.iter().map(|(claim, value)| (*claim, value.as_deref())).collect();
        let token = provider.token(HEADER, &claims(&changes));
        assert_eq!(provider.verify(&issuer(), &token).map(drop), expected, "{name}");
    }
}

#[test]
fn a_token_lives_no_longer_than_its_issuer_may_let_it() {
    let provider = provider();
    let issuer = Issuer { max_lifetime: Some(Duration::from_secs(300)), ..issuer() };
    let verify = |changes: &[(&str, Option<&str>)]| {
        provider.verify(&issuer, &provider.token(HEADER, &claims(changes))).map(drop)
    };
    assert_eq!(verify(&[]), Ok(()));
    let later = (NOW.as_secs() + 301).to_string();
    assert_eq!(verify(&[("exp", Some(&later))]), Err(Fault::LongLived));
    assert_eq!(verify(&[("iat", None)]), Err(Fault::LongLived));
}

#[test]
fn what_a_header_says_does_not_choose_how_it_is_verified() {
    let provider = provider();
    let verify = |issuer: &Issuer, header: &str| {
        provider.verify(issuer, &provider.token(header, &claims(&[]))).map(drop)
    };
    let table = [
        (r#"{"alg":"ES256","kid":"k1","typ":"application/at+jwt"}"#, Ok(())),
        (r#"{"alg":"ES256","typ":"JWT"}"#, Ok(())),
        (r#"{"alg":"none","kid":"k1","typ":"JWT"}"#, Err(Fault::Algorithm)),
        (r#"{"alg":"NONE","kid":"k1","typ":"JWT"}"#, Err(Fault::Algorithm)),
        (r#"{"alg":"HS256","kid":"k1","typ":"JWT"}"#, Err(Fault::Algorithm)),
        (r#"{"alg":"es256","kid":"k1","typ":"JWT"}"#, Err(Fault::Algorithm)),
        (r#"{"alg":"ES384","kid":"k1","typ":"JWT"}"#, Err(Fault::UnknownKey)),
        (r#"{"alg":"RS256","kid":"k1","typ":"JWT"}"#, Err(Fault::UnknownKey)),
        (r#"{"alg":"ES256","kid":"k2","typ":"JWT"}"#, Err(Fault::UnknownKey)),
        (r#"{"alg":"ES256","kid":7,"typ":"JWT"}"#, Err(Fault::Malformed)),
        (r#"{"alg":"ES256","kid":"k1","typ":"id+jwt"}"#, Err(Fault::Type)),
        (r#"{"alg":"ES256","kid":"k1"}"#, Err(Fault::Type)),
        (r#"{"alg":"ES256","kid":"k1","typ":"JWT","crit":["b64"],"b64":false}"#, Err(Fault::Critical)),
        (r#"{"alg":"ES256","alg":"none","kid":"k1","typ":"JWT"}"#, Err(Fault::Malformed)),
        (r#"{"kid":"k1","typ":"JWT"}"#, Err(Fault::Malformed)),
        (r#"["ES256"]"#, Err(Fault::Malformed)),
    ];
    for (header, expected) in table {
        assert_eq!(verify(&issuer(), header), expected, "{header}");
    }
    let pinned = Issuer { algorithms: vec![Algorithm::Rs256], ..issuer() };
    assert_eq!(verify(&pinned, HEADER), Err(Fault::Algorithm));
    let untyped = Issuer { types: vec![String::new()], ..issuer() };
    assert_eq!(verify(&untyped, r#"{"alg":"ES256","kid":"k1"}"#), Ok(()));
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let provider = provider();
    let stranger = Signer::new(Algorithm::Es256);
    let header = format!(r#"{{"alg":"ES256","kid":"k1","typ":"JWT","jwk":{}}}"#, stranger.jwk(""));
    let token = stranger.token(Algorithm::Es256, &header, &claims(&[]));
    assert_eq!(provider.verify(&issuer(), &token).map(drop), Err(Fault::Signature));
}

#[test]
fn nobody_signs_with_a_public_key() {
    let provider = provider();
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256","kid":"k1","typ":"JWT"}"#), encode(claims(&[])));
    for secret in [provider.signer.jwk(""), rfc7515::MODULUS.to_owned()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let token = format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())));
        assert_eq!(provider.verify(&issuer(), &token).map(drop), Err(Fault::Algorithm));
    }
}

#[test]
fn a_token_reads_in_one_way_only() {
    let provider = provider();
    let good = provider.token(HEADER, &claims(&[]));
    let parts: Vec<&str> = good.split('.').collect();
    let twice = claims(&[]).replacen('{', "{\"sub\":\"root\",", 1);
    let cases = [
        String::new(),
        parts[0].to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{good}.{}", parts[2]),
        format!("{good}="),
        format!(" {good}"),
        good[..good.len() - 1].to_owned(),
        good.replace(parts[1], &encode("[]")),
        good.replace(parts[1], &encode(twice)),
        good.replace(parts[1], &encode("{\"sub\":\"a\"}x")),
        good.replace(parts[1], &encode(b"{\"sub\":\"\xff\"}")),
        good.replace(parts[1], &encode(r#"{"sub":"\ud800"}"#)),
        good.replace(parts[1], &encode(format!("{}{}", "{\"a\":".repeat(20), "}".repeat(20)))),
    ];
    for bad in cases {
        assert_eq!(provider.verify(&issuer(), &bad).map(drop), Err(Fault::Malformed), "{bad}");
    }
    let changed = good.replace(parts[1], &encode(claims(&[("sub", Some("\"root\""))])));
    assert_eq!(provider.verify(&issuer(), &changed).map(drop), Err(Fault::Signature));
    let large = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(Token::read(&large).map(drop), Err(Fault::TooLarge));
}

#[test]
fn what_an_issuer_says_of_a_token_is_believed_for_a_while() {
    let now = NOW.as_secs();
    let keep = Duration::from_secs(30);
    let inspected = |answer: &str| issuer().inspected(answer, NOW, keep);
    let known =
        inspected(r#"{"active":true,"sub":"anna","scope":"a b","aud":"x","client_id":"desk"}"#).unwrap();
    assert_eq!(
        (known.principal.auth, known.principal.not_after),
        (AuthMethod::Introspected, Some(NOW + keep))
    );
    assert_eq!((known.principal.agent.as_deref(), known.principal.scopes.len()), (Some("desk"), 2));
    let soon = inspected(&format!("{{\"active\":true,\"sub\":\"anna\",\"exp\":{}}}", now - 10)).unwrap();
    assert_eq!(soon.principal.not_after, Some(NOW + Duration::from_secs(20)));
    let cases = [
        (r#"{"active":false,"sub":"anna"}"#.to_owned(), Fault::Inactive),
        (r#"{"active":"true","sub":"anna"}"#.to_owned(), Fault::Inactive),
        (r#"{"sub":"anna"}"#.to_owned(), Fault::Inactive),
        (r#"{"active":true}"#.to_owned(), Fault::Unnamed),
        (r#"{"active":true,"active":true,"sub":"anna"}"#.to_owned(), Fault::Malformed),
        (r#"{"active":true,"sub":"anna","iss":"https://evil.example"}"#.to_owned(), Fault::Issuer),
        (format!("{{\"active\":true,\"sub\":\"anna\",\"exp\":{}}}", now - 30), Fault::Expired),
        (r#"{"active":true,"sub":"anna","cnf":{"jkt":"x"}}"#.to_owned(), Fault::Binding),
    ];
    for (answer, fault) in cases {
        assert_eq!(inspected(&answer), Err(fault), "{answer}");
    }
}

#[test]
fn what_was_verified_is_asked_again_at_every_use() {
    let provider = provider();
    let thumbprint = encode([7; 32]);
    let cnf = format!("{{\"x5t#S256\":\"{thumbprint}\"}}");
    let token = |changes: &[(&str, Option<&str>)]| {
        let changes = [&[("scope", Some("\"read write\"")), ("azp", Some("\"desk\""))][..], changes].concat();
        provider.verify(&issuer(), &provider.token(HEADER, &claims(&changes))).unwrap()
    };
    let (free, bound) = (token(&[]), token(&[("cnf", Some(&cnf))]));
    let audiences: [Arc<str>; 1] = ["https://gw.example/mcp".into()];
    let elsewhere: [Arc<str>; 1] = ["https://gw.example/other".into()];
    let needs: [Arc<str>; 2] = ["read".into(), "admin".into()];
    let nothing = Revoked::default();
    let own = Certificate {
        fingerprint: [7; 32],
        spiffe: None,
        dns: vec![],
        not_after: NOW,
        is_authority: false,
        is_ambiguous: false,
    };
    let other = Certificate { fingerprint: [8; 32], ..own.clone() };
    let here = Occasion {
        audiences: Some(&audiences),
        scopes: &needs[..1],
        certificate: None,
        revoked: &nothing,
        wall: NOW,
    };
    let held = |verified: &Verified, occasion: Occasion<'_>| verified.holds(&occasion);
    assert_eq!(held(&free, here), Ok(()));
    assert_eq!(held(&free, Occasion { audiences: Some(&elsewhere), ..here }), Err(Fault::Audience));
    assert_eq!(held(&free, Occasion { audiences: None, ..here }), Ok(()));
    assert_eq!(held(&free, Occasion { scopes: &needs, ..here }), Err(Fault::Scope));
    let late = NOW + Duration::from_secs(330);
    assert_eq!(held(&free, Occasion { wall: late, ..here }), Err(Fault::Expired));
    assert_eq!(held(&bound, here), Err(Fault::NotBound));
    assert_eq!(held(&bound, Occasion { certificate: Some(&other), ..here }), Err(Fault::NotBound));
    assert_eq!(held(&bound, Occasion { certificate: Some(&own), ..here }), Ok(()));
    let lists = [
        Revoked { subjects: [("anna".into(), [].into())].into(), ..Revoked::default() },
        Revoked { subjects: [("anna".into(), ["acme".into()].into())].into(), ..Revoked::default() },
        Revoked { subjects: [("desk".into(), [].into())].into(), ..Revoked::default() },
        Revoked { tokens: ["t-1".into()].into(), ..Revoked::default() },
        Revoked { keys: ["k1".into()].into(), ..Revoked::default() },
    ];
    for revoked in &lists {
        assert_eq!(held(&free, Occasion { revoked, ..here }), Err(Fault::Revoked), "{revoked:?}");
    }
    let certificates = Revoked { certificates: [[7; 32]].into(), ..Revoked::default() };
    let shown = Occasion { certificate: Some(&own), revoked: &certificates, ..here };
    assert_eq!((held(&free, shown), held(&bound, shown)), (Err(Fault::Revoked), Err(Fault::Revoked)));
    let another =
        Revoked { subjects: [("anna".into(), ["globex".into()].into())].into(), ..Revoked::default() };
    assert_eq!(held(&free, Occasion { revoked: &another, ..here }), Ok(()));
}
