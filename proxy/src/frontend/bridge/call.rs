//! Routes a call to the upstream that has its target.

use super::served_call::{ServedCall, params, shown};
use super::tasks;
use crate::backend::upstream_call::SchemaRefresh;
use crate::backend::upstream_call::upstream_headers::Fields;
use crate::catalog::Relist;
use bytes::Bytes;
use portunus_config::{Choice, Upstream, UpstreamMark};
use portunus_filters::call::Subject;
use portunus_filters::catalog::{Catalog, Entry, ListKind, Server, State as Known};
use portunus_filters::mcp::Fault;
use portunus_filters::mcp::bridge::{self, ParamHeader, Profile, Reference, ReferenceKind};
use portunus_filters::mcp::object::{Object, StrictObject};
use portunus_filters::{Denial, Era, Message, Needs, Reason};
use std::borrow::Cow;
use std::sync::Arc;

/// What names of headers that mirror arguments begin with.
const MCP_PARAM: &str = "mcp-param-";

/// Where one call leads.
pub(super) struct RoutedCall {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// What the upstream calls its target; `None` leaves it as it is.
    pub target: Option<Arc<str>>,
    /// Arguments that headers mirror.
    pub params: Arc<[ParamHeader]>,
    /// The body that takes the place of the client's, where more than the target changes.
    pub body: Option<Bytes>,
    /// The one place of the upstream that it must be, if there are several.
    pub at: Option<UpstreamMark>,
    /// What it is about there, where rules are asked of that.
    pub subject: Option<Subject>,
}

/// The upstream that a call leads to, and the name of its target there.
#[derive(Clone)]
pub(super) struct LeadsTo {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// The name of the target there, whether or not clients know it by another.
    pub target: Option<Arc<str>>,
}

impl RoutedCall {
    /// The end of the way.
    pub(super) fn leads_to(&self, message: &Message) -> LeadsTo {
        let target = self.target.as_ref().or(message.target.as_ref()).cloned();
        LeadsTo { upstream: Arc::clone(&self.upstream.name), target }
    }
}

/// Finds where a call leads.
///
/// # Errors
/// [`Reason::UnknownTool`] and its like; [`Reason::UpstreamUnavailable`] where a server that may have
/// the name has not been seen yet.
pub(super) async fn routed(
    served: &ServedCall<'_>,
    message: &Message,
    fields: &Object<'_>,
    profile: &Arc<Profile>,
) -> Result<RoutedCall, Denial> {
    aim_at(served, message, fields, profile)
        .await
        .map_err(|denial| served.explained(&served.active(), message, denial))
}

async fn aim_at(
    served: &ServedCall<'_>,
    message: &Message,
    fields: &Object<'_>,
    profile: &Arc<Profile>,
) -> Result<RoutedCall, Denial> {
    let method = method_name(message);
    if tasks::is_method(method) {
        return tasks::routed(served, message, fields, profile).await;
    }
    if method == "completion/complete" {
        reference(fields)?;
    }
    if method != "tools/call"
        && let Some(only) = the_one(served)
    {
        return Ok(named(served, only, || named_subject(method, fields)));
    }
    match method {
        "tools/call" => tool(served, message, fields, profile).await,
        "prompts/get" => {
            let name = required(fields, "name")?;
            let look = |catalog: &Catalog| prompt(served, message, catalog, &name);
            let found = found(served, profile, &[ListKind::Prompts], look).await?;
            let missing = |catalog: Arc<Catalog>| {
                let detail = format!("Unknown prompt: {}", shown(&name));
                unknown(served, &catalog, ListKind::Prompts, (Reason::UnknownPrompt, detail))
            };
            aimed(served, found.map_err(missing)?)
        }
        "resources/read" => {
            let uri = required(fields, "uri")?;
            let look = |catalog: &Catalog| resource(served, message, catalog, &uri);
            let found = found(served, profile, URIS, look).await?;
            let missing = |catalog: Arc<Catalog>| {
                let detail = format!("Resource not found: {}", shown(&uri));
                let unknown =
                    || unknown(served, &catalog, ListKind::Resources, (Reason::UnknownResource, detail));
                served.spelling(&catalog, &uri).unwrap_or_else(unknown)
            };
            aimed(served, found.map_err(missing)?)
        }
        "completion/complete" => completion(served, message, fields, profile).await,
        // What another era knows by this name is judged in the words of that era, or not at all.
        _ => served
            .only()
            .filter(|_| !(is_foreign(method) && served.active().pipeline.is_on()))
            .map(plain)
            .ok_or_else(|| {
                Denial::new(Reason::UnknownMethod, "no server behind this endpoint has this method")
            }),
    }
}

