//! The CPU time of a thread, which is what evaluations are held to: a thread that does not run costs nobody
//! anything, and its evaluation is as right as any.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CPU time that this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// CPU time of one piece of work.
#[derive(Clone, Copy, Debug)]
pub struct CpuTimer(Duration);

impl CpuTimer {
    /// Begins to measure this thread.
    pub fn start() -> CpuTimer {
        CpuTimer(thread_time())
    }

    /// CPU time of this thread since then; the same thread has to ask.
    pub fn elapsed(self) -> Duration {
        thread_time().saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn waiting_costs_no_cpu_time_and_work_does() {
        let (timer, began) = (CpuTimer::start(), Instant::now());
        let (_sender, receiver) = channel::<()>();
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        assert!(began.elapsed() >= Duration::from_millis(50) && timer.elapsed() < Duration::from_millis(25));
        while timer.elapsed() < Duration::from_millis(25) {
            black_box((0..1_000).sum::<u64>());
        }
    }
}
