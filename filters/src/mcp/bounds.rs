//! Numbers that a message may not exceed.

/// Limits on the shape of one JSON message, checked before anything recursive looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nesting of arrays and objects; at most [`Bounds::MAX_DEPTH`].
    pub depth: usize,
    /// Bytes of one string as written, escapes included.
    pub string_bytes: usize,
    /// Items of one array.
    pub array_items: usize,
    /// Keys of one object.
    pub object_keys: usize,
}

impl Bounds {
    /// Deepest nesting that any configuration can allow.
    ///
    /// `serde_json` refuses 128; staying below it keeps one answer for one message.
    pub const MAX_DEPTH: usize = 120;

    /// For what is bounded otherwise, or was before: the depth alone, since each level that is open
    /// takes memory.
    pub(crate) const NONE: Bounds =
        Bounds { depth: 127, string_bytes: usize::MAX, array_items: usize::MAX, object_keys: usize::MAX };

    /// The preset for deployments that know their tools well.
    pub const STRICT: Bounds =
        Bounds { depth: 10, string_bytes: 10_000, array_items: 1_000, object_keys: 100 };
}

impl Default for Bounds {
    /// A string may be as long as the body that it is in.
    fn default() -> Self {
        Bounds { depth: 64, string_bytes: usize::MAX, array_items: 100_000, object_keys: 10_000 }
    }
}
