//! Saying in the words of one era what was said in those of the other.
//!
//! A client of either era talks to servers of either era through the functions here: requests,
//! answers, questions of servers, notifications, and what both sides say of themselves. They are
//! pure: text in, text out, and whatever needs no other words keeps its bytes. Sessions, ids, parked
//! calls and time belong to the proxy.
//!
//! The neutral form of what both eras know under different names is the modern one: a [`Profile`]
//! holds capabilities as 2026-07-28 writes them, a [`Question`] has no `elicitationId` in its
//! parameters.

mod answer;
mod error;
mod facts;
mod level;
mod meta;
mod methods;
mod notification;
mod params;
mod profile;
mod question;
mod request;
mod subscription;

pub use answer::{
    Answer, Caching, ResultType, Scope, answer, answer_between_legacy, answer_for_legacy, answer_for_modern,
    asks, is_tool_error, result_between_modern, result_for_legacy, result_for_modern, result_type,
    tool_error, wrap_error, wrap_error_text, wrap_result,
};
pub use error::{
    ErrorAnswer, ForModern, RpcError, elicitations_of, error_for_legacy, error_for_modern, status_for_modern,
};
pub use facts::Facts;
pub use level::LogLevel;
pub(crate) use meta::Members;
pub use meta::{
    META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_SERVER_INFO, META_SUBSCRIPTION_ID,
};
pub use methods::{Aim, Reference, ReferenceKind, aim, is_aimed, is_cacheable, is_known_method, may_ask};
pub use notification::{Listener, RESOURCE_UPDATED, Token, is_of_task, notification, resource_updated};
pub use params::{ParamHeader, check_param_headers, mcp_name, param_headers};
pub use profile::{Ability, ClientPlace, Profile};
pub use question::{
    InputResponses, Question, Reply, bounded, input_required, input_responses, legacy_question, legacy_reply,
    question_of_server_request, questions_of,
};
pub use request::{
    Parts, Put, Retry, initialize, initialized, legacy_request, modern_request, passed_request,
};
pub use subscription::{Filter, MAX_URI_BYTES, acknowledged, listen_request, listen_result};
