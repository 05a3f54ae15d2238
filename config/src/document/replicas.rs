//! Where an upstream is, once or several times, and how the health of its replicas is found out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::Located;
use crate::limits::{LABEL, POSITIVE_DURATION, is_label};
use crate::reader::{Section, Value};
use crate::replicas::{Ejection, Health, MAX_REPLICAS};
use portunus_base::UpstreamUrl;

/// Most labels of one upstream.
const MAX_LABELS: usize = 64;

/// `url`, or `replicas`; the first stands apart, and is `None` if it could not be read.
pub(super) fn urls(section: &mut Section<'_>) -> (Option<Located<UpstreamUrl>>, Vec<Located<UpstreamUrl>>) {
    section.exclusive("url", "replicas");
    let Some(list) = section.value("replicas") else {
        let one = section.required("url", "write `url: \"http://host:port/path\"`");
        return (one.and_then(|value| url(&value)), vec![]);
    };
    section.value("url");
    let items = list.items_or_one();
    if !(1..=MAX_REPLICAS).contains(&items.len()) {
        let hint = format!("write 1 to {MAX_REPLICAS} URLs of the same server");
        list.error(format!("{} replicas are named", items.len()), hint);
    }
    let mut read = items.iter().map(url);
    let first = read.next().flatten();
    let further: Vec<_> = read.flatten().collect();
    refuse_repeated(first.iter().chain(&further), section);
    (first, further)
}

/// One absolute URL.
pub(super) fn url(value: &Value<'_>) -> Option<Located<UpstreamUrl>> {
    let text = value.text()?;
    match UpstreamUrl::parse(&text.value) {
        Ok(url) => Some(Located { value: url, place: text.place }),
        Err(problem) => {
            value.error(format!("the URL {problem}"), "write `http://host:port/path`");
            None
        }
    }
}

/// `health: 10s`, or a mapping.
pub(super) fn health(value: &Value<'_>) -> Option<Health> {
    let default = Health::default();
    if !value.is_mapping() {
        let interval = value.duration(POSITIVE_DURATION)?;
        return Some(Health { interval, timeout: default.timeout.min(interval), ..default });
    }
    value.section(|section| {
        let interval = section.value("interval").and_then(|value| value.duration(POSITIVE_DURATION));
        let interval = interval.unwrap_or(default.interval);
        let written = section.value("timeout");
        let timeout = written.as_ref().and_then(|value| value.duration(POSITIVE_DURATION));
        if let (Some(value), Some(true)) = (&written, timeout.map(|timeout| timeout > interval)) {
            value.error("a probe would go on when the next one begins", "write at most the `interval`");
        }
        let failures = section.value("unhealthy_after").and_then(|value| value.count(1..=1000));
        Health {
            interval,
            timeout: timeout.unwrap_or_else(|| default.timeout.min(interval)),
            unhealthy_after: failures.unwrap_or(default.unhealthy_after),
        }
    })
}

pub(super) fn ejection(value: &Value<'_>) -> Option<Ejection> {
    let default = Ejection::default();
    value.section(|section| {
        let after = section.value("after").and_then(|value| value.count(1..=1000));
        let base = section.value("base").and_then(|value| value.duration(POSITIVE_DURATION));
        Ejection { after: after.unwrap_or(default.after), base: base.unwrap_or(default.base) }
    })
}

/// `labels`, texts by name.
pub(super) fn labels(value: &Value<'_>, section: &Section<'_>) -> BTreeMap<Arc<str>, Arc<str>> {
    let entries = value.entries();
    if entries.len() > MAX_LABELS {
        value.error(format!("{} labels are written", entries.len()), format!("keep at most {MAX_LABELS}"));
    }
    let label = |(name, value): (Located<String>, Value<'_>)| {
        let text = value.text()?;
        for label in [&name, &text].into_iter().filter(|label| !is_label(&label.value)) {
            section.error(&label.place, format!("`{}`: no label", label.value), LABEL);
        }
        Some((Arc::from(name.value), Arc::from(text.value)))
    };
    entries.into_iter().filter_map(label).collect()
}

