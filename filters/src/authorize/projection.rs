//! The part of the input that a policy can read: as the key of a cached decision, and as what the
//! engine is given.
//!
//! Both are made of the same plan, so two questions with one key give the engine the same input. A
//! part of a JSON document is found in its text. Along the way to it, what is an object stays one and
//! anything else becomes `null`: a rule can tell an object from what is none there, and no more.

use super::calendar::{LocalTime, Unit};
use super::document::{FINDINGS, Field, Reading};
use super::json;
use super::paths::{InputPath, Reads};
use super::question::Question;
use crate::mcp::Fault;
use crate::mcp::object::{Object, StrictObject};
use regorus::Value;
use std::collections::BTreeMap;

/// What is taken of each question.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    takes: Vec<Take>,
    /// Of the findings of inspection.
    findings: Option<Branch>,
    /// Everything that is read, by name: for inputs that are not typed.
    tree: Branch,
    /// The finest unit of time that is read.
    pub(super) unit: Option<Unit>,
    /// Members that are read and are none of the document.
    pub(super) unknown: Vec<InputPath>,
}

#[derive(Clone, Debug)]
struct Take {
    group: &'static str,
    name: &'static str,
    field: Field,
    branch: Branch,
}

/// What is taken of a JSON value: all of it, or some of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    whole: bool,
    members: BTreeMap<String, Branch>,
}

impl Branch {
    fn names(&self, at: &str, places: &mut Vec<String>) {
        if self.whole {
            places.push(at.to_owned());
            return;
        }
        self.members.iter().for_each(|(name, branch)| branch.names(&format!("{at}.{name}"), places));
    }

    fn grow(&mut self, names: &[std::sync::Arc<str>]) {
        match names {
            [] => self.whole = true,
            [first, rest @ ..] => self.members.entry(first.to_string()).or_default().grow(rest),
        }
    }

    fn of_value(&self, value: &Value) -> Value {
        match value {
            whole if self.whole => whole.clone(),
            Value::Object(object) => {
                let taken = self.members.iter().filter_map(|(name, branch)| {
                    let key = Value::from(name.as_str());
                    let member = branch.of_value(object.get(&key)?);
                    Some((key, member))
                });
                Value::from(taken.collect::<BTreeMap<Value, Value>>())
            }
            _ => Value::Null,
        }
    }

    fn of_text<R: Reader>(&self, text: &str) -> Result<Value, Fault> {
        if self.whole {
            return R::value(text);
        }
        if !text.trim_start().starts_with('{') {
            return Ok(Value::Null);
        }
        let object = R::object(text)?;
        let mut taken = BTreeMap::new();
        for (name, branch) in &self.members {
            if let Some(member) = R::get(&object, name)? {
                taken.insert(Value::from(name.as_str()), branch.of_text::<R>(member)?);
            }
        }
        Ok(Value::from(taken))
    }

    fn key_of_text<R: Reader>(&self, text: &str, key: &mut Key) -> Result<(), Fault> {
        if self.whole {
            key.text(text);
            return Ok(());
        }
        if !text.trim_start().starts_with('{') {
            key.mark(Mark::NoObject);
            return Ok(());
        }
        key.mark(Mark::Object);
        let object = R::object(text)?;
        for (name, branch) in &self.members {
            match R::get(&object, name)? {
                Some(member) => branch.key_of_text::<R>(member, key)?,
                None => key.mark(Mark::Absent),
            }
        }
        Ok(())
    }
}

/// How strictly JSON text is read.
trait Reader {
    type Object<'a>;

    fn value(text: &str) -> Result<Value, Fault>;
    fn object(text: &str) -> Result<Self::Object<'_>, Fault>;
    fn get<'a>(object: &Self::Object<'a>, name: &str) -> Result<Option<&'a str>, Fault>;
}

/// Text that only the gateway reads: claims and findings.
enum Own {}

/// Text that a server or a client reads too, and may read otherwise: arguments, answers, what servers
/// claim of their tools.
enum PassedOn {}

impl Reader for Own {
    type Object<'a> = Object<'a>;

