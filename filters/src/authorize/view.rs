//! What the answers to many questions of one caller have in common, and questions as texts: for
//! views of lists, and for what looks at questions later.

use super::projection::Key;
use super::{Class, Entry, Policy, Question, json};
use std::time::Duration;

impl Policy {
    /// What an entry point depends on; `None` if there is none.
    pub fn class(&self, entry: Entry) -> Option<Class> {
        self.point(entry).map(super::Point::class)
    }

    /// What the policy can read of a question, as bytes, and when an answer to it ends, as a time since
    /// the epoch. Questions with equal bytes get equal answers; the bytes of a question about nothing
    /// say who looks.
    ///
    /// `None` if there is no such entry point, or its part of the question cannot be read.
    pub fn view(&self, entry: Entry, question: &Question<'_>) -> Option<(Vec<u8>, Duration)> {
        let point = self.point(entry)?;
        let mut key = Key::default();
        key.number(self.generation);
        key.number(entry as u64 * 2 + u64::from(point.in_force().is_whole()));
        point.in_force().key(question, self.calendar.at(question.now.wall), &mut key).ok()?;
        Some((key.0, self.end(point, question)))
    }

    /// A question as the JSON text of the whole input document: payload is in it.
    ///
    /// `None` if there is no such entry point, or the question cannot be read.
    pub fn input(&self, entry: Entry, question: &Question<'_>) -> Option<String> {
        let input = self.point(entry)?.full.input(question, self.calendar.at(question.now.wall)).ok()?;
        input.to_json_str().ok()
    }

    /// What the policy can read of an input document, as JSON text again.
    ///
    /// `None` if there is no such entry point, or the text cannot be read.
    pub fn projected(&self, entry: Entry, input: &str) -> Option<String> {
        let input = json::value(input).ok()?;
        self.point(entry)?.in_force().of_value(&input).to_json_str().ok()
    }
}
