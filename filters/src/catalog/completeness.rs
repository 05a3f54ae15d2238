//! The text of a list result, and what it says of its own completeness.

use super::{Catalog, ListKind, ServedPage, State, UnknownCursor};
use crate::mcp::bridge::{Caching, META_SERVER_INFO};
use crate::mcp::rewrite;
use bytes::Bytes;
use portunus_base::Era;
use portunus_base::Moment;

/// Key of `_meta` under which a list names the upstreams that are missing from it or out of date.
pub const INCOMPLETE: &str = "io.portunus/incomplete";

/// What ends a list result.
#[derive(Clone, Copy, Debug)]
pub struct Closing<'a> {
    /// The era of the client: only a modern one is told how long it may keep the list.
    pub era: Era,
    /// How long it may, and who may share it.
    pub caching: Caching,
    /// What the gateway says of itself to a modern client: the text of a JSON object.
    pub server_info: Option<&'a str>,
    /// The time of the answer.
    pub now: Moment,
    /// Members of which the client is not told that they are missing or out of date.
    pub untold: &'a [usize],
}

impl Catalog {
    /// The result of a list request, in pieces to be written one after another.
    ///
    /// # Errors
    /// [`UnknownCursor`] for one that is not of this list as it is now.
    pub fn result(
        &self,
        kind: ListKind,
        cursor: Option<&str>,
        closing: &Closing<'_>,
    ) -> Result<Vec<Bytes>, UnknownCursor> {
        Ok(self.closed(self.page(kind, cursor)?, kind, closing))
    }

    /// A page of a list as the text of a result, in pieces.
    pub(super) fn closed(&self, page: &ServedPage, kind: ListKind, closing: &Closing<'_>) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(page.pieces.len() + 2);
        pieces.push(Bytes::from_static(opening(kind)));
        pieces.extend(page.pieces.iter().cloned());
        let mut end = String::from("]");
        if let Some(cursor) = &page.next_cursor {
            end.push_str(",\"nextCursor\":");
            rewrite::push_string(&mut end, cursor);
        }
        self.close(&mut end, kind, closing);
        pieces.push(Bytes::from(end));
        pieces
    }

    /// The upstreams whose list is missing or out of date, as the text of a JSON array, without those of
    /// the members `untold`; `None` if there is none.
    pub fn incomplete(&self, kind: ListKind, now: Moment, untold: &[usize]) -> Option<String> {
        let mut out = String::new();
        for server in self.servers.iter().filter(|server| !untold.contains(&server.member)) {
            let state = server.states[kind.index()];
            let reason = match state {
                State::Fresh => continue,
                State::Stale { reason, .. } | State::Missing { reason } => reason,
            };
            out.push(if out.is_empty() { '[' } else { ',' });
            out.push_str("{\"upstream\":");
            rewrite::push_string(&mut out, &server.name);
            if let State::Stale { read_at, .. } = state {
                let age = now.wall.saturating_sub(read_at.wall).as_secs();
                out.push_str(&format!(",\"state\":\"stale\",\"ageSeconds\":{age}"));
            } else {
                out.push_str(",\"state\":\"missing\"");
            }
            out.push_str(",\"reason\":");
            rewrite::push_string(&mut out, reason);
            out.push('}');
        }
        (!out.is_empty()).then(|| out + "]")
    }

    fn close(&self, end: &mut String, kind: ListKind, closing: &Closing<'_>) {
        let modern = closing.era == Era::Modern;
        let info = closing.server_info.filter(|_| modern);
        let members = [
            info.map(|info| format!("\"{META_SERVER_INFO}\":{info}")),
            self.incomplete(kind, closing.now, closing.untold)
                .map(|named| format!("\"{INCOMPLETE}\":{named}")),
        ];
        let members: Vec<String> = members.into_iter().flatten().collect();
        if !members.is_empty() {
            end.push_str(&format!(",\"_meta\":{{{}}}", members.join(",")));
        }
        if modern {
            let (ttl_ms, scope) = (closing.caching.ttl_ms, closing.caching.scope.as_str());
            end.push_str(&format!(
                ",\"resultType\":\"complete\",\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\""
            ));
        }
        end.push('}');
    }
}

fn opening(kind: ListKind) -> &'static [u8] {
    match kind {
        ListKind::Tools => b"{\"tools\":[",
        ListKind::Prompts => b"{\"prompts\":[",
        ListKind::Resources => b"{\"resources\":[",
        ListKind::Templates => b"{\"resourceTemplates\":[",
    }
}
