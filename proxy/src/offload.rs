//! Runs work on large texts on threads that serve no calls.
//!
//! A worker thread serves many connections, and a server or client chooses how long its texts are: one
//! of megabytes would stop all others while it is read. So what takes longer than a turn of the event
//! loop may is done by other threads, a few at a time in the whole process. Each upstream has one turn
//! at a time, so that one which sends many large texts delays its own calls alone.

use crate::pieces::MAX_FIRST_READ_BYTES;
use crate::shares::{Owner, Share, Shares};
use portunus_filters::{Denial, Reason};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// Longest text that is worked on where it arrives: well under a millisecond.
pub const INLINE_BYTES: usize = 256 << 10;

/// Texts worked on at once in the whole process.
const AT_ONCE: usize = 2;

/// A text that is no longer takes no room: as many as there are connections may be held. It is a little less than one
/// read brings, so that a long one waits for its room after the first.
pub const FREE_BYTES: usize = MAX_FIRST_READ_BYTES - (1 << 10);

/// Longest message of a server: results of 20 MB exist, and one is held until it is complete.
pub const LONGEST_BYTES: usize = portunus_filters::AnswerBound::MAX_HOLD;

/// Bytes of large texts of one upstream that may be held, until they are written to the client: two of the longest, as
/// many as are read at once. Who finds no room waits in turn by caller.
const MAX_BYTES: usize = 2 * LONGEST_BYTES;

/// The same of texts that are worked on where they arrive, but for those that take no room.
const MAX_INLINE_BYTES: usize = 16 << 20;

static ANSWERS: LazyLock<Threads> = LazyLock::new(|| Threads::start("answers", AT_ONCE));
static NOTICES: LazyLock<Threads> = LazyLock::new(|| Threads::start("notices", 1));

/// The turn of one upstream, or of what else sends large texts.
#[derive(Clone)]
pub struct OffloadQueue {
    turn: Arc<Semaphore>,
    bytes: Arc<Shares>,
    inline_bytes: Arc<Shares>,
}

impl Default for OffloadQueue {
    fn default() -> OffloadQueue {
        OffloadQueue {
            turn: Arc::new(Semaphore::new(1)),
            bytes: Shares::new(MAX_BYTES),
            inline_bytes: Shares::new(MAX_INLINE_BYTES),
        }
    }
}

impl OffloadQueue {
    /// Does `work` on a text of `bytes`: here if it is short, else aside and in turn.
    ///
    /// What was begun is finished, even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        if bytes <= INLINE_BYTES {
            return work();
        }
        // It is never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        ANSWERS
            .run(move || {
                let done = work();
                drop(turn);
                done
            })
            .await
    }

    /// Bytes of texts that are held and take room.
    pub fn held(&self) -> usize {
        self.bytes.held() + self.inline_bytes.held()
    }

    /// Waits for room to hold a text of `bytes` for `owner`. Asked for at once: two that each hold a part would
    /// wait for each other. Who holds room of a shorter text may wait for that of a longer one, never the other way.
    pub async fn room(&self, owner: Owner, bytes: usize) -> Share {
        let shares = if bytes <= INLINE_BYTES { &self.inline_bytes } else { &self.bytes };
        shares.wait(owner, bytes).await
    }
}

/// The room to ask for once `held` bytes of a text have come, in a body of `length` bytes if that is known, of
/// which at most `most` are held; `None` while the room that it has is enough.
pub fn room_for(held: usize, length: Option<u64>, most: usize, room: Option<&Share>) -> Option<usize> {
    if held <= room.map_or(FREE_BYTES, Share::amount) {
        return None;
    }
    let whole = match length.map(usize::try_from) {
        Some(length) => length.unwrap_or(most),
        None if held <= INLINE_BYTES => INLINE_BYTES,
        None => most,
    };
    Some(whole.max(held).min(most))
}

/// The refusal of an answer that there was no room for in time: no fault of its server, which has done its work.
pub fn no_room() -> Denial {
    let detail =
        "too many large answers of this server are under way: whether the call took effect is not known here";
    Denial::new(Reason::AnswerLost, detail)
}

/// Does `work` on a notice of `bytes`: here if it is short, else on the thread of notices, which no answer holds up.
pub async fn notice<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE_BYTES {
        return work();
    }
    NOTICES.run(work).await
}

