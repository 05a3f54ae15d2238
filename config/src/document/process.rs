//! The half of a document that says what a process is.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::listeners::{self, ListenerDocument};
use super::peers::{self, PeersDocument, SealingDocument};
use super::secrets::{self, SecretDocument};
use super::upstreams;
use crate::bootstrap::{AccessLog, Drain, LogFormat, LogLevel, LogSettings};
use crate::diagnostic::Located;
use crate::limits::{ANY_DURATION, MAX_THREADS};
use crate::reader::Unenforced;
use crate::reader::{Section, Value};
use portunus_base::AddressGrant;
use portunus_base::HostPattern;

/// What a process is.
#[derive(Clone, Debug)]
pub struct ProcessDocument {
    /// `listen` or `listeners`; `None` if neither is written.
    pub listeners: Option<Vec<ListenerDocument>>,
    /// `telemetry`.
    pub telemetry: Option<Located<SocketAddr>>,
    /// `admin`.
    pub admin: Option<Located<SocketAddr>>,
    /// `control`.
    pub control: Option<PathBuf>,
    /// `threads`.
    pub threads: Option<usize>,
    /// `state`.
    pub state: Option<PathBuf>,
    /// `drain`.
    pub drain: Drain,
    /// `log`.
    pub log: LogSettings,
    /// `access_log`.
    pub access_log: AccessLog,
    /// `anonymous: allow`: listeners beyond loopback are meant, though nobody is identified.
    pub anonymous: bool,
    /// `bundle`.
    pub bundle: Option<BundleSource>,
    /// `secrets`.
    pub secrets: Vec<SecretDocument>,
    /// `egress_ceiling`.
    pub egress_ceiling: Option<CeilingDocument>,
    /// `agent`.
    pub agent: Option<Unenforced>,
    /// `replica`, a name or `env:NAME`.
    pub replica: Option<Located<String>>,
    /// `sealing`.
    pub sealing: Option<SealingDocument>,
    /// `peers`.
    pub peers: Option<PeersDocument>,
    /// `traces`.
    pub traces: Option<Unenforced>,
}

/// Where the rules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// A folder with `gateway.yaml` in it; a relative path begins at the document.
    Folder(Located<PathBuf>),
    /// Pulled from a URL and verified against keys.
    Pull(Unenforced),
}

/// What a bundle cannot exceed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CeilingDocument {
    /// Address classes that upstreams may be dialled at.
    pub addresses: AddressGrant,
    /// Hosts that upstreams may be at; `None` for any.
    pub hosts: Option<Vec<HostPattern>>,
}

impl ProcessDocument {
    /// Every key of this half.
    pub(crate) const KEYS: [&'static str; 19] = [
        "listen",
        "listeners",
        "telemetry",
        "admin",
        "control",
        "threads",
        "state",
        "drain",
        "log",
        "access_log",
        "anonymous",
        "bundle",
        "secrets",
        "egress_ceiling",
        "agent",
        "replica",
        "sealing",
        "peers",
        "traces",
    ];

    pub(crate) fn read(section: &mut Section<'_>) -> ProcessDocument {
        ProcessDocument {
            listeners: listeners::read(section),
            telemetry: section.value("telemetry").and_then(|value| listeners::address(&value)),
            admin: section.value("admin").and_then(|value| listeners::address(&value)),
            control: section.value("control").and_then(|value| path(&value)),
            threads: section.value("threads").and_then(|value| value.count(1..=MAX_THREADS)),
            state: section.value("state").and_then(|value| path(&value)),
            drain: section.value("drain").and_then(|value| drain(&value)).unwrap_or_default(),
            log: section.value("log").and_then(|value| log(&value)).unwrap_or_default(),
            access_log: section.value("access_log").and_then(|value| access_log(&value)).unwrap_or_default(),
            anonymous: listeners::anonymous(section),
            bundle: bundle(section),
            secrets: secrets::read(section),
            egress_ceiling: section.value("egress_ceiling").and_then(|value| ceiling(&value)),
            agent: section.unenforced("agent"),
            replica: section.value("replica").and_then(|value| value.text()),
            sealing: section.value("sealing").and_then(|value| peers::sealing(&value)),
            peers: section.value("peers").and_then(|value| peers::peers(&value)),
            traces: section.unenforced("traces"),
        }
    }

    /// Every section of this half that is written and not enforced.
    pub(crate) fn unenforced(&self) -> impl Iterator<Item = &Unenforced> {
        let pull = self.bundle.as_ref().and_then(|bundle| match bundle {
            BundleSource::Folder(_) => None,
            BundleSource::Pull(pull) => Some(pull),
        });
        [&self.agent, &self.traces].into_iter().flatten().chain(pull)
    }
}

fn path(value: &Value<'_>) -> Option<PathBuf> {
    value.text().map(|text| PathBuf::from(text.value))
}

fn drain(value: &Value<'_>) -> Option<Drain> {
    let default = Drain::default();
    if !value.is_mapping() {
        return value.duration(ANY_DURATION).map(|deadline| Drain { deadline, ..default });
    }
    value.section(|section| {
        let mut duration = |key| section.value(key).and_then(|value| value.duration(ANY_DURATION));
        Drain {
            deadline: duration("deadline").unwrap_or(default.deadline),
            delay: duration("delay").unwrap_or(default.delay),
        }
    })
}