/// Whether a method that came here is one of MCP, and none that its client's era has calls by.
fn is_foreign(method: &str) -> bool {
    [Era::Legacy, Era::Modern].iter().any(|era| bridge::is_known_method(*era, method))
}

/// The one server that may be asked for what is in no list. Where policy decides, nobody learns of what
/// it hides by calling it.
pub(super) fn the_one<'d>(served: &'d ServedCall<'_>) -> Option<&'d Arc<Upstream>> {
    served.only().filter(|_| served.active().pipeline.needs() < Needs::Definition)
}

/// The aim at the server itself, for something that it knows by the client's own name for it.
fn named(
    served: &ServedCall<'_>,
    upstream: &Arc<Upstream>,
    subject: impl FnOnce() -> Option<Subject>,
) -> RoutedCall {
    let subject = (served.active().pipeline.needs() >= Needs::Facts).then(subject).flatten();
    RoutedCall { subject, ..plain(upstream) }
}

fn plain(upstream: &Arc<Upstream>) -> RoutedCall {
    let upstream = Arc::clone(upstream);
    RoutedCall { upstream, target: None, params: Arc::default(), body: None, at: None, subject: None }
}

/// The lists that URIs are looked up in.
pub(super) const URIS: &[ListKind] = &[ListKind::Resources, ListKind::Templates];

/// What a served name leads to.
struct Found {
    member: usize,
    /// What the member calls it: what it receives.
    original: Arc<str>,
    /// What rules are asked of, where there are some.
    subject: Option<Subject>,
}

impl Found {
    fn of(entry: &Entry, subject: Option<Subject>) -> Found {
        Found { member: entry.member, original: Arc::clone(&entry.original), subject }
    }
}

/// The item that a message which is about no tool names at the one server of its endpoint.
fn named_subject(method: &str, fields: &Object<'_>) -> Option<Subject> {
    match method {
        "prompts/get" => fields.text("name").map(|name| Subject::Prompt(Arc::from(&*name))),
        "resources/read" => fields.text("uri").map(|uri| Subject::Resource(Arc::from(&*uri))),
        _ => None,
    }
}

fn prompt(served: &ServedCall<'_>, message: &Message, catalog: &Catalog, name: &str) -> Option<Found> {
    let entry = catalog.prompt(name);
    let subject = served.finds(message, ListKind::Prompts, (name, entry))?;
    Some(Found::of(entry?, subject))
}

fn resource(served: &ServedCall<'_>, message: &Message, catalog: &Catalog, uri: &str) -> Option<Found> {
    let located = catalog.resource(uri);
    let subject = served.finds_uri(message, (uri, located.as_ref()))?;
    let located = located?;
    Some(Found { member: located.member, original: Arc::from(&*located.original), subject })
}

fn template(served: &ServedCall<'_>, message: &Message, catalog: &Catalog, text: &str) -> Option<Found> {
    let entry = catalog.template(text);
    let subject = served.finds(message, ListKind::Templates, (text, entry))?;
    Some(Found::of(entry?, subject))
}

/// What a completion is about.
fn reference<'a>(fields: &Object<'a>) -> Result<Reference<'a>, Denial> {
    Reference::of(fields).map_err(|fault| Denial::new(Reason::InvalidParams, fault.to_string()))
}

