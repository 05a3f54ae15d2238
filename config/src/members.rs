//! What a virtual server is made of: members, the upstreams behind each, and whose names are whose.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::upstream::Upstream;

/// Most members of one virtual server.
pub(crate) const MAX_MEMBERS: usize = 100;

/// Most upstreams that one member chooses from by an argument.
pub(crate) const MAX_TWINS: usize = 100;

/// How names of several members share one virtual server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamePolicy {
    /// Every name carries its member's.
    Prefix,
    /// A name that an earlier member owns carries its member's.
    #[default]
    PrefixOnConflict,
    /// Names stay as they are; one that an earlier member owns is left out and reported.
    None,
}

impl NamePolicy {
    /// Every policy, as written in a document.
    pub(crate) const NAMES: [(&'static str, NamePolicy); 3] = [
        ("prefix_on_conflict", NamePolicy::PrefixOnConflict),
        ("prefix", NamePolicy::Prefix),
        ("none", NamePolicy::None),
    ];
}

/// A part of a virtual server: one upstream to its callers, whichever of several it is.
#[derive(Clone, Debug)]
pub struct Member {
    /// Unique in its server; what stands before its names where they are prefixed.
    pub name: Arc<str>,
    /// Where its messages go.
    pub choice: Choice,
}

/// Which upstream a member's messages go to.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Always this one.
    Fixed(Arc<Upstream>),
    /// That of the caller's tenant.
    ByTenant {
        /// Upstreams by tenant, compared as whole texts.
        map: BTreeMap<Arc<str>, Arc<Upstream>>,
        /// For callers of other tenants, and of none; without it they do not see the member.
        otherwise: Option<Arc<Upstream>>,
    },
    /// That which an argument of the call selects: the same tools in several places.
    Twins {
        /// Name of the argument that its tools gain.
        selector: Arc<str>,
        /// Upstreams by value of the argument.
        map: BTreeMap<Arc<str>, Arc<Upstream>>,
        /// The value for what has no arguments; a key of `map`.
        default: Arc<str>,
    },
}

impl Choice {
    /// Every upstream that may be chosen.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let (one, map) = match self {
            Choice::Fixed(upstream) => (Some(upstream), None),
            Choice::ByTenant { map, otherwise } => (otherwise.as_ref(), Some(map)),
            Choice::Twins { map, .. } => (None, Some(map)),
        };
        map.into_iter().flat_map(BTreeMap::values).chain(one)
    }

    /// The upstream for a caller of `tenant` who selects nothing; `None` if there is none for it.
    pub fn for_tenant(&self, tenant: Option<&str>) -> Option<&Arc<Upstream>> {
        match self {
            Choice::Fixed(upstream) => Some(upstream),
            Choice::ByTenant { map, otherwise } => {
                tenant.and_then(|tenant| map.get(tenant)).or(otherwise.as_ref())
            }
            Choice::Twins { map, default, .. } => map.get(default),
        }
    }
}