fn log(value: &Value<'_>) -> Option<LogSettings> {
    if !value.is_mapping() {
        return value.one_of(&LogLevel::NAMES).map(|level| LogSettings { level, ..LogSettings::default() });
    }
    const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    value.section(|section| LogSettings {
        level: section.value("level").and_then(|level| level.one_of(&LogLevel::NAMES)).unwrap_or_default(),
        format: section.value("format").and_then(|format| format.one_of(&FORMATS)).unwrap_or_default(),
    })
}

fn access_log(value: &Value<'_>) -> Option<AccessLog> {
    if value.is_mapping() {
        return value.section(|section| {
            let file = section.required("file", "write `access_log: {file: PATH}`")?;
            path(&file).map(AccessLog::File)
        })?;
    }
    match value.text()?.value.as_str() {
        "stdout" => Some(AccessLog::Stdout),
        "off" => Some(AccessLog::Off),
        file if file.contains('/') => Some(AccessLog::File(file.into())),
        other => {
            value.error(format!("`{other}` is not known here"), "write `stdout`, `off` or `{file: PATH}`");
            None
        }
    }
}

fn bundle(section: &mut Section<'_>) -> Option<BundleSource> {
    let value = section.value("bundle")?;
    let place = section.key_place("bundle")?;
    let pull = |section: &str| {
        Some(BundleSource::Pull(Unenforced { section: section.to_owned(), place: place.clone() }))
    };
    if !value.is_mapping() {
        let text = value.text()?;
        return match text.value.contains("://") {
            true => pull("bundle"),
            false => Some(BundleSource::Folder(Located { value: text.value.into(), place: text.place })),
        };
    }
    value.section(|section| {
        let pulled = super::unenforced(section, &["url", "keys", "poll", "min_serial"]);
        match pulled.is_empty() {
            false => {
                section.value("path");
                pull("bundle.url")
            }
            true => {
                let folder = section.required("path", "write `bundle: {path: DIR}`")?.text()?;
                Some(BundleSource::Folder(Located { value: folder.value.into(), place: folder.place }))
            }
        }
    })?
}

fn ceiling(value: &Value<'_>) -> Option<CeilingDocument> {
    value.section(|section| CeilingDocument {
        addresses: section.value("addresses").map(|value| upstreams::addresses(&value)).unwrap_or_default(),
        hosts: section.value("hosts").map(|value| secrets::hosts(&value)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{loaded_with, problems};

    const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

    #[test]
    fn short_and_long_forms_end_in_the_same_types() {
        let table = [
            ("drain: 5s", "drain: {deadline: 5s}"),
            ("log: debug", "log: {level: debug}"),
            ("access_log: ./a.jsonl", "access_log: {file: ./a.jsonl}"),
        ];
        for (short, long) in table {
            let [short_form, long_form] =
                [short, long].map(|text| loaded_with(&format!("{RULES}{text}\n"), &[]).bootstrap);
            assert_eq!(short_form, long_form, "{short}");
            assert_ne!(short_form, loaded_with(RULES, &[]).bootstrap, "{short} has no effect");
        }
    }

    #[test]
    fn every_key_is_read() {
        let text = format!(
            "{RULES}telemetry: 127.0.0.1:1\nadmin: 127.0.0.1:2\ncontrol: /c\nthreads: 3\nstate: /s\n\
             drain: {{deadline: 1s, delay: 2s}}\nlog: {{level: warn, format: json}}\naccess_log: off\n"
        );
        let bootstrap = loaded_with(&text, &[]).bootstrap;
        assert_eq!(bootstrap.telemetry, Some(SocketAddr::from(([127, 0, 0, 1], 1))));
        assert_eq!(bootstrap.admin, Some(SocketAddr::from(([127, 0, 0, 1], 2))));
        assert_eq!((bootstrap.control, bootstrap.state, bootstrap.threads), ("/c".into(), "/s".into(), 3));
        assert_eq!(
            (bootstrap.drain.deadline, bootstrap.drain.delay),
            (Duration::from_secs(1), Duration::from_secs(2))
        );
        assert_eq!(bootstrap.log, LogSettings { level: LogLevel::Warn, format: LogFormat::Json });
        assert_eq!(bootstrap.access_log, AccessLog::Off);
    }

    #[test]
    fn wrong_values_are_named() {
        let table = [
            ("threads: 0", "threads: `0` is out of range"),
            ("telemetry: localhost", "telemetry: `localhost`: not an address with a port"),
            ("log: loud", "log: `loud` is not known here"),
            ("log: {format: xml}", "log.format: `xml` is not known here"),
            ("access_log: stderr", "access_log: `stderr` is not known here"),
            ("access_log: {}", "access_log: `file` is missing"),
            ("drain: {deadline: soon}", "drain.deadline: `soon` is not a duration"),
            ("anonymous: maybe", "anonymous: `maybe` is not known here"),
        ];
        for (text, problem) in table {
            let found = problems(&format!("{RULES}{text}\n"));
            assert_eq!(found, [problem], "{text}");
        }
    }

    #[test]
    fn pulled_bundles_are_not_built() {
        for text in ["bundle: https://agent/b.tar.gz", "bundle: {url: 'https://agent/b', keys: [k]}"] {
            let found = problems(&format!("version: 1\n{text}\n"));
            assert!(
                found.iter().all(|shown| shown.contains("this build cannot enforce `bundle")),
                "{text}: {found:?}"
            );
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }
}
