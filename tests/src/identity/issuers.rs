//! Issuers that are slow, unwell, or not who they should be.

use super::{Guarded, RESOURCE, call};
use crate::harness::{
    Authority, Era, Gateway, Issuer, Key, Mcp, Nature, Upstream, modern_call, modern_headers, within,
};
use serde_json::{Value, json};
use std::time::Duration;

/// How many clients show the same token at once.
const CROWD: usize = 100;

/// A gateway that asks an issuer about tokens.
struct Asking {
    gateway: Gateway,
    issuer: Issuer,
    /// What the gateway serves.
    _server: Mcp,
}

impl Asking {
    /// It waits as long as it takes.
    async fn start() -> Asking {
        Asking::with("timeout: 10m").await
    }

    /// `settings` are those of the question.
    async fn with(settings: &str) -> Asking {
        let issuer = Issuer::start(&[]).await;
        let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
        let document = format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             introspection: {{issuer: idp, url: '{}/introspect', client: {{id: gw, secret: 'file:secret'}}, {settings}}}\n",
            server.url(),
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document).await;
        Asking { gateway, issuer, _server: server }
    }

    /// What as many clients get who show a token while its issuer thinks about it; `known` tokens were
    /// looked for before.
    async fn crowd(&self, token: &str, known: usize) -> Vec<u16> {
        self.issuer.hold(true);
        let mut clients = vec![];
        for _ in 0..CROWD {
            let mut client = self.gateway.connect().await;
            let mut headers = modern_headers("echo");
            headers.push(("authorization", format!("Bearer {token}")));
            client.post("/mcp", &headers, modern_call(1, "echo").as_bytes()).await;
            clients.push(client);
        }
        self.looked_for(known + CROWD).await;
        self.issuer.hold(false);
        let mut statuses = vec![];
        for client in &mut clients {
            statuses.push(client.response().await.status);
        }
        statuses
    }

    /// Waits until as many tokens were looked for in vain.
    async fn looked_for(&self, tokens: usize) {
        self.gateway.counts("mcp_token_cache_total", "result=\"miss\"", tokens as f64).await;
    }
}

#[tokio::test]
async fn a_token_is_asked_about_once_for_all_who_show_it() {
    let asking = Asking::start().await;
    asking.issuer.says("opaque-1", json!({"active": true, "sub": "anna", "aud": RESOURCE}));
    assert_eq!(asking.crowd("opaque-1", 0).await, [200; CROWD]);
    assert_eq!(asking.issuer.asked().len(), 1);
    assert_eq!(asking.crowd("nobody's", CROWD).await, [401; CROWD]);
    assert_eq!(asking.issuer.asked().len(), 2);
}

