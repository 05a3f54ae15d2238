//! Whole lists of one upstream, page by page.

use crate::backend::forward::Failure;
use crate::backend::upstreams::monitor::Answers;
use crate::offload::OffloadQueue;
use async_trait::async_trait;
use bytes::Bytes;
use portunus_config::Upstream;
use portunus_filters::catalog::{ListKind, Listing, MAX_LIST_ITEMS, Page};
use portunus_filters::mcp::Fault;
use portunus_filters::mcp::bridge::{Caching, Facts};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Denial, Reason};
use ring::digest::{Context, SHA256};
use std::collections::HashSet;
use std::sync::Arc;

/// Pages of one list.
const MAX_PAGES: usize = 1_000;

/// Bytes of one list.
const MAX_BYTES: usize = 64 << 20;

/// What is asked of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// What it says of itself, in the form of `server/discover`.
    Discover,
    /// A page of a list.
    List {
        /// Which.
        kind: ListKind,
        /// Where the page begins; `None` for the first.
        cursor: Option<String>,
    },
}

/// Asks upstreams on behalf of one audience of one virtual server.
#[async_trait]
pub(super) trait Asks: Send + Sync {
    /// The text of the result.
    ///
    /// # Errors
    /// [`Failure`], also for an error answer.
    async fn ask(&self, upstream: &Arc<Upstream>, question: Question) -> Result<Bytes, Failure>;

    /// Where large answers of an upstream are read.
    fn offload(&self, upstream: &Upstream) -> OffloadQueue;

    /// What tells that an upstream answers anybody.
    fn answers(&self, upstream: &Upstream) -> Option<Arc<Answers>>;
}

/// Digest of an answer: equal answers are kept once.
pub(super) type Digest = [u8; 32];

/// Something that was read.
pub(super) struct Read<T> {
    pub(super) what: T,
    pub(super) digest: Digest,
    /// The results that it was read from.
    pub(super) texts: Vec<Bytes>,
    /// What its server says of keeping it; `None` if it says nothing.
    pub(super) caching: Option<Caching>,
}

/// Asks an upstream what it is.
pub(super) async fn facts(asks: &dyn Asks, upstream: &Arc<Upstream>) -> Result<Read<Facts>, Failure> {
    let result = asks.ask(upstream, Question::Discover).await?;
    let text = std::str::from_utf8(&result).map_err(|_| unreadable("it is not UTF-8"))?;
    let facts = Facts::of_discover(text).map_err(faulty)?;
    let object = Object::read(text).map_err(faulty)?;
    let caching = object.get("ttlMs").map(|_| Caching::of(&object));
    let digest = ring::digest::digest(&SHA256, &result);
    Ok(Read { what: facts, digest: fixed(digest.as_ref()), caching, texts: vec![result] })
}

/// Asks for all pages of a list.
pub(super) async fn list(
    asks: &dyn Asks,
    upstream: &Arc<Upstream>,
    kind: ListKind,
) -> Result<Read<Listing>, Failure> {
    let (mut pages, mut texts): (Vec<Page>, Vec<Bytes>) = Default::default();
    let mut cursors: HashSet<String> = HashSet::new();
    let queue = asks.offload(upstream);
    let (mut bytes, mut items, mut cursor) = (0, 0, None);
    loop {
        let result = asks.ask(upstream, Question::List { kind, cursor: cursor.take() }).await?;
        bytes += result.len();
        texts.push(result.clone());
        let page = queue.run(result.len(), move || Page::read(&result, kind)).await.map_err(faulty)?;
        items += page.items.len() + page.quarantined.len();
        let next = page.next_cursor.clone();
        pages.push(page);
        let Some(next) = next else { break };
        if pages.len() >= MAX_PAGES || items > MAX_LIST_ITEMS || bytes > MAX_BYTES {
            return Err(unreadable("it is longer than any list that is served"));
        }
        if !cursors.insert(next.clone()) {
            return Err(unreadable("its pages lead back to one that was read"));
        }
        cursor = Some(next);
    }
    let joined = move || {
        let listing = Listing::join(pages, kind);
        let (caching, digest) = (listing.caching, digest(&texts));
        Read { what: listing, digest, texts, caching }
    };
    Ok(queue.run(bytes, joined).await)
}

/// Digest of the results that a list was read from.
pub(super) fn digest(pages: &[Bytes]) -> Digest {
    let mut digest = Context::new(&SHA256);
    for page in pages {
        digest.update(&(page.len() as u64).to_be_bytes());
        digest.update(page);
    }
    fixed(digest.finish().as_ref())
}

fn faulty(fault: Fault) -> Failure {
    unreadable(&fault.to_string())
}

fn unreadable(what: &str) -> Failure {
    let denial = Denial::new(Reason::UpstreamMalformed, "the server's list cannot be read");
    Failure { cause: format!("a list or description cannot be read: {what}"), ..denial.into() }
}

fn fixed(digest: &[u8]) -> Digest {
    let mut fixed = [0; 32];
    for (to, from) in fixed.iter_mut().zip(digest) {
        *to = *from;
    }
    fixed
}
