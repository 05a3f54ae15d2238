//! The input document: its members, and what each reads of a question.

use super::calendar::{LocalTime, Unit};
use super::question::Question;
use crate::identity::Claims;
use std::net::IpAddr;
use std::sync::Arc;

macro_rules! document {
    ($($group:literal { $($name:literal => $field:ident),+ $(,)? }),+ $(,)?) => {
        /// A member of the input document, two levels down.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Field { $($($field),+),+ }

        impl Field {
            /// Every member with where it lies.
            pub(super) const ALL: &[(&str, &str, Field)] = &[$($(($group, $name, Field::$field)),+),+];
        }
    };
}

document! {
    "principal" {
        "tenant" => Tenant, "subject" => Subject, "agent" => Agent, "on_behalf_of" => OnBehalfOf,
        "roles" => Roles, "groups" => Groups, "scopes" => Scopes, "auth" => Auth, "mfa" => Mfa,
        "acr" => Acr, "auth_time" => AuthTime, "claims" => Claims,
    },
    "mcp" {
        "method" => Method, "direction" => Direction, "server" => Server, "upstream" => Upstream,
        "kind" => Kind, "name" => Name, "uri" => Uri, "arguments" => Arguments,
        "responses" => Responses, "era" => Era,
    },
    "tool" {
        "original" => Original, "risk" => Risk, "class" => Class, "labels" => Labels,
        "scopes" => ToolScopes, "owner" => Owner, "read_only" => ReadOnly,
        "idempotent" => Idempotent, "claimed" => Claimed,
    },
    "context" {
        "source_ip" => SourceIp, "zone" => Zone, "listener" => Listener, "client" => Client,
        "justification" => Justification,
    },
    "time" { "hour" => Hour, "weekday" => Weekday, "minute" => Minute, "date" => Date },
    "threat" { "level" => ThreatLevel },
}

/// The member that lies one level down: what inspection found.
pub(super) const FINDINGS: &str = "findings";

/// What a member says in one question.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading<'a> {
    Absent,
    Text(&'a str),
    Texts(&'a [Arc<str>]),
    Flag(bool),
    Number(u64),
    Address(IpAddr),
    Date(LocalTime),
    Json(&'a str),
    Claims(&'a Claims),
}

impl<'a> Reading<'a> {
    fn text(text: Option<&'a str>) -> Reading<'a> {
        text.map_or(Reading::Absent, Reading::Text)
    }

    fn flag(flag: Option<bool>) -> Reading<'a> {
        flag.map_or(Reading::Absent, Reading::Flag)
    }

    fn json(text: Option<&'a str>) -> Reading<'a> {
        text.map_or(Reading::Absent, Reading::Json)
    }
}

impl Field {
    /// How fine it tells the time, if it does.
    pub(super) fn unit(self) -> Option<Unit> {
        match self {
            Field::Minute => Some(Unit::Minute),
            Field::Hour => Some(Unit::Hour),
            Field::Weekday | Field::Date => Some(Unit::Day),
            _ => None,
        }
    }

    /// Whether it says the same for everything in a list.
    pub(super) fn is_of_all(self) -> bool {
        let own = [Field::Upstream, Field::Kind, Field::Name, Field::Uri, Field::Arguments, Field::Responses];
        let tools = Field::ALL.iter().any(|(group, _, field)| *group == "tool" && *field == self);
        !own.contains(&self) && !tools
    }

    /// What it says in `question`, asked at `time`.
    pub(super) fn read<'a>(self, question: &Question<'a>, time: LocalTime) -> Reading<'a> {
        let principal = question.principal;
        let context = &question.context;
        match self {
            Field::Tenant => Reading::Text(&principal.tenant),
            Field::Subject => Reading::Text(&principal.subject),
            Field::Agent => Reading::text(principal.agent.as_deref()),
            Field::OnBehalfOf => Reading::text(principal.on_behalf_of.as_deref()),
            Field::Roles => Reading::Texts(&principal.roles),
            Field::Groups => Reading::Texts(&principal.groups),
            Field::Scopes => Reading::Texts(&principal.scopes),
            Field::Auth => Reading::Text(principal.auth.as_str()),
            Field::Mfa => Reading::Flag(principal.mfa),
            Field::Acr => Reading::text(principal.acr.as_deref()),
            Field::AuthTime => principal.auth_time.map_or(Reading::Absent, Reading::Number),
            Field::Claims => Reading::Claims(&principal.claims),
            Field::SourceIp => Reading::Address(context.source_ip),
            Field::Zone => Reading::text(context.zone),
            Field::Listener => Reading::Text(context.listener),
            Field::Client => Reading::text(context.client),
            Field::Justification => Reading::text(context.justification),
            Field::Hour => Reading::Number(u64::from(time.hour)),
            Field::Weekday => Reading::Text(time.weekday()),
            Field::Minute => Reading::Number(u64::from(time.minute)),
            Field::Date => Reading::Date(time),
            Field::ThreatLevel => Reading::Text(question.threat.as_str()),
            message => message.read_message(question),
        }
    }

    fn read_message<'a>(self, question: &Question<'a>) -> Reading<'a> {
        let mcp = &question.mcp;
        match self {
            Field::Method => Reading::Text(mcp.method),
            Field::Direction => Reading::Text(mcp.direction.as_str()),
            Field::Server => Reading::Text(mcp.server),
            Field::Upstream => Reading::text(mcp.upstream),
            Field::Kind => Reading::Text(mcp.kind.as_str()),
            Field::Name => Reading::text(mcp.name),
            Field::Uri => Reading::text(mcp.uri),
            Field::Arguments => Reading::json(mcp.arguments),
            Field::Responses => Reading::json(mcp.responses),
            Field::Era => Reading::Text(mcp.era),
            fact => question.tool.as_ref().map_or(Reading::Absent, |tool| match fact {
                Field::Original => Reading::Text(tool.original),
                Field::Risk => Reading::Text(tool.risk),
                Field::Class => Reading::Text(tool.class),
                Field::Labels => Reading::Texts(tool.labels),
                Field::ToolScopes => Reading::Texts(tool.scopes),
                Field::Owner => Reading::text(tool.owner),
                Field::ReadOnly => Reading::flag(tool.read_only),
                Field::Idempotent => Reading::flag(tool.idempotent),
                Field::Claimed => Reading::json(tool.claimed),
                _ => Reading::Absent,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_one_place_each() {
        for (index, (group, name, field)) in Field::ALL.iter().enumerate() {
            let rest = &Field::ALL[index + 1..];
            assert!(!rest.iter().any(|other| (other.0, other.1) == (*group, *name)), "{group}.{name}");
            assert!(!rest.iter().any(|other| other.2 == *field), "{field:?}");
        }
    }
}
