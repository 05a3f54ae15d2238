//! A desk that outlives the HTTP request that its message came with.

use super::desk::Desk;
use crate::authorize::FailedLookups;
use crate::backend::forward::Inbound;
use crate::backend::headers::Upward;
use crate::frontend::context::{Gateway, MessageSnapshot};
use crate::identify::{Guest, Standing};
use crate::request_ids::Trace;
use crate::sealing::CallerKey;
use http::{HeaderMap, Method};
use portunus_config::VirtualServer;
use portunus_filters::{Arrival, Era, LongTexts};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Everything that a [`Desk`] borrows, of its own.
pub(super) struct Kept {
    gateway: Arc<Gateway>,
    snapshot: MessageSnapshot,
    server: Arc<VirtualServer>,
    arrival: Arrival,
    headers: HeaderMap,
    client: IpAddr,
    secure: bool,
    behind_proxy: bool,
    trace: Trace,
    caller: CallerKey,
    bearer: CallerKey,
    standing: Option<Arc<Standing>>,
    said: Arc<Upward>,
    upward: Arc<Upward>,
    serial: u64,
    write_timeout: Duration,
    relayed: bool,
    software: OnceLock<Arc<str>>,
    long_texts: Option<Arc<LongTexts>>,
    era: Era,
    guest: Guest,
}

impl Kept {
    /// Keeps what `desk` has, and takes over its snapshot.
    pub(super) fn of(desk: &Desk<'_>) -> Kept {
        Kept {
            gateway: Arc::clone(desk.gateway),
            snapshot: desk.snapshot.hand_over(),
            server: Arc::clone(&desk.server),
            arrival: desk.arrival.clone(),
            headers: desk.inbound.headers.clone(),
            client: desk.inbound.client,
            secure: desk.inbound.secure,
            behind_proxy: desk.inbound.behind_proxy,
            trace: desk.inbound.trace.clone(),
            caller: desk.caller,
            bearer: desk.bearer,
            standing: desk.standing.clone(),
            said: Arc::clone(&desk.said),
            upward: Arc::clone(&desk.upward),
            serial: desk.serial,
            write_timeout: desk.write_timeout,
            relayed: desk.relayed,
            software: desk.software.clone(),
            long_texts: desk.long_texts.clone(),
            era: desk.era,
            guest: Guest::default(),
        }
    }

    /// The desk of a message that is answered on a stream; the snapshot goes with it.
    pub(super) fn desk(&self) -> Desk<'_> {
        Desk {
            gateway: &self.gateway,
            snapshot: self.snapshot.hand_over(),
            server: Arc::clone(&self.server),
            arrival: &self.arrival,
            inbound: Inbound {
                method: &Method::POST,
                headers: &self.headers,
                query: None,
                client: self.client,
                owner: self.arrival.owner(),
                secure: self.secure,
                behind_proxy: self.behind_proxy,
                request_id: &self.arrival.request_id,
                trace: &self.trace,
            },
            guest: &self.guest,
            caller: self.caller,
            bearer: self.bearer,
            standing: self.standing.clone(),
            said: Arc::clone(&self.said),
            upward: Arc::clone(&self.upward),
            serial: self.serial,
            write_timeout: self.write_timeout,
            relayed: self.relayed,
            takes_events: true,
            software: self.software.clone(),
            failed_lookups: FailedLookups::default(),
            long_texts: self.long_texts.clone(),
            seeker: OnceLock::new(),
            era: self.era,
        }
    }
}
