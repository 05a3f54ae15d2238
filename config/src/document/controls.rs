//! `controls`: the profile that tools are held to by their risk.

use portunus_filters::{Control, Controls, Profile};

use crate::diagnostic::Place;
use crate::reader::{Section, Value};

/// `controls`, as it is written.
#[derive(Clone, Debug)]
pub struct ControlsDocument {
    /// What it comes to.
    pub controls: Controls,
    /// Where it is written.
    pub place: Place,
}

pub(super) fn read(section: &mut Section<'_>) -> Option<ControlsDocument> {
    let value = section.value("controls")?;
    let place = value.place();
    let controls = match value.is_mapping() {
        true => value.section(long)?,
        false => value.one_of(&Profile::NAMES).map(|profile| Controls { profile, without: vec![] }),
    };
    Some(ControlsDocument { controls: controls?, place })
}

fn long(section: &mut Section<'_>) -> Option<Controls> {
    let profile = section.required("profile", "write `profile: strict` or `profile: balanced`");
    let without = section.value("without");
    let control = |value: &Value<'_>| value.one_of(&Control::optional());
    let without = without.iter().flat_map(Value::items_or_one).filter_map(|value| control(&value));
    Some(Controls { without: without.collect(), profile: profile?.one_of(&Profile::NAMES)? })
}
