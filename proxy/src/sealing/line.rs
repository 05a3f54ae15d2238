//! What the endpoint that a client of 2024-11-05 posts to says: which stream its messages are about.

use super::{Home, Purpose, Reader, Token, Writer};

/// A client's stream, as its endpoint names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineToken {
    /// Who holds the stream.
    pub home: Home,
    /// What the stream is called there.
    pub number: [u8; 16],
}

impl Token for LineToken {
    const PURPOSE: Purpose = Purpose::Handle;
    const FORM: u8 = 3;

    fn write(&self, out: &mut Writer) {
        self.home.write(out);
        out.bytes(&self.number);
    }

    fn read(from: &mut Reader<'_>) -> Option<LineToken> {
        Some(LineToken { home: Home::read(from)?, number: from.array()? })
    }
}
