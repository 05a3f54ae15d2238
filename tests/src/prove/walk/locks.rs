//! The locks that a call takes, and which of them all calls share.

use super::path::{is_per_call, own_file};
use crate::callgrind::{Profile, callers, demangled, own_symbol};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Functions that take a lock, without the types of its guard.
const TAKING: [&str; 13] = [
    "std::sync::poison::mutex::Mutex<T>::lock",
    "std::sync::poison::mutex::Mutex<T>::try_lock",
    "std::sync::poison::rwlock::RwLock<T>::read",
    "std::sync::poison::rwlock::RwLock<T>::write",
    "std::sync::poison::rwlock::RwLock<T>::try_read",
    "std::sync::poison::rwlock::RwLock<T>::try_write",
    "lock_api::mutex::Mutex<R,T>::lock",
    "lock_api::mutex::Mutex<R,T>::try_lock",
    "lock_api::rwlock::RwLock<R,T>::read",
    "lock_api::rwlock::RwLock<R,T>::write",
    "lock_api::rwlock::RwLock<R,T>::try_read",
    "tokio::sync::mutex::Mutex<T>::lock",
    "tokio::sync::mutex::Mutex<T>::try_lock",
];

/// Locks that few calls share, by a part of the names of who takes them, and who shares each. All others count as locks
/// of the whole process, those of one upstream or one endpoint among them: it may be the only one.
const NARROW: [(&str, &str); 15] = [
    ("portunus_filters::decision_record::SampledInput::take", "a message"),
    ("frontend::context::MessageSnapshot::lock", "a message"),
    ("upstream_sessions::CallInbox>", "a call"),
    ("sessions::Underway", "a call"),
    ("frontend::bridge::sessions::Session::locked", "a session"),
    ("upstream_sessions::UpstreamSession::lock", "an upstream session"),
    ("identify::connection_state::ConnectionState::lock", "a connection"),
    ("keepalive_timer::SharedTimer::lock", "a connection"),
    ("drain::Phases", "a connection"),
    ("upstream_sessions::session_pool::SessionPool::lock", "a caller at an upstream"),
    ("catalog::audience_catalog::AudienceCatalog::current", "an audience"),
    ("catalog::audience_catalog::lock", "an audience"),
    ("catalog::slot::Slot::lock", "an audience"),
    ("quick_cache::", "a shard"),
    ("AsyncRead>::poll_read", "a connection"),
];

/// The locks of [`NARROW`] that are not among these: no call takes them, or they have another name now.
pub(super) fn unknown(taken: &BTreeSet<&str>) -> Vec<&'static str> {
    NARROW.into_iter().map(|(part, _)| part).filter(|part| !taken.contains(part)).collect()
}

/// Locks of a call.
pub(super) struct Locks {
    taken: BTreeMap<Site, u64>,
    /// Those that the runtime takes by itself.
    of_runtime: u64,
    calls: u64,
}

/// A place in our code that takes a lock.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    file: String,
    line: u32,
    /// Our function.
    function: String,
    /// The function of a library that it calls, if that takes the lock.
    library: String,
    /// Our function that called it, where the first is one that others take the lock by.
    caller: String,
}

impl Locks {
    /// The locks that `calls` calls took more, from `few` to `many`.
    pub(super) fn between(few: &Profile, many: &Profile, calls: u64) -> Locks {
        let mut taken: BTreeMap<Site, u64> = BTreeMap::new();
        let mut of_runtime = 0;
        for (chain, count) in &many.chains {
            let grew = count.saturating_sub(few.chains.get(chain).copied().unwrap_or_default());
            let lock = demangled(own_symbol(chain));
            if grew == 0 || !TAKING.contains(&lock.as_str()) {
                continue;
            }
            match Site::of(chain, many) {
                Some(site) => *taken.entry(site).or_default() += grew,
                None => of_runtime += grew,
            }
        }
        taken.retain(|_, grew| is_per_call(*grew, calls));
        Locks { taken, of_runtime, calls }
    }

    /// How many locks of the whole process a call takes.
    pub(super) fn shared(&self) -> usize {
        let shared = self.taken.iter().filter(|(site, _)| site.shared_by().is_none());
        usize::try_from(shared.map(|(_, grew)| rounded(*grew, self.calls)).sum::<u64>()).unwrap()
    }

