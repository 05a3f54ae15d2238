//! Spellings of one resource have one form, and what is exact has one reading.

use super::*;
use proptest::prelude::*;

/// The normal form of a text that is not in it, and has one.
fn respelt(text: &str) -> String {
    let normal = normal(text);
    assert_eq!(normal.fault, None, "{text}");
    assert!(!normal.is_exact(), "{text} is exact");
    normal.form.into_owned()
}

#[test]
fn usual_uris_are_exact() {
    for uri in [
        "file:///etc/passwd",
        "file:///C:/Users/x",
        "https://example.com/",
        "https://example.com:8443/a;v=1/b?x=%2Fa/b&y=%0A#top",
        "http://[::1]/",
        "http://127.0.0.1:3000/x",
        "weather://London/current",
        "db://users/1/",
        "memo:x",
        "memo:a/b",
        "urn:isbn:0451450523",
        "mailto:a@example.com?subject=x",
        "doc:...",
        "file:///a/%C3%A4%20b",
        "demo://note/1",
        "x:",
        "x:/",
        "x:?q",
    ] {
        assert_eq!(normal(uri), Normal { form: Cow::Borrowed(uri), fault: None }, "{uri}");
        assert!(normal(uri).is_exact(), "{uri}");
    }
}

#[test]
fn spellings_of_one_resource_have_one_form() {
    for (spelt, form) in [
        ("FILE:///etc/passwd", "file:///etc/passwd"),
        ("file:///%65tc/p%61sswd", "file:///etc/passwd"),
        ("file:///etc/./passwd", "file:///etc/passwd"),
        ("file:///etc/x/../passwd", "file:///etc/passwd"),
        ("file:///%2e%2E/etc/passwd", "file:///etc/passwd"),
        ("file:///etc//passwd", "file:///etc/passwd"),
        ("file:////etc/passwd", "file:///etc/passwd"),
        ("file:/etc/passwd", "file:///etc/passwd"),
        ("file://LocalHost/etc/passwd", "file:///etc/passwd"),
        ("file:///etc/..", "file:///"),
        ("file:///a/b/..", "file:///a/"),
        ("file:///a/%c3%a4", "file:///a/%C3%A4"),
        ("file:///a/ä b", "file:///a/%C3%A4%20b"),
        ("http://EXAMPLE.com", "http://example.com/"),
        ("http://example.com.:080/a", "http://example.com/a"),
        ("http://example.com:/a", "http://example.com/a"),
        ("HTTPS://example.com:443/a", "https://example.com/a"),
        ("http://[0:0::1]/", "http://[::1]/"),
        ("http://ex%61mple.com/", "http://example.com/"),
        ("db://users/a/../b", "db://users/b"),
        ("db://users//b", "db://users/b"),
        ("memo:a//b", "memo:a/b"),
        ("memo:/a/../b", "memo:/b"),
        ("doc:a?x=[1]", "doc:a?x=%5B1%5D"),
        ("doc:a#b#c", "doc:a#b%23c"),
    ] {
        assert_eq!(respelt(spelt), form, "{spelt}");
        assert!(normal(form).is_exact(), "{form}");
    }
}

#[test]
fn what_servers_read_in_different_ways_has_no_normal_form() {
    for (text, fault) in [
        ("file://server/share/a", FILE_HOST),
        ("file://127.0.0.1/etc/passwd", FILE_HOST),
        ("file:///etc%2Fpasswd", SEPARATOR),
        ("file:///public/..%2fetc", SEPARATOR),
        ("file:///etc%5Cpasswd", SEPARATOR),
        ("x://a%2Fb/c", SEPARATOR),
        ("file:///etc\\passwd", BACKSLASH),
        ("memo:a\\..\\b", BACKSLASH),
        ("file:///a\nb", CONTROL),
        ("file:///a\u{7f}b", CONTROL),
        ("file:///a%00", CONTROL),
        ("file:///a%0Ab", CONTROL),
        ("file:///a?%00", CONTROL),
        ("file:///100%", PERCENT),
        ("file:///%zz", PERCENT),
        ("file:///%C0%AE%C0%AE/x", UTF_8),
        ("file:///%E4", UTF_8),
        ("memo:a/../b", DOTS),
        ("memo:..", DOTS),
        ("notes://../secret", DOTS),
        ("notes://./secret", DOTS),
        ("file:///public/..;/etc", DOTS),
        ("file:///public/%2e%2e;x/etc", DOTS),
        ("file:///;x/etc", DOTS),
        ("http://user@example.com/", USER),
        ("notes://a@b/", USER),
        ("http://127.1/", HOST),
        ("http://0x7f.0.0.1/", HOST),
        ("http://0x7f000001/", HOST),
        ("http://2130706433/", HOST),
        ("http://127.0.0.01/", HOST),
        ("http:///etc", HOST),
        ("http://ex%21.com/", HOST),
        ("http://exämple.com/", HOST),
        ("http://a..b/", HOST),
        ("http://a:x/", HOST),
        ("http://a:+80/", HOST),
        ("http://[::1/", HOST),
        ("README.md", SCHEME),
        ("/etc/passwd", SCHEME),
        ("%66ile:///etc", SCHEME),
        ("", SCHEME),
        ("http:/example.com/", HIERARCHY),
        ("http:example.com", HIERARCHY),
        ("file:etc/passwd", HIERARCHY),
    ] {
        let normal = normal(text);
        assert_eq!(normal.fault, Some(fault), "{text}");
        assert!(!normal.is_exact(), "{text}");
    }
}

