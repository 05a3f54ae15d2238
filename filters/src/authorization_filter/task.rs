//! Texts of servers as rules for answers let callers have them; what messages about a task bring is read as the result of
//! the call that made it.

use super::{answer, texts};
use crate::authorize::Place;
use crate::call::AnswerRules;
use crate::inspect::Inspector;
use crate::mcp::Fault;
use crate::mcp::object::{Object, StrictObject};
use crate::released::Channel;
use portunus_base::Denial;
use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

/// True if rules for answers hold for texts on a channel. They do not for lists and descriptions of servers, which policy
/// decides on item by item.
fn binds(rules: &AnswerRules, channel: Channel) -> bool {
    let is_bound = match channel {
        Channel::Result
        | Channel::Error
        | Channel::CallNotification
        | Channel::StreamNotification
        | Channel::Question => true,
        Channel::List
        | Channel::ServerInfo
        | Channel::Challenge
        | Channel::AuthorizationMetadata
        | Channel::Raw
        | Channel::Own => false,
    };
    is_bound && !rules.is_empty()
}

impl Inspector for AnswerRules {
    fn reads(&self, channel: Channel) -> bool {
        binds(self, channel)
    }

    fn inspect<'t>(&self, channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        permitted(channel, text, self)
    }

    fn check_length(&self, length: usize) -> Result<(), Denial> {
        answer::check_length(length, self)
    }

    fn joined(&self, later: &dyn Inspector) -> Option<Arc<dyn Inspector>> {
        let later: &AnswerRules = (later as &dyn Any).downcast_ref()?;
        Some(Arc::new(self.clone().and(later)))
    }
}

/// A text of a server as its caller may have it: also the result of a task within what tells of its state.
///
/// # Errors
/// [`crate::Reason::ResultTooLarge`]; [`crate::Reason::UpstreamMalformed`] if what has to be blanked
/// cannot be found for sure.
pub(super) fn permitted<'t>(
    channel: Channel,
    text: &'t str,
    rules: &AnswerRules,
) -> Result<Cow<'t, str>, Denial> {
    if !binds(rules, channel) {
        return Ok(Cow::Borrowed(text));
    }
    let blanked = match rules.redact() {
        [] => None,
        places => blanked(channel, text, places).map_err(|_| answer::unreadable())?,
    };
    answer::fitting(blanked.map_or(Cow::Borrowed(text), Cow::Owned), rules)
}

fn blanked(channel: Channel, text: &str, places: &[Place]) -> Result<Option<String>, Fault> {
    if let Some(text) = texts::blanked(channel, text, places)? {
        return Ok(Some(text));
    }
    let asking = texts::asking(text, places)?;
    let text = asking.as_deref().unwrap_or(text);
    let opened = within(text, places)?;
    answer::redacted(opened.as_deref().unwrap_or(text), places).map(Some)
}