fn refuse_repeated<'a>(urls: impl Iterator<Item = &'a Located<UpstreamUrl>>, section: &Section<'_>) {
    let mut seen: Vec<&Located<UpstreamUrl>> = vec![];
    for url in urls {
        if let Some(earlier) = seen.iter().find(|earlier| earlier.value == url.value) {
            let problem = format!("`{}` is the same replica", earlier.place.path);
            section.error(&url.place, problem, "name each place once");
        }
        seen.push(url);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Upstream;
    use crate::testing::{loaded, problems};

    fn text(settings: &str) -> String {
        format!("version: 1\nupstreams: {{a: {{{settings}}}}}\nservers: {{/mcp: a}}\n")
    }

    fn upstream(settings: &str) -> Upstream {
        Upstream::clone(&loaded(&text(settings)).snapshot.upstreams[0])
    }

    #[test]
    fn the_first_replica_is_the_url() {
        let one = upstream("url: 'http://h/mcp'");
        let listed = upstream("replicas: ['http://h/mcp', 'http://i/mcp']");
        let shown =
            |upstream: &Upstream| -> Vec<String> { upstream.urls().map(UpstreamUrl::redacted).collect() };
        assert_eq!(shown(&one), ["http://h/mcp"]);
        assert_eq!(shown(&listed), ["http://h/mcp", "http://i/mcp"]);
        assert_eq!(shown(&upstream("replicas: 'http://h/mcp'")), ["http://h/mcp"]);
        assert_eq!(one.key, listed.key, "connections of a replica outlive the coming of another");
    }

    #[test]
    fn health_has_a_short_form() {
        let seconds = Duration::from_secs;
        let health = |text: &str| upstream(&format!("url: 'http://h/', {text}")).health;
        assert_eq!(health("timeout: 1s"), None);
        assert_eq!(health("health: {}"), Some(Health::default()));
        let ten = Health { interval: seconds(10), timeout: seconds(5), unhealthy_after: 3 };
        assert_eq!(health("health: 10s"), Some(ten));
        assert_eq!(health("health: {interval: 10s}"), Some(ten));
        assert_eq!(health("health: 2s").unwrap().timeout, seconds(2), "no probe outlives its interval");
        let long = Health { interval: seconds(9), timeout: seconds(8), unhealthy_after: 7 };
        assert_eq!(health("health: {interval: 9s, timeout: 8s, unhealthy_after: 7}"), Some(long));
    }

    #[test]
    fn ejection_and_labels_are_read() {
        let one =
            upstream("url: 'http://h/', ejection: {after: 2, base: 3s}, labels: {region: eu, trust: low}");
        assert_eq!(one.ejection, Ejection { after: 2, base: Duration::from_secs(3) });
        let labels: Vec<_> = one.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(labels, [("region", "eu"), ("trust", "low")]);
    }

    #[test]
    fn what_is_wrong_with_replicas_is_named() {
        let table = [
            ("replicas: []", ".replicas: 0 replicas are named"),
            ("url: 'http://h/', replicas: ['http://h/']", ".replicas: both `url` and `replicas` are written"),
            (
                "replicas: ['http://h/', 'http://H./']",
                ".replicas[1]: `upstreams.a.replicas[0]` is the same replica",
            ),
            (
                "replicas: ['http://h/', 'ftp://h/']",
                ".replicas[1]: the URL does not begin with `http://` or `https://`",
            ),
            ("url: 'http://h/', health: soon", ".health: `soon` is not a duration"),
            (
                "url: 'http://h/', health: {interval: 1s, timeout: 2s}",
                ".health.timeout: a probe would go on when the next one begins",
            ),
            ("url: 'http://h/', ejection: {after: 0}", ".ejection.after: `0` is out of range"),
            ("url: 'http://h/', labels: {region: 'a b'}", ".labels.region: `a b`: no label"),
            ("url: 'http://h/', labels: {'a b': x}", ".labels.a b: `a b`: no label"),
        ];
        for (settings, problem) in table {
            assert_eq!(problems(&text(settings)), [format!("upstreams.a{problem}")], "{settings}");
        }
    }
}