    fn value(text: &str) -> Result<Value, Fault> {
        json::value(text)
    }

    fn object(text: &str) -> Result<Object<'_>, Fault> {
        Object::read(text)
    }

    fn get<'a>(object: &Self::Object<'a>, name: &str) -> Result<Option<&'a str>, Fault> {
        Ok(object.get(name))
    }
}

impl Reader for PassedOn {
    type Object<'a> = StrictObject<'a>;

    fn value(text: &str) -> Result<Value, Fault> {
        json::passed_on(text)
    }

    fn object(text: &str) -> Result<StrictObject<'_>, Fault> {
        StrictObject::read(text)
    }

    fn get<'a>(object: &Self::Object<'a>, name: &str) -> Result<Option<&'a str>, Fault> {
        object.get(name)
    }
}

impl Projection {
    /// What has to be taken for what is read. Existence needs nothing of its own: it is kept along
    /// the way to values.
    pub(super) fn of(reads: &Reads) -> Projection {
        let mut tree = Branch::default();
        reads.places().into_iter().for_each(|path| tree.grow(&path.0));
        let mut takes = Vec::new();
        for &(group, name, field) in Field::ALL {
            let branch = tree.below(group).and_then(|inside| inside.below(name));
            takes.extend(branch.map(|branch| Take { group, name, field, branch }));
        }
        let unknown = reads.places().into_iter().filter(|path| !known(path)).cloned().collect();
        let unit = takes.iter().filter_map(|take| take.field.unit()).min();
        Projection { takes, findings: tree.below(FINDINGS), tree, unit, unknown }
    }

    /// That of a policy which may read everything.
    pub(super) fn whole() -> Projection {
        let mut reads = Reads::default();
        reads.value(InputPath::default());
        Projection::of(&reads)
    }

    /// What is taken, as `input.…`, in order.
    pub(super) fn places(&self) -> Vec<String> {
        let mut places = Vec::new();
        self.tree.names("input", &mut places);
        places
    }

    pub(super) fn is_whole(&self) -> bool {
        self.tree.whole
    }

    pub(super) fn reads(&self, wanted: Field) -> bool {
        self.takes.iter().any(|take| take.field == wanted)
    }

    /// Adds what is taken of `question` to `key`.
    ///
    /// # Errors
    /// A [`Fault`] of a JSON document on the way to what is read of it.
    pub(super) fn key(&self, question: &Question<'_>, time: LocalTime, key: &mut Key) -> Result<(), Fault> {
        key.mark(if question.tool.is_some() { Mark::Object } else { Mark::Absent });
        self.key_where(question, time, (key, |_| true))
    }