/// A result in which what a task has come to is blanked; `None` if it tells of none.
fn within(result: &str, places: &[Place]) -> Result<Option<String>, Fault> {
    let object = StrictObject::read(result)?;
    let inner = object.get("result")?.filter(|inner| inner.starts_with('{'));
    let (status, error) = (object.get("statusMessage")?, object.get("error")?);
    let object = object.into_object();
    if inner.is_none() && status.is_none() && error.is_none() {
        return Ok(None);
    }
    let data = places.iter().map(|place| place.0.as_slice()).filter(|steps| !answer::is_own(steps));
    let data: Vec<&[String]> = data.map(answer::below_structured).collect();
    let words = |object: &Object<'_>, key: &str| {
        let text = object.get(key).filter(|_| !data.is_empty());
        text.map(|text| answer::told(object.text(key).as_deref(), text, &data)).transpose()
    };
    let inner = inner.map(|inner| answer::redacted(inner, places)).transpose()?;
    let error = error.filter(|error| error.starts_with('{')).map(|error| -> Result<String, Fault> {
        let error = StrictObject::read(error)?;
        error.get("message")?;
        let more = error.get("data")?.map(|more| answer::all(more, &data)).transpose()?;
        let error = error.into_object();
        Ok(error.rewrite().set_some("message", words(&error, "message")?).set_some("data", more).text())
    });
    let changed = object.rewrite().set_some("result", inner);
    let changed = changed.set_some("statusMessage", words(&object, "statusMessage")?);
    Ok(Some(changed.set_some("error", error.transpose()?).text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_base::Reason;

    fn permitted<'r>(result: &'r str, rules: &AnswerRules) -> Result<Cow<'r, str>, Denial> {
        super::permitted(Channel::Result, result, rules)
    }

    fn rules(redact: &[&str], most: Option<u64>) -> AnswerRules {
        AnswerRules::new(redact.iter().map(|place| Place::parse(place).unwrap()).collect(), most)
    }

    #[test]
    fn result_of_a_task_is_blanked_wherever_it_stands() {
        let data = r#"{"salary":7,"name":"x"}"#;
        let blank = r#"{"salary":0,"name":"x"}"#;
        let table = [
            (format!(r#"{{"structuredContent":{data}}}"#), format!(r#"{{"structuredContent":{blank}}}"#)),
            (
                format!(r#"{{"taskId":"t","status":"completed","result":{{"structuredContent":{data}}}}}"#),
                format!(r#"{{"taskId":"t","status":"completed","result":{{"structuredContent":{blank}}}}}"#),
            ),
            (
                r#"{"status":"working","statusMessage":"salary: 7"}"#.to_owned(),
                r#"{"status":"working","statusMessage":"[redacted]"}"#.to_owned(),
            ),
            (
                format!(r#"{{"status":"failed","error":{{"code":1,"message":"7","data":{data}}}}}"#),
                format!(
                    r#"{{"status":"failed","error":{{"code":1,"message":"[redacted]","data":{blank}}}}}"#
                ),
            ),
            (r#"{"taskId":"t","ttlMs":1.50}"#.to_owned(), r#"{"taskId":"t","ttlMs":1.50}"#.to_owned()),
        ];
        for (result, expected) in table {
            assert_eq!(permitted(&result, &rules(&["salary"], None)).unwrap(), expected);
            assert_eq!(permitted(&result, &AnswerRules::default()).unwrap(), result);
        }
        let own = r#"{"result":{"content":[{"type":"text","text":"a"}]}}"#;
        let blanked = r#"{"result":{"content":[{"type":"text","text":"[redacted]"}]}}"#;
        assert_eq!(permitted(own, &rules(&["/content/0/text"], None)).unwrap(), blanked);
        for unclear in [
            r#"{"result":{"structuredContent":{"salary":1,"salary":2}}}"#,
            r#"{"Result":{"structuredContent":{"salary":1}}}"#,
            r#"{"statusMessage":"1","StatusMessage":"salary: 7"}"#,
            r#"{"error":{"code":1,"Message":"salary: 7"}}"#,
        ] {
            let reason = permitted(unclear, &rules(&["salary"], None)).map_err(|denial| denial.reason);
            assert_eq!(reason, Err(Reason::UpstreamMalformed), "{unclear}");
        }
        assert_eq!(permitted(own, &rules(&[], Some(9))).unwrap_err().reason, Reason::ResultTooLarge);
    }

    #[test]
    fn both_rules_hold_where_two_meet() {
        let both = rules(&["a", "b"], Some(9)).and(&rules(&["b", "c"], Some(7)));
        assert_eq!(both, rules(&["a", "b", "c"], Some(7)));
        assert_eq!(AnswerRules::default().and(&rules(&["a"], None)), rules(&["a"], None));
        assert_eq!(rules(&[], Some(3)).and(&AnswerRules::default()), rules(&[], Some(3)));
    }
}
