//! What is judged is what is sent: rules over names and URIs hold however a client writes them, and
//! whatever they are served as.

use crate::harness::mcp::tool;
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Request, Said, Upstream, Wire, within};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

const AUDIENCE: &str = "https://gw.example/mcp";

/// A modern server of files and prompts, and what got to it beside lists.
struct Member {
    server: Upstream,
    heard: UnboundedReceiver<Value>,
    /// Resources that change.
    changes: broadcast::Sender<&'static str>,
}

impl Member {
    async fn start() -> Member {
        let (told, heard) = unbounded_channel();
        let (changes, _) = broadcast::channel(8);
        let changing = changes.clone();
        let server = Upstream::start(move |request: Request, mut wire: Wire| {
            let (told, changes) = (told.clone(), changing.subscribe());
            async move {
                let message: Value = serde_json::from_slice(&request.body).unwrap();
                let method = message["method"].as_str().unwrap();
                if !method.ends_with("/list") && !matches!(method, "server/discover" | "initialize") {
                    told.send(message.clone()).unwrap();
                }
                if method == "initialize" {
                    let error = json!({"code": -32022, "message": "Unsupported protocol version",
                        "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"}});
                    let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string();
                    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length";
                    wire.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
                    return Some(wire);
                }
                if method == "subscriptions/listen" {
                    listened(&message, wire, changes).await;
                    return None;
                }
                let mut result = answer(&message);
                result["resultType"] = json!("complete");
                (result["ttlMs"], result["cacheScope"]) = (json!(0), json!("private"));
                wire.json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
                    .await;
                Some(wire)
            }
        })
        .await;
        Member { server, heard, changes }
    }

    /// What got to it since it was asked last.
    fn heard(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }

    /// The resources of the next subscription that it hears of.
    async fn subscribed(&mut self) -> Value {
        let next = async {
            loop {
                let message = self.heard.recv().await.unwrap();
                if message["method"] == "subscriptions/listen" {
                    return message["params"]["notifications"]["resourceSubscriptions"].clone();
                }
            }
        };
        within(10, "a subscription", next).await
    }

    fn url(&self) -> String {
        format!("{{ url: 'http://{}/mcp', era: modern }}", self.server.address)
    }
}

/// Acknowledges a subscription, and tells of what changes as long as it is held.
async fn listened(message: &Value, mut wire: Wire, mut changes: broadcast::Receiver<&'static str>) {
    let tag = json!({"io.modelcontextprotocol/subscriptionId": message["id"]});
    let wanted = &message["params"]["notifications"];
    let params = json!({"notifications": wanted, "_meta": tag});
    let note = |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params});
    wire.begin_events().await;
    let begun = note("notifications/subscriptions/acknowledged", params);
    wire.chunk(&format!("data: {begun}\n\n")).await;
    loop {
        let uri = tokio::select! {
            changed = changes.recv() => changed.unwrap(),
            () = wire.closed() => return,
        };
        let tag = json!({"io.modelcontextprotocol/subscriptionId": message["id"]});
        let updated = note("notifications/resources/updated", json!({"uri": uri, "_meta": tag}));
        wire.chunk(&format!("data: {updated}\n\n")).await;
    }
}

fn answer(message: &Value) -> Value {
    match message["method"].as_str().unwrap() {
        "server/discover" => json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}, "prompts": {}, "completions": {}, "resources": {"subscribe": true}},
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1"}},
        }),
        "tools/list" => json!({"tools": [tool("find"), tool("wipe")]}),
        "prompts/list" => json!({"prompts": [{"name": "ask"}, {"name": "secret"}]}),
        "resources/list" => json!({"resources": [
            {"uri": "file:///pub/a", "name": "a"}, {"uri": "FILE:///pub//%6cisted", "name": "odd"},
            {"uri": "FILE:///%65tc/listed", "name": "hidden"}]}),
        "resources/templates/list" => json!({"resourceTemplates": [
            {"uriTemplate": "file:///{+path}", "name": "any"}, {"uriTemplate": "file:///etc/{x}", "name": "hidden"}]}),
        "prompts/get" => json!({"messages": []}),
        "resources/read" => json!({"contents": [{"uri": message["params"]["uri"], "text": "read"}]}),
        "completion/complete" => json!({"completion": {"values": ["x"]}}),
        _ => json!({"done": true}),
    }
}

