use super::*;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn bodies_are_judged_by_encoding_and_bounds() {
    let bounds = Bounds { depth: 4, string_bytes: 8, array_items: 3, object_keys: 2 };
    let bound = |what, limit| Err(Fault::Bound { what, limit });
    let pair = Err(Fault::Syntax("a \\u escape is half of a surrogate pair"));
    let invalid = Err(Fault::Syntax("the body is not valid JSON"));
    let cases: &[(&str, &[u8], Result<(), Fault>)] = &[
        ("depth at the limit", b"[[[[]]]]", Ok(())),
        ("depth over the limit", b"[[[[[]]]]]", bound("nesting depth", 4)),
        ("string at the limit", br#"["12345678"]"#, Ok(())),
        ("string over the limit", br#"["123456789"]"#, bound("a string's length in bytes", 8)),
        ("items at the limit", b"[1,2,3]", Ok(())),
        ("items over the limit", b"[1,2,3,4]", bound("the number of items in an array", 3)),
        ("keys over the limit", br#"{"a":1,"b":2,"c":3}"#, bound("the number of keys in an object", 2)),
        ("brackets in strings are text", br#"["[[[[[["]"#, Ok(())),
        ("commas in strings are text", br#"[",,,,,"]"#, Ok(())),
        ("escaped quote", br#"["\"["]"#, Ok(())),
        ("bracket kinds differ", b"[}", invalid.clone()),
        ("more closed than opened", b"]", invalid.clone()),
        ("open array", b"[", Err(Fault::Syntax("the body ends inside an object or array"))),
        ("open string", b"[\"a", Err(Fault::Syntax("the body ends inside a string"))),
        ("backslash at the end", b"[\"a\\", Err(Fault::Syntax("the body ends inside a string"))),
        ("invalid UTF-8", b"[\"\xff\"]", Err(Fault::Syntax("the body is not UTF-8"))),
        ("lone high surrogate", br#"["\ud83d"]"#, pair.clone()),
        ("lone low surrogate", br#"["\ude00"]"#, pair.clone()),
        ("high then text", br#"["\ud83dx"]"#, pair),
        ("short escape", br#"["\u12"]"#, Err(Fault::Syntax("a \\u escape needs four hexadecimal digits"))),
    ];
    for (name, body, expected) in cases {
        assert_eq!(&check(body, &bounds).map(drop), expected, "{name}");
    }
    let wide = Bounds::default();
    assert_eq!(check(br#"["\ud83d\ude00"]"#, &wide).map(drop), Ok(()), "surrogate pair");
}

#[test]
fn the_first_byte_that_means_something_is_found_wherever_it_stands() {
    for length in 0..140 {
        let mut text = vec![b' '; length];
        assert_eq!(string_stop(&text), None, "{length}");
        for at in (0..length).rev() {
            for stop in [b'"', b'\\', 0, 0x1f] {
                text[at] = stop;
                assert_eq!(string_stop(&text), Some(at), "{at} of {length}");
            }
        }
    }
    for byte in 0..=u8::MAX {
        assert_eq!(stops(byte), byte < 0x20 || byte == b'"' || byte == b'\\', "{byte}");
        for length in [1, 8, 40, 70] {
            let expected = stops(byte).then_some(length - 1);
            let mut text = vec![0xff; length];
            text[length - 1] = byte;
            assert_eq!(string_stop(&text), expected, "{byte} at the end of {length}");
            text.fill(byte);
            assert_eq!(string_stop(&text), stops(byte).then_some(0), "{byte}, {length} times");
        }
    }
}

#[test]
fn twenty_thousand_brackets_are_refused_by_depth() {
    let verdict = check(nested(20_000).as_bytes(), &Bounds::default()).map(drop);
    assert_eq!(verdict, Err(Fault::Bound { what: "nesting depth", limit: 64 }));
}

#[test]
fn text_that_is_not_bounded_otherwise_is_bounded_in_depth() {
    let passes = |depth: usize| {
        let text = nested(depth);
        let mut scan = Scan::free(&text);
        scan.value().and_then(|_| scan.end())
    };
    assert_eq!((passes(127), passes(128)), (Ok(()), Err(Stop::Depth)));
}

#[test]
fn no_configuration_lifts_the_depth_above_what_the_parser_takes() {
    let bounds = Bounds { depth: usize::MAX, ..Bounds::default() };
    assert!(check(nested(Bounds::MAX_DEPTH).as_bytes(), &bounds).is_ok());
    assert!(check(nested(Bounds::MAX_DEPTH + 1).as_bytes(), &bounds).is_err());
    assert!(serde_json::from_str::<serde_json::Value>(&nested(Bounds::MAX_DEPTH)).is_ok());
}

/// Whether the grammar alone takes a text.
fn grammatical(text: &str) -> bool {
    let mut scan = Scan::free(text);
    scan.value().and_then(|_| scan.end()).is_ok()
}

/// Compares with a parser that is not ours.
fn agree(text: &str) -> Result<(), TestCaseError> {
    let expected = serde_json::from_str::<&RawValue>(text);
    prop_assert_eq!(grammatical(text), expected.is_ok(), "{:?}", text);
    if let Ok(raw) = expected {
        prop_assert_eq!(Scan::free(text).value(), Ok(raw.get()));
    }
    let checked = check(text.as_bytes(), &Bounds::default());
    if serde_json::from_str::<Value>(text).is_ok() {
        prop_assert_eq!(&checked, &Ok(text));
    }
    if checked.is_ok() {
        prop_assert!(grammatical(text), "{:?}", text);
    } else if grammatical(text) {
        prop_assert_eq!(checked, Err(Stop::LoneHalf.fault(&Bounds::default())), "{:?}", text);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn tokens_in_any_order_are_judged_as_by_another_parser(
        tokens in proptest::collection::vec(
            prop_oneof![
                Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\"a\""), Just("\""),
                Just("\\"), Just("\"\\ud83d\\ude00\""), Just("\"\\ud83d\""), Just("\"\\u12g4\""), Just("0"),
                Just("-1.5e+3"), Just("1."), Just("e"), Just("-"), Just("true"), Just("null"), Just("fals"),
                Just(" "), Just("\n"), Just("\u{1}"), Just("\u{e9}"), Just("\u{feff}"),
            ],
            0..8,
        ),
    ) {
        agree(&tokens.concat())?;
    }

    #[test]
    fn messages_with_a_byte_changed_are_judged_as_by_another_parser(
        place in any::<proptest::sample::Index>(),
        byte in prop_oneof![proptest::sample::select(b"{}[],:\"\\ 0-.eEun\x00\x1f".to_vec()), 0u8..0x80],
        kind in 0..4,
    ) {
        const MESSAGE: &str = r#"{"jsonrpc":"2.0","id":-10.25e-3,"params":{"name":"a\u00e9\ud83d\ude00\n\"b\\","x":[1,[],{},true,null,"and a text that is longer than a block of bytes"]}}"#;
        let mut text = MESSAGE.as_bytes().to_vec();
        let at = place.index(text.len());
        match kind {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            2 => drop(text.remove(at)),
            _ => text.truncate(at),
        }
        agree(std::str::from_utf8(&text).unwrap())?;
    }
}
