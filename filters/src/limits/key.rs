//! Digests the values by which a rule tells calls apart.

use super::counters::CallerKind;
use super::meter::Meter;
use super::rule::{KeyPart, Rule};
use crate::call::Call;
use crate::identity::AuthMethod;
use portunus_base::Owner;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use siphasher::sip::SipHasher13;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a value that people see.
const MAX_SHOWN: usize = 256;
/// Arguments that are longer are digested as the text that they are: to read them costs more than a worker may take.
const MAX_READ_ARGUMENTS: usize = 64 << 10;

/// A key of a table of counts.
pub(super) type Key = (u64, CallerKind);

/// Digests of one call for several rules.
pub(super) struct Keys<'c> {
    call: &'c Call<'c>,
    method: &'c str,
    digest_key: [u64; 2],
    /// Of the arguments, made for the first rule that needs it.
    arguments: Option<u64>,
}

impl<'c> Keys<'c> {
    pub(super) fn new(call: &'c Call<'c>, method: &'c str, digest_key: [u64; 2]) -> Keys<'c> {
        Keys { call, method, digest_key, arguments: None }
    }

    /// Gives `take` each key of the call under a rule: one, or one for each role or group of the caller.
    pub(super) fn each(&mut self, rule: &Rule, mut take: impl FnMut(Key)) {
        let mut hasher = self.hasher();
        let mut several: Option<&[Arc<str>]> = None;
        let principal = self.call.arrival.identity.principal();
        for part in &rule.key {
            match part {
                KeyPart::Role => several = Some(principal.map_or(&[], |principal| &principal.roles)),
                KeyPart::Group => several = Some(principal.map_or(&[], |principal| &principal.groups)),
                KeyPart::Tool => {
                    write_text(&mut hasher, Some(&self.call.target.upstream));
                    write_text(&mut hasher, self.call.target.tool().map(|tool| &*tool.original));
                }
                KeyPart::Principal | KeyPart::Source => write_owner(&mut hasher, owner(self.call, *part)),
                _ => write_text(&mut hasher, value(self.call, self.method, *part)),
            }
        }
        if let Meter::Loop(_) = rule.meter {
            hasher.write_u64(self.arguments());
        }
        let caller_kind = self.caller_kind(rule);
        let Some(names) = several else { return take((hasher.finish(), caller_kind)) };
        for name in names {
            let mut hasher = hasher;
            write_text(&mut hasher, Some(name));
            take((hasher.finish(), caller_kind));
        }
    }

    /// Callers who prove no name can bring any number of addresses, and get a table of their own.
    fn caller_kind(&self, rule: &Rule) -> CallerKind {
        let principal = self.call.arrival.identity.principal();
        let is_verified = principal.is_some_and(|principal| principal.auth != AuthMethod::Anonymous);
        match is_verified || !rule.keeps_callers_apart() {
            true => CallerKind::Authenticated,
            false => CallerKind::Unauthenticated,
        }
    }

    fn arguments(&mut self) -> u64 {
        let digest_key = self.digest_key;
        *self.arguments.get_or_insert_with(|| {
            let message = self.call.message;
            let body = std::str::from_utf8(&message.body).unwrap_or_default();
            let params = message.message_index.as_ref().map(|index| index.params(body));
            let arguments = params.as_ref().and_then(|params| params.get("arguments")).unwrap_or("{}");
            digest_json(digest_key, arguments)
        })
    }

    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.digest_key[0], self.digest_key[1])
    }
}

/// The value of a part for people, cut: some of it a client chose, and it is kept with refusals.
pub(super) fn shown(call: &Call<'_>, method: &str, part: KeyPart) -> String {
    let mut shown = value_for_people(call, method, part);
    shown.truncate(shown.floor_char_boundary(MAX_SHOWN));
    shown.shrink_to_fit();
    shown
}

fn value_for_people(call: &Call<'_>, method: &str, part: KeyPart) -> String {
    match part {
        KeyPart::Source => shown_source(call.arrival.source),
        KeyPart::Principal => match call.arrival.identity.principal() {
            Some(principal) if principal.auth != AuthMethod::Anonymous => principal.subject.to_string(),
            _ => shown_source(call.arrival.source),
        },
        KeyPart::Tool => {
            let tool = call.target.tool().map(|tool| &*tool.original);
            format!("{}.{}", call.target.upstream, tool.unwrap_or_default())
        }
        KeyPart::Role => names(call.arrival.identity.principal().map(|principal| &principal.roles)),
        KeyPart::Group => names(call.arrival.identity.principal().map(|principal| &principal.groups)),
        _ => value(call, method, part).unwrap_or_default().to_owned(),
    }
}

/// An address as it is counted: of IPv6, its network.
fn shown_source(source: IpAddr) -> String {
    match Owner::at(source) {
        Owner::V6(network) => {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&network);
            format!("{}/64", IpAddr::from(octets))
        }
        _ => source.to_canonical().to_string(),
    }
}

fn names(names: Option<&Arc<[Arc<str>]>>) -> String {
    names.map(|names| names.join(",")).unwrap_or_default()
}

fn owner(call: &Call<'_>, part: KeyPart) -> Owner {
    match part {
        KeyPart::Source => Owner::at(call.arrival.source),
        _ => call.arrival.owner(),
    }
}

