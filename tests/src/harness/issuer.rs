//! An authorization server in memory: keys, metadata, tokens, and answers about tokens.

use super::{Pair, Request, Upstream, Wire};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A key that signs tokens.
pub(crate) struct Key {
    /// Its `kid`.
    pub(crate) id: String,
    pair: EcdsaKeyPair,
}

struct Published {
    scheme: &'static str,
    keys: Mutex<Vec<Value>>,
    /// Answers about opaque tokens.
    answers: Mutex<BTreeMap<String, Value>>,
    /// What is answered at some paths in place of anything sensible, head and body.
    instead: Mutex<BTreeMap<&'static str, String>>,
    fetches: AtomicUsize,
    /// Fetches of keys that had not changed.
    unchanged: AtomicUsize,
    asked: Mutex<Vec<String>>,
    /// Answers about tokens wait while this is held.
    held: watch::Sender<bool>,
}

/// An issuer; it goes down with the value.
pub(crate) struct Issuer {
    server: Upstream,
    published: Arc<Published>,
}

impl Key {
    /// A new key of P-256.
    pub(crate) fn new(id: &str) -> Key {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        Key { id: id.to_owned(), pair: pair.unwrap() }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": encode(x), "y": encode(y)})
    }

    /// A token with these claims, as they are.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The header of a good token.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.id, "typ": "at+jwt"})
    }
}

impl Issuer {
    /// An issuer that publishes these keys.
    pub(crate) async fn start(keys: &[&Key]) -> Issuer {
        Issuer::start_with(keys, None).await
    }

    /// The same under TLS, with a certificate for its address.
    pub(crate) async fn secured(keys: &[&Key], own: &Pair) -> Issuer {
        Issuer::start_with(keys, Some(own)).await
    }

    async fn start_with(keys: &[&Key], own: Option<&Pair>) -> Issuer {
        let published = Arc::new(Published::at(own.map_or("http", |_| "https")));
        let shared = Arc::clone(&published);
        let script = move |request: Request, wire: Wire| {
            let published = Arc::clone(&shared);
            async move { published.answer(request, wire).await }
        };
        let server = match own {
            None => Upstream::start(script).await,
            Some(own) => Upstream::secured(own.server(&[]), script).await,
        };
        let issuer = Issuer { server, published };
        issuer.publish(keys);
        issuer
    }

    /// Its name, and where it is.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.published.scheme, self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Publishes these keys and no others.
    pub(crate) fn publish(&self, keys: &[&Key]) {
        *self.published.keys.lock().unwrap() = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Says this of an opaque token from now on.
    pub(crate) fn says(&self, token: &str, answer: Value) {
        self.published.answers.lock().unwrap().insert(token.to_owned(), answer);
    }

    /// Answers this at a path from now on, head and body; `None` for what is right there.
    pub(crate) fn answers(&self, path: &'static str, instead: Option<String>) {
        let mut all = self.published.instead.lock().unwrap();
        match instead {
            Some(answer) => drop(all.insert(path, answer)),
            None => drop(all.remove(path)),
        }
    }

    /// Holds back, or lets go, what it says of tokens.
    pub(crate) fn hold(&self, held: bool) {
        self.published.held.send_replace(held);
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.server.requests()
    }

    /// How often it said that its keys are as they were.
    pub(crate) fn unchanged(&self) -> usize {
        self.published.unchanged.load(Ordering::SeqCst)
    }

    /// How often its keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::SeqCst)
    }

    /// Heads and bodies of the questions about tokens.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.published.asked.lock().unwrap().clone()
    }

    /// Claims of a token that is good for five minutes, with these beside them or instead.
    pub(crate) fn claims(&self, audience: &str, more: Value) -> Value {
        let now = now();
        let mut claims = json!({
            "iss": self.url(), "sub": "anna", "aud": audience, "iat": now, "exp": now + 300, "scope": "mcp",
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    /// A good token.
    pub(crate) fn token(&self, key: &Key, audience: &str) -> String {
        self.token_with(key, audience, json!({}))
    }

    /// A token with these claims beside or instead of good ones.
    pub(crate) fn token_with(&self, key: &Key, audience: &str, more: Value) -> String {
        key.sign(&key.header(), &self.claims(audience, more))
    }
}

impl Published {
    fn at(scheme: &'static str) -> Published {
        Published {
            scheme,
            keys: Mutex::default(),
            answers: Mutex::default(),
            instead: Mutex::default(),
            fetches: AtomicUsize::default(),
            unchanged: AtomicUsize::default(),
            asked: Mutex::default(),
            held: watch::Sender::new(false),
        }
    }

    async fn answer(&self, request: Request, mut wire: Wire) -> Option<Wire> {
        let host = format!("{}://{}", self.scheme, request.header("host").unwrap_or_default());
        let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/introspect" {
            let form = String::from_utf8(request.body.clone()).unwrap();
            self.asked.lock().unwrap().push(format!("{}\n{form}", request.head));
            self.held.subscribe().wait_for(|held| !held).await.ok();
        }
        let instead = self.instead.lock().unwrap().get(path.as_str()).cloned();
        if let Some(answer) = instead {
            wire.send(answer).await;
            return None;
        }
        let body = match path.as_str() {
            "/.well-known/oauth-authorization-server" => {
                json!({"issuer": host, "jwks_uri": format!("{host}/keys")})
            }
            "/keys" => {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                return self.keys(&request, wire).await;
            }
            "/introspect" => {
                let form = String::from_utf8(request.body.clone()).unwrap();
                let token =
                    form.split('&').find_map(|field| field.strip_prefix("token=")).unwrap_or_default();
                let known = self.answers.lock().unwrap().get(token).cloned();
                known.unwrap_or_else(|| json!({"active": false}))
            }
            _ => {
                wire.send("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
                return Some(wire);
            }
        };
        wire.json(&body.to_string()).await;
        Some(wire)
    }

    /// The keys, with a version.
    async fn keys(&self, request: &Request, mut wire: Wire) -> Option<Wire> {
        let body = json!({"keys": self.keys.lock().unwrap().clone()}).to_string();
        let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        let version = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest));
        let head = match request.header("if-none-match") == Some(&version) {
            true => {
                self.unchanged.fetch_add(1, Ordering::SeqCst);
                format!("HTTP/1.1 304 Not Modified\r\netag: {version}\r\n\r\n")
            }
            false => format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: {version}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        };
        wire.send(head).await;
        Some(wire)
    }
}

#[expect(clippy::disallowed_methods, reason = "an issuer dates its tokens by the clock of the gateway")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