/// Looks something up: in the lists that are here, and if it is in none of them in what the servers
/// say now. Gives these lists if it is not there either.
pub(super) async fn found<T>(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    kinds: &[ListKind],
    look: impl Fn(&Catalog) -> Option<T>,
) -> Result<Result<T, Arc<Catalog>>, Denial> {
    if let Some(found) = look(&*served.catalog(profile, kinds, served.context.origin.arrival.at).await?) {
        return Ok(Ok(found));
    }
    let catalog = Arc::clone(&served.lists(profile, kinds).await?.catalog);
    Ok(look(&catalog).ok_or(catalog))
}

/// What is to be known of a tool to call it.
struct ToolFacts {
    found: Found,
    params: Arc<[ParamHeader]>,
    /// Of twins, the regions that may be asked: those that have it alike, and those of which nothing is
    /// known.
    regions: Vec<Arc<str>>,
}

/// Finds a tool.
async fn tool(
    served: &ServedCall<'_>,
    message: &Message,
    fields: &Object<'_>,
    profile: &Arc<Profile>,
) -> Result<RoutedCall, Denial> {
    let name = required(fields, "name")?;
    let look = |catalog: &Catalog| {
        let entry = catalog.tool(&name);
        let subject = served.finds(message, ListKind::Tools, (&*name, entry))?;
        let entry = entry?;
        let found = Found::of(entry, subject);
        let regions = regions(catalog, entry);
        Some(ToolFacts { found, params: Arc::clone(&entry.params), regions })
    };
    let tool = found(served, profile, &[ListKind::Tools], look).await;
    // The one server there is may know its tools, whatever became of its list.
    if !matches!(tool, Ok(Ok(_)))
        && let Some(only) = the_one(served)
    {
        let known = || served.rated(&only.name, &Arc::from(&*name)).map(Subject::Tool);
        return Ok(named(served, only, known));
    }
    let missing = |catalog: Arc<Catalog>| {
        let detail = format!("Unknown tool: {}", shown(&name));
        unknown(served, &catalog, ListKind::Tools, (Reason::UnknownTool, detail))
    };
    let ToolFacts { found, params, regions } = tool?.map_err(missing)?;
    let member = found.member;
    let mut routed = RoutedCall { params, ..aimed(served, found)? };
    let Some(Choice::Twins { selector, map, .. }) =
        served.context.server.members.get(member).map(|m| &m.choice)
    else {
        return Ok(routed);
    };
    let (chosen, body) = selected(message, fields, selector)?;
    let wrong =
        || Denial::new(Reason::InvalidParams, format!("`{selector}` must be one of {}", regions.join(", ")));
    let region = map.get(&*chosen).filter(|_| regions.iter().any(|region| **region == *chosen));
    routed.upstream = Arc::clone(region.ok_or_else(wrong)?);
    routed.subject = match routed.subject {
        Some(Subject::Tool(known)) => served.rated(&routed.upstream.name, &known.original).map(Subject::Tool),
        _ => None,
    };
    routed.body = Some(body);
    Ok(routed)
}

fn regions(catalog: &Catalog, tool: &Entry) -> Vec<Arc<str>> {
    let Some(selector) = &tool.selector else { return Vec::new() };
    let is_missing =
        |server: &&Server| matches!(server.states[ListKind::Tools.index()], Known::Missing { .. });
    let prefix = format!("{}/", catalog.members()[tool.member]);
    let unknown = catalog.servers().iter().filter(is_missing);
    let unknown = unknown.filter_map(|server| server.name.strip_prefix(&prefix).map(Arc::from));
    selector.regions.iter().cloned().chain(unknown).collect()
}

