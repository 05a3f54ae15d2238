//! The file in the state folder that outlives a process: `lists.json`, replaced as a whole.
//!
//! What is in it was told to callers of whom nothing is known, or is a name. A file that cannot be
//! read is no reason not to start: everything in it can be asked for again.

use super::{Jar, Label, Last};
use crate::state_file;
use bytes::Bytes;
use portunus_config::{ServerId, UpstreamMark};
use portunus_filters::Moment;
use portunus_filters::catalog::ListKind;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "lists.json";

/// The form of the file; one of another form is not read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    lists: Vec<Entry>,
}

/// One list. Text of servers is held as text and not as JSON: it is read by the code that reads it
/// when it comes from them.
#[derive(Serialize, Deserialize)]
struct Entry {
    server: String,
    /// Name and address of the upstream, digested: 16 hexadecimal digits.
    upstream: String,
    /// The method that asks for it.
    list: String,
    names: Vec<String>,
    last: Option<Pages>,
}

#[derive(Serialize, Deserialize)]
struct Pages {
    /// Seconds since 1970.
    read_at: u64,
    open: bool,
    pages: Vec<String>,
}

/// Writes everything that is remembered; whoever reads the file meanwhile sees the one before.
///
/// # Errors
/// If the folder cannot be written to.
pub(in crate::catalog) fn write(folder: &Path, jars: Vec<(Label, Jar)>) -> io::Result<()> {
    let document = Document { lists: jars.into_iter().map(entry).collect() };
    state_file::write_document(&folder.join(NAME), VERSION, document)
}

/// What an earlier process remembered; nothing if none did.
///
/// # Errors
/// If the file cannot be read, or is none of ours.
pub(in crate::catalog) fn read(folder: &Path, now: Moment) -> io::Result<Vec<(Label, Jar)>> {
    let document: Option<Document> = state_file::read_document(&folder.join(NAME), VERSION)?;
    let lists = document.map_or_else(Vec::new, |document| document.lists);
    Ok(lists.into_iter().filter_map(|entry| jar(entry, now)).collect())
}

fn entry(((server, upstream, kind), jar): (Label, Jar)) -> Entry {
    let pages = |last: Last| Pages {
        read_at: last.read_at.wall.as_secs(),
        open: last.open,
        pages: last.pages.iter().map(|page| String::from_utf8_lossy(page).into_owned()).collect(),
    };
    Entry {
        server: server.0.to_string(),
        upstream: upstream.to_string(),
        list: kind.method().to_owned(),
        names: jar.names.iter().map(ToString::to_string).collect(),
        last: jar.last.map(pages),
    }
}

/// `None` for what nobody here can have written.
fn jar(entry: Entry, now: Moment) -> Option<(Label, Jar)> {
    let kind = ListKind::of_method(&entry.list)?;
    let label = (ServerId(entry.server.into()), UpstreamMark::of_hex(&entry.upstream)?, kind);
    let last = entry.last.map(|last| {
        let at = Moment { wall: Duration::from_secs(last.read_at), ..now };
        Last::of_pages(last.pages.into_iter().map(Bytes::from).collect(), last.open, at)
    });
    let names = entry.names.into_iter().map(Into::into).collect();
    Some((label, Jar { last, names }))
}
