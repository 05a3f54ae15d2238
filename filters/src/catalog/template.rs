//! Whether a URI can come of a URI template (RFC 6570).
//!
//! This only finds the server to ask, which then matches for itself. So it is generous: every
//! expression may be empty, and its variables are not told apart.
//!
//! Servers choose the templates and callers the URIs, so the work is counted: each member has its share
//! of [`Steps`], and the templates of one that has used it up match nothing more.

use std::cell::Cell;

/// Bytes of a URI that is matched; longer ones come of no template.
const MAX_URI: usize = 8 << 10;

/// Expressions of one template; templates with more match nothing.
const MAX_EXPRESSIONS: usize = 32;

/// Steps of one lookup over all members, a few nanoseconds each.
const MAX_STEPS: usize = 4 << 20;

/// Steps of one lookup for the templates of one member.
const MAX_MEMBER_STEPS: usize = 1 << 20;

/// The templates of a merged list.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// Those with most fixed text first, of equals in their order in the list.
    sorted: Vec<Listed>,
}

#[derive(Debug)]
struct Listed {
    /// Index of its entry.
    entry: usize,
    /// Index of its member.
    member: usize,
    template: Template,
}

/// Work that may still be done to look URIs up, by member.
pub struct Steps {
    left: Vec<Cell<usize>>,
    ran_out: Cell<bool>,
}

impl Steps {
    /// For the URIs of one message.
    pub(super) fn new(members: usize) -> Steps {
        let share = (MAX_STEPS / members.max(1)).min(MAX_MEMBER_STEPS);
        Steps { left: vec![Cell::new(share); members], ran_out: Cell::new(false) }
    }

    /// Whether a template was left out because its member had none left.
    pub(super) fn ran_out(&self) -> bool {
        self.ran_out.get()
    }

    /// Whether a member may take so many; then they are taken.
    fn take(&self, member: usize, steps: usize) -> bool {
        let Some(left) = self.left.get(member) else { return false };
        let rest = left.get().checked_sub(steps);
        left.set(rest.unwrap_or_default());
        self.ran_out.set(self.ran_out.get() || rest.is_none());
        rest.is_some()
    }
}

impl Templates {
    /// Of entries in the order of their list: the member and the text of each. Those that cannot be
    /// taken apart match nothing.
    pub(super) fn parse<'t>(entries: impl Iterator<Item = (usize, &'t str)>) -> Templates {
        let listed = |(entry, (member, text)): (usize, (usize, &str))| {
            Some(Listed { entry, member, template: Template::parse(text)? })
        };
        let mut sorted: Vec<Listed> = entries.enumerate().filter_map(listed).collect();
        sorted.sort_by_key(|listed| std::cmp::Reverse(listed.template.literal_bytes));
        Templates { sorted }
    }

    /// The entry of the template with most fixed text that `uri` can come of; of equals the first.
    pub(super) fn find(&self, uri: &str, steps: &Steps) -> Option<usize> {
        let fits = |listed: &&Listed| {
            let template = &listed.template;
            steps.take(listed.member, 1)
                && template.may_match(uri)
                && steps.take(listed.member, template.parts.len() * (uri.len() + 1))
                && template.matches(uri)
        };
        self.sorted.iter().find(fits).map(|listed| listed.entry)
    }
}

/// A template taken apart.
#[derive(Debug)]
struct Template {
    parts: Vec<Part>,
    literal_bytes: usize,
}

#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    Expression {
        /// The byte that it begins with, if it is not empty.
        lead: Option<u8>,
        /// A `/` may be in it.
        slashes: bool,
    },
}

impl Template {
    /// Takes a template apart. `None` if braces do not pair, or there are too many.
    fn parse(text: &str) -> Option<Template> {
        let mut parts = Vec::new();
        let mut literal_bytes = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            let (literal, tail) = rest.split_at(end);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
                literal_bytes += literal.len();
            }
            if tail.is_empty() {
                break;
            }
            let (expression, tail) = tail.strip_prefix('{')?.split_once('}')?;
            parts.push(expression_part(expression)?);
            rest = tail;
        }
        (parts.len() <= 2 * MAX_EXPRESSIONS).then_some(Template { parts, literal_bytes })
    }

    /// Whether `uri` can come of it. Takes time by the product of both lengths at most.
    fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        let mut ends = vec![false; uri.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            ends = part.ends(&ends, uri);
        }
        ends[uri.len()]
    }

    /// A look that rules most templates out.
    fn may_match(&self, uri: &str) -> bool {
        let begins = match self.parts.first() {
            Some(Part::Literal(literal)) => uri.starts_with(&**literal),
            _ => true,
        };
        let ends = match self.parts.last() {
            Some(Part::Literal(literal)) => uri.ends_with(&**literal),
            _ => true,
        };
        begins && ends && (self.literal_bytes..=MAX_URI).contains(&uri.len())
    }
}

