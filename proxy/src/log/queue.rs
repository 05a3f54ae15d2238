//! Lines that wait for the thread that writes them.

use crate::complaint::Complaint;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may wait: some ten thousand lines.
const MAX_BYTES: usize = 4 << 20;
/// How long lines that were lost stay untold when there are no others.
const LOOKS_EVERY: Duration = Duration::from_secs(60);

/// A queue that takes what fits and never holds anybody up.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Lines came, or were written.
    moved: Condvar,
    lost: Complaint,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were ever taken, and how many of them are through.
    taken: u64,
    done: u64,
}

impl Queue {
    /// A queue whose lines a new thread writes. `complain` says how many were lost, at most once a
    /// minute and when nothing waits, so that it fits itself.
    ///
    /// # Errors
    /// If there is no thread.
    pub(super) fn written_to(
        output: impl Write + Send + 'static,
        complain: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Queue> {
        let queue = Queue(Arc::default());
        let shared = Arc::clone(&queue.0);
        let thread = std::thread::Builder::new().name("log".into());
        thread.spawn(move || shared.write(output, &complain))?;
        Ok(queue)
    }

    /// Takes a line if it fits; else it is lost, and counted.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut waiting = self.0.lock();
        if waiting.bytes + line.len() > MAX_BYTES {
            drop(waiting);
            return self.0.lost.add(1);
        }
        waiting.bytes += line.len();
        waiting.taken += 1;
        waiting.lines.push_back(line);
        drop(waiting);
        self.0.moved.notify_all();
    }

    /// Waits until what was taken up to now is written; whether it was `within` that time.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let waiting = self.0.lock();
        let taken = waiting.taken;
        let is_behind = |waiting: &mut Waiting| waiting.done < taken;
        let waited = self.0.moved.wait_timeout_while(waiting, within, is_behind);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    /// Writes what comes, for as long as the process lives.
    fn write(&self, mut output: impl Write, complain: &impl Fn(u64)) {
        loop {
            let Some(line) = self.next() else {
                if let Some(lines) = self.lost.due(Instant::now()) {
                    complain(lines);
                }
                self.wait();
                continue;
            };
            if output.write_all(&line).is_err() {
                self.lost.add(1);
            }
            self.lock().done += 1;
            self.moved.notify_all();
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut waiting = self.lock();
        let line = waiting.lines.pop_front()?;
        waiting.bytes -= line.len();
        Some(line)
    }

    fn wait(&self) {
        let none = |waiting: &mut Waiting| waiting.lines.is_empty();
        drop(self.moved.wait_timeout_while(self.lock(), LOOKS_EVERY, none));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Takes a line for each permission; whoever holds none stalls.
    struct Stalling {
        leave: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Stalling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.leave.recv().ok();
            self.written.send(bytes.to_vec()).ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_is_told_later_what_it_missed() {
        let ((go, leave), (written, reads), (told, complaints)) = (channel(), channel(), channel());
        let complain = move |lines| told.send(lines).unwrap();
        let queue = Queue::written_to(Stalling { leave, written }, complain).unwrap();
        let line = |number: u8| vec![number; MAX_BYTES / 4];
        // The one under way takes no room, so that four or five fit.
        (0..10).for_each(|number| queue.push(line(number)));
        assert!(!queue.flush(Duration::from_millis(1)), "nothing was read yet");
        drop(go);
        assert!(queue.flush(Duration::from_secs(10)));
        let lost = complaints.recv_timeout(Duration::from_secs(10)).unwrap();
        let numbers: Vec<u8> = reads.try_iter().map(|line| line[0]).collect();
        assert!(numbers == [0, 1, 2, 3] || numbers == [0, 1, 2, 3, 4], "{numbers:?}");
        assert_eq!(lost + numbers.len() as u64, 10);
        queue.push(line(10));
        assert!(queue.flush(Duration::from_secs(10)), "it flows again");
        assert_eq!(reads.try_iter().next(), Some(line(10)));
    }

    #[test]
    fn what_was_said_is_written_when_a_flush_is_over() {
        let (written, reads) = channel();
        let (go, leave) = channel();
        drop(go);
        let queue = Queue::written_to(Stalling { leave, written }, |_| ()).unwrap();
        (0..100).for_each(|number| queue.push(vec![number]));
        assert!(queue.flush(Duration::from_secs(10)));
        assert_eq!(reads.try_iter().count(), 100);
    }
}
