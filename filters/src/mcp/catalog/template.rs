//! Whether a URI can come of a URI template (RFC 6570).
//!
//! This only finds the server to ask, which then matches for itself. So it is generous: every
//! expression may be empty, and its variables are not told apart.

/// Bytes of a URI that is matched; longer ones come of no template.
const MAX_URI: usize = 8 << 10;

/// Expressions of one template; templates with more match nothing.
const MAX_EXPRESSIONS: usize = 32;

/// A template taken apart.
#[derive(Debug)]
pub(super) struct Template {
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
    pub(super) fn parse(text: &str) -> Option<Template> {
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

    /// Bytes that are not variable: the more, the closer a match.
    pub(super) fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// Whether `uri` can come of it. Takes time by the product of both lengths at most.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        if uri.len() > MAX_URI || !self.begins(uri) {
            return false;
        }
        let mut ends = vec![false; uri.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            ends = part.ends(&ends, uri);
        }
        ends[uri.len()]
    }

    /// A look that rules most templates out.
    fn begins(&self, uri: &[u8]) -> bool {
        match self.parts.first() {
            Some(Part::Literal(literal)) => uri.starts_with(literal.as_bytes()),
            _ => true,
        }
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
            assert_eq!(Template::parse(template).unwrap().matches(uri), expected, "{template} {uri}");
        }
    }

    #[test]
    fn what_is_no_template_is_none() {
        for text in ["a:{x", "a:}", "a:{}", "a:{x}}", &"{a}".repeat(65)] {
            assert!(Template::parse(text).is_none(), "{text}");
        }
        assert!(!Template::parse("a:{+x}").unwrap().matches(&format!("a:{}", "x".repeat(MAX_URI))));
    }

    #[test]
    fn hostile_templates_end() {
        let template = Template::parse(&"{+a}b".repeat(32)).unwrap();
        assert!(!template.matches(&"b".repeat(31)));
        assert!(template.matches(&"b".repeat(MAX_URI)));
    }
}