/// Takes the argument out that selects one of several twins: the server does not know it.
pub(super) fn selected(
    message: &Message,
    fields: &Object<'_>,
    selector: &str,
) -> Result<(String, Bytes), Denial> {
    let invalid = |_| Denial::new(Reason::InvalidParams, "`arguments` must be an object");
    let unclear = |fault: Fault| Denial::new(Reason::InvalidParams, fault.to_string());
    let arguments = fields.object("arguments").map_err(invalid)?.unwrap_or_default();
    let arguments = StrictObject::of(arguments).map_err(unclear)?;
    arguments.get(selector).map_err(unclear)?;
    let arguments = arguments.into_object();
    let missing = || Denial::new(Reason::InvalidParams, format!("the argument `{selector}` is missing"));
    let chosen = arguments.text(selector).ok_or_else(missing)?.into_owned();
    let fields = fields.rewrite().set("arguments", arguments.rewrite().remove(selector).text()).text();
    Ok((chosen, with_params(message, &fields)?))
}

async fn completion(
    served: &ServedCall<'_>,
    message: &Message,
    fields: &Object<'_>,
    profile: &Arc<Profile>,
) -> Result<RoutedCall, Denial> {
    let reference = reference(fields)?;
    let is_prompt = reference.kind == ReferenceKind::Prompt;
    let value = &*reference.target;
    let kinds = if is_prompt { &[ListKind::Prompts] } else { URIS };
    let look = |catalog: &Catalog| match is_prompt {
        true => prompt(served, message, catalog, value),
        false => {
            template(served, message, catalog, value).or_else(|| resource(served, message, catalog, value))
        }
    };
    // A template is no URI, and has no normal form.
    let is_uri = !is_prompt && !value.contains('{');
    let missing = |catalog: Arc<Catalog>| {
        let detail = format!("nothing is called {}", shown(value));
        let unknown = || unknown(served, &catalog, kinds[0], (Reason::InvalidParams, detail));
        is_uri.then(|| served.spelling(&catalog, value)).flatten().unwrap_or_else(unknown)
    };
    let found = found(served, profile, kinds, look).await?.map_err(missing)?;
    let mut routed = aimed(served, found)?;
    if let Some(original) = routed.target.take().filter(|original| **original != *value) {
        let fields = fields.rewrite().set("ref", reference.aimed(&original)).text();
        routed.body = Some(with_params(message, &fields)?);
    }
    Ok(routed)
}

/// The aim at a member's own name.
fn aimed(served: &ServedCall<'_>, found: Found) -> Result<RoutedCall, Denial> {
    let member = served.context.server.members.get(found.member);
    let gone =
        || Denial::new(Reason::UpstreamUnavailable, "no server stands behind this name for this caller");
    let upstream = member.and_then(|member| served.chosen(member)).ok_or_else(gone)?;
    Ok(RoutedCall { target: Some(found.original), subject: found.subject, ..plain(upstream) })
}

/// A name that nobody has; while servers are missing, one of them may have it.
pub(super) fn unknown(
    served: &ServedCall<'_>,
    catalog: &Catalog,
    kind: ListKind,
    (reason, detail): (Reason, String),
) -> Denial {
    // What a server of another era has is not for this client.
    let is_missing = |server: &&Server| match server.states[kind.index()] {
        Known::Missing { reason } => reason != Reason::EraMismatch.as_str(),
        Known::Fresh | Known::Stale { .. } => false,
    };
    let missing = catalog.servers().iter().filter(is_missing).filter(|server| served.tells_of(server.member));
    let missing: Vec<&str> = missing.map(|server| &*server.name).collect();
    if missing.is_empty() {
        return Denial::new(reason, detail);
    }
    let detail = format!("{detail}; not all servers could be asked: {}", missing.join(", "));
    Denial::new(Reason::UpstreamUnavailable, detail)
}

fn required<'a>(fields: &Object<'a>, key: &'static str) -> Result<Cow<'a, str>, Denial> {
    let missing = || Denial::new(Reason::InvalidParams, format!("`{key}` must be text"));
    fields.text(key).ok_or_else(missing)
}

