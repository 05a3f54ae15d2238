use std::sync::Arc;

use portunus_filters::identity::{Algorithm, Naming};

use crate::testing::{loaded, loaded_with, problems, problems_with};
use crate::{Credentials, Identities, KeySource, Loaded, Profile, Shows};

const REST: &str = "upstreams: {a: 'http://localhost:1/'}\n";

fn text(identity: &str, server: &str) -> String {
    format!(
        "version: 1\n{REST}servers: {{/mcp: {{upstreams: a{server}}}, /hr/mcp: a}}\nidentity:\n  {identity}\n"
    )
}

const JWT: &str = "jwt: {issuer: 'http://127.0.0.1:9/', audience: 'https://gw.example/mcp'}";

fn identities(loaded: &Loaded) -> &Identities {
    loaded.snapshot.identities.as_deref().unwrap()
}

fn profile<'a>(loaded: &'a Loaded, path: &str) -> &'a Profile {
    loaded.snapshot.routes.iter().find(|server| server.path == path).unwrap().identity.as_deref().unwrap()
}

fn audiences(loaded: &Loaded, path: &str) -> Vec<String> {
    profile(loaded, path).trusts[0].1.iter().map(ToString::to_string).collect()
}

#[test]
fn a_short_form_has_safe_defaults() {
    let loaded = loaded(&text(JWT, ""));
    let trust = &identities(&loaded).trusts[0];
    assert_eq!(&*trust.issuer.name, "http://127.0.0.1:9/");
    assert_eq!(trust.issuer.algorithms, Algorithm::DEFAULT);
    assert_eq!(trust.issuer.types, ["at+jwt", "jwt"]);
    assert!(matches!(&trust.keys, KeySource::Discovered(at) if at.url.port == 9));
    assert_eq!(trust.issuer.rules.tenant, Naming::Fixed("http://127.0.0.1:9/".into()));
    assert!(identities(&loaded).asked.anonymous.is_none());
}

#[test]
fn a_token_is_for_the_endpoint_unless_something_else_is_said() {
    let gateway = "url: 'https://GW.example/'\n  jwt: {issuer: 'http://127.0.0.1:9/'}";
    let loaded_one = loaded(&text(gateway, ""));
    assert_eq!(audiences(&loaded_one, "/mcp"), ["https://gw.example/mcp"]);
    assert_eq!(audiences(&loaded_one, "/hr/mcp"), ["https://gw.example/hr/mcp"]);
    let own = loaded(&text(gateway, ", identity: {resource: 'https://mcp.example/'}"));
    assert_eq!(audiences(&own, "/mcp"), ["https://mcp.example"]);
    let named = loaded(&text(gateway, ", identity: {audience: [x, y]}"));
    assert_eq!(audiences(&named, "/mcp"), ["x", "y"]);
    let of_issuer = loaded(&text(JWT, ""));
    assert_eq!(audiences(&of_issuer, "/hr/mcp"), ["https://gw.example/mcp"]);
    let found = problems(&text("jwt: {issuer: 'http://127.0.0.1:9/'}", ""));
    assert_eq!(
        found,
        [
            "servers./mcp: for whom tokens have to be is not said",
            "servers./hr/mcp: for whom tokens have to be is not said"
        ]
    );
}