/// The value of a part that is one text; `None` if the caller has none.
fn value<'c>(call: &'c Call<'_>, method: &'c str, part: KeyPart) -> Option<&'c str> {
    let principal = call.arrival.identity.principal();
    let claim = |name| Some(&**principal?.claims.value(name)?);
    match part {
        KeyPart::Tenant => principal.map(|principal| &*principal.tenant),
        KeyPart::OnBehalfOf => principal.and_then(|principal| principal.on_behalf_of.as_deref()),
        KeyPart::Agent => principal.and_then(|principal| principal.agent.as_deref()),
        KeyPart::Project => claim("project"),
        KeyPart::Team => claim("team"),
        KeyPart::Listener => Some(&call.arrival.listener),
        KeyPart::Endpoint => Some(&call.target.server),
        KeyPart::Upstream => Some(&call.target.upstream),
        KeyPart::Method => Some(method),
        KeyPart::Tool | KeyPart::Principal | KeyPart::Source | KeyPart::Role | KeyPart::Group => None,
    }
}

/// Writes a text with its length, so that no two lists of texts are the same bytes.
fn write_text(hasher: &mut SipHasher13, text: Option<&str>) {
    hasher.write_u64(text.map_or(u64::MAX, |text| text.len() as u64));
    hasher.write(text.unwrap_or_default().as_bytes());
}

fn write_owner(hasher: &mut SipHasher13, owner: Owner) {
    match owner {
        Owner::Nobody => hasher.write_u8(0),
        Owner::Principal(digest) => {
            hasher.write_u8(1);
            hasher.write(&digest);
        }
        Owner::V4(address) => {
            hasher.write_u8(2);
            hasher.write(&address);
        }
        Owner::V6(network) => {
            hasher.write_u8(3);
            hasher.write(&network);
        }
    }
}

/// A digest of a JSON value that neither the order of keys nor whitespace nor the spelling of texts changes.
///
/// What cannot be read, or is long, is digested as the text that it is.
fn digest_json(digest_key: [u64; 2], json: &str) -> u64 {
    if json.len() > MAX_READ_ARGUMENTS {
        return JsonDigest { digest_key }.of(b'?', json.as_bytes());
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let digest = JsonDigest { digest_key }.deserialize(&mut deserializer);
    digest.unwrap_or_else(|_| JsonDigest { digest_key }.of(b'?', json.as_bytes()))
}

/// Digests one value.
#[derive(Clone, Copy)]
struct JsonDigest {
    digest_key: [u64; 2],
}

impl JsonDigest {
    fn of(self, kind: u8, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher(kind);
        hasher.write(bytes);
        hasher.finish()
    }

    fn hasher(self, kind: u8) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.digest_key[0], self.digest_key[1]);
        hasher.write_u8(kind);
        hasher
    }
}

impl<'de> DeserializeSeed<'de> for JsonDigest {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonDigest {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(self.of(b'0', &[]))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<u64, E> {
        Ok(self.of(b'b', &[u8::from(value)]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        Ok(self.of(b'i', &value.to_le_bytes()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Ok(self.of(b'u', &value.to_le_bytes())),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what is no whole number of this size is another float"
        )]
        let whole = value as i64;
        #[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "equal only if nothing was lost")]
        match whole as f64 == value && whole.unsigned_abs() < 1 << 53 {
            true => self.visit_i64(whole),
            false => Ok(self.of(b'f', &value.to_bits().to_le_bytes())),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
        Ok(self.of(b's', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let mut hasher = self.hasher(b'[');
        while let Some(item) = items.next_element_seed(self)? {
            hasher.write_u64(item);
        }
        Ok(hasher.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u64, A::Error> {
        // A sum does not depend on the order.
        let (mut sum, mut count) = (0u64, 0u64);
        while let Some(key) = members.next_key_seed(self)? {
            let mut member = self.hasher(b':');
            member.write_u64(key);
            member.write_u64(members.next_value_seed(self)?);
            sum = sum.wrapping_add(member.finish());
            count += 1;
        }
        let mut hasher = self.hasher(b'{');
        hasher.write_u64(count);
        hasher.write_u64(sum);
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_arguments_is_of_their_meaning() {
        let digest = |json: &str| digest_json([1, 2], json);
        let same = [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n\"a\":1 }"),
            (r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#),
            (r#"{"a":"\u0041"}"#, r#"{"a":"A"}"#),
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            (r#"{"a":-100}"#, r#"{"a":-1e2}"#),
            ("{}", "{ }"),
        ];
        for (one, other) in same {
            assert_eq!(digest(one), digest(other), "{one}");
        }
        let different = [
            (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":[]}"#, r#"{"a":{}}"#),
            (r#"{"a":{}}"#, r#"{"a":{"a":{}}}"#),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":1"#, r#"{"a":1}"#),
            (r#"{"a":1.5}"#, r#"{"a":1}"#),
            (r#"{"a":1e300}"#, r#"{"a":9223372036854775807}"#),
        ];
        for (one, other) in different {
            assert_ne!(digest(one), digest(other), "{one} {other}");
        }
        assert_ne!(digest_json([1, 2], "{}"), digest_json([2, 1], "{}"), "nobody outside can compute it");
    }
}
