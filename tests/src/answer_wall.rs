//! Everything that writes to clients takes a `Released` text and a `ReleasedHead`; these are the places that make one.
//!
//! A place that is new here has to be looked at: text of a server belongs on a channel, never to `own`, and what is
//! `translated` says the same as what was released.

use crate::harness::root;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// For each file, what makes released text in it, and how often.
const PLACES: &[(&str, &[(&str, usize)])] = &[
    ("proxy/src/frontend/bridge/responder.rs", &[("own", 3)]),
    ("proxy/src/frontend/bridge/batch.rs", &[("own", 2)]),
    ("proxy/src/frontend/bridge/served_call.rs", &[("own", 1)]),
    ("proxy/src/frontend/bridge/founding.rs", &[("translated", 1)]),
    ("proxy/src/frontend/bridge/http_sse.rs", &[("own", 2), ("translated", 1)]),
    ("proxy/src/frontend/bridge/lasting.rs", &[("own", 3)]),
    ("proxy/src/frontend/bridge/legacy.rs", &[("own", 1)]),
    ("proxy/src/frontend/bridge/lists.rs", &[("own", 2), ("translated", 1)]),
    ("proxy/src/frontend/bridge/encoded_answer.rs", &[("translated", 3)]),
    ("proxy/src/frontend/bridge/streams.rs", &[("own", 2), ("translated", 2)]),
    ("proxy/src/frontend/edge.rs", &[("head own", 1), ("own", 1)]),
    ("proxy/src/frontend/edge/peer.rs", &[("head own", 1), ("own", 1)]),
    ("proxy/src/frontend/respond/events.rs", &[("own", 2)]),
    ("proxy/src/frontend/respond/mod.rs", &[("head passed", 1)]),
    ("proxy/src/frontend/serve.rs", &[("pass of_passed_message", 1)]),
    ("proxy/src/frontend/serve/answer.rs", &[("head own", 2), ("own", 2)]),
    ("proxy/src/frontend/serve/away.rs", &[("pass of_owner", 1)]),
    ("proxy/src/frontend/serve/caller.rs", &[("head own", 1), ("own", 4)]),
    ("proxy/src/frontend/session.rs", &[("head own", 1)]),
    ("proxy/src/frontend/bridge/tasks.rs", &[("translated", 1)]),
    ("proxy/src/backend/upstream_call/mod.rs", &[("translated", 1)]),
];

#[test]
fn text_is_released_only_where_it_is_known() {
    let mut found = BTreeMap::new();
    for path in sources(&root().join("proxy")) {
        let text = fs::read_to_string(&path).unwrap();
        let makers = makers(&text);
        if !makers.is_empty() {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.insert(name, makers);
        }
    }
    let known: BTreeMap<String, BTreeMap<String, usize>> = PLACES
        .iter()
        .map(|(file, makers)| {
            let makers = makers.iter().map(|(maker, count)| ((*maker).to_owned(), *count));
            ((*file).to_owned(), makers.collect())
        })
        .collect();
    for file in found.keys().chain(known.keys()) {
        assert_eq!(found.get(file), known.get(file), "{file}: left what is there, right what is known");
    }
}

#[test]
fn makers_of_released_text_are_found() {
    let text = "a(Released::own(x)); RawPass::of_owner(); note.translated(x); ReleasedHead::passed(p, y)\n\
                // Released::own(a)\n#[cfg(test)]\nmod tests;\nReleasedHead::own(z)\n#[cfg(test)]\nmod tests { Released::own(x) }";
    let found: Vec<(String, usize)> = makers(text).into_iter().collect();
    let expected = ["head own", "head passed", "own", "pass of_owner", "translated"];
    assert_eq!(found, expected.map(|maker| (maker.to_owned(), 1)));
}

/// The makers of released text in the part of a file that is no test, and their number.
fn makers(text: &str) -> BTreeMap<String, usize> {
    // A module of tests in a file of its own may be named anywhere.
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = product.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeMap::new();
    let mut count = |maker: String| *found.entry(maker).or_insert(0) += 1;
    for (kind, before) in [("Released::", ""), ("ReleasedHead::", "head ")] {
        for after in code.split(kind).skip(1) {
            if let maker @ ("own" | "passed") = first_word(after) {
                count(format!("{before}{maker}"));
            }
        }
    }
    code.matches(".translated(").for_each(|_| count("translated".to_owned()));
    for after in code.split("RawPass::").skip(1) {
        count(format!("pass {}", first_word(after)));
    }
    found
}

fn first_word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

/// The Rust files below a folder, without those that hold tests alone.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "tests" && name != "target" {
                open.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                files.push(path);
            }
        }
    }
    files
}