#[test]
fn clients_are_told_where_to_be_authorized() {
    let gateway = "url: 'https://gw.example/team'\n  jwt: {issuer: 'http://127.0.0.1:9/'}\n  \
                   scopes: [mcp]\n  metadata: {scopes: [write], documentation: 'https://docs.example/'}";
    let loaded_one = loaded(&text(gateway, ""));
    let resource = profile(&loaded_one, "/mcp").resource.as_ref().unwrap();
    assert_eq!(&*resource.uri, "https://gw.example/team/mcp");
    assert_eq!(&*resource.metadata_url, "https://gw.example/.well-known/oauth-protected-resource/team/mcp");
    let metadata: serde_json::Value = serde_json::from_str(&resource.metadata).unwrap();
    let expected = serde_json::json!({
        "resource": "https://gw.example/team/mcp",
        "authorization_servers": ["http://127.0.0.1:9/"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["mcp", "write"],
        "resource_documentation": "https://docs.example/",
    });
    assert_eq!(metadata, expected);
    let by_audience = loaded(&text(JWT, ""));
    assert!(profile(&by_audience, "/hr/mcp").resource.is_none());
    assert_eq!(&*profile(&by_audience, "/mcp").resource.as_ref().unwrap().uri, "https://gw.example/mcp");
    assert!(by_audience.warnings.iter().any(|warning| warning.path == "servers./hr/mcp"));
    let fixed = format!("{gateway}\n").replace("metadata: {", "metadata: {client: fixed, ");
    let loaded_fixed = loaded(&text(&fixed, ""));
    let resource = profile(&loaded_fixed, "/mcp").resource.as_ref().unwrap();
    assert!(resource.metadata.contains("\"authorization_servers\":[\"https://gw.example/team/mcp\"]"));
    assert_eq!(resource.client, Some(("fixed".into(), "http://127.0.0.1:9/".into())));
}

#[test]
fn a_server_says_what_differs() {
    let top = format!("{JWT}\n  mtls: {{trust_domains: example.org}}\n  scopes: [mcp]");
    let server = ", identity: {require: [mtls, jwt], scopes: [], issuers: []}";
    let found = problems(&text(&top, server));
    assert_eq!(found, ["servers./mcp.identity: `jwt` is required, and nothing here takes one"]);
    let loaded = loaded(&text(&top, ", identity: {require: [jwt, mtls], scopes: [hr], anonymous: 'off'}"));
    let (own, other) = (profile(&loaded, "/mcp"), profile(&loaded, "/hr/mcp"));
    assert_eq!(own.asked.require, [Shows::Jwt, Shows::Mtls]);
    assert_eq!((&*own.asked.scopes, &*other.asked.scopes), (&[Arc::from("hr")][..], &[Arc::from("mcp")][..]));
    assert!(other.asked.require.is_empty());
}

#[test]
fn strangers_are_served_only_where_that_is_said() {
    let top = format!("{JWT}\n  anonymous: {{roles: [reader], tenant: public}}");
    let loaded = loaded(&text(&top, ", identity: {anonymous: 'off'}"));
    assert!(profile(&loaded, "/mcp").asked.anonymous.is_none());
    let stranger = profile(&loaded, "/hr/mcp").asked.anonymous.clone().unwrap();
    let one = stranger.at("192.0.2.1".parse().unwrap());
    let other = stranger.at("192.0.2.2".parse().unwrap());
    assert_eq!((&*one.tenant, &*one.roles[0]), ("public", "reader"));
    assert_ne!(one.subject, other.subject);
    let both = format!("{JWT}\n  anonymous: allow\n  require: jwt");
    assert_eq!(
        problems(&text(&both, ""))[0],
        "identity.require: both `require` and `anonymous` are in force here"
    );
}

#[test]
fn an_issuer_that_is_asked_is_told_who_asks() {
    let asked = "introspection: {issuer: i, url: 'http://127.0.0.1:9/i', audience: x, client: {id: gw, secret: 'env:S'}}";
    let loaded = loaded_with(&text(asked, ""), &[("S", "pa ss")]);
    let inspection = &identities(&loaded).inspections[0];
    let Credentials::Header { name, value } = &inspection.at.credentials else { panic!("none") };
    assert_eq!((name.as_str(), value.expose()), ("authorization", "Basic Z3c6cGErc3M="));
    assert!(!format!("{loaded:?}").contains("pa ss") && !format!("{loaded:?}").contains("Z3c6"));
    let nobody = "introspection: {issuer: i, url: 'http://127.0.0.1:9/i', audience: x}";
    assert_eq!(problems(&text(nobody, "")), ["identity.introspection: the issuer is not told who asks"]);
}

#[test]
fn what_is_revoked_is_read() {
    let revoked = "revoked: {subjects: [m, {tenant: t, subject: n}, n2], tokens: j, keys: [k], \
                   certificates: ['AB:CD:0000000000000000000000000000000000000000000000000000000000ff']}";
    let loaded = loaded(&text(&format!("{JWT}\n  {revoked}"), ""));
    let revoked = &identities(&loaded).revoked;
    assert_eq!(revoked.subjects.len(), 3);
    assert!(revoked.subjects["m"].is_empty() && revoked.subjects["n"].contains("t"));
    assert!(revoked.tokens.contains("j") && revoked.keys.contains("k"));
    let first = revoked.certificates.iter().next().unwrap();
    assert_eq!((first[0], first[1], first[31]), (0xab, 0xcd, 0xff));
}

#[test]
fn mistakes_are_named_where_they_stand() {
    let table = [
        ("{}", ": nobody could call: no way to say who one is is taken"),
        ("jwt: {audience: x}", ".jwt: `issuer` is missing"),
        (
            "jwt: {issuer: partner, audience: x}",
            ".jwt.issuer: this issuer is no URL, so that its keys cannot be found by it",
        ),
        (
            "jwt: {issuer: 'http://idp.example/', audience: x}",
            ".jwt.issuer: what comes from there in the clear could be anybody's",
        ),
        (
            "jwt: {issuer: 'http://127.0.0.1:9', audience: x, algorithms: HS256}",
            ".jwt.algorithms: `HS256` is not known here",
        ),
        ("jwt: {issuer: 'http://127.0.0.1:9', audience: x, algorithms: []}", ".jwt: no algorithm is taken"),
        (
            "jwt: {issuer: i, audience: x, jwks: nope.json}",
            ".jwt.jwks: `nope.json` cannot be read: entity not found",
        ),
        (
            "jwt: {issuer: 'http://127.0.0.1:9', audience: x, subject: 'a..b'}",
            ".jwt.subject: `a..b` is no path to a claim",
        ),
        (
            "jwt: [{issuer: 'http://127.0.0.1:9', audience: x}, {issuer: 'http://127.0.0.1:9', audience: y}]",
            ".jwt[1].issuer: the issuer `http://127.0.0.1:9` is written twice",
        ),
        ("mtls: {}", ".mtls: no name in a certificate is taken"),
        ("mtls: {trust_domains: 'spiffe://x'}", ".mtls.trust_domains: `spiffe://x` is no trust domain"),
        ("mtls: {dns: '*'}", ".mtls.dns: `*` is no DNS name"),
        (
            "url: gw.example\n  mtls: {trust_domains: x}",
            ".url: this is no URL that clients could use as a name",
        ),
        ("mtls: {trust_domains: x}\n  scopes: ['a b']", ".scopes[0]: `a b` is no scope"),
        ("mtls: {trust_domains: x}\n  require: password", ".require: `password` is not known here"),
        (
            "mtls: {trust_domains: x}\n  revoked: {certificates: abc}",
            ".revoked.certificates: this is no fingerprint of a certificate",
        ),
        ("mtls: {trust_domains: x}\n  keys: {}", ".keys: this build cannot enforce `keys`"),
    ];
    for (identity, problem) in table {
        let identity = if identity == "{}" { "require: []" } else { identity };
        let found = problems_with(&text(identity, ""), &[]);
        let expected = format!("identity{problem}");
        assert!(found.contains(&expected), "{identity}: {found:?}");
    }
    let unknown = problems(&text(JWT, ", identity: {issuers: ['http://127.0.0.1:8/']}"));
    assert_eq!(unknown, ["servers./mcp.identity.issuers[0]: no issuer is named `http://127.0.0.1:8/`"]);
    let alone = format!("version: 1\n{REST}servers: {{/mcp: {{upstreams: a, identity: {{}}}}}}\n");
    assert_eq!(
        problems(&alone),
        ["servers./mcp.identity: nobody is identified, so that nothing can be asked of callers here"]
    );
}

#[test]
fn identity_opens_listeners_beyond_this_machine() {
    let text = format!("listen: 0.0.0.0:1\n{}", text(JWT, ""));
    let shown = crate::effective(&loaded(&text).bootstrap, &loaded(&text).snapshot);
    assert_eq!(shown["listeners"][0]["anonymous"], "loopback");
}

#[test]
fn a_bundle_fetches_no_keys_from_beyond_the_ceiling() {
    let mut env = crate::MapEnvironment::default();
    let bootstrap =
        "version: 1\nbundle: {path: b}\negress_ceiling: {hosts: [localhost], addresses: [loopback]}\n";
    env.files.insert("g.yaml".into(), bootstrap.to_owned());
    let rules = text("jwt: {issuer: 'http://127.0.0.1:9/', audience: x}", "");
    env.files.insert("b/gateway.yaml".into(), rules);
    let report = crate::load(std::path::Path::new("g.yaml"), &env).unwrap_err().to_string();
    assert!(report.contains("identity.jwt.issuer: the host `127.0.0.1:9` is beyond the ceiling"), "{report}");
}
