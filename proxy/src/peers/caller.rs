//! Who calls, as one replica tells another.

use crate::sealing::{Reader, Writer};
use portunus_filters::Identity;
use portunus_filters::identity::{AuthMethod, Claims, Digest, Principal, names};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn write_address(out: &mut Writer, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.byte(4);
            out.bytes(&address.octets());
        }
        IpAddr::V6(address) => {
            out.byte(6);
            out.bytes(&address.octets());
        }
    }
}

pub(super) fn read_address(from: &mut Reader<'_>) -> Option<IpAddr> {
    match from.byte()? {
        4 => from.array::<4>().map(IpAddr::from),
        6 => from.array::<16>().map(IpAddr::from),
        _ => None,
    }
}

pub(super) fn write_identity(out: &mut Writer, identity: &Identity) {
    match identity {
        Identity::Anonymous { source } => {
            out.byte(0);
            write_address(out, *source);
        }
        Identity::Presented { digest } => {
            out.byte(1);
            out.bytes(&digest.0);
        }
        Identity::Principal(principal) => {
            out.byte(2);
            write_principal(out, principal);
        }
    }
}

pub(super) fn read_identity(from: &mut Reader<'_>) -> Option<Identity> {
    Some(match from.byte()? {
        0 => Identity::Anonymous { source: read_address(from)? },
        1 => Identity::Presented { digest: Digest(from.array()?) },
        2 => Identity::Principal(Arc::new(read_principal(from)?)),
        _ => return None,
    })
}

/// Everything but the number, which each replica gives for itself, and the digest, which follows.
fn write_principal(out: &mut Writer, principal: &Principal) {
    out.text(&principal.tenant);
    out.text(&principal.subject);
    for text in [&principal.agent, &principal.on_behalf_of, &principal.acr] {
        out.flag(text.is_some());
        out.text(text.as_deref().unwrap_or_default());
    }
    for list in [&principal.roles, &principal.groups, &principal.scopes] {
        out.number(list.len() as u64);
        list.iter().for_each(|name| out.text(name));
    }
    out.byte(method_number(principal.auth));
    out.flag(principal.mfa);
    let end = principal.not_after.map(|end| u64::try_from(end.as_millis()).unwrap_or(u64::MAX));
    for number in [principal.auth_time, end] {
        out.flag(number.is_some());
        out.number(number.unwrap_or_default());
    }
    out.number(principal.claims.iter().len() as u64);
    for (name, value) in principal.claims.iter() {
        out.text(name);
        out.text(value);
    }
}

fn read_principal(from: &mut Reader<'_>) -> Option<Principal> {
    let named = Principal::named(from.text()?, from.text()?);
    let (agent, on_behalf_of, acr) = (maybe_text(from)?, maybe_text(from)?, maybe_text(from)?);
    let (roles, groups, scopes) = (list(from)?, list(from)?, list(from)?);
    let (auth, mfa) = (method(from.byte()?)?, from.flag()?);
    let (auth_time, end) = (maybe_number(from)?, maybe_number(from)?);
    let count = from.number()?;
    let claims: Option<Vec<(Arc<str>, Arc<str>)>> =
        (0..count).map(|_| Some((from.text()?.into(), from.text()?.into()))).collect();
    let principal = Principal {
        agent,
        on_behalf_of,
        acr,
        roles,
        groups,
        scopes,
        auth,
        mfa,
        auth_time,
        not_after: end.map(Duration::from_millis),
        claims: Claims::new(claims?),
        ..named
    };
    Some(principal.with_digest())
}

fn maybe_text(from: &mut Reader<'_>) -> Option<Option<Arc<str>>> {
    let there = from.flag()?;
    let text = from.text()?;
    (there || text.is_empty()).then(|| there.then(|| text.into()))
}

fn maybe_number(from: &mut Reader<'_>) -> Option<Option<u64>> {
    let there = from.flag()?;
    let number = from.number()?;
    (there || number == 0).then(|| there.then_some(number))
}

/// Each name takes two bytes at least, so that a count that lies ends with the bytes.
fn list(from: &mut Reader<'_>) -> Option<Arc<[Arc<str>]>> {
    let count = from.number()?;
    let list: Option<Vec<Arc<str>>> = (0..count).map(|_| Some(from.text()?.into())).collect();
    list.map(names)
}

fn method_number(method: AuthMethod) -> u8 {
    match method {
        AuthMethod::ApiKey => 1,
        AuthMethod::Jwt => 2,
        AuthMethod::Mtls => 3,
        AuthMethod::MtlsJwt => 4,
        AuthMethod::Introspected => 5,
        AuthMethod::Anonymous => 6,
    }
}

fn method(number: u8) -> Option<AuthMethod> {
    AuthMethod::ALL.into_iter().find(|method| method_number(*method) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_replica_learns_everything_that_policy_may_read() {
        let text = |text: &str| Some(Arc::from(text));
        let anna = Principal {
            agent: text("planner"),
            on_behalf_of: text("anna"),
            acr: text("2"),
            roles: names(["a", "b"]),
            groups: names(["g"]),
            scopes: names(["s", "t"]),
            auth: AuthMethod::MtlsJwt,
            mfa: true,
            auth_time: Some(17),
            claims: Claims::new(vec![("region".into(), "\"eu\"".into())]),
            not_after: Some(Duration::from_millis(1_700_000_000_123)),
            ..Principal::named("acme", "anna")
        };
        for principal in [anna.with_digest(), Principal::named("t", "s")] {
            let mut out = Writer::new(1);
            write_identity(&mut out, &Identity::Principal(Arc::new(principal.clone())));
            let bytes = out.finish().unwrap();
            let mut from = Reader::new(&bytes, 1).unwrap();
            let Some(Identity::Principal(read)) = read_identity(&mut from) else { panic!("unread") };
            assert!(from.is_empty());
            assert_eq!((&*read, read.not_after), (&principal, principal.not_after));
            for end in 0..bytes.len() {
                let cut = Reader::new(&bytes[..end], 1).and_then(|mut from| read_identity(&mut from));
                assert!(cut.is_none(), "{end}");
            }
        }
    }
}