/// The body of a message with other parameters.
fn with_params(message: &Message, params: &str) -> Result<Bytes, Denial> {
    let unreadable = || Denial::new(Reason::InvalidRequest, "the message cannot be read");
    let text = std::str::from_utf8(&message.body)
        .map_err(|_| Denial::new(Reason::ParseError, "the body is not UTF-8"))?;
    let whole = message.message_index.as_ref().ok_or_else(unreadable)?.message(text);
    Ok(Bytes::from(whole.rewrite().set("params", params).text()))
}

/// The message with the body that its aim gives it, as the filters judge it; `None` if that changes nothing.
///
/// # Errors
/// [`Reason::InvalidRequest`] if the body is no message.
pub(super) fn reworded(message: &Message, routed: &RoutedCall) -> Result<Option<Message>, Denial> {
    let unreadable = |_| Denial::new(Reason::InvalidRequest, "the message cannot be read");
    routed.body.as_ref().map(|body| message.with_body(body).map_err(unreadable)).transpose()
}

/// The id of a request as JSON text.
pub(super) fn id_text(message: &Message) -> &str {
    message.id.as_ref().map_or("null", |id| id.as_json())
}

/// The method of a message, empty for an answer.
pub(super) fn method_name(message: &Message) -> &str {
    message.method.as_ref().map_or("", |method| method.name())
}

/// How the schema of a tool is looked at once more.
pub(super) fn schema_refresh(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    upstream: &Arc<Upstream>,
) -> Option<Box<dyn SchemaRefresh>> {
    let tool = message.target.clone().filter(|_| method_name(message) == "tools/call")?;
    let (server, audience) = (Arc::clone(&served.context.server), served.audience(profile));
    let catalogs = Arc::clone(&served.gateway.estate.catalogs);
    Some(Box::new(Relist { catalogs, server, audience, upstream: Arc::clone(upstream), tool }))
}

/// Holds the headers that a modern client sent beside a call to its arguments, and gives them: by the
/// list that is here, and where they do not fit by a newer one, which the client may know.
///
/// # Errors
/// [`Reason::HeaderMismatch`].
pub(super) async fn mirrored(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    routed: RoutedCall,
) -> Result<(RoutedCall, Fields), Denial> {
    if routed.params.is_empty() && !served.context.client_headers.mirrors() {
        return Ok((routed, Fields::new()));
    }
    let headers = served.context.parts.headers.iter();
    let sent = headers.filter(|(name, _)| name.as_str().starts_with(MCP_PARAM));
    let sent: Fields = sent.map(|(name, value)| (name.clone(), value.clone())).collect();
    let strict = served.active().pipeline.is_on();
    let check = |params: &[ParamHeader]| check_mirrored(message, &sent, params, strict);
    let Err(denial) = check(&routed.params) else { return Ok((routed, sent)) };
    let Some(schema_refresh) = schema_refresh(served, message, profile, &routed.upstream) else {
        return Err(denial);
    };
    let params = schema_refresh
        .params(Arc::clone(&served.gateway.backend), Arc::clone(&routed.params))
        .await
        .ok_or(denial)?;
    check(&params)?;
    Ok((RoutedCall { params, ..routed }, sent))
}

/// `strict` where arguments are judged: then each header has to be that of an argument.
fn check_mirrored(
    message: &Message,
    sent: &Fields,
    wanted: &[ParamHeader],
    strict: bool,
) -> Result<(), Denial> {
    if sent.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let sent: Vec<(&str, &str)> =
        sent.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("\u{fffd}"))).collect();
    bridge::check_param_headers(&sent, &params(message)?, wanted)?;
    let is_wanted = |name: &str| {
        let name = name.get(MCP_PARAM.len()..).unwrap_or_default();
        wanted.iter().any(|header| header.name.eq_ignore_ascii_case(name))
    };
    match sent.iter().find(|(name, _)| strict && !is_wanted(name)) {
        Some((name, _)) => {
            let detail = format!("`{name}` mirrors no argument that is known here");
            Err(Denial::new(Reason::HeaderMismatch, detail))
        }
        None => Ok(()),
    }
}
