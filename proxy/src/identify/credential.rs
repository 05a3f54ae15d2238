//! What a request shows of who sends it, before anything of it is believed.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Profile, Shown};
use portunus_filters::identity::Fault;
use portunus_filters::identity::api_key::PREFIX;

/// The one credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credential<'a> {
    /// The whole field that it stands in.
    pub(crate) field: &'a HeaderValue,
    /// It is, or says that it is, an API key of this gateway.
    pub(crate) is_key: bool,
    /// What is to be verified.
    bytes: &'a [u8],
    /// It stands in `Authorization`.
    is_bearer: bool,
}

impl<'a> Credential<'a> {
    /// The credential in these headers.
    ///
    /// # Errors
    /// [`Fault::Scheme`] for several, and for another scheme in `Authorization`.
    pub(crate) fn of(headers: &'a HeaderMap, profile: &Profile) -> Result<Option<Credential<'a>>, Fault> {
        let mut found = None;
        for (name, field) in fields(headers, profile) {
            let credential = if name == AUTHORIZATION { bearer(field, profile) } else { Ok(key(field)) };
            if found.replace(credential?).is_some() {
                return Err(Fault::Scheme);
            }
        }
        Ok(found)
    }

    /// What is to be verified. A field that was verified before need not be looked at so closely again.
    ///
    /// # Errors
    /// [`Fault::Scheme`] for what is no single token, [`Fault::ApiKey`] for a key that is no text.
    pub(crate) fn text(&self) -> Result<&'a str, Fault> {
        // Without an early end, so that many bytes are looked at together.
        let is_token = |known: bool, byte: &u8| known & byte.is_ascii_graphic() & (*byte != b',');
        let is_text = |known: bool, byte: &u8| known & (byte.is_ascii_graphic() | (*byte == b' '));
        let (is_sound, fault) = match self.is_bearer {
            true => (self.bytes.iter().fold(true, is_token), Fault::Scheme),
            false => (self.bytes.iter().fold(true, is_text), Fault::ApiKey),
        };
        std::str::from_utf8(self.bytes).ok().filter(|_| is_sound).ok_or(fault)
    }
}

/// The fields that may hold a credential.
pub(super) fn kept(headers: &HeaderMap, profile: &Profile) -> HeaderMap {
    fields(headers, profile).map(|(name, field)| (name.clone(), field.clone())).collect()
}

/// Drops the fields that are for the gateway alone. `Authorization` is each upstream's own question.
pub(crate) fn strip(headers: &mut HeaderMap, profile: &Profile) {
    for name in own_fields(profile) {
        headers.remove(name);
    }
}

fn fields<'a>(
    headers: &'a HeaderMap,
    profile: &Profile,
) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
    let is_meant = |name: &HeaderName| *name == AUTHORIZATION || own_fields(profile).any(|own| own == name);
    headers.iter().filter(move |(name, _)| is_meant(name))
}

/// Fields in which API keys are shown.
fn own_fields(profile: &Profile) -> impl Iterator<Item = &HeaderName> {
    let places = profile.keys.iter().flat_map(|keys| &keys.shown_in);
    places.filter_map(|place| match place {
        Shown::Bearer => None,
        Shown::Header(name) => Some(name),
    })
}

/// A bearer credential (RFC 6750 §2.1).
fn bearer<'a>(field: &'a HeaderValue, profile: &Profile) -> Result<Credential<'a>, Fault> {
    let (scheme, text) = field.as_bytes().split_at_checked("bearer".len()).ok_or(Fault::Scheme)?;
    let mut bytes = text.strip_prefix(b" ").ok_or(Fault::Scheme)?;
    while let [b' ', rest @ ..] | [rest @ .., b' '] = bytes {
        bytes = rest;
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") || bytes.is_empty() {
        return Err(Fault::Scheme);
    }
    let is_key = profile.keys.is_some() && bytes.starts_with(PREFIX.as_bytes());
    let taken = profile.keys.as_ref().is_some_and(|keys| keys.shown_in.contains(&Shown::Bearer));
    // Taken for a token, it would be shown to whoever is asked about tokens.
    if is_key && !taken {
        Err(Fault::ApiKey)
    } else {
        Ok(Credential { field, is_key, bytes, is_bearer: true })
    }
}

fn key(field: &HeaderValue) -> Credential<'_> {
    Credential { field, is_key: true, bytes: field.as_bytes(), is_bearer: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;
    use std::sync::Arc;

    fn profile(shown_in: &str) -> Arc<Profile> {
        let text = format!(
            "version: 1\nupstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\n\
             identity: {{keys: {{entries: {{}}, shown_in: {shown_in}}}}}\n"
        );
        let loaded = load_text(&text, Path::new("g.yaml"), &MapEnvironment::default()).unwrap();
        let profile = loaded.snapshot.routes.iter().next().unwrap().identity.clone();
        profile.unwrap()
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_request_shows_one_credential() {
        let (bearer, key) = (("authorization", "Bearer ptk_a"), ("x-api-key", "ptk_b"));
        let token = ("authorization", "bearer  ey.x.y ");
        let cases = [
            ("nothing", "bearer", vec![], Ok(None)),
            ("a token", "bearer", vec![token], Ok(Some(("ey.x.y", false)))),
            ("a key", "bearer", vec![bearer], Ok(Some(("ptk_a", true)))),
            ("a key, not taken there", "X-API-Key", vec![bearer], Err(Fault::ApiKey)),
            ("a key of its own field", "X-API-Key", vec![key], Ok(Some(("ptk_b", true)))),
            ("any text in its own field", "X-API-Key", vec![("x-api-key", "x")], Ok(Some(("x", true)))),
            ("a field that is not meant", "bearer", vec![key], Ok(None)),
            ("two", "[bearer, X-API-Key]", vec![token, key], Err(Fault::Scheme)),
            ("another scheme", "bearer", vec![("authorization", "Basic eA==")], Err(Fault::Scheme)),
            ("no scheme", "bearer", vec![("authorization", "ptk_a")], Err(Fault::Scheme)),
            ("a list", "bearer", vec![("authorization", "Bearer a,b")], Err(Fault::Scheme)),
            ("two words", "bearer", vec![("authorization", "Bearer a b")], Err(Fault::Scheme)),
            ("a tab", "bearer", vec![("authorization", "Bearer \ta")], Err(Fault::Scheme)),
            ("nothing after it", "bearer", vec![("authorization", "Bearer   ")], Err(Fault::Scheme)),
        ];
        for (name, shown_in, fields, expected) in cases {
            let (headers, profile) = (headers(&fields), profile(shown_in));
            let found = Credential::of(&headers, &profile);
            let found = found.and_then(|found| match found {
                Some(found) => Ok(Some((found.text()?, found.is_key))),
                None => Ok(None),
            });
            assert_eq!(found, expected, "{name}");
        }
        let mut twice = headers(&[bearer]);
        twice.append("authorization", "Bearer x".parse().unwrap());
        assert_eq!(Credential::of(&twice, &profile("bearer")), Err(Fault::Scheme));
    }

    #[test]
    fn a_field_of_its_own_stays_here() {
        let profile = profile("[bearer, X-API-Key]");
        let all = headers(&[("authorization", "Bearer t"), ("x-api-key", "ptk_b"), ("x-team", "blue")]);
        assert_eq!(kept(&all, &profile), headers(&[("authorization", "Bearer t"), ("x-api-key", "ptk_b")]));
        let mut left = all;
        strip(&mut left, &profile);
        assert_eq!(left, headers(&[("authorization", "Bearer t"), ("x-team", "blue")]));
    }
}
