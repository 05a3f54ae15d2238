//! Who calls: verifying a token by each algorithm, and a caller that was seen before.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use portunus::drain::Phases;
use portunus::frontend::context::Gateway;
use portunus::identify::{ConnectionState, Shown, authenticate};
use portunus_config::{MapEnvironment, Profile, load_text};
use portunus_filters::ManualClock;
use portunus_filters::identity::{Algorithm, ClaimRules, Issuer, KeySet, Naming, Token};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const CLAIMS: &str = r#"{"iss":"https://idp.example","sub":"anna@acme.example","aud":"https://gw.example/mcp",
    "iat":0,"exp":300,"jti":"0b8f3c52-7c1e-4c55-9d0e-2f6a5f3f1c1b","client_id":"desk","scope":"mcp tools:read",
    "roles":["reader","writer","admin"],"groups":["crm","hr"],"acr":"2","amr":["pwd","mfa"]}"#;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A key set of one key, and a token of it.
struct Signed {
    keys: String,
    token: String,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(curve: &str, key: &EcdsaKeyPair) -> String {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, encode(x), encode(y))
}

/// The form of a key in a set, and what signs with it; `None` where no RSA key can be made.
fn signer(algorithm: Algorithm) -> Option<(String, Sign)> {
    let random = SystemRandom::new();
    let ecdsa = |how| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(how, pkcs8.as_ref(), &random).unwrap()
    };
    Some(match algorithm {
        Algorithm::Es256 => {
            let key = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING);
            (ec("P-256", &key), Box::new(move |text| key.sign(&random, text).unwrap().as_ref().to_vec()))
        }
        Algorithm::Es384 => {
            let key = ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING);
            (ec("P-384", &key), Box::new(move |text| key.sign(&random, text).unwrap().as_ref().to_vec()))
        }
        Algorithm::EdDsa => {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            let form = format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encode(key.public_key()));
            (form, Box::new(move |text| key.sign(text).as_ref().to_vec()))
        }
        _ => {
            let arguments =
                ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"];
            let made = Command::new("openssl").args(arguments).output().ok()?.stdout;
            // In PKCS #8 or PKCS #1, as its version has it.
            let key = RsaKeyPair::from_pkcs8(&made).or_else(|_| RsaKeyPair::from_der(&made)).ok()?;
            let components = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
            let form =
                format!(r#""kty":"RSA","n":"{}","e":"{}""#, encode(&components.n), encode(&components.e));
            let sign = move |text: &[u8]| {
                let mut made = vec![0; key.public().modulus_len()];
                let signed = match algorithm {
                    Algorithm::Ps256 => key.sign(&RSA_PSS_SHA256, &random, text, &mut made),
                    _ => key.sign(&RSA_PKCS1_SHA256, &random, text, &mut made),
                };
                signed.unwrap();
                made
            };
            (form, Box::new(sign))
        }
    })
}

fn signed(algorithm: Algorithm) -> Option<Signed> {
    let (form, sign) = signer(algorithm)?;
    let header = format!(r#"{{"alg":"{}","kid":"k","typ":"at+jwt"}}"#, algorithm.as_str());
    let text = format!("{}.{}", encode(header), encode(CLAIMS));
    let token = format!("{text}.{}", encode(sign(text.as_bytes())));
    Some(Signed { keys: format!(r#"{{"keys":[{{{form},"kid":"k"}}]}}"#), token })
}

fn verifying(criterion: &mut Criterion) {
    let issuer = Issuer {
        name: "https://idp.example".into(),
        algorithms: Algorithm::ALL.to_vec(),
        types: Issuer::DEFAULT_TYPES.map(str::to_owned).to_vec(),
        clock_skew: Issuer::DEFAULT_CLOCK_SKEW,
        max_lifetime: None,
        rules: ClaimRules::of(Naming::Fixed("acme".into())),
    };
    let mut group = criterion.benchmark_group("token_miss");
    for algorithm in Algorithm::DEFAULT {
        let Some(Signed { keys, token }) = signed(algorithm) else { continue };
        let keys = KeySet::read(keys.as_bytes()).unwrap().0;
        group.bench_function(algorithm.as_str(), |bencher| {
            bencher.iter(|| {
                let read = Token::read(black_box(&token)).unwrap();
                issuer.verify(&read, &keys, Duration::ZERO).unwrap()
            });
        });
    }
    group.finish();
}

/// A gateway that takes tokens of a key in a file.
fn gateway(keys: &str) -> (Arc<Gateway>, Arc<Profile>) {
    let text = "version: 1\naccess_log: 'off'\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n\
                identity: {url: 'https://gw.example', jwt: {issuer: 'https://idp.example', jwks: keys.json}}\n";
    let mut environment = MapEnvironment::default();
    environment.files.insert("keys.json".into(), keys.to_owned());
    let loaded = load_text(text, Path::new("gateway.yaml"), &environment).unwrap();
    let profile = loaded.snapshot.routes.iter().next().and_then(|server| server.identity.clone());
    let gateway = Gateway::new(loaded, Arc::new(ManualClock::default())).unwrap();
    (Arc::new(gateway), profile.unwrap())
}

fn hits(criterion: &mut Criterion) {
    let Some(Signed { keys, token }) = signed(Algorithm::Es256) else { return };
    let (gateway, profile) = gateway(&keys);
    let field = HeaderValue::from_maybe_shared(Bytes::from(format!("Bearer {token}"))).unwrap();
    let headers: HeaderMap = [(AUTHORIZATION, field)].into_iter().collect();
    let known = ConnectionState::new(Phases::default());
    let ask = |guest: &ConnectionState| {
        let shown =
            Shown { headers: &headers, connection_state: guest, source: IpAddr::from([127, 0, 0, 1]) };
        let mut asking = pin!(authenticate(&gateway, &profile, shown, gateway.clock.now()));
        match asking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => found.is_ok(),
            Poll::Pending => false,
        }
    };
    assert!(ask(&known), "the token is good");
    let mut group = criterion.benchmark_group("token_hit");
    group.bench_function("same_connection", |bencher| bencher.iter(|| ask(black_box(&known))));
    group.bench_function("new_connection", |bencher| {
        bencher.iter(|| ask(&ConnectionState::new(Phases::default())))
    });
    group.finish();
}

criterion_group!(benches, verifying, hits);
criterion_main!(benches);
