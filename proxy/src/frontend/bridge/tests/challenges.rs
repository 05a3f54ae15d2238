//! Challenges of servers that the client's own credentials go to.

use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::{Call, Channel, Denial, Kind, Reason, Verdict};
use std::borrow::Cow;

/// Changes the first challenge of a server, and refuses the second.
struct ReadsChallenges;

impl Filter for ReadsChallenges {
    fn name(&self) -> &'static str {
        "reads-challenges"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Ok(())
    }
    fn server_text<'t>(&self, channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        match (channel, text) {
            (Channel::Challenge, "Basic") => Err(Denial::new(Reason::Forbidden, "no")),
            (Channel::Challenge, text) => Ok(Cow::Owned(text.replace('1', "2"))),
            _ => Ok(Cow::Borrowed(text)),
        }
    }
}

async fn challenged(stand: &Stand) -> Vec<String> {
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\nMcp-Name: a:1\r\n";
    let mut params = envelope();
    params["uri"] = "a:1".into();
    let (head, _) = stand.ask("ada", fields, &request("resources/read", params)).await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    head.lines().filter_map(|line| line.strip_prefix("www-authenticate: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn challenge_of_a_server_is_read_by_filters() {
    let upstream = ", era: modern, credentials: passthrough";
    let plain = Stand::challenging("401 Unauthorized", upstream).await;
    assert_eq!(challenged(&plain).await, ["Bearer a=\"1\"", "Basic"], "positive control");
    TEST_FILTERS.set(vec![Arc::new(ReadsChallenges)]);
    let filtered = Stand::challenging("401 Unauthorized", upstream).await;
    assert_eq!(challenged(&filtered).await, ["Bearer a=\"2\""]);
}
