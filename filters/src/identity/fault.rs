//! Why what a caller shows is not accepted.

use portunus_base::Reason;
use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal, $cause:literal;)+) => {
        /// The closed list of what can be wrong with a token, a key or a certificate.
        ///
        /// The name is the label of a metric, the cause stands in the record; a client learns neither,
        /// but for the few that [`Fault::told`] has words for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Fault] = &[$(Fault::$variant),+];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Fault::$variant => $name),+ }
            }

            /// What is wrong, for the record.
            pub fn cause(self) -> &'static str {
                match self { $(Fault::$variant => $cause),+ }
            }
        }
    };
}

faults! {
    /// Nothing was shown.
    Nothing => "nothing", "nothing was shown of who calls";
    /// `Authorization` is there more than once, or has no scheme that is taken here.
    Scheme => "scheme", "`Authorization` is no single bearer credential";
    /// It is larger than any token may be.
    TooLarge => "too_large", "the token is too large";
    /// It is no compact JWS with an object in its header and its payload.
    Malformed => "malformed", "the token is no signed JWT that reads in one way only";
    /// Its algorithm is none that its issuer signs with, `none` and HMAC among them.
    Algorithm => "algorithm", "its issuer does not sign with the token's `alg`";
    /// It has a critical extension; none is known here.
    Critical => "critical", "the token has a `crit` extension that is not known here";
    /// It is not of a type that its issuer's access tokens have.
    Type => "type", "the token's `typ` is none that its issuer's access tokens have";
    /// No issuer that this endpoint trusts.
    Issuer => "issuer", "the token's `iss` is no issuer that this endpoint trusts";
    /// No key of the issuer has signed it, as far as its header says.
    UnknownKey => "unknown_key", "the issuer publishes no key that fits the token's `kid` and `alg`";
    /// The signature is not that of the key.
    Signature => "signature", "the token's signature is wrong";
    /// Its time is over, or it says nothing of one.
    Expired => "expired", "the token or key has expired, or the token has no `exp`";
    /// Its time has not come.
    NotYet => "not_yet", "the token's `nbf` or `iat` lies in the future";
    /// It lives longer than tokens of its issuer may.
    LongLived => "long_lived", "the token lives longer than `max_lifetime`, or has no `iat`";
    /// It is for somebody else.
    Audience => "audience", "the token is not for this endpoint: its `aud` is another";
    /// A claim that names the caller is missing, or is no name.
    Unnamed => "unnamed", "a claim that names tenant or subject is missing, or cannot be a name";
    /// A list or an attribute is larger than it may be.
    TooMuch => "too_much", "the token names too many roles, groups or scopes, or too large attributes";
    /// Its chain of actors cannot be read.
    Actors => "actors", "the token's `act` cannot be read";
    /// It is bound to a certificate that the client did not show.
    NotBound => "not_bound", "the token is bound to another client certificate, by `cnf`";
    /// It is bound in a way that is not known here.
    Binding => "binding", "the token's `cnf` is none that is known here";
    /// The denylist has it.
    Revoked => "revoked", "the caller, its token, key or certificate was taken back";
    /// The issuer says that it is not active.
    Inactive => "inactive", "the issuer says that the token is not active";
    /// No client certificate was shown, and one is asked for.
    NoCertificate => "no_certificate", "no client certificate was shown";
    /// The certificate names nobody, or several.
    Certificate => "certificate", "the client certificate has no single name that is trusted here";
    /// Its trust domain has authorities of its own, and none of them has signed it.
    Authority => "authority", "no authority of the certificate's trust domain has signed it";
    /// The listener would not take the certificate now.
    Withdrawn => "withdrawn", "the client certificate was accepted when the connection began, and would not be now";
    /// The certificate and what is shown beside it name different callers.
    OtherCaller => "other_caller", "the token or key names another caller than the client certificate";
    /// What was shown is not what is asked for here.
    NoToken => "no_token", "a certificate, token or key was shown, and another of them is asked for";
    /// An API key that is not known, or whose secret is another.
    ApiKey => "api_key", "no API key has this id and secret";
    /// Scopes are missing.
    Scope => "scope", "the token's scopes do not reach as far as this endpoint";
}

impl Fault {
    /// The refusal that it leads to.
    pub fn reason(self) -> Reason {
        match self {
            Fault::Nothing | Fault::NoCertificate | Fault::NoToken => Reason::Unauthenticated,
            Fault::Scope => Reason::InsufficientScope,
            _ => Reason::InvalidToken,
        }
    }

    /// What the client is told: enough to go on with, nothing that helps to forge.
    pub fn told(self) -> &'static str {
        match self {
            Fault::Nothing | Fault::NoToken => "authorization is needed here",
            Fault::NoCertificate => "a client certificate is needed here",
            Fault::Expired => "the token has expired",
            Fault::Scope => "the token's scopes do not reach as far as this",
            Fault::NotBound => "the token is bound to another client certificate",
            Fault::Withdrawn => "the client certificate is not accepted any more",
            Fault::OtherCaller => "the token or key is of another caller than the client certificate",
            _ => "what was shown is not accepted here",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause())
    }
}