/// Threads that do one piece of work after the other.
///
/// The allocator keeps what a thread has freed until that thread needs it or frees more. So the same few threads do
/// this work, and not those of the runtime that are idle by chance, each of which would keep megabytes.
struct Threads {
    /// `None` if the system gives no thread.
    jobs: Option<Sender<Job>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Threads {
    fn start(name: &str, count: usize) -> Threads {
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        let next =
            |waiting: &Mutex<Receiver<Job>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let begun = (0..count).filter(|_| {
            let waiting = Arc::clone(&waiting);
            let work = move || {
                while let Ok(job) = next(&waiting) {
                    job();
                }
            };
            let begun = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            begun.inspect_err(|error| tracing::warn!(%error, name, "a thread cannot be started")).is_ok()
        });
        Threads { jobs: (begun.count() > 0).then_some(jobs) }
    }

    /// Does `work`; where there is no thread, here.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let Some(jobs) = &self.jobs else { return work() };
        let (done, result) = oneshot::channel();
        let runtime = Handle::current();
        let job = move || {
            let _inside = runtime.enter();
            drop(done.send(catch_unwind(AssertUnwindSafe(work))));
        };
        // The threads outlive all who could ask.
        drop(jobs.send(Box::new(job)));
        match result.await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::current;

    #[tokio::test]
    async fn only_long_texts_leave_the_thread() {
        let queue = OffloadQueue::default();
        let here = current().id();
        assert_eq!(queue.run(INLINE_BYTES, || current().id()).await, here);
        assert_ne!(queue.run(INLINE_BYTES + 1, || current().id()).await, here);
    }

    #[tokio::test]
    async fn an_upstream_with_many_large_texts_leaves_others_their_turn() {
        let (hostile, honest) = (OffloadQueue::default(), OffloadQueue::default());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (started, running) = oneshot::channel();
        let first = hostile.clone();
        let first = tokio::spawn(async move {
            first
                .run(usize::MAX, move || {
                    started.send(()).ok();
                    held.recv().ok();
                })
                .await;
        });
        running.await.unwrap();
        let second = hostile.clone();
        let second = tokio::spawn(async move { second.run(usize::MAX, || ()).await });
        assert_eq!(honest.run(usize::MAX, || 7).await, 7, "while the other upstream's text is read");
        assert!(!second.is_finished(), "its next one waits");
        release.send(()).unwrap();
        first.await.unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_leaves_its_thread_and_its_turn_to_others() {
        let queue = OffloadQueue::default();
        for _ in 0..=AT_ONCE {
            let failing = queue.clone();
            let failed =
                tokio::spawn(async move { failing.run(usize::MAX, || panic!("it is broken")).await });
            assert!(failed.await.unwrap_err().is_panic());
        }
        assert_eq!(queue.run(usize::MAX, || 7).await, 7);
    }

    #[tokio::test]
    async fn room_is_asked_for_when_a_text_outgrows_what_it_has() {
        let share = OffloadQueue::default().room(Owner::Nobody, INLINE_BYTES).await;
        let (short, large) = (FREE_BYTES + 1, INLINE_BYTES + 1);
        let cases = [
            ("short enough", FREE_BYTES, None, LONGEST_BYTES, None, None),
            ("of unknown length", short, None, LONGEST_BYTES, None, Some(INLINE_BYTES)),
            ("within its room", INLINE_BYTES, None, LONGEST_BYTES, Some(&share), None),
            ("beyond its room", large, None, LONGEST_BYTES, Some(&share), Some(LONGEST_BYTES)),
            ("of a known length", short, Some(100_000), LONGEST_BYTES, None, Some(100_000)),
            ("longer than its length", short, Some(7), LONGEST_BYTES, None, Some(short)),
            ("longer than all", short, Some(u64::MAX), LONGEST_BYTES, None, Some(LONGEST_BYTES)),
            ("held in part", short, Some(20 << 20), INLINE_BYTES, None, Some(INLINE_BYTES)),
        ];
        for (case, held, length, most, room, expected) in cases {
            assert_eq!(room_for(held, length, most, room), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn room_is_bounded_and_comes_back() {
        let queue = OffloadQueue::default();
        let at = |last: u8| Owner::at([10, 0, 0, last].into());
        let whole = queue.room(at(1), usize::MAX).await;
        let next = queue.clone();
        let waiting = tokio::spawn(async move { next.room(at(2), INLINE_BYTES + 1).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(queue.room(at(2), INLINE_BYTES).await);
        drop(whole);
        drop(waiting.await.unwrap());
        drop(queue.room(at(2), MAX_BYTES).await);
    }

    #[tokio::test]
    async fn short_texts_have_bounded_room_of_their_own() {
        let queue = OffloadQueue::default();
        let at = |last: u8| Owner::at([10, 0, 0, last].into());
        let mut held = Vec::new();
        for _ in 0..MAX_INLINE_BYTES / 4 * 3 / INLINE_BYTES {
            held.push(queue.room(at(1), INLINE_BYTES).await);
        }
        let next = queue.clone();
        let waiting = tokio::spawn(async move { next.room(at(1), INLINE_BYTES).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(queue.room(at(2), INLINE_BYTES).await);
        drop(queue.room(at(1), MAX_BYTES / 2).await);
        drop(held);
        drop(waiting.await.unwrap());
        assert_eq!(queue.held(), 0);
    }

    #[tokio::test]
    async fn large_texts_of_one_caller_leave_room_for_anothers() {
        let queue = OffloadQueue::default();
        let at = |last: u8| Owner::at([10, 0, 0, last].into());
        let first = queue.room(at(1), MAX_BYTES / 2).await;
        let next = queue.clone();
        let second = tokio::spawn(async move { next.room(at(1), MAX_BYTES / 2).await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "its next one waits");
        let other = queue.room(at(2), MAX_BYTES / 2).await;
        drop((first, other));
        drop(second.await.unwrap());
    }
}