#[test]
fn a_text_without_a_normal_form_is_judged_by_the_nearest() {
    for (text, form) in [
        ("file:///etc\\passwd", "file:///etc/passwd"),
        ("FILE:///a%zz", "file:///a%25zz"),
        ("gitlab://p/A%2fb", "gitlab://p/A%2Fb"),
        ("./a/../README.md", "./a/../README.md"),
        ("HTTP://U@Example.com", "http://u@example.com/"),
    ] {
        assert_eq!(normal(text).form, form, "{text}");
    }
}

#[test]
fn expressions_and_wildcards_stand_as_they_are() {
    for (text, form) in [
        ("DB://{Table}/x/../{+id}{?q,p}", "db://{Table}/{+id}{?q,p}"),
        ("https://{Host}", "https://{Host}"),
        ("file:///{path}", "file:///{path}"),
        ("file://{/path*}", "file://{/path*}"),
        ("x:{#f}", "x:{#f}"),
        ("x:{unpaired", "x:%7Bunpaired"),
    ] {
        assert_eq!(normal_template(text).form, form, "{text}");
    }
    for pattern in ["file:///etc/*", "https://*.example.com/*", "https://example.com*", "db://{t}/*", "x:*"] {
        assert!(normal_pattern(pattern).is_exact(), "{pattern}");
    }
    assert_eq!(normal_pattern("FILE:///etc//*").form, "file:///etc/*");
    assert_eq!(normal("x:{a}").form, "x:%7Ba%7D");
}

#[test]
fn schemes_are_those_of_rfc_3986() {
    let cases = [
        ("file:///x", Some("file")),
        ("a+b.c-1:x", Some("a+b.c-1")),
        ("x", None),
        ("/a:b", None),
        ("1a:b", None),
    ];
    for (uri, expected) in cases {
        assert_eq!(scheme(uri), expected, "{uri}");
    }
}

/// One of many spellings of a URI: each character of its path as it is or encoded, detours between
/// segments, another case of the scheme.
fn spelling(scheme: &str, segments: &[String], choices: &[u8]) -> String {
    let mut choices = choices.iter().copied().cycle();
    let mut choose = |of: u8| choices.next().unwrap_or_default() % of;
    let mut text: String = scheme
        .chars()
        .map(|letter| if choose(2) == 0 { letter } else { letter.to_ascii_uppercase() })
        .collect();
    text.push_str("://");
    for segment in segments {
        text.push_str(["/", "//", "/./", "/x/../", "/%2e/", "/x/%2E./", "\\"][usize::from(choose(7))]);
        for letter in segment.bytes() {
            match choose(4) {
                0 => text.push_str(&format!("%{letter:02x}")),
                1 => text.push_str(&format!("%{letter:02X}")),
                _ => text.push(char::from(letter)),
            }
        }
    }
    text
}

/// What a server that decodes and then resolves a path reads.
fn read_by_a_server(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let path = rest.split(['?', '#']).next()?;
    let mut plain = Vec::new();
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let value = (byte == b'%').then(|| decoded(&bytes[at + 1..])).flatten();
        plain.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    let plain = String::from_utf8_lossy(&plain).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in plain.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    Some(format!("{}:{}", scheme.to_ascii_lowercase(), kept.join("/")))
}

proptest! {
    /// However a resource is spelt, it is judged alike, and no spelling but one is exact.
    #[test]
    fn every_spelling_is_judged_alike(
        scheme in "(file|db|notes)",
        segments in proptest::collection::vec("[a-z0-9_~-]{1,6}", 1..5),
        choices in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let form = format!("{scheme}:///{}", segments.join("/"));
        prop_assert!(normal(&form).is_exact());
        let spelt = spelling(&scheme, &segments, &choices);
        let normal = normal(&spelt);
        prop_assert_eq!(&*normal.form, form.as_str());
        prop_assert_eq!(normal.is_exact(), spelt == form);
    }

    /// Whatever is exact: a server that decodes it, resolves dots and runs of slashes, and reads
    /// backslashes as slashes reads what a server reads that does none of it.
    #[test]
    fn what_is_exact_is_read_alike(text in "(x|file|HTTP|http)://[a-c.;%25fFeE0/\\\\?# @:{}-]{0,14}") {
        let normal = normal(&text);
        if normal.is_exact() {
            let plain = text.split_once("://").map(|(_, rest)| rest.split(['?', '#']).next().unwrap());
            prop_assert!(plain.is_none_or(|plain| !plain.contains('\\') && !plain.contains("%2F")));
            let (scheme, rest) = text.split_once("://").unwrap();
            let path = rest.split(['?', '#']).next().unwrap().trim_matches('/');
            let undecoded = path.replace("%25", "%").replace("%40", "@");
            let read = read_by_a_server(&text).unwrap();
            // What stays encoded is no letter, dot or slash.
            if !undecoded.contains('%') {
                prop_assert_eq!(read, format!("{scheme}:{undecoded}"));
            }
        }
    }

    /// The form of a text is its own form, where it has one.
    #[test]
    fn a_form_is_its_own_form(text in "\\PC{0,24}", uri in "(x|file|http)://?[a-zA-Z.;%25/\\\\?#@:\\[\\]ä]{0,20}") {
        for text in [text, uri] {
            let first = normal(&text);
            let second = normal(&first.form);
            if first.fault.is_none() {
                prop_assert_eq!(&second.form, &first.form);
                prop_assert!(second.is_exact(), "{} of {}", first.form, text);
            }
            normal_template(&text);
            normal_pattern(&text);
        }
    }
}