    /// The locks of [`NARROW`] that are among them.
    pub(super) fn narrow(&self) -> BTreeSet<&'static str> {
        self.taken.keys().filter_map(Site::narrow).map(|(part, _)| part).collect()
    }

    pub(super) fn print(&self) {
        let all: u64 = self.taken.values().map(|grew| rounded(*grew, self.calls)).sum();
        println!(
            "{all} locks a call, {} of them of the whole process; the runtime takes {} more:",
            self.shared(),
            rounded(self.of_runtime, self.calls)
        );
        for (site, grew) in &self.taken {
            let library =
                if site.library.is_empty() { String::new() } else { format!(" by {}", site.library) };
            let shared_by = site.shared_by().unwrap_or("THE PROCESS");
            println!(
                "    {} {}:{} {}{library} for {}: {shared_by}",
                rounded(*grew, self.calls),
                site.file,
                site.line,
                site.function,
                site.caller
            );
        }
    }
}

/// A count of calls that come about once for each call; a few come twice, or not at all.
fn rounded(grew: u64, calls: u64) -> u64 {
    (grew + calls / 2) / calls
}

impl Site {
    /// The nearest function of ours among the callers.
    fn of(chain: &str, profile: &Profile) -> Option<Site> {
        let chain: Vec<&str> = std::iter::once(own_symbol(chain)).chain(callers(chain)).collect();
        let file_of = |symbol: &str| own_file(symbol, profile.functions.get(symbol)?);
        let (index, file) = (1..chain.len()).find_map(|index| Some((index, file_of(chain[index])?)))?;
        let pair: (Rc<str>, Rc<str>) = (chain[index].into(), chain[index - 1].into());
        // What is dropped with others is told by its own name.
        let drops_several = |symbol: &&str| demangled(symbol).starts_with("core::ptr::drop_in_place<(");
        let library = chain[1..index].iter().rev().find(|symbol| !drops_several(symbol));
        let caller = chain[index + 1..].iter().find(|symbol| file_of(symbol).is_some());
        Some(Site {
            file,
            line: profile.calls.get(&pair).map_or(0, |calls| calls.line),
            function: demangled(chain[index]),
            library: library.map(|symbol| demangled(symbol)).unwrap_or_default(),
            caller: caller.map(|symbol| demangled(symbol)).unwrap_or_default(),
        })
    }

    /// The sharers of the lock, if not all calls share it.
    fn shared_by(&self) -> Option<&'static str> {
        self.narrow().map(|(_, shared_by)| shared_by)
    }

    fn narrow(&self) -> Option<(&'static str, &'static str)> {
        let is_named = |part: &str| self.function.contains(part) || self.library.contains(part);
        NARROW.into_iter().find(|(part, _)| is_named(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::root;

    /// A gateway that takes a lock of the process and one of a message for each call.
    fn profile(calls: u64) -> Profile {
        let file = root().join("proxy/src/shares.rs").display().to_string();
        let lock = "_ZN3std4sync6poison5mutex14Mutex$LT$T$GT$4lockE";
        let (own, message) =
            ("_ZN8portunus6shares4takeE", "_ZN16portunus_filters15decision_record12SampledInput4takeE");
        Profile::read(&format!(
            "fl=(1) {file}\nfn=(1) {own}\ncfi=(2) mutex.rs\ncfn=(2) {lock}'{own}'main\ncalls={calls} 1\n7 1\n\
             fn=(3) {message}\ncfn=(4) {lock}'{message}'{own}\ncalls={calls} 1\n8 1\n\
             fn=(7) worker\ncfn=(5) {lock}'worker'main\ncalls={calls} 1\n9 1\n\
             cfn=(6) _ZN3std4sync6poison5mutex7new_oneE'{own}\ncalls={calls} 1\n9 1\ntotals: 1\n"
        ))
    }

    #[test]
    fn locks_are_told_by_who_takes_them_and_who_shares_them() {
        let locks = Locks::between(&profile(10), &profile(110), 100);
        let taken: Vec<(u32, Option<&str>, u64)> =
            locks.taken.iter().map(|(site, grew)| (site.line, site.shared_by(), *grew)).collect();
        assert_eq!(taken, [(7, None, 100), (8, Some("a message"), 100)]);
        assert_eq!((locks.shared(), locks.of_runtime), (1, 100));
        let unknown = unknown(&locks.narrow());
        assert!(!unknown.contains(&"portunus_filters::decision_record::SampledInput::take"), "it is taken");
        assert_eq!(unknown.len(), NARROW.len() - 1, "all others are not");
    }

    #[test]
    fn lock_that_is_taken_by_the_clock_is_not_of_a_call() {
        let locks = Locks::between(&profile(10), &profile(50), 100);
        assert_eq!((locks.taken.len(), locks.shared()), (0, 0));
    }
}
