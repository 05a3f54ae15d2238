//! Derives everything about a section from one list of its keys: the type, the reader, the JSON Schema, the printed form and
//! the rows of the reference.

use crate::reader::Value;
use serde_json::Value as Json;

/// A value that a document can say.
pub(crate) trait Described: Sized {
    /// Its form in the reference: an example, or its words.
    fn form() -> String;

    /// Reads it; mistakes are reported.
    fn read(value: &Value<'_>) -> Option<Self>;

    /// Its JSON Schema.
    fn schema() -> Json;

    /// The value as a document says it.
    fn shown(&self) -> Json;
}

/// One key of a section, for the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceRow {
    pub(crate) key: &'static str,
    pub(crate) form: String,
    /// `required` for a key that has to be written, `–` for one that may be left out.
    pub(crate) default: String,
    pub(crate) text: String,
}

/// A section that has a short form beside its mapping.
pub(crate) trait ShortForm: Described {
    /// The short form.
    type Form: Described;

    /// The section that the short form stands for.
    fn from_short(form: Self::Form, place: crate::diagnostic::Place) -> Self;
}

/// A section in its short form or its long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortOrLong<L>(pub L);

impl<L: ShortForm> Described for ShortOrLong<L> {
    fn form() -> String {
        format!("{}, or a mapping", L::Form::form())
    }

    fn read(value: &Value<'_>) -> Option<ShortOrLong<L>> {
        match value.is_mapping() {
            true => L::read(value).map(ShortOrLong),
            false => Some(ShortOrLong(L::from_short(L::Form::read(value)?, value.place()))),
        }
    }

    fn schema() -> Json {
        serde_json::json!({ "anyOf": [L::Form::schema(), L::schema()] })
    }

    fn shown(&self) -> Json {
        self.0.shown()
    }
}

/// A schema with what its key is for, and its default.
pub(crate) fn documented(mut schema: Json, text: &str, default: Option<Json>) -> Json {
    schema["description"] = Json::from(text.trim());
    if let Some(default) = default {
        schema["default"] = default;
    }
    schema
}