#[tokio::test]
async fn an_issuer_that_fails_is_not_stormed() {
    let asking = Asking::start().await;
    let down = "HTTP/1.1 500 Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    asking.issuer.answers("/introspect", Some(down.to_owned()));
    assert_eq!(asking.crowd("opaque-1", 0).await, [503; CROWD]);
    assert_eq!(asking.issuer.asked().len(), 1, "one question for all of them");
    let mut client = asking.gateway.connect().await;
    for number in 0..20 {
        let refused = call(&mut client, "/mcp", Some(&format!("other-{number}"))).await;
        assert_eq!((refused.status, refused.reason().as_str()), (503, "identity_unavailable"));
    }
    assert_eq!(asking.issuer.asked().len(), 5, "it is left alone");
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_a_token_does_not_make_it_a_bad_one() {
    let good = json!({"active": true, "sub": "anna", "aud": RESOURCE}).to_string();
    let answers = [
        ("200 OK", "<html>maintenance</html>"),
        ("200 OK", "{}"),
        ("200 OK", "[true]"),
        ("203 Hearsay", &good),
    ];
    let asking = Asking::with("timeout: 2s").await;
    let mut client = asking.gateway.connect().await;
    for (number, (status, body)) in answers.iter().enumerate() {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        asking.issuer.answers("/introspect", Some(answer));
        let unavailable = call(&mut client, "/mcp", Some(&format!("opaque-{number}"))).await;
        assert_eq!((unavailable.status, unavailable.reason().as_str()), (503, "identity_unavailable"));
    }
    asking.issuer.answers("/introspect", None);
    asking.issuer.says("opaque-0", json!({"active": true, "sub": "anna", "aud": RESOURCE}));
    assert_eq!(call(&mut client, "/mcp", Some("opaque-0")).await.status, 200, "nothing was kept");
    asking.issuer.hold(true);
    let late = call(&mut client, "/mcp", Some("opaque-9")).await;
    assert_eq!((late.status, late.reason().as_str()), (503, "identity_unavailable"));
}

#[tokio::test]
async fn a_question_goes_on_when_who_asked_first_has_gone() {
    let asking = Asking::start().await;
    asking.issuer.says("opaque-1", json!({"active": true, "sub": "anna", "aud": RESOURCE}));
    asking.issuer.hold(true);
    let mut headers = modern_headers("echo");
    headers.push(("authorization", "Bearer opaque-1".to_owned()));
    let mut clients = vec![];
    for number in 1..=2 {
        let mut client = asking.gateway.connect().await;
        client.post("/mcp", &headers, modern_call(1, "echo").as_bytes()).await;
        asking.looked_for(number).await;
        clients.push(client);
    }
    drop(clients.remove(0));
    asking.issuer.hold(false);
    assert_eq!(clients.remove(0).response().await.status, 200);
    assert_eq!(asking.issuer.asked().len(), 1);
}

#[tokio::test]
async fn what_was_said_of_a_token_is_asked_again_and_never_runs_out_before() {
    let asking = Asking::with("cache: 2s").await;
    asking.issuer.says("opaque-1", json!({"active": true, "sub": "anna", "aud": RESOURCE}));
    let mut client = asking.gateway.connect().await;
    within(20, "another question", async {
        while asking.issuer.asked().len() < 2 {
            assert_eq!(call(&mut client, "/mcp", Some("opaque-1")).await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_issuer_that_does_not_know_a_token_says_nothing_of_another() {
    let (first, second) = (Issuer::start(&[]).await, Issuer::start(&[]).await);
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: up, identity: {{issuers: [a]}}}}\n  /hr/mcp: up\n\
         identity:\n  url: https://gw.example\n  introspection:\n  \
         - {{issuer: a, url: '{}/introspect', audience: any, client: {{id: gw, secret: 'file:secret'}}}}\n  - {{issuer: b, url: '{}/introspect', audience: any, client: {{id: gw, secret: 'file:secret'}}}}\n",
        server.url(),
        first.url(),
        second.url()
    );
    let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document).await;
    second.says("opaque-1", json!({"active": true, "sub": "anna", "aud": "any"}));
    let mut client = gateway.connect().await;
    assert_eq!(call(&mut client, "/mcp", Some("opaque-1")).await.status, 401, "only `a` counts");
    for _ in 0..2 {
        assert_eq!(call(&mut client, "/hr/mcp", Some("opaque-1")).await.status, 200);
    }
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test]
async fn where_one_of_two_issuers_cannot_tell_a_token_is_not_yet_bad() {
    let (down, well) = (Issuer::start(&[]).await, Issuer::start(&[]).await);
    let asked = |issuer: &Issuer, name: &str| {
        let client = "client: {id: gw, secret: 'file:secret'}";
        format!("  - {{issuer: {name}, url: '{}/introspect', {client}}}\n", issuer.url())
    };
    for issuers in [asked(&down, "a") + &asked(&well, "b"), asked(&well, "b") + &asked(&down, "a")] {
        let server = Upstream::unreachable().await;
        let document = format!(
            "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             introspection:\n{issuers}",
            server.address
        );
        let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document).await;
        down.answers("/introspect", Some("HTTP/1.1 500 Down\r\ncontent-length: 0\r\n\r\n".to_owned()));
        let refused = call(&mut gateway.connect().await, "/mcp", Some("opaque")).await;
        assert_eq!((refused.status, refused.reason().as_str()), (503, "identity_unavailable"), "{issuers}");
    }
}

#[tokio::test]
async fn a_bad_token_of_a_known_issuer_is_shown_to_nobody() {
    let key = Key::new("k1");
    let (issuer, other) = (Issuer::start(&[&key]).await, Issuer::start(&[]).await);
    let server = Upstream::unreachable().await;
    let document = format!(
        "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
         jwt: {{issuer: '{}'}}\n  introspection: {{issuer: idp, url: '{}/introspect', client: {{id: gw, secret: 'file:secret'}}}}\n",
        server.address,
        issuer.url(),
        other.url()
    );
    let gateway = Gateway::start_beside(&[("secret", "s3cret")], &document).await;
    let mut client = gateway.connect().await;
    let claims = issuer.claims(RESOURCE, json!({}));
    for header in [json!({"typ": "id+jwt"}), json!({"crit": ["x"]}), json!({"kid": "k9"})] {
        let mut all = key.header();
        for (name, value) in header.as_object().unwrap() {
            all[name] = value.clone();
        }
        assert_eq!(call(&mut client, "/mcp", Some(&key.sign(&all, &claims))).await.status, 401, "{header}");
    }
    let expired = issuer.token_with(&key, RESOURCE, json!({"exp": 1}));
    assert_eq!(call(&mut client, "/mcp", Some(&expired)).await.status, 401);
    assert_eq!(other.asked().len(), 0);
    assert_eq!(call(&mut client, "/mcp", Some("opaque")).await.status, 401);
    assert_eq!(other.asked().len(), 1);
}

#[tokio::test]
async fn a_token_whose_time_comes_is_taken_from_then_on() {
    let guarded = Guarded::start(", clock_skew: 0s", "").await;
    let now = guarded.issuer.claims(RESOURCE, json!({}))["iat"].as_u64().unwrap();
    let early = guarded.issuer.token_with(&guarded.key, RESOURCE, json!({"nbf": now + 3}));
    let mut client = guarded.gateway.connect().await;
    assert_eq!(call(&mut client, "/mcp", Some(&early)).await.status, 401);
    // A refusal that is kept is kept for ten seconds.
    within(8, "the time of the token", async {
        while call(&mut client, "/mcp", Some(&early)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// What `/status` says of the only issuer.
async fn issuer_status(gateway: &Gateway) -> Value {
    gateway.status().await["identity"]["issuers"][0].clone()
}

#[tokio::test]
async fn keys_come_over_tls_and_are_fetched_whole_only_when_they_change() {
    let (authority, key) = (Authority::new("of the provider"), Key::new("k1"));
    let own = authority.issue(&["127.0.0.1"]);
    let issuer = Issuer::secured(&[&key], &own).await;
    let server = Mcp::naming(Nature::of(Era::Modern), &["echo".to_owned()]).await;
    let document = |tls: &str| {
        format!(
            "upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             jwt: {{issuer: '{}', refresh: 1s{tls}}}\n",
            server.url(),
            issuer.url()
        )
    };
    let pem = authority.pem();
    let gateway = Gateway::start_beside(&[("idp.pem", &pem)], &document(", tls: {ca: idp.pem}")).await;
    let (token, mut client) = (issuer.token(&key, RESOURCE), gateway.connect().await);
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 200);
    // Fetches follow one another: what the first of two brought has been looked at.
    gateway.reaches("two looks at the version", |_| issuer.unchanged() >= 2).await;
    let mut other = gateway.connect().await;
    assert_eq!(call(&mut other, "/mcp", Some(&token)).await.status, 200);
    assert_eq!(gateway.metric("mcp_token_cache_total{result=\"miss\"}").await, Some(1.0), "verified again");
    let fresh = [Key::new("k2"), Key::new("k3")];
    issuer.publish(&[&fresh[0], &fresh[1]]);
    gateway.reaches("the new keys", |status| status["identity"]["issuers"][0]["keys"] == 2).await;
    assert_eq!(call(&mut client, "/mcp", Some(&token)).await.status, 401);
    assert_eq!(call(&mut client, "/mcp", Some(&issuer.token(&fresh[1], RESOURCE))).await.status, 200);

    let strange = Authority::new("of somebody else").pem();
    let gateway = Gateway::start_beside(&[("idp.pem", &strange)], &document(", tls: {ca: idp.pem}")).await;
    let refused = call(&mut gateway.connect().await, "/mcp", Some(&token)).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "identity_unavailable"));
    assert!(issuer_status(&gateway).await["failed"].is_string());
}

/// What an issuer may answer where its keys should be, and what the status says of it.
fn odd_answers() -> Vec<(&'static str, String)> {
    let answer = |status: &str, fields: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let elsewhere = "location: /elsewhere\r\n";
    vec![
        ("status 500", answer("500 Down", "", "")),
        ("status 302", answer("302 Found", elsewhere, "{\"keys\":[]}")),
        ("no JSON", answer("200 OK", "", "<html>maintenance</html>")),
        ("no key of the key set", answer("200 OK", "", "{\"keys\":[]}")),
        (
            "the answer is larger than",
            answer("200 OK", "", &format!("{{\"keys\":[{}]}}", " ".repeat(300 << 10))),
        ),
    ]
}

#[tokio::test]
async fn the_last_good_keys_are_kept_whatever_an_issuer_answers() {
    for (told, answer) in odd_answers() {
        let guarded = Guarded::start(", refresh: 1s", "").await;
        assert_eq!(guarded.call(&guarded.token()).await.status, 200);
        guarded.issuer.answers("/keys", Some(answer));
        let header = json!({"alg": "ES256", "kid": "k9", "typ": "at+jwt"});
        let unknown = guarded.key.sign(&header, &guarded.issuer.claims(RESOURCE, json!({})));
        let told_so = |status: &Value| {
            status["identity"]["issuers"][0]["failed"].as_str().is_some_and(|failed| failed.contains(told))
        };
        assert_eq!(guarded.call(&unknown).await.status, 401, "{told}");
        let status = guarded.gateway.reaches(told, told_so).await;
        assert_eq!(status["identity"]["issuers"][0]["keys"], 1, "{told}");
        let unseen = guarded.issuer.token_with(&guarded.key, RESOURCE, json!({"jti": "another"}));
        assert_eq!(guarded.call(&unseen).await.status, 200, "{told}");
        assert_eq!(guarded.call(&unknown).await.status, 401, "{told}");
    }
}

#[tokio::test]
async fn an_issuer_that_stays_down_is_news_once() {
    let guarded = Guarded::start(", refresh: 1s", "").await;
    assert_eq!(guarded.call(&guarded.token()).await.status, 200);
    guarded.issuer.answers("/keys", Some(odd_answers().remove(0).1));
    within(60, "two failures", async {
        while guarded.gateway.counted("portunus_jwks_fetches_total", "result=\"failed\"").await < 1.5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    guarded.issuer.answers("/keys", None);
    let message = |text: &'static str| move |line: &Value| line["message"] == text;
    guarded.gateway.logged("that it is back", message("the keys of an issuer are fetched again")).await;
    let log = guarded.gateway.log_text();
    assert_eq!(log.matches("the keys of an issuer were not fetched").count(), 1, "{log}");
}

#[tokio::test]
async fn strangers_that_ask_for_metadata_do_not_storm_a_provider_that_is_down() {
    let guarded = Guarded::start("", "  metadata: {client: fixed}\n").await;
    let place = "/.well-known/oauth-authorization-server";
    let ask = async || guarded.gateway.get(guarded.gateway.address, &format!("{place}/mcp")).await.status;
    let metadata = json!({"issuer": "https://evil.example", "registration_endpoint": "https://evil.example"});
    let evil = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{metadata}", metadata.to_string().len());
    guarded.issuer.answers(place, Some(evil));
    let before = guarded.issuer.requests();
    for _ in 0..20 {
        assert_eq!(ask().await, 503, "metadata in another name was passed on");
    }
    let asked = guarded.issuer.requests() - before;
    assert!(asked < 10, "asked {asked} times");
}

#[tokio::test]
async fn metadata_counts_only_for_the_issuer_that_it_names_and_at_its_host() {
    let key = Key::new("k1");
    let cases = [("names another issuer", true), ("at another host", false)];
    for (told, other) in cases {
        let (issuer, elsewhere) = (Issuer::start(&[&key]).await, Issuer::start(&[&key]).await);
        let (names, keys) =
            if other { (elsewhere.url(), issuer.url()) } else { (issuer.url(), elsewhere.url()) };
        let metadata = json!({"issuer": names, "jwks_uri": format!("{keys}/keys")}).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{metadata}", metadata.len());
        issuer.answers("/.well-known/oauth-authorization-server", Some(answer));
        let server = Upstream::unreachable().await;
        let document = format!(
            "upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n  \
             jwt: {{issuer: '{}'}}\n",
            server.address,
            issuer.url()
        );
        let gateway = Gateway::start(&document).await;
        let token = issuer.token(&key, RESOURCE);
        let refused = call(&mut gateway.connect().await, "/mcp", Some(&token)).await;
        assert_eq!((refused.status, refused.reason().as_str()), (503, "identity_unavailable"), "{told}");
        let failed = issuer_status(&gateway).await["failed"].as_str().unwrap_or_default().to_owned();
        assert!(failed.contains(told), "{failed}");
        assert_eq!((issuer.fetches(), elsewhere.fetches()), (0, 0), "{told}");
    }
}
