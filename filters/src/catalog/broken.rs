//! Why an item of a list is not served.

use crate::mcp::Fault;
use std::fmt;

/// What is wrong with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It is no object, or a key that is read occurs twice in it.
    Text(Fault),
    /// It has no name, or one that is no text.
    Unnamed {
        /// The member that should hold it.
        key: &'static str,
    },
    /// Its name is empty or too long.
    KeyLength {
        /// Most bytes it may have.
        limit: usize,
    },
    /// Its name has characters that clients and headers cannot carry.
    KeyCharacters,
    /// Its definition is too long.
    TooLong {
        /// Most bytes it may have.
        limit: usize,
    },
    /// A tool without an input schema that is an object.
    NoSchema,
    /// A schema within too many others.
    SchemaDepth {
        /// Most levels it may have.
        limit: usize,
    },
    /// A schema that refers to what is not in it.
    RemoteReference,
    /// `x-mcp-header` where or how it may not be.
    Header(&'static str),
    /// An item before it has the same name.
    Repeated,
    /// A regional twin whose schema is another than its twins'.
    Differs,
    /// A regional twin that has an argument named like the selector.
    SelectorTaken,
    /// Its server's list has no room for it.
    TooMany {
        /// Most items of its kind.
        limit: usize,
    },
    /// The merged list has no room for it.
    Full {
        /// Most items it may have.
        limit: usize,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Text(fault) => write!(f, "{fault}"),
            Broken::Unnamed { key } => write!(f, "it has no `{key}` that is a string"),
            Broken::KeyLength { limit } => write!(f, "its name must have 1 to {limit} bytes"),
            Broken::KeyCharacters => f.write_str("its name has characters that clients cannot take"),
            Broken::TooLong { limit } => write!(f, "its definition is longer than {limit} bytes"),
            Broken::NoSchema => f.write_str("it has no `inputSchema` that is an object"),
            Broken::SchemaDepth { limit } => write!(f, "its schema is nested deeper than {limit} levels"),
            Broken::RemoteReference => {
                f.write_str("its schema has a `$ref` to something outside of the schema")
            }
            Broken::Header(what) => write!(f, "`x-mcp-header` is invalid: {what}"),
            Broken::Repeated => f.write_str("an item before it has the same name"),
            Broken::Differs => f.write_str("its schema differs from that of the same tool in another region"),
            Broken::SelectorTaken => f.write_str("it has an argument with the name of the selector"),
            Broken::TooMany { limit } => write!(f, "its server's list already has {limit} of its kind"),
            Broken::Full { limit } => write!(f, "the merged list already has {limit} items"),
        }
    }
}