/// Nothing below `/etc` may be used, by its URI in normal form.
const NO_ETC: &str = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
    decision := {\"allow\": false, \"reason\": \"not that\"} if startswith(input.mcp.uri, \"file:///etc/\")\n";

/// Ways to write `file:///etc/passwd` that servers may read as that.
const SPELLINGS: &[&str] = &[
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file:/etc/passwd",
    "file:////etc/passwd",
    "file://localhost/etc/passwd",
    "file:///etc//passwd",
    "file:///./etc/passwd",
    "file:///pub/../etc/passwd",
    "file:///pub/%2e%2E/etc/passwd",
    "file:///pub/..%2fetc/passwd",
    "file:///pub/..;/etc/passwd",
    "file:///pub\\..\\etc\\passwd",
    "file:///etc%2Fpasswd",
    "file:///%65tc/p%61sswd",
    "file:///%C1%A5tc/passwd",
    "file:///pub/%00/../../etc/passwd",
    // Listed by the server in these letters.
    "FILE:///%65tc/listed",
];

/// Two members at three endpoints: one alone, both together, and one under a view.
async fn files(policy: Option<(&str, &str)>) -> (Gateway, Member, Member) {
    let (crm, wiki) = (Member::start().await, Member::start().await);
    let (rego, settings) = policy.unwrap_or_default();
    let section = match policy {
        Some(_) => format!("policy: {{ path: policy.rego{settings} }}\n"),
        None => String::new(),
    };
    let document = format!(
        "upstreams:\n  crm: {}\n  wiki: {}\nservers:\n  /mcp: crm\n  /both: [crm, wiki]\n  \
         /viewed: {{ upstreams: crm, deny: ['*.file:///etc/*'] }}\n{section}",
        crm.url(),
        wiki.url()
    );
    (Gateway::start_beside(&[("policy.rego", rego)], &document).await, crm, wiki)
}

/// Every request by which a client of an era names a URI.
fn places(era: Era, uri: &str) -> Vec<(&'static str, Value)> {
    let completion =
        json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "x", "value": ""}});
    let mut places = vec![("resources/read", json!({"uri": uri})), ("completion/complete", completion)];
    if era == Era::Legacy {
        places.push(("resources/subscribe", json!({"uri": uri})));
        places.push(("resources/unsubscribe", json!({"uri": uri})));
    }
    places
}

/// Asks for every spelling at every place of an endpoint: no one is served. What may be read is.
async fn holds(gateway: &Gateway, path: &str, [crm, wiki]: [&mut Member; 2], what: &str) {
    for era in ERAS {
        let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
        for spelling in SPELLINGS {
            for uri in [
                (*spelling).to_owned(),
                format!("portunus:crm/{spelling}"),
                format!("portunus:wiki/{spelling}"),
            ] {
                for (method, params) in places(era, &uri) {
                    let said = caller.request(method, params).await.unwrap();
                    assert!(
                        said.message["error"].is_object(),
                        "{what} {era:?} {method} {uri}: {}",
                        said.all()
                    );
                }
            }
        }
        assert_eq!((crm.heard(), wiki.heard()), (vec![], vec![]), "{what} {path} {era:?}");
        for (uri, sent) in [
            ("file:///pub/a", "file:///pub/a"),
            ("file:///pub/b", "file:///pub/b"),
            ("file:///etcetera/%C3%A4", "file:///etcetera/%C3%A4"),
            ("portunus:crm/file:///pub/b", "file:///pub/b"),
            ("FILE:///pub//%6cisted", "FILE:///pub//%6cisted"),
            ("portunus:crm/FILE:///pub//%6cisted", "FILE:///pub//%6cisted"),
        ] {
            for (method, params) in places(era, uri) {
                let said = caller.request(method, params).await.unwrap();
                assert!(said.message["result"].is_object(), "{what} {era:?} {method} {uri}: {}", said.all());
                for message in crm.heard() {
                    let params = &message["params"];
                    let named =
                        if method == "resources/read" { &params["uri"] } else { &params["ref"]["uri"] };
                    assert_eq!(named, sent, "{what} {era:?} {message}");
                }
            }
        }
        let list = caller.request("resources/list", json!({})).await.unwrap().message["result"].to_string();
        assert!(!list.contains("tc/listed") || what == "shown", "{what} {era:?} {list}");
    }
}

#[tokio::test]
async fn a_rule_about_a_uri_holds_however_that_is_written() {
    for (what, settings) in [("hidden", ""), ("shown", ", lists: show")] {
        let (gateway, mut crm, mut wiki) = files(Some((NO_ETC, settings))).await;
        for path in ["/mcp", "/both", "/viewed"] {
            holds(&gateway, path, [&mut crm, &mut wiki], what).await;
        }
    }
    let (gateway, mut crm, mut wiki) = files(None).await;
    holds(&gateway, "/viewed", [&mut crm, &mut wiki], "viewed").await;
}

