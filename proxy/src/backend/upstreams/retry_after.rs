//! Reads `Retry-After` of servers (RFC 9110 §10.2.3).

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use std::time::Duration;

/// Longest time that is passed on: a server that means more is asked again then.
const LONGEST: Duration = Duration::from_secs(300);

/// When a server wants to be asked again. A date is held to the `Date` of the same answer: their clock is
/// not ours.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is too long for a number is longer than the longest.
        return Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let now = headers.get(DATE)?.to_str().ok().and_then(date)?;
    let seconds = u64::try_from(date(text)?.saturating_sub(now)).unwrap_or_default();
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// Seconds since 1970 of an HTTP date in the form that is sent (RFC 9110 §5.6.7).
fn date(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc2822(text.trim()).ok().map(|at| at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn times_are_read_in_both_forms_and_bounded() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let cases = [
            ("120", None, Some(120)),
            (" 0 ", None, Some(0)),
            ("301", None, Some(300)),
            ("99999999999999999999999", None, Some(300)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(date), Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(date), Some(0)),
            ("Tue, 06 Nov 2096 08:49:37 GMT", Some(date), Some(300)),
            ("Tue, 06 Nov 2096 08:49:37 GMT", None, None),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("", None, None),
        ];
        for (text, date, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
