//! `portunus key`: makes, lists and takes back API keys in a file that the configuration names.

mod file;

use clap::{Args, Subcommand};
use file::Edit;
use portunus::clock::SystemClock;
use portunus_base::text;
use portunus_config::dates::{parse_end, show_end};
use portunus_config::units::{parse_duration, show_duration};
use portunus_config::{Environment, KeyEntry, KeysFile, ProcessEnvironment, Reference, holder_name};
use portunus_filters::Clock;
use portunus_filters::identity::api_key::{KeyId, KeyTable, KnownKey, PREFIX, ServerKey, mint};
use portunus_filters::identity::{Claims, Principal, names};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What to do, with which file.
#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    order: KeyOrder,
}

#[derive(Debug, Subcommand)]
enum KeyOrder {
    /// Make a key, add what is stored of it to the file, and print the key: once, on standard output.
    New(NewKey),
    /// List the keys of the file; none of them can be shown again.
    List {
        /// The file of keys.
        #[arg(long, short, default_value = "keys.yaml", value_name = "FILE")]
        file: PathBuf,
    },
    /// Take a key back. It stays in the file, so that its refusals can be told from a stranger's.
    Revoke {
        /// Its id, or the first characters of it that no other key has.
        id: String,
        /// The file of keys.
        #[arg(long, short, default_value = "keys.yaml", value_name = "FILE")]
        file: PathBuf,
    },
}