#[tokio::test]
async fn a_uri_is_written_as_its_server_likes_where_no_rule_reads_it() {
    let by_kind = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if input.mcp.kind in {\"server\", \"stream\", \"resource\", \"template\"}\n";
    for policy in [None, Some((by_kind, ""))] {
        let (gateway, mut crm, _wiki) = files(policy).await;
        for (era, path) in ERAS.into_iter().flat_map(|era| [(era, "/mcp"), (era, "/both")]) {
            let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
            for uri in ["file:///a%2Fb", "file:///A//b/../c", "FILE:///x"] {
                let said = caller.request("resources/read", json!({"uri": uri})).await.unwrap();
                assert!(said.message["result"].is_object(), "{era:?} {path} {}", said.all());
                assert_eq!(crm.heard()[0]["params"]["uri"], uri, "{era:?} {path}");
            }
        }
    }
}

#[tokio::test]
async fn another_spelling_is_refused_with_the_one_to_write_and_tells_nothing_of_what_is_hidden() {
    let (gateway, _crm, _wiki) = files(Some((NO_ETC, ""))).await;
    for (era, path) in ERAS.into_iter().flat_map(|era| [(era, "/mcp"), (era, "/both")]) {
        let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
        let mut refusal = async |uri: &str| {
            let said = caller.request("resources/read", json!({"uri": uri})).await.unwrap();
            let error = said.message["error"].clone();
            (
                error["data"]["reason"].as_str().unwrap().to_owned(),
                error["message"].as_str().unwrap().to_owned(),
            )
        };
        let (reason, detail) = refusal("FILE:///pub/x").await;
        assert_eq!(reason, "invalid_params", "{detail}");
        assert!(detail.ends_with("write file:///pub/x"), "{detail}");
        let (reason, detail) = refusal("file:///pub%2Fx").await;
        assert!(reason == "invalid_params" && detail.contains("encoded slash"), "{detail}");
        let (hidden, unlisted) =
            (refusal("FILE:///%65tc/listed").await, refusal("FILE:///%65tc/nothing").await);
        assert_eq!(hidden.1.replace("listed", "nothing"), unlisted.1);
        assert_eq!(hidden.0, unlisted.0);
    }
}

#[tokio::test]
async fn a_subscription_is_for_what_its_caller_may_subscribe_to() {
    let no_subscription = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
        decision := false if {\n\tinput.mcp.method == \"resources/subscribe\"\n\tinput.mcp.kind == \"resource\"\n\t\
        input.mcp.upstream == \"crm\"\n\tstartswith(input.mcp.uri, \"file:///etc/\")\n}\n";
    for (rego, settings) in [(NO_ETC, ""), (NO_ETC, ", lists: show"), (no_subscription, ", lists: show")] {
        let (gateway, mut crm, _wiki) = files(Some((rego, settings))).await;
        for path in ["/mcp", "/both"] {
            let mut wanted = vec!["file:///pub/a".to_owned(), "portunus:crm/file:///pub/c".to_owned()];
            wanted.extend(SPELLINGS.iter().map(|uri| (*uri).to_owned()));
            wanted.extend(SPELLINGS.iter().map(|uri| format!("portunus:crm/{uri}")));
            let mut caller = Caller::new(Era::Modern, gateway.address).at(path);
            let stream = caller.listening_to(json!({"resourceSubscriptions": wanted})).await;
            let heard = crm.subscribed().await;
            assert_eq!(heard, json!(["file:///pub/a", "file:///pub/c"]), "{path} {settings}");
            drop(stream);
        }
    }
}

#[tokio::test]
async fn a_subscription_is_told_no_more_of_what_new_rules_deny() {
    let open = "package mcp.authz\nimport rego.v1\ndefault decision := true\n";
    let closed = format!("{open}decision := false if input.mcp.uri == \"file:///pub/a\"\n");
    let (gateway, mut crm, _wiki) = files(Some((open, ", lists: show"))).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let wanted = json!({"resourceSubscriptions": ["file:///pub/a", "file:///pub/c"]});
    let mut stream = caller.listening_to(wanted).await;
    crm.subscribed().await;
    let mut told_until = async |uri: &str| {
        let mut told = String::new();
        while !told.contains(&format!("\"uri\":\"{uri}\"")) {
            told += &within(10, uri, stream.chunk()).await.unwrap();
        }
        told
    };
    crm.changes.send("file:///pub/a").unwrap();
    told_until("file:///pub/a").await;
    gateway.place("policy.rego", &closed);
    gateway.reaches("the new rules", |status| status["serial"] == 2).await;
    for uri in ["file:///pub/a", "file:///pub/c"] {
        crm.changes.send(uri).unwrap();
    }
    let told = told_until("file:///pub/c").await;
    assert!(!told.contains("file:///pub/a"), "{told}");
}

/// The same rule for what a completion names, wherever it is named.
const NO_SECRET: &str = "package mcp.authz\nimport rego.v1\ndefault decision := true\n\
    decision := false if input.mcp.name == \"secret\"\n\
    decision := false if startswith(input.mcp.uri, \"file:///etc/\")\n";

#[tokio::test]
async fn a_completion_is_about_what_its_type_says() {
    let (open, closed) = ("file:///pub/a", "file:///etc/passwd");
    let refused = [
        json!({"type": "ref/prompt", "name": "secret", "uri": open}),
        json!({"type": "ref/prompt", "name": "ask", "uri": closed}),
        json!({"type": "ref/resource", "uri": closed, "name": "ask"}),
        json!({"type": "ref/resource", "uri": open, "name": "secret"}),
        json!({"type": "ref/prompt", "uri": open}),
        json!({"type": "ref/resource", "name": "ask"}),
        json!({"type": "ref/tool", "name": "ask"}),
        json!({"name": "ask"}),
        json!({"uri": open}),
        json!({"type": "ref/prompt", "name": "secret"}),
        json!({"type": "ref/resource", "uri": closed}),
        json!({"type": "ref/resource", "uri": "file:///etc/{x}"}),
    ];
    let taken = [
        json!({"type": "ref/prompt", "name": "ask", "title": "t"}),
        json!({"type": "ref/resource", "uri": open}),
        json!({"type": "ref/resource", "uri": "file:///{+path}"}),
    ];
    for settings in ["", ", lists: show"] {
        let (gateway, mut crm, mut wiki) = files(Some((NO_SECRET, settings))).await;
        for (era, path) in ERAS.into_iter().flat_map(|era| [(era, "/mcp"), (era, "/both")]) {
            let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
            for reference in &refused {
                let params = json!({"ref": reference, "argument": {"name": "x", "value": ""}});
                let said = caller.request("completion/complete", params).await.unwrap();
                assert!(said.message["error"].is_object(), "{era:?} {path} {reference} {}", said.all());
            }
            assert_eq!((crm.heard(), wiki.heard()), (vec![], vec![]), "{era:?} {path}");
            for reference in &taken {
                let params = json!({"ref": reference, "argument": {"name": "x", "value": ""}});
                let said = caller.request("completion/complete", params).await.unwrap();
                assert!(said.message["result"].is_object(), "{era:?} {path} {reference} {}", said.all());
                assert_eq!(&crm.heard()[0]["params"]["ref"], reference, "{era:?} {path}");
            }
        }
    }
}

/// A gateway whose callers have roles.
struct Roles {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    crm: Member,
    wiki: Member,
}

impl Roles {
    /// `servers` are those of the document.
    async fn start(roles: &str, servers: &str) -> Roles {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let (crm, wiki) = (Member::start().await, Member::start().await);
        let document = format!(
            "upstreams:\n  crm: {}\n  wiki: {}\nservers:\n{servers}identity:\n  url: https://gw.example\n  \
             jwt: {{issuer: '{}', audience: '{AUDIENCE}', roles: roles}}\n\
             policy: {{ builtin: rbac, data: roles.yaml }}\n",
            crm.url(),
            wiki.url(),
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("roles.yaml", roles)], &document).await;
        Roles { gateway, issuer, key, crm, wiki }
    }

    async fn caller(&self, era: Era, path: &str, role: &str) -> Caller {
        let token = self.issuer.token_with(&self.key, AUDIENCE, json!({"roles": [role], "sub": role}));
        Caller::new(era, self.gateway.address).at(path).presenting(&token).ready().await
    }

    /// What got to both servers since they were asked last: whose it was and its parameters.
    fn heard(&mut self) -> Vec<(&'static str, Value)> {
        let crm = self.crm.heard().into_iter().map(|message| ("crm", message));
        crm.chain(self.wiki.heard().into_iter().map(|message| ("wiki", message))).collect()
    }
}

fn names(said: &Said, list: &str) -> Vec<String> {
    let items = said.message["result"][list].as_array().unwrap_or_else(|| panic!("{}", said.all()));
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// `ask` and `find` of the first server are allowed and all of both servers that is secret is not,
/// whatever they are called.
#[tokio::test]
async fn a_new_name_changes_no_right() {
    let roles = "roles:\n  user:\n    allow:\n    - { tools: crm.find, prompts: [crm.ask, '*.secret'] }\n    \
        deny: [{ prompts: '*.secret' }, { tools: '*.wipe' }]\n";
    let servers = "  /plain: crm\n  /prefixed: { upstreams: [crm, wiki], names: prefix }\n  \
        /both: [wiki, crm]\n  /renamed: { upstreams: [crm, wiki], names: prefix, rename: \
        { crm.secret: open, wiki.secret: ask, crm.ask: secret, crm.find: wipe, crm.wipe: find } }\n";
    // The names under which the allowed prompt and tool are served, and names of what is not allowed.
    let table = [
        ("/plain", "ask", "find", ["secret", "wipe"].as_slice()),
        ("/prefixed", "crm_ask", "crm_find", &["crm_secret", "wiki_ask", "wiki_secret", "wiki_find", "ask"]),
        ("/both", "crm_ask", "crm_find", &["ask", "secret", "crm_secret", "find", "wipe"]),
        ("/renamed", "secret", "wipe", &["open", "ask", "find", "wiki_ask", "crm_ask", "crm_find"]),
    ];
    let mut house = Roles::start(roles, servers).await;
    for (era, (path, prompt, tool, others)) in ERAS.into_iter().flat_map(|era| table.map(|row| (era, row))) {
        let mut caller = house.caller(era, path, "user").await;
        let about = |name: &str| {
            let completion =
                json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "x", "value": ""}});
            [("prompts/get", json!({"name": name})), ("completion/complete", completion)]
        };
        let prompts = caller.request("prompts/list", json!({})).await.unwrap();
        assert_eq!(names(&prompts, "prompts"), [prompt], "{era:?} {path}");
        let tools = caller.request("tools/list", json!({})).await.unwrap();
        assert_eq!(names(&tools, "tools"), [tool], "{era:?} {path}");
        for name in others {
            for (method, params) in about(name) {
                let said = caller.request(method, params).await.unwrap();
                assert!(said.message["error"].is_object(), "{era:?} {path} {method} {name}: {}", said.all());
            }
            let said = caller.request("tools/call", json!({"name": name})).await.unwrap();
            assert!(said.message["error"].is_object(), "{era:?} {path} {name}: {}", said.all());
        }
        assert_eq!(house.heard(), [], "{era:?} {path}");
        for (method, params) in about(prompt) {
            let said = caller.request(method, params).await.unwrap();
            assert!(said.message["result"].is_object(), "{era:?} {path} {method}: {}", said.all());
            let heard = house.heard();
            let params = &heard[0].1["params"];
            let named = if method == "prompts/get" { &params["name"] } else { &params["ref"]["name"] };
            assert_eq!((heard[0].0, named), ("crm", &json!("ask")), "{era:?} {path} {method}");
        }
        let said = caller.request("tools/call", json!({"name": tool})).await.unwrap();
        assert!(said.message["result"].is_object(), "{era:?} {path}: {}", said.all());
        let heard = house.heard();
        assert_eq!((heard[0].0, &heard[0].1["params"]["name"]), ("crm", &json!("find")), "{era:?} {path}");
    }
}

