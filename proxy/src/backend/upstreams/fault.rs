//! How an exchange with an upstream can fail.

use super::wire::Malformed;
use std::fmt;
use std::io;

/// Why an exchange ended without its answer.
#[derive(Debug)]
pub enum Fault {
    /// Nothing of the request was accepted: it may be sent again whatever it asks for.
    Unsent(io::Error),
    /// The connection ended before a byte of the answer came.
    Silent(io::Error),
    /// The connection ended within the answer.
    Broken(io::Error),
    /// The answer is not HTTP.
    Malformed(Malformed),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unsent(error) => write!(f, "the request was not accepted: {error}"),
            Fault::Silent(error) => write!(f, "the connection ended before the answer: {error}"),
            Fault::Broken(error) => write!(f, "the connection ended within the answer: {error}"),
            Fault::Malformed(Malformed(why)) => f.write_str(why),
        }
    }
}
