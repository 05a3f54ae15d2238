//! Questions as texts, for what looks at them later.

use super::{Class, Entry, Policy, Question, json};

impl Policy {
    /// What an entry point depends on; `None` if there is none.
    pub fn class(&self, entry: Entry) -> Option<Class> {
        self.point(entry).map(super::Point::class)
    }

    /// A question as the JSON text of the whole input document: payload is in it.
    ///
    /// `None` if there is no such entry point, or the question cannot be read.
    pub fn input(&self, entry: Entry, question: &Question<'_>) -> Option<String> {
        let input = self.point(entry)?.full.input(question, self.calendar.at(question.now.wall)).ok()?;
        serde_json::to_string(&input).ok()
    }

    /// What the policy can read of an input document, as JSON text again.
    ///
    /// `None` if there is no such entry point, or the text cannot be read.
    pub fn projected(&self, entry: Entry, input: &str) -> Option<String> {
        let input = json::value(input).ok()?;
        serde_json::to_string(&self.point(entry)?.in_force().of_value(&input)).ok()
    }
}
