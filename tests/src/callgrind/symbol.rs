//! Names behind the symbols of Rust's `_ZN` mangling, which keep the instances of a generic function apart by a hash.

/// How characters that a symbol cannot hold are written.
const ESCAPES: [(&str, &str); 13] = [
    ("$LT$", "<"),
    ("$GT$", ">"),
    ("$u7b$", "{"),
    ("$u7d$", "}"),
    ("$u5b$", "["),
    ("$u5d$", "]"),
    ("$u20$", " "),
    ("$u3b$", ";"),
    ("$RF$", "&"),
    ("$BP$", "*"),
    ("$LP$", "("),
    ("$RP$", ")"),
    ("$C$", ","),
];

/// The path that a symbol stands for, without its hash; other symbols as they are.
pub(crate) fn demangled(symbol: &str) -> String {
    let Some(parts) = parts(symbol) else { return symbol.to_owned() };
    let mut path = parts.join("::");
    for (escape, character) in ESCAPES {
        path = path.replace(escape, character);
    }
    path.replace("..", "::")
}

/// The parts of the path, if the symbol is of this mangling: each has its length in front of it.
fn parts(symbol: &str) -> Option<Vec<&str>> {
    let mut rest = symbol.strip_prefix("_ZN")?;
    let mut parts = Vec::new();
    while rest != "E" {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length = rest[..digits].parse().ok()?;
        let (part, after) = rest[digits..].split_at_checked(length)?;
        // An underscore is put before a part that would begin with an escape.
        parts.push(part.strip_prefix('_').filter(|part| part.starts_with('$')).unwrap_or(part));
        rest = after;
    }
    if parts.last().is_some_and(|part| part.len() == 17 && part.starts_with('h')) {
        parts.pop();
    }
    Some(parts)
}

/// The crate of a path: of a method in an `impl` of a trait, the one of the type.
pub(crate) fn crate_of(path: &str) -> &str {
    const MARKS: [&str; 6] = ["<", "&", "*", "mut ", "dyn ", "impl "];
    let mut rest = path;
    while let Some(after) = MARKS.iter().find_map(|mark| rest.strip_prefix(mark)) {
        rest = after;
    }
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbol_is_the_path_without_its_hash() {
        let cases = [
            ("_ZN8portunus4head5check17h0123456789abcdefE", "portunus::head::check"),
            (
                "_ZN71_$LT$portunus..record..RecordGuard$u20$as$u20$core..ops..drop..Drop$GT$4drop17h0123456789abcdefE",
                "<portunus::record::RecordGuard as core::ops::drop::Drop>::drop",
            ),
            ("_ZN99_short4drop17h0123456789abcdefE", "_ZN99_short4drop17h0123456789abcdefE"),
            (
                "_ZN8portunus5serve28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE",
                "portunus::serve::{{closure}}",
            ),
            ("_RNvCs_5rustc", "_RNvCs_5rustc"),
            ("main", "main"),
        ];
        for (symbol, path) in cases {
            assert_eq!(demangled(symbol), path);
        }
    }

    #[test]
    fn crate_of_a_method_is_that_of_its_type() {
        let cases = [
            ("portunus::head::check", "portunus"),
            ("<portunus_filters::call::Call as core::clone::Clone>::clone", "portunus_filters"),
            ("<&mut portunus::pieces::Pieces as core::fmt::Debug>::fmt", "portunus"),
            ("core::ptr::drop_in_place<portunus::head::Head>", "core"),
            ("<alloc::sync::Arc<F> as portunus_filters::filter::Filter>::judge", "alloc"),
        ];
        for (path, owner) in cases {
            assert_eq!(crate_of(path), owner, "{path}");
        }
    }
}