#[tokio::test]
async fn a_role_calls_no_method_that_nobody_granted_it() {
    let roles = "roles:\n  user: { allow: 'crm.find' }\n  auditor: { methods: [acme/report] }\n";
    let mut house = Roles::start(roles, "  /mcp: crm\n").await;
    for era in ERAS {
        for (role, granted) in [("user", [].as_slice()), ("auditor", &["acme/report"])] {
            let mut caller = house.caller(era, "/mcp", role).await;
            for method in
                ["acme/report", "admin/wipe", "acme/reports", "tasks/list", "tasks/result", "roots/list"]
            {
                let said = caller.request(method, json!({"taskId": "t"})).await.unwrap();
                let heard: Vec<Value> =
                    house.heard().into_iter().map(|(_, message)| message["method"].clone()).collect();
                let expected = if granted.contains(&method) { vec![json!(method)] } else { vec![] };
                assert_eq!(heard, expected, "{era:?} {role} {method} {}", said.all());
                let is_served = said.message["result"].is_object();
                assert_eq!(is_served, granted.contains(&method), "{era:?} {role} {method} {}", said.all());
            }
            let listed = caller.request("tools/list", json!({})).await.unwrap();
            assert!(listed.message["result"].is_object(), "{era:?} {role} {}", listed.all());
        }
    }
}
