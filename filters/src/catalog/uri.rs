//! URIs of resources that two members have.
//!
//! The member listed first keeps the URI as it is. The same URI of another is served as
//! `portunus:MEMBER/URI`: a valid URI whatever the original is (RFC 3986, `path-rootless`), which
//! readers that normalise paths leave alone.

const SCHEME: &str = "portunus:";

/// The form in which a member's URI is served beside the same one of another member.
pub(super) fn prefixed(member: &str, uri: &str) -> String {
    format!("{SCHEME}{member}/{uri}")
}

/// Whether a URI has that form, or one like it.
pub(super) fn is_prefixed(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// Member and original of a URI in that form.
pub(super) fn unprefixed(uri: &str) -> Option<(&str, &str)> {
    uri.strip_prefix(SCHEME)?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefixed_uri_leads_back() {
        for uri in ["file:///etc/../x?a=1#b", "a:b", "portunus:y/z:1", "db://{table}", ""] {
            assert_eq!(unprefixed(&prefixed("crm_eu", uri)), Some(("crm_eu", uri)));
        }
        assert_eq!(unprefixed("portunus:crm"), None);
        assert_eq!(unprefixed("file:///crm/x"), None);
    }
}
