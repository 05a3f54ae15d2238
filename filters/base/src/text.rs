//! The one writer through which text from the wire reaches a log, a page or a terminal.
//!
//! Output is a JSON string: no control byte, no escape sequence, no bidirectional override and no
//! markup survives as itself, and no value is longer than its bound.

use std::fmt::Write;

/// Longest value of one field, in bytes of the original text.
pub const MAX_FIELD_BYTES: usize = 256;

/// Appends `text` to `out` as a JSON string, quotes included, cut at [`MAX_FIELD_BYTES`].
pub fn push_json(out: &mut String, text: &str) {
    out.push('"');
    let mut used = 0;
    for character in text.chars() {
        used += character.len_utf8();
        if used > MAX_FIELD_BYTES {
            out.push('…');
            break;
        }
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            _ if is_unsafe(character) => push_escaped(out, character),
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Appends a character as the escapes of JSON.
fn push_escaped(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// `text` as a JSON string, quotes included.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_json(&mut out, text);
    out
}

/// A JSON document of our own writing in which texts from the wire were put as they came: whatever a
/// viewer would act on becomes an escape. Line ends and other blanks between values stay.
pub fn tame(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for character in document.chars() {
        if is_unsafe(character) && character != '\n' {
            push_escaped(&mut out, character);
        } else {
            out.push(character);
        }
    }
    out
}

/// Lines of the log: as [`tame`], but for what only a page acts on, and for the colours that the log
/// itself puts in (`ESC [ … m`).
pub fn tame_log(lines: &str) -> String {
    let mut out = String::with_capacity(lines.len());
    let mut rest = lines.chars();
    while let Some(character) = rest.next() {
        let is_colour = character == '\x1b' && is_colour(rest.as_str());
        if is_unsafe(character) && !matches!(character, '\n' | '\t' | '<' | '>' | '&') && !is_colour {
            push_escaped(&mut out, character);
        } else {
            out.push(character);
        }
    }
    out
}

/// Whether text goes on as the rest of a sequence that only sets colours.
fn is_colour(rest: &str) -> bool {
    let Some(numbers) = rest.strip_prefix('[') else { return false };
    let end = numbers.find(|one: char| !one.is_ascii_digit() && one != ';');
    end.is_some_and(|end| numbers[end..].starts_with('m'))
}

/// Characters that a terminal, page or log viewer acts on instead of showing.
fn is_unsafe(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '<' | '>' | '&'
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_viewer_is_escaped_and_reads_back() {
        let cases = [
            ("plain", "echo", "\"echo\""),
            ("letters of any script", "zażółć 日本", "\"zażółć 日本\""),
            ("quotes", "a\"b\\c", r#""a\"b\\c""#),
            ("newline", "a\nb", r#""a\u000ab""#),
            ("terminal escape", "\x1b[31m", r#""\u001b[31m""#),
            ("C1 control", "\u{9b}31m", r#""\u009b31m""#),
            ("override", "a\u{202e}b", r#""a\u202eb""#),
            ("tag characters", "\u{e0041}", r#""\udb40\udc41""#),
            ("markup", "<script>", r#""\u003cscript\u003e""#),
        ];
        for (name, text, expected) in cases {
            assert_eq!(json(text), expected, "{name}");
            assert_eq!(serde_json::from_str::<String>(&json(text)).unwrap(), text, "{name}");
        }
    }

    #[test]
    fn a_tamed_document_reads_the_same() {
        let document = "{\n  \"a\": \"x\u{202e}\u{9b}<b>\u{e0041}\"\n}";
        let tamed = tame(document);
        assert!(!tamed.chars().any(|character| character != '\n' && is_unsafe(character)), "{tamed}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&tamed), read(document));
    }

    #[test]
    fn lines_of_the_log_keep_their_colours_and_nothing_else_that_acts() {
        let line = "\x1b[2mWARN\x1b[0m a<b \x1b[2J \u{9b}31m \u{202e}\u{200b}\r ok\n";
        let expected = "\x1b[2mWARN\x1b[0m a<b \\u001b[2J \\u009b31m \\u202e\\u200b\\u000d ok\n";
        assert_eq!(tame_log(line), expected);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let long = "ż".repeat(MAX_FIELD_BYTES);
        let cut: String = serde_json::from_str(&json(&long)).unwrap();
        assert_eq!(cut.chars().count(), MAX_FIELD_BYTES / 2 + 1);
        assert!(cut.ends_with('…'));
    }
}
