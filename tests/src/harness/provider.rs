//! A real authorization server: `tests/sdk/provider.mjs`.

use super::{Client, Pair, Response, Runtime, Server};
use serde_json::{Value, json};

/// The scopes that every resource has.
const SCOPES: &str = "tools:read tools:write";

/// The authorization server as a process; it ends with the value.
pub(crate) struct Provider {
    server: Server,
}

impl Provider {
    /// Starts it with fresh keys.
    pub(crate) async fn start() -> Provider {
        Provider { server: Server::start(Runtime::Node, "provider.mjs").await }
    }

    /// Its identifier.
    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// An access token that it gives a client for a resource.
    pub(crate) async fn token(&self, client: &str, resource: &str) -> String {
        self.grant(client, resource, SCOPES, None).await
    }

    /// The same for these scopes, and from who shows this certificate.
    pub(crate) async fn grant(
        &self,
        client: &str,
        resource: &str,
        scope: &str,
        shows: Option<&Pair>,
    ) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id={client}&client_secret=secret&scope={}&resource={}",
            encoded(scope),
            encoded(resource)
        );
        let certificate = shows.map(|pair| format!("x-test-certificate: {}\r\n", encoded(&pair.chain)));
        let fields = format!(
            "content-type: application/x-www-form-urlencoded\r\n{}content-length: {}\r\n\r\n{form}",
            certificate.unwrap_or_default(),
            form.len()
        );
        let answer = self.exchange("POST", "/token", &fields).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
    }

    /// A token that it would never give out: see `sign` of `provider.mjs`.
    pub(crate) async fn sign(&self, wish: &Value) -> String {
        let answer = self.control(&format!("sign?q={}", encoded(&wish.to_string()))).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    /// The same with the claims of a good token for a resource, but for `changed`.
    pub(crate) async fn sign_for(&self, resource: &str, changed: Value) -> String {
        let mut wish = json!({ "claims": { "aud": resource, "tenant": "acme", "scope": SCOPES } });
        for (name, value) in changed.as_object().unwrap() {
            match name.as_str() {
                "claims" => {
                    for (claim, value) in value.as_object().unwrap() {
                        wish["claims"][claim] = value.clone();
                    }
                }
                _ => wish[name] = value.clone(),
            }
        }
        self.sign(&wish).await
    }

    /// Replaces all keys.
    pub(crate) async fn rotate(&self) {
        self.control("rotate").await;
    }

    /// How often its keys were fetched.
    pub(crate) async fn key_fetches(&self) -> u64 {
        self.control("counts").await["keys"].as_u64().unwrap()
    }

    async fn control(&self, what: &str) -> Value {
        self.exchange("GET", &format!("/test/{what}"), "\r\n").await.json()
    }

    async fn exchange(&self, method: &str, path: &str, rest: &str) -> Response {
        let mut client = Client::connect(self.server.address).await;
        let head = client.head(method, path, &[]);
        client.send(format!("{head}{rest}").as_bytes()).await;
        client.response().await
    }
}

/// Percent-encoded for a query, a form or a header.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}
