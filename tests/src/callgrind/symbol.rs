//! Names behind symbols.

/// The path that a symbol stands for, without its hash, which keeps the instances of a generic function apart; other symbols
/// as they are.
pub(crate) fn demangled(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
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
