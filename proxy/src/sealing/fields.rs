//! The inside of tokens: fields one after the other, numbers big-endian, texts with their length.
//!
//! Reading is strict: each value has one form, and what is left over makes the whole unreadable.

use portunus_filters::mcp::Revision;

/// Writes fields.
pub struct Writer {
    bytes: Vec<u8>,
    /// A text was longer than its length field can say.
    overflow: bool,
}

impl Writer {
    pub(crate) fn new(form: u8) -> Writer {
        Writer { bytes: vec![form], overflow: false }
    }

    /// Everything that was written; `None` if a text did not fit its field.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.overflow).then_some(self.bytes)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(crate) fn revision(&mut self, revision: Revision) {
        self.byte(match revision {
            Revision::V2024_11_05 => 1,
            Revision::V2025_03_26 => 2,
            Revision::V2025_06_18 => 3,
            Revision::V2025_11_25 => 4,
            Revision::V2026_07_28 => 5,
        });
    }

    /// A text of at most 255 bytes.
    pub(crate) fn short(&mut self, text: &str) {
        match u8::try_from(text.len()) {
            Ok(length) => self.byte(length),
            Err(_) => self.overflow = true,
        }
        self.bytes(text.as_bytes());
    }

    /// A value that may be missing.
    pub(crate) fn some<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// At most 65,535 values.
    pub(crate) fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        match u16::try_from(values.len()) {
            Ok(length) => self.bytes(&length.to_be_bytes()),
            Err(_) => self.overflow = true,
        }
        for value in values {
            write(self, value);
        }
    }

    /// A text of at most 65,535 bytes.
    pub(crate) fn text(&mut self, text: &str) {
        match u16::try_from(text.len()) {
            Ok(length) => self.bytes(&length.to_be_bytes()),
            Err(_) => self.overflow = true,
        }
        self.bytes(text.as_bytes());
    }
}

/// Reads fields in the order in which they were written.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], form: u8) -> Option<Reader<'a>> {
        let (first, rest) = bytes.split_first()?;
        (*first == form).then_some(Reader { rest })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn revision(&mut self) -> Option<Revision> {
        Some(match self.byte()? {
            1 => Revision::V2024_11_05,
            2 => Revision::V2025_03_26,
            3 => Revision::V2025_06_18,
            4 => Revision::V2025_11_25,
            5 => Revision::V2026_07_28,
            _ => return None,
        })
    }

    /// A value that may be missing; `None` if what is there is none.
    #[expect(clippy::option_option, reason = "whether it can be read, and whether it is there")]
    pub(crate) fn some<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Some(None),
        }
    }

    pub(crate) fn list<T>(&mut self, mut read: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
        let length = self.array().map(u16::from_be_bytes)?;
        let mut values = Vec::new();
        for _ in 0..length {
            values.push(read(self)?);
        }
        Some(values)
    }

    pub(crate) fn short(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        self.exactly(length.into())
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.array().map(u16::from_be_bytes)?;
        self.exactly(length.into())
    }

    fn exactly(&mut self, length: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}