/// Whose key, and what it may do.
#[derive(Debug, Args)]
struct NewKey {
    /// Whose key it is: `acme/alice`.
    #[arg(long = "for", value_name = "TENANT/SUBJECT")]
    holder: String,
    /// Roles, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    roles: Vec<String>,
    /// Groups, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "GROUP,…")]
    groups: Vec<String>,
    /// Scopes, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "SCOPE,…")]
    scopes: Vec<String>,
    /// The software that uses it, if it is not the subject itself.
    #[arg(long)]
    agent: Option<String>,
    /// An attribute for policies; may be given several times.
    #[arg(long, value_name = "NAME=TEXT")]
    attribute: Vec<String>,
    /// How long it is good for, or until when: `90d`, `2027-01-31`, `never`.
    #[arg(long, default_value = "90d", value_name = "WHEN")]
    expires: String,
    /// What people shall remember it by.
    #[arg(long)]
    note: Option<String>,
    /// The server key of the configuration, `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "REFERENCE")]
    server_key: Option<String>,
    /// The file of keys; it is made if it does not exist.
    #[arg(long, short, default_value = "keys.yaml", value_name = "FILE")]
    file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// What is wrong, in words for the terminal; the file is then as it was.
pub(crate) fn run(arguments: &KeyArguments) -> Result<ExitCode, String> {
    let now = SystemClock::new().now().wall;
    match &arguments.order {
        KeyOrder::New(new) => make(new, now)?,
        KeyOrder::List { file } => say(&table(&file::read(file)?, now)),
        KeyOrder::Revoke { id, file } => {
            let id = revoke(file, id, now)?;
            say(&format!("{id} is revoked from the moment that the gateway has read {}", file.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn make(new: &NewKey, now: Duration) -> Result<(), String> {
    let holder = holder(new)?;
    let expires = expires(&new.expires, now)?;
    let server_key = new.server_key.as_deref().map_or(Ok(ServerKey::none()), server_key)?;
    let mut random = [0; 42];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system has no randomness".to_owned())?;
    let (id, whole) = mint(&random);
    let known = KnownKey::new(id.clone(), holder, server_key.store(&whole), expires);
    let entry = KeyEntry { known: KnownKey { created: Some(now), ..known }, note: new.note.clone() };
    let mut edit = Edit::open_or_create(&new.file)?;
    if edit.keys.keys.len() >= KeyTable::MAX_KEYS {
        return Err(format!(
            "{} holds {} keys, and no more are kept",
            new.file.display(),
            KeyTable::MAX_KEYS
        ));
    }
    edit.keys.keys.push(entry);
    edit.save()?;
    let until = expires.map_or("for ever".to_owned(), |end| format!("until {}", show_end(end)));
    tell(&format!(
        "Key {id} of {}, good {until}, is in {}. It is shown this once:",
        text::json(&new.holder),
        new.file.display()
    ));
    say(&whole);
    Ok(())
}

/// Who will hold the key.
fn holder(new: &NewKey) -> Result<Principal, String> {
    let (tenant, subject) =
        holder_name(&new.holder).ok_or("--for: write the tenant, a slash, and the subject: `acme/alice`")?;
    let claim = |written: &String| {
        let (name, value) = written.split_once('=').ok_or("--attribute: write `NAME=TEXT`")?;
        Ok((Arc::from(name), serde_json::Value::from(value).to_string().into()))
    };
    let claims: Result<Vec<_>, &str> = new.attribute.iter().map(claim).collect();
    let list = |written: &[String]| names(written.iter().filter(|name| !name.is_empty()).cloned());
    Ok(Principal {
        agent: new.agent.as_deref().map(Arc::from),
        roles: list(&new.roles),
        groups: list(&new.groups),
        scopes: list(&new.scopes),
        claims: Claims::new(claims?),
        ..Principal::named(tenant, subject)
    })
}

/// `90d` from now, a day or second, or never.
fn expires(written: &str, now: Duration) -> Result<Option<Duration>, String> {
    if written == "never" {
        return Ok(None);
    }
    let end = match parse_duration(written) {
        Ok(lifetime) => Ok(now.saturating_add(lifetime)),
        Err(_) => parse_end(written),
    };
    match end {
        Ok(end) if end > now => Ok(Some(end)),
        Ok(_) => Err(format!("--expires: {} is over already", text::json(written))),
        Err(_) => Err("--expires: write `90d`, a day such as `2027-01-31`, or `never`".to_owned()),
    }
}

fn server_key(written: &str) -> Result<ServerKey, String> {
    let read = match Reference::parse(written) {
        Some(Reference::Variable(name)) => {
            ProcessEnvironment.variable(&name).ok_or(format!("--server-key: `{name}` is not set"))
        }
        Some(Reference::File(path)) => ProcessEnvironment
            .file(&path)
            .map_err(|error| format!("--server-key: {} cannot be read: {error}", path.display())),
        _ => Err("--server-key: write `env:NAME` or `file:PATH`, never the key itself".to_owned()),
    };
    let key = read?;
    let key = key.trim_end_matches(['\r', '\n']);
    match key.len() < ServerKey::MIN_BYTES {
        true => Err(format!("--server-key: it has fewer than {} characters", ServerKey::MIN_BYTES)),
        false => Ok(ServerKey::new(key.as_bytes())),
    }
}

fn revoke(path: &Path, written: &str, now: Duration) -> Result<KeyId, String> {
    let mut edit = Edit::open(path)?;
    // A whole key on a command line is in the shell's history: all the more reason to take it back.
    let written = written.strip_prefix(PREFIX).unwrap_or(written);
    let written = written.split('.').next().unwrap_or_default();
    let ids = edit.keys.keys.iter().map(|key| &key.known.id);
    let mut found = ids.filter(|id| !written.is_empty() && id.as_str().starts_with(written));
    let id = match (found.next(), found.next()) {
        (Some(id), None) => id.clone(),
        (None, _) => return Err(format!("{} has no key with this id", path.display())),
        (Some(_), Some(_)) => return Err("several keys begin with these characters; write more".to_owned()),
    };
    edit.keys.revoke(&id, now);
    edit.save()?;
    Ok(id)
}

/// One line a key, the oldest first.
fn table(keys: &KeysFile, now: Duration) -> String {
    let mut rows: Vec<&KeyEntry> = keys.keys.iter().collect();
    rows.sort_by_key(|key| (key.known.created, key.known.id.clone()));
    let header = format!("{:<16}  {:<8}  {:<20}  {:<20}  holder", "id", "state", "created", "expires");
    let row = |key: &&KeyEntry| {
        let KnownKey { id, holder, created, .. } = &key.known;
        let time = |time: Option<Duration>| time.map_or("-".to_owned(), show_end);
        let roles: Vec<String> = holder.roles.iter().map(|role| text::json(role)).collect();
        let note = key.note.as_ref().map(|note| format!("  {}", text::json(note)));
        format!(
            "{id:<16}  {:<8}  {:<20}  {:<20}  {} [{}]{}",
            state(&key.known, now),
            time(*created),
            time(key.known.expires()),
            text::json(&format!("{}/{}", holder.tenant, holder.subject)),
            roles.join(", "),
            note.unwrap_or_default()
        )
    };
    let old = |key: &&&KeyEntry| {
        state(&key.known, now) == "good"
            && key.known.created.is_some_and(|made| now.saturating_sub(made) >= KeysFile::OLD_AFTER)
    };
    let mut lines = vec![header];
    lines.extend(rows.iter().map(row));
    match rows.iter().filter(old).count() {
        0 => {}
        old => lines.push(format!(
            "{old} of them older than {}: make new ones, hand them over, revoke the old",
            show_duration(KeysFile::OLD_AFTER)
        )),
    }
    lines.join("\n")
}

fn state(key: &KnownKey, now: Duration) -> &'static str {
    match key {
        _ if key.revoked.is_some() => "revoked",
        _ if key.holder.has_ended(now) => "expired",
        _ => "good",
    }
}

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "standard output is for the key alone")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_end_is_a_time_to_come() {
        let cases = [
            ("90d", Some(Some(NOW + 90 * DAY))),
            ("never", Some(None)),
            ("2100-01-01", Some(Some(Duration::from_secs(4_102_531_200)))),
            ("2020-01-01", None),
            ("0s", None),
            ("soon", None),
            ("", None),
        ];
        for (written, expected) in cases {
            assert_eq!(expires(written, NOW).ok(), expected, "{written}");
        }
    }

    #[test]
    fn the_table_says_what_can_be_done_with_each_key() {
        let key = |seed: u8, age: u32, end: Option<Duration>, revoked: bool| {
            let (id, whole) = mint(&[seed; 42]);
            let holder = Principal { roles: names(["a\u{1b}"]), ..Principal::named("acme", "alice") };
            let known = KnownKey::new(id, holder, ServerKey::none().store(&whole), end);
            let known = KnownKey { created: Some(NOW - age * DAY), revoked: revoked.then_some(NOW), ..known };
            KeyEntry { known, note: None }
        };
        let keys = vec![
            key(1, 1, None, false),
            key(2, 80, Some(NOW + DAY), false),
            key(3, 100, Some(NOW), false),
            key(4, 200, None, true),
        ];
        let shown = table(&KeysFile { keys }, NOW);
        let states: Vec<&str> =
            shown.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(states[..4], ["revoked", "expired", "good", "good"], "{shown}");
        assert!(shown.ends_with("1 of them older than 75d: make new ones, hand them over, revoke the old"));
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }
}