fn expression_part(expression: &str) -> Option<Part> {
    let (lead, slashes) = match expression.as_bytes().first()? {
        b'+' => (None, true),
        &lead @ (b'#' | b'.' | b'/' | b';' | b'?' | b'&') => (Some(lead), lead != b'.'),
        _ => (None, false),
    };
    Some(Part::Expression { lead, slashes })
}

impl Part {
    /// Where it can end, for each place where it can begin.
    fn ends(&self, begins: &[bool], uri: &[u8]) -> Vec<bool> {
        let mut ends = vec![false; begins.len()];
        match self {
            Part::Literal(literal) => {
                for at in (0..uri.len()).filter(|&at| begins[at]) {
                    if uri[at..].starts_with(literal.as_bytes()) {
                        ends[at + literal.len()] = true;
                    }
                }
            }
            &Part::Expression { lead, slashes } => {
                let mut inside = false;
                for at in 0..begins.len() {
                    ends[at] = begins[at] || inside;
                    let Some(&byte) = uri.get(at) else { break };
                    let goes_on = slashes || byte != b'/';
                    let enters = begins[at] && lead.map_or(goes_on, |lead| lead == byte);
                    inside = (inside && goes_on) || enters;
                }
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of the template that is found among those of one member.
    fn find(templates: &[&str], uri: &str) -> Option<usize> {
        Templates::parse(templates.iter().map(|text| (0, *text))).find(uri, &Steps::new(1))
    }

    #[test]
    fn the_template_with_most_fixed_text_counts_and_of_equals_the_first() {
        let templates = ["db://{+all}", "db://{t}/x/{id}", "db://{u}/x/{id}", "db://users/x/{+id}"];
        assert_eq!(find(&templates, "db://users/x/1"), Some(3));
        assert_eq!(find(&templates, "db://other/x/1"), Some(1));
        assert_eq!(find(&templates, "db://y"), Some(0));
    }

    #[test]
    fn a_member_that_uses_its_steps_up_leaves_the_others_theirs() {
        let hostile = "{+a}b".repeat(31) + "{+a}";
        let entries = (0..19_000).map(|_| (0, hostile.as_str())).chain([(1, "honest://{id}")]);
        let templates = Templates::parse(entries);
        let uri = format!("honest://{}", "c".repeat(4_000));
        let steps = Steps::new(2);
        assert_eq!(templates.find(&uri, &steps), Some(19_000));
        assert!(steps.ran_out() && steps.left[0].get() == 0);
        let steps = Steps::new(2);
        let thousand: Vec<String> = (0..1_000).map(|table| format!("db://{{+x}}/t{table}/{{id}}")).collect();
        let templates = Templates::parse(thousand.iter().map(|text| (0, text.as_str())));
        assert_eq!(templates.find("db://a/b/c/t999/17", &steps), Some(999));
        assert!(!steps.ran_out(), "an honest list is looked through to its end");
    }

    #[test]
    fn uris_are_found_by_their_template() {
        let cases = [
            ("db://{table}", "db://users", true),
            ("db://{table}", "db://users/1", false),
            ("db://{table}/{id}", "db://users/1", true),
            ("db://{table}/{id}/x", "db://users/1/y", false),
            ("file:///{+path}", "file:///a/b/c.txt", true),
            ("file://{/path*}", "file:///a/b", true),
            ("file://{/path*}", "file://a/b", false),
            ("api:{?q,page}", "api:?q=a/b&page=2", true),
            ("api:{?q}", "api:", true),
            ("api:{x}{.kind}", "api:a.json", true),
            ("{+any}", "whatever://x", true),
            ("a:{x}b{y}b", "a:bbbb", true),
            ("a:{x}b{y}b", "a:bcbc", false),
            ("plain:uri", "plain:uri", true),
            ("plain:uri", "plain:uris", false),
            ("a:{x}", "A:1", false),
        ];
        for (template, uri, expected) in cases {
            assert_eq!(find(&[template], uri).is_some(), expected, "{template} {uri}");
        }
    }

    #[test]
    fn what_is_no_template_is_none() {
        for text in ["a:{x", "a:}", "a:{}", "a:{x}}", &"{a}".repeat(65)] {
            assert!(Template::parse(text).is_none(), "{text}");
        }
        assert_eq!(find(&["a:{+x}"], &format!("a:{}", "x".repeat(MAX_URI))), None);
    }

    #[test]
    fn hostile_templates_end() {
        let template = "{+a}b".repeat(32);
        assert_eq!(find(&[&template], &"b".repeat(31)), None);
        assert_eq!(find(&[&template], &"b".repeat(MAX_URI)), Some(0));
    }
}