    /// The same of the members for which `wanted` holds.
    pub(super) fn key_where(
        &self,
        question: &Question<'_>,
        time: LocalTime,
        (key, wanted): (&mut Key, fn(Field) -> bool),
    ) -> Result<(), Fault> {
        for take in self.takes.iter().filter(|take| wanted(take.field)) {
            take.key(take.field.read(question, time), key)?;
        }
        match (&self.findings, question.findings) {
            (Some(branch), Some(text)) => branch.key_of_text::<Own>(text, key),
            (Some(_), None) => {
                key.mark(Mark::Absent);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// The input that the engine is given for `question`.
    ///
    /// # Errors
    /// A [`Fault`] of a JSON document in what is read of it.
    pub(super) fn input(&self, question: &Question<'_>, time: LocalTime) -> Result<Value, Fault> {
        let mut groups: BTreeMap<&str, BTreeMap<Value, Value>> = BTreeMap::new();
        for &(group, ..) in Field::ALL {
            let named = self.tree.whole || self.tree.members.contains_key(group);
            if named && (group != "tool" || question.tool.is_some()) {
                groups.entry(group).or_default();
            }
        }
        for take in &self.takes {
            if let Some(value) = take.value(take.field.read(question, time))? {
                groups.entry(take.group).or_default().insert(Value::from(take.name), value);
            }
        }
        let mut input: BTreeMap<Value, Value> =
            groups.into_iter().map(|(name, members)| (Value::from(name), Value::from(members))).collect();
        if let (Some(branch), Some(text)) = (&self.findings, question.findings) {
            input.insert(Value::from(FINDINGS), branch.of_text::<Own>(text)?);
        }
        Ok(Value::from(input))
    }

    /// The same for an input that is not typed, such as one of a policy's tests.
    pub(super) fn of_value(&self, input: &Value) -> Value {
        self.tree.of_value(input)
    }
}

impl Branch {
    /// What is taken of a member; `None` if nothing is.
    fn below(&self, name: &str) -> Option<Branch> {
        if self.whole { Some(self.clone()) } else { self.members.get(name).cloned() }
    }
}

fn known(path: &InputPath) -> bool {
    match &*path.0 {
        [] => true,
        [only] => &**only == FINDINGS || Field::ALL.iter().any(|(group, ..)| *group == &**only),
        [first, second, ..] => {
            &**first == FINDINGS
                || Field::ALL.iter().any(|(group, name, _)| *group == &**first && *name == &**second)
        }
    }
}

impl Take {
    fn key(&self, reading: Reading<'_>, key: &mut Key) -> Result<(), Fault> {
        match reading {
            Reading::Absent => key.mark(Mark::Absent),
            Reading::Text(text) => key.text(text),
            Reading::Texts(texts) => {
                key.number(texts.len() as u64);
                texts.iter().for_each(|text| key.text(text));
            }
            Reading::Flag(flag) => key.number(u64::from(flag)),
            Reading::Number(number) => key.number(number),
            Reading::Address(address) => key.text(&address.to_canonical().to_string()),
            Reading::Date(time) => key.date(time),
            Reading::Json(text) => self.branch.key_of_text::<PassedOn>(text, key)?,
            Reading::Claims(claims) if self.branch.whole => {
                key.number(claims.iter().len() as u64);
                claims
                    .iter()
                    .for_each(|(name, value)| [name, value].into_iter().for_each(|text| key.text(text)));
            }
            Reading::Claims(claims) => {
                for (name, branch) in &self.branch.members {
                    match claims.value(name) {
                        Some(text) => branch.key_of_text::<Own>(text, key)?,
                        None => key.mark(Mark::Absent),
                    }
                }
            }
        }
        Ok(())
    }

    fn value(&self, reading: Reading<'_>) -> Result<Option<Value>, Fault> {
        Ok(Some(match reading {
            Reading::Absent => return Ok(None),
            Reading::Text(text) => Value::from(text),
            Reading::Texts(texts) => {
                Value::from(texts.iter().map(|text| Value::from(&**text)).collect::<Vec<Value>>())
            }
            Reading::Flag(flag) => Value::Bool(flag),
            Reading::Number(number) => Value::from(number),
            Reading::Address(address) => Value::from(address.to_canonical().to_string()),
            Reading::Date(time) => Value::from(time.date()),
            Reading::Json(text) => self.branch.of_text::<PassedOn>(text)?,
            Reading::Claims(claims) => {
                let mut taken = BTreeMap::new();
                for (name, text) in claims.iter() {
                    if let Some(branch) = self.branch.below(name) {
                        taken.insert(Value::from(&**name), branch.of_text::<Own>(text)?);
                    }
                }
                Value::from(taken)
            }
        }))
    }
}

/// What stands in a key where no text or number does.
#[derive(Clone, Copy)]
enum Mark {
    Absent = 0,
    NoObject = 1,
    Object = 2,
    Text = 3,
    Number = 4,
}

/// The bytes of a projection. Each part says where it ends, so that no two projections of one plan
/// run together.
#[derive(Debug, Default)]
pub(super) struct Key(pub(super) Vec<u8>);

impl Key {
    fn mark(&mut self, mark: Mark) {
        self.0.push(mark as u8);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.mark(Mark::Number);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.mark(Mark::Text);
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn date(&mut self, time: LocalTime) {
        self.number(u64::from(time.year.unsigned_abs()));
        self.0.extend_from_slice(&[time.month, time.day]);
    }
}
