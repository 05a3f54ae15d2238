//! The file that `portunus key` keeps API keys in.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use portunus_filters::identity::api_key::KeyId;
use serde_json::{Value, json};

use crate::diagnostic::{Findings, Report};
use crate::document::key_entries;
use crate::keys::{KeyEntry, as_document};
use crate::print::as_yaml;
use crate::reader::{self, Source};
use crate::yaml;

/// A file of keys. It holds no secret, and nobody gets in with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysFile {
    /// In the order of the file.
    pub keys: Vec<KeyEntry>,
}

impl KeysFile {
    /// From this age on a key is due to be replaced: rotation within 90 days leaves two weeks.
    pub const OLD_AFTER: Duration = Duration::from_secs(75 * 86_400);

    /// Reads a file; `file` names it in diagnostics.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(text: &str, file: &Path) -> Result<KeysFile, Report> {
        let findings = Findings::default();
        let keys = read(text, file, &findings);
        match findings.has_errors() {
            true => Err(Report(findings.into_sorted())),
            false => Ok(KeysFile { keys: keys.into_iter().map(|key| key.value).collect() }),
        }
    }

    /// Takes a key back; `false` if there is none of this id. One that was taken back before stays as
    /// it is.
    pub fn revoke(&mut self, id: &KeyId, now: Duration) -> bool {
        let key = self.keys.iter_mut().find(|key| key.known.id == *id);
        key.map(|key| key.known.revoked.get_or_insert(now)).is_some()
    }
}

impl fmt::Display for KeysFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Value = self.keys.iter().map(|key| (key.known.id.to_string(), as_document(key))).collect();
        f.write_str(
            "# API keys; written by `portunus key`, which keeps no other comment than `note`. The keys\n\
             # themselves are not in here.\n",
        )?;
        f.write_str(&as_yaml(&json!({ "version": 1, "keys": keys })))
    }
}

/// The keys of a file, with their places.
pub(crate) fn read(text: &str, file: &Path, findings: &Findings) -> Vec<crate::Located<KeyEntry>> {
    let Some(root) = yaml::parse(text, file, findings) else { return vec![] };
    let read = reader::Value::root(&root, Source { file, findings }).section(|section| {
        let hint = "begin the file with `version: 1`";
        if let Some(version) = section.required("version", hint)
            && version.count(1..=1).is_none()
        {
            version.error("this build reads version 1 only", hint);
        }
        let keys = section.required("keys", "write `keys: {}`, or let `portunus key new` add one");
        keys.map(|keys| key_entries(&keys)).unwrap_or_default()
    });
    read.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::identity::api_key::{KnownKey, ServerKey, mint};
    use portunus_filters::identity::{Claims, Principal, names};

    fn entry(seed: u8, note: Option<&str>) -> KeyEntry {
        let (id, whole) = mint(&[seed; 42]);
        let holder = Principal {
            agent: Some("bot".into()),
            roles: names(["b", "a"]),
            scopes: names(["true"]),
            claims: Claims::new(vec![("region".into(), "\"eu\\n\"".into())]),
            ..Principal::named("acme", "team/alice: \"x\"")
        };
        let day = Duration::from_secs(86_400);
        let known = KnownKey::new(id, holder, ServerKey::none().store(&whole), Some(2 * day));
        let known = KnownKey { created: Some(day), ..known };
        KeyEntry { known, note: note.map(str::to_owned) }
    }

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let file = KeysFile { keys: vec![entry(1, Some("laptop # of Alice")), entry(2, None)] };
        let text = file.to_string();
        let read = KeysFile::read(&text, Path::new("keys.yaml")).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(read, file, "{text}");
        assert_eq!(read.to_string(), text);
        let none = KeysFile::default();
        assert_eq!(KeysFile::read(&none.to_string(), Path::new("keys.yaml")), Ok(none));
    }

    #[test]
    fn a_key_is_taken_back_once() {
        let mut file = KeysFile { keys: vec![entry(1, None), entry(2, None)] };
        let (id, other) = (file.keys[0].known.id.clone(), entry(3, None).known.id);
        let (first, later) = (Duration::from_secs(9), Duration::from_secs(10));
        assert!(file.revoke(&id, first) && file.revoke(&id, later) && !file.revoke(&other, first));
        assert_eq!(file.keys[0].known.revoked, Some(first));
        assert_eq!(file.keys[1].known.revoked, None);
    }

    #[test]
    fn wrong_files_are_refused_and_no_key_is_shown() {
        let (id, whole) = mint(&[1; 42]);
        let good = format!("for: acme/alice, hash: '{}'", entry(1, None).known.stored);
        let table = [
            ("no version".to_owned(), "keys: {}".to_owned(), "`version` is missing"),
            ("no keys".to_owned(), "version: 1".to_owned(), "`keys` is missing"),
            (
                "an id".to_owned(),
                format!("version: 1\nkeys: {{short: {{{good}}}}}"),
                "keys.short: `short` is no id",
            ),
            (
                "the key itself".to_owned(),
                format!("version: 1\nkeys: {{{id}: {{for: acme/alice, hash: '{whole}'}}}}"),
                ".hash: this is nothing that is stored of a key",
            ),
            (
                "no tenant".to_owned(),
                format!("version: 1\nkeys: {{{id}: {{for: alice, hash: x}}}}"),
                ".for: `alice`: is no tenant and subject",
            ),
            (
                "a time".to_owned(),
                format!("version: 1\nkeys: {{{id}: {{{good}, expires: soon}}}}"),
                ".expires: `soon`: is no time",
            ),
            (
                "an unknown key".to_owned(),
                format!("version: 1\nkeys: {{{id}: {{{good}, role: admin}}}}"),
                ".role: ",
            ),
        ];
        for (name, text, expected) in table {
            let report = KeysFile::read(&text, Path::new("keys.yaml")).unwrap_err().to_string();
            assert!(report.contains(expected), "{name}: {report}");
            assert!(!report.contains(&whole), "{name}: {report}");
        }
    }
}
