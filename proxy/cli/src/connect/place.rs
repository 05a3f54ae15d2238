//! Where a client finds a server of the gateway.

use portunus_base::{HostPattern, Scheme, UpstreamUrl};
use portunus_config::{Environment, Listener, ListenerTls, Loaded, ProcessEnvironment, VirtualServer, load};
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// A server that clients can be connected to.
#[derive(Debug)]
pub(super) struct Found {
    /// What clients may call it.
    pub(super) name: String,
    /// Its URL, fit for every text.
    pub(super) url: String,
    /// What to know about that URL.
    pub(super) notes: Vec<String>,
}

/// The URL of the command line.
pub(super) fn given(url: &str) -> Result<Found, String> {
    let url = UpstreamUrl::parse(url).map_err(|problem| format!("--url {problem}"))?;
    let url = format!("{}://{}{}", url.scheme, url.authority, url.path);
    Ok(Found { name: "portunus".to_owned(), url: fit(url)?, notes: Vec::new() })
}

/// A server of a configuration: the one that is chosen, or the only one.
pub(super) fn configured(config: &Path, chosen: Option<&str>) -> Result<Found, String> {
    let loaded = load(config, &WithoutSecrets).map_err(|report| {
        format!("{report}\n  hint: `--url URL` needs no configuration, `--config FILE` names another one")
    })?;
    of_loaded(&loaded, chosen)
}

fn of_loaded(loaded: &Loaded, chosen: Option<&str>) -> Result<Found, String> {
    let servers: Vec<&VirtualServer> = loaded.snapshot.routes.iter().map(AsRef::as_ref).collect();
    let server = choose(&servers, chosen)?;
    let listener = loaded.bootstrap.listeners.first().ok_or("the configuration has no listener")?;
    let scheme = if listener.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let (authority, mut notes) = authority(listener, scheme, server)?;
    if scheme == Scheme::Https {
        notes.push(
            "the client has to trust the authority of the gateway's certificate; one of your own is named to \
             clients on Node by the variable `NODE_EXTRA_CA_CERTS`"
                .to_owned(),
        );
    }
    let name = if servers.len() == 1 { "portunus".to_owned() } else { entry_name(&server.name) };
    Ok(Found { name, url: fit(format!("{scheme}://{authority}{}", server.path))?, notes })
}

fn choose<'a>(servers: &[&'a VirtualServer], chosen: Option<&str>) -> Result<&'a VirtualServer, String> {
    let all = || {
        let lines = servers.iter().map(|server| format!("\n  {:<24} {}", server.path, server.name));
        lines.collect::<String>()
    };
    match (chosen, servers) {
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("there are several servers; choose one with `--server PATH`:{}", all())),
        (Some(chosen), _) => {
            let named = |server: &&&VirtualServer| server.path == chosen || &*server.name == chosen;
            let found = servers.iter().find(named).copied();
            found.ok_or_else(|| format!("--server: there is no `{}`, but:{}", chosen.escape_debug(), all()))
        }
    }
}

/// The host and port that reach `server` through `listener`.
fn authority(
    listener: &Listener,
    scheme: Scheme,
    server: &VirtualServer,
) -> Result<(String, Vec<String>), String> {
    let port = listener.bind.port();
    if port == 0 {
        return Err("the listener's port is chosen when the gateway starts; take the URL from its log and \
                    give it with `--url`"
            .to_owned());
    }
    let at =
        |host: &str| if port == scheme.default_port() { host.to_owned() } else { format!("{host}:{port}") };
    if !server.hosts.is_empty() {
        // It answers to those alone.
        return match exact_host(&server.hosts) {
            Some(host) => Ok((with_port(host, &at), Vec::new())),
            None => {
                Err("this server answers to a pattern of hosts; give one of them with `--url`".to_owned())
            }
        };
    }
    if let Some(name) = listener.tls.as_ref().and_then(certified_name) {
        return Ok((at(name), Vec::new()));
    }
    match (listener.bind.ip(), listener.hosts.as_deref().and_then(exact_host)) {
        (ip, Some(host)) if ip.is_unspecified() => Ok((with_port(host, &at), Vec::new())),
        (ip, None) if ip.is_unspecified() => {
            let note = "the gateway listens on all addresses; from another machine, take its name there with `--url`";
            Ok((at("localhost"), vec![note.to_owned()]))
        }
        (IpAddr::V6(ip), _) => Ok((at(&format!("[{ip}]")), Vec::new())),
        (IpAddr::V4(ip), _) => Ok((at(&ip.to_string()), Vec::new())),
    }
}

/// The first name in the certificates: clients check that it is the one they connected to.
fn certified_name(tls: &ListenerTls) -> Option<&str> {
    let mut names = tls.certificates.iter().flat_map(|certificate| &certificate.names);
    names.find(|name| !name.starts_with("*.")).map(String::as_str)
}

/// The first pattern that is a host and not many.
fn exact_host(hosts: &[HostPattern]) -> Option<String> {
    hosts.iter().map(HostPattern::to_string).find(|host| !host.starts_with("*."))
}

/// A pattern may name its own port.
fn with_port(host: String, at: &dyn Fn(&str) -> String) -> String {
    let after_address = host.rfind(']').map_or(0, |end| end + 1);
    if host[after_address..].contains(':') { host } else { at(&host) }
}

/// Several clients replace `$NAME` in their settings.
fn fit(url: String) -> Result<String, String> {
    match url.contains('$') {
        false => Ok(url),
        true => Err("the URL has a `$`, which clients take for the start of a variable; give the server \
                     another path"
            .to_owned()),
    }
}