/// A section by its keys, each with its type. A key is `required(HINT)`, `optional`, has a `default(VALUE)`, is a `list` of which
/// one item may stand alone, or is `unenforced` by this build. One that stands in
/// several places is a definition of the schema, by the name behind `as`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(as $definition:literal)? {
            $($(#[doc = $text:literal])+ $key:ident: $type:ty => $kind:ident $(($argument:expr))?),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The place where it is written.
            pub place: $crate::diagnostic::Place,
            $($(#[doc = $text])+ pub $key: $crate::described::section!(@type $kind $type),)+
        }

        impl $crate::described::Described for $name {
            fn form() -> String {
                "a mapping".to_owned()
            }

            fn read(value: &$crate::reader::Value<'_>) -> Option<$name> {
                let place = value.place();
                value.section(|section| {
                    $(let $key = $crate::described::section!(
                        @read $kind $(($argument))? $type, section, $crate::described::key_name(stringify!($key)));)+
                    Some($name { place, $($key: $crate::described::section!(@take $kind $key)),+ })
                })?
            }

            fn schema() -> serde_json::Value {
                let definition: Option<&str> = [$($definition)?].first().copied();
                match definition {
                    Some(name) => serde_json::json!({ "$ref": format!("#/$defs/{name}") }),
                    None => $name::object(),
                }
            }

            fn shown(&self) -> serde_json::Value {
                let mut keys = serde_json::Map::new();
                $($crate::described::section!(@shown $kind self.$key, keys, $crate::described::key_name(stringify!($key)));)+
                serde_json::Value::Object(keys)
            }
        }

        impl $name {
            /// The JSON Schema of its mapping.
            pub(crate) fn object() -> serde_json::Value {
                let object = $crate::json_schema::Object::new(concat!($($doc),+).trim());
                $(let object = $crate::described::section!(@schema $kind $(($argument))? $type, object,
                    $crate::described::key_name(stringify!($key)), concat!($($text),+));)+
                object.build()
            }

            /// Its keys, in order.
            pub(crate) fn rows() -> Vec<$crate::described::ReferenceRow> {
                let rows = [$($crate::described::section!(@row $type => $kind $(($argument))?,
                    $crate::described::key_name(stringify!($key)), concat!($($text),+))),+];
                rows.into_iter().flatten().collect()
            }
        }
    };

    (@type unenforced $type:ty) => { Option<$crate::reader::Unenforced> };
    (@read unenforced $type:ty, $section:ident, $key:expr) => { $section.unenforced($key) };
    (@schema unenforced $type:ty, $object:ident, $key:expr, $text:expr) => { $object };
    (@shown unenforced $self:ident.$key:ident, $keys:ident, $name:expr) => {};
    (@row $type:ty => unenforced, $key:expr, $text:expr) => { None };

    (@row $type:ty => $kind:ident $(($argument:expr))?, $key:expr, $text:expr) => {
        Some($crate::described::ReferenceRow {
            key: $key,
            form: $crate::described::section!(@form $type => $kind),
            default: $crate::described::section!(@default $kind $(($argument))?),
            text: $text.trim().to_owned(),
        })
    };

    (@form $type:ty => list) => { format!("{}, or a list", <$type as $crate::described::Described>::form()) };
    (@form $type:ty => $kind:ident) => { <$type as $crate::described::Described>::form() };

    (@type required $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };
    (@type default $type:ty) => { $type };
    (@type list $type:ty) => { Vec<$type> };

    (@read required ($hint:expr) $type:ty, $section:ident, $key:expr) => {
        $section.required($key, $hint).and_then(|value| <$type as $crate::described::Described>::read(&value))
    };
    (@read optional $type:ty, $section:ident, $key:expr) => {
        $section.value($key).and_then(|value| <$type as $crate::described::Described>::read(&value))
    };
    (@read default ($default:expr) $type:ty, $section:ident, $key:expr) => {
        $crate::described::section!(@read optional $type, $section, $key).unwrap_or($default)
    };
    (@read list $type:ty, $section:ident, $key:expr) => {{
        let value = $section.value($key);
        let items = value.iter().flat_map($crate::reader::Value::items_or_one);
        items.filter_map(|item| <$type as $crate::described::Described>::read(&item)).collect()
    }};

    (@take required $key:ident) => { $key? };
    (@take $kind:ident $key:ident) => { $key };

    (@schema required ($hint:expr) $type:ty, $object:ident, $key:expr, $text:expr) => {
        $object.required($key, $crate::described::documented(<$type as $crate::described::Described>::schema(), $text, None))
    };
    (@schema optional $type:ty, $object:ident, $key:expr, $text:expr) => {
        $object.optional($key, $crate::described::documented(<$type as $crate::described::Described>::schema(), $text, None))
    };
    (@schema default ($default:expr) $type:ty, $object:ident, $key:expr, $text:expr) => {{
        let default: $type = $default;
        let schema = <$type as $crate::described::Described>::schema();
        let default = $crate::described::Described::shown(&default);
        $object.optional($key, $crate::described::documented(schema, $text, Some(default)))
    }};
    (@schema list $type:ty, $object:ident, $key:expr, $text:expr) => {
        $object.optional($key, $crate::json_schema::one_or_list(<$type as $crate::described::Described>::schema(), 0, $text.trim()))
    };

    (@shown required $self:ident.$key:ident, $keys:ident, $name:expr) => {
        $keys.insert($name.to_owned(), $crate::described::Described::shown(&$self.$key))
    };
    (@shown default $self:ident.$key:ident, $keys:ident, $name:expr) => {
        $keys.insert($name.to_owned(), $crate::described::Described::shown(&$self.$key))
    };
    (@shown optional $self:ident.$key:ident, $keys:ident, $name:expr) => {
        if let Some(value) = &$self.$key {
            $keys.insert($name.to_owned(), $crate::described::Described::shown(value));
        }
    };
    (@shown list $self:ident.$key:ident, $keys:ident, $name:expr) => {
        if !$self.$key.is_empty() {
            $keys.insert($name.to_owned(), $self.$key.iter().map($crate::described::Described::shown).collect());
        }
    };

    (@default required ($hint:expr)) => { "required".to_owned() };
    (@default default ($default:expr)) => { $crate::described::plain(&$crate::described::Described::shown(&$default)) };
    (@default $kind:ident) => { "–".to_owned() };
}

/// A closed list of words that a document can say.
macro_rules! words {
    ($($type:ty),+ $(,)?) => {
        $(impl $crate::described::Described for $type {
            fn form() -> String {
                let words: Vec<String> = Self::NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
                words.join(", ")
            }

            fn read(value: &$crate::reader::Value<'_>) -> Option<$type> {
                value.one_of(&Self::NAMES)
            }

            fn schema() -> serde_json::Value {
                let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
                serde_json::json!({ "enum": names })
            }

            fn shown(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }
        })+
    };
}

pub(crate) use {section, words};

/// The key that a field stands for: one whose name is a word of Rust is written as a raw identifier.
pub(crate) fn key_name(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// A value as a document says it, without quotes.
pub(crate) fn plain(value: &Json) -> String {
    format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// The rows of a section as a table of the reference.
pub(crate) fn table(rows: &[ReferenceRow]) -> String {
    let line = |ReferenceRow { key, form, default, text }: &ReferenceRow| {
        format!("| `{key}` | {form} | {default} | {text} |\n")
    };
    let lines: String = rows.iter().map(line).collect();
    format!("| key | value | default | meaning |\n|---|---|---|---|\n{lines}")
}
