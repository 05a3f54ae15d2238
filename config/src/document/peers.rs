//! `replica`, `sealing` and `peers`: what makes several processes one gateway.

use std::net::SocketAddr;

use super::secrets::reference;
use super::tls::{self, UpstreamTlsDocument};
use super::{listeners, replicas};
use crate::diagnostic::{Located, Place};
use crate::peers::{Peers, ReplicaId, Sealing};
use crate::reader::{Section, Value};
use crate::reference::Reference;
use portunus_base::UpstreamUrl;

/// The other replicas.
#[derive(Clone, Debug)]
pub struct PeersDocument {
    /// Where it is written.
    pub place: Place,
    /// `listen`; `None` if it could not be read.
    pub listen: Option<Located<SocketAddr>>,
    /// `tls`: the same authority and certificate on both sides of a connection.
    pub tls: Option<UpstreamTlsDocument>,
    /// `members`, this process among them or not.
    pub members: Vec<(Located<ReplicaId>, Located<UpstreamUrl>)>,
}

/// What seals ids and states that clients keep.
#[derive(Clone, Debug)]
pub struct SealingDocument {
    /// `keys`; the first seals.
    pub keys: Vec<Located<Reference>>,
}

/// `sealing: REFERENCE`, a list of them, or `{keys: …}`.
pub(super) fn sealing(value: &Value<'_>) -> Option<SealingDocument> {
    if !value.is_mapping() {
        return Some(SealingDocument { keys: keys(value) });
    }
    value.section(|section| {
        let keys = section.required("keys", Reference::FORMS).map(|value| keys(&value));
        SealingDocument { keys: keys.unwrap_or_default() }
    })
}

pub(super) fn peers(value: &Value<'_>) -> Option<PeersDocument> {
    value.section(|section| {
        let listen =
            section.required("listen", "say where the other replicas connect: `listen: 10.0.0.1:7443`");
        let hint = "name the other replicas: `members: {b: \"https://b.internal:7443\"}`";
        PeersDocument {
            place: section.place().clone(),
            listen: listen.and_then(|value| listeners::address(&value)),
            tls: section.value("tls").and_then(|value| tls::upstream(&value)),
            members: section
                .required("members", hint)
                .map(|value| members(&value, section))
                .unwrap_or_default(),
        }
    })
}

fn keys(value: &Value<'_>) -> Vec<Located<Reference>> {
    let items = value.items_or_one();
    if !(1..=Sealing::MAX_KEYS).contains(&items.len()) {
        let hint = format!("write 1 to {}: the first seals, all of them open", Sealing::MAX_KEYS);
        value.error(format!("{} keys are named", items.len()), hint);
    }
    items.iter().filter_map(reference).collect()
}

fn members(value: &Value<'_>, section: &Section<'_>) -> Vec<(Located<ReplicaId>, Located<UpstreamUrl>)> {
    let entries = value.entries();
    if value.is_mapping() && !(1..=Peers::MAX_MEMBERS).contains(&entries.len()) {
        let hint = format!("name 1 to {}", Peers::MAX_MEMBERS);
        value.error(format!("{} replicas are named", entries.len()), hint);
    }
    let member = |(name, value): (Located<String>, Value<'_>)| {
        let url = replicas::url(&value);
        let Located { value: text, place } = name;
        let hint = "use 1 to 16 letters, digits, `.`, `_`, `-`";
        let id = ReplicaId::parse(&text)
            .map_err(|problem| section.error(&place, format!("`{text}` {problem}"), hint))
            .ok()?;
        Some((Located { value: id, place }, url?))
    };
    entries.into_iter().filter_map(member).collect()
}