/// `mcp/crm` is `portunus-crm`.
fn entry_name(server: &str) -> String {
    let parts: Vec<&str> = server.split('/').filter(|part| *part != "mcp").collect();
    let plain = parts.join("-");
    let plain = plain.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' });
    let plain: String = plain.collect();
    format!("portunus-{}", plain.trim_matches('-')).chars().take(64).collect()
}

/// The process's environment, in which every variable has a value: where a client connects does not
/// depend on secrets, and they may be absent where the command runs.
struct WithoutSecrets;

impl Environment for WithoutSecrets {
    fn folder(&self, path: &Path) -> io::Result<Vec<String>> {
        ProcessEnvironment.folder(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        ProcessEnvironment.variable(name).filter(|value| !value.is_empty()).or(Some("absent".to_owned()))
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        ProcessEnvironment.file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};

    fn found(process: &str, servers: &str, chosen: Option<&str>) -> Result<(String, String), String> {
        let text = format!(
            "version: 1\n{process}\nupstreams: {{a: 'http://127.0.0.1:9/mcp'}}\nservers: {{{servers}}}\n"
        );
        let loaded = load_text(&text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap();
        let found = of_loaded(&loaded, chosen);
        found.map(|found| (found.url, found.name))
    }

    #[test]
    fn the_url_follows_the_listener_and_the_server() {
        let all = "listeners: [{bind: '0.0.0.0:81', anonymous: allow}]";
        let named = "listeners: [{bind: '0.0.0.0:81', anonymous: allow, hosts: ['*.x.org', gw.x.org]}]";
        let cases = [
            ("default", "", "/mcp: a", None, "http://127.0.0.1:8080/mcp"),
            ("address", "listen: 127.0.0.1:9", "/mcp: a", None, "http://127.0.0.1:9/mcp"),
            ("ipv6", "listen: '[::1]:9'", "/: a", None, "http://[::1]:9/"),
            ("default port", "listen: 127.0.0.1:80", "/mcp: a", None, "http://127.0.0.1/mcp"),
            ("all addresses", all, "/mcp: a", None, "http://localhost:81/mcp"),
            ("named listener", named, "/mcp: a", None, "http://gw.x.org:81/mcp"),
            ("named server", "", "api.x.org/mcp: a", None, "http://api.x.org:8080/mcp"),
            ("by path", "", "/b: a, /c/mcp: a", Some("/c/mcp"), "http://127.0.0.1:8080/c/mcp"),
            (
                "by name",
                "",
                "/b: a, /c/mcp: {upstreams: a, name: see}",
                Some("see"),
                "http://127.0.0.1:8080/c/mcp",
            ),
        ];
        for (name, process, servers, chosen, expected) in cases {
            assert_eq!(found(process, servers, chosen).unwrap().0, expected, "{name}");
        }
        assert_eq!(found("", "/b: a, /c/d.e/mcp: a", Some("/c/d.e/mcp")).unwrap().1, "portunus-c-d-e");
    }

    #[test]
    fn a_listener_with_tls_is_reached_by_a_name_of_its_certificate() {
        let names = ["*.x.org".to_owned(), "gw.x.org".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())];
        let files = files.map(|(name, text)| (name.into(), text)).into();
        let environment = MapEnvironment { files, ..MapEnvironment::default() };
        let text = "version: 1\n\
            listeners: [{bind: '127.0.0.1:443', tls: {certificates: {certificate: cert.pem, key: 'file:key.pem'}}}]\n\
            upstreams: {a: 'http://127.0.0.1:9/'}\nservers: {/mcp: a}\n";
        let loaded = load_text(text, Path::new("gateway.yaml"), &environment).unwrap();
        let found = of_loaded(&loaded, None).unwrap();
        assert_eq!(found.url, "https://gw.x.org/mcp");
        assert!(found.notes[0].contains("NODE_EXTRA_CA_CERTS"), "{:?}", found.notes);
    }

    #[test]
    fn what_has_no_url_says_why() {
        let cases = [
            ("several", "", "/b: a, /c: a", None, "choose one with `--server PATH`:\n  /b"),
            ("unknown", "", "/b: a", Some("/c"), "there is no `/c`, but:\n  /b"),
            ("no port yet", "listen: 127.0.0.1:0", "/b: a", None, "--url"),
            ("pattern", "", "'*.x.org/mcp': a", None, "a pattern of hosts"),
            ("variable", "", "/$HOME: a", None, "has a `$`"),
        ];
        for (name, process, servers, chosen, expected) in cases {
            let told = found(process, servers, chosen).unwrap_err();
            assert!(told.contains(expected), "{name}: {told}");
        }
    }

    #[test]
    fn secrets_need_not_be_there() {
        let text = "version: 1\nupstreams: {a: {url: 'http://127.0.0.1:9/', credentials: {bearer: 'env:PORTUNUS_UNSET'}}}\nservers: {/mcp: a}\n";
        let loaded = load_text(text, Path::new("gateway.yaml"), &WithoutSecrets).unwrap();
        let found = of_loaded(&loaded, None);
        assert_eq!(found.unwrap().url, "http://127.0.0.1:8080/mcp");
    }

    #[test]
    fn a_given_url_is_written_in_its_one_form() {
        assert_eq!(given("HTTP://GW.Example.com:80/mcp").unwrap().url, "http://gw.example.com/mcp");
        for bad in ["gw/mcp", "http://a:b@gw/", "http://gw/a b"] {
            assert!(given(bad).unwrap_err().starts_with("--url "), "{bad}");
        }
    }
}
