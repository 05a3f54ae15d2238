//! Making the calls of a run.

use crate::calls::Calls;
use crate::lane::{Event, Flight, Lane};
use crate::poll::Poll;
use crate::process::{Reading, Watched};
use crate::report::{Report, Tally};
use crate::window::{Pace, Schedule, Window};
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Time for one call, and for those that are under way at the end.
const WITHIN: Duration = Duration::from_secs(10);

/// How often the age of calls is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Makes the calls on so many connections and reports what was seen of them and of the processes.
///
/// # Errors
/// If the endpoint cannot be reached, or a process is not there.
pub(crate) fn run(
    calls: &Calls,
    pace: Pace,
    window: Window,
    (connections, pids): (usize, &[Watched]),
) -> Result<Report, String> {
    // Without this the kernel may wake us 50 us after the time that was asked for.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).map_err(|error| error.to_string())?;
    let mut drive = Drive::new(calls, connections)?;
    let mut meter = Meter { pids, before: None, after: None };
    let start = Instant::now();
    let mut schedule = Schedule::new(pace, window, start);
    drive.turn(&mut schedule, &mut meter).map_err(|error| error.to_string())?;
    let (Some(before), Some(after)) = (meter.before, meter.after) else {
        return Err("the run ended before its processes were measured".to_owned());
    };
    let (before, after) = (before?, after?);
    drive.tally.left_over(schedule.left());
    Ok(Report::new(calls, (pace, connections), drive.tally, after.since(&before, pids)))
}

/// Reads the processes where the measured time begins and where it ends.
struct Meter<'a> {
    pids: &'a [Watched],
    before: Option<Result<Reading, String>>,
    after: Option<Result<Reading, String>>,
}

impl Meter<'_> {
    fn look(&mut self, now: Instant, schedule: &Schedule, answered: u64) {
        if self.before.is_none() && now >= schedule.measured_from {
            self.before = Some(Reading::take(self.pids, answered));
        }
        if self.after.is_none() && now >= schedule.end {
            self.after = Some(Reading::take(self.pids, answered));
        }
    }
}

struct Drive<'a> {
    calls: &'a Calls,
    poll: Poll,
    lanes: Vec<Lane>,
    /// Lanes without a call, used in turn.
    free: VecDeque<usize>,
    joined: Vec<u8>,
    tally: Tally,
}

impl<'a> Drive<'a> {
    fn new(calls: &'a Calls, connections: usize) -> Result<Drive<'a>, String> {
        if connections == 0 {
            return Err("--connections must be at least 1".to_owned());
        }
        crate::process::allow_files(connections)?;
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let mut lanes: Vec<Lane> = (0..connections as u64).map(Lane::new).collect();
        for lane in &mut lanes {
            lane.open(calls, &poll)?;
        }
        let free = (0..connections).collect();
        Ok(Drive { calls, poll, lanes, free, joined: Vec::new(), tally: Tally::new()? })
    }

    /// Runs until every call of the schedule is over, or was given up.
    fn turn(&mut self, schedule: &mut Schedule, meter: &mut Meter<'_>) -> io::Result<()> {
        let mut ready = Vec::new();
        let mut look = Instant::now() + LOOK;
        loop {
            let now = Instant::now();
            meter.look(now, schedule, self.tally.answered());
            if now >= look {
                look = now + LOOK;
                self.give_up_late_calls(now, schedule);
            }
            if now < schedule.end + WITHIN {
                self.start_due_calls(schedule);
            }
            let at_rest = self.free.len() == self.lanes.len();
            if meter.after.is_some() && at_rest && (schedule.left() == 0 || now >= schedule.end + WITHIN) {
                return Ok(());
            }
            self.poll.wait(Some(self.patience(schedule, look)), &mut ready)?;
            for token in &ready {
                let place = usize::try_from(*token).unwrap_or(usize::MAX);
                if let Some(lane) = self.lanes.get_mut(place) {
                    let event = lane.ready(self.calls, &self.poll, &mut self.joined);
                    self.note(place, event, schedule);
                }
            }
        }
    }

    fn start_due_calls(&mut self, schedule: &mut Schedule) {
        while let Some(place) = self.free.front().copied() {
            let Some(call) = schedule.take(Instant::now()) else { return };
            self.free.pop_front();
            let event = self.lanes[place].start(self.calls, &self.poll, call);
            if let Some(flight) = self.lanes[place].flight() {
                self.tally.started(flight, schedule);
            }
            self.note(place, event, schedule);
        }
    }

    /// How long nothing but a ready socket needs us.
    fn patience(&self, schedule: &Schedule, look: Instant) -> Duration {
        let due = schedule.next_due().filter(|_| !self.free.is_empty());
        let until = [due, Some(look), Some(schedule.measured_from), Some(schedule.end)];
        let now = Instant::now();
        let future = |at: &Instant| *at > now;
        // A due call is only left to wait for when no lane is free.
        let next = until.into_iter().flatten().filter(future).min().unwrap_or(look);
        next.saturating_duration_since(now)
    }

    fn give_up_late_calls(&mut self, now: Instant, schedule: &Schedule) {
        for place in 0..self.lanes.len() {
            let late = |flight: &Flight| now.saturating_duration_since(flight.sent) > WITHIN;
            if self.lanes[place].flight().is_some_and(late) {
                let event = self.lanes[place].give_up(&format!("no answer within {WITHIN:?}"));
                self.note(place, event, schedule);
            }
        }
    }

    fn note(&mut self, place: usize, event: Event, schedule: &Schedule) {
        match event {
            Event::Waiting => {}
            Event::Closed => self.tally.closed(),
            Event::Over(flight, verdict) => {
                self.tally.over(&flight, verdict, schedule);
                self.free.push_back(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Era;
    use crate::target::Target;
    use crate::upstream::Upstream;
    use crate::wire::Inbox;
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener};

    fn serve() -> SocketAddr {
        let mut upstream = Upstream::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = upstream.address().unwrap();
        std::thread::spawn(move || upstream.serve());
        address
    }

    fn load(pace: Pace, era: Era, size: usize) -> Report {
        load_on(serve(), pace, era, size)
    }

    fn load_on(address: SocketAddr, pace: Pace, era: Era, size: usize) -> Report {
        let target = Target::parse(&format!("http://{address}/mcp")).unwrap();
        let calls = Calls::new(target, era, "x-one: 1\r\n", ("echo", size)).unwrap();
        let window = Window { warm_up: Duration::from_millis(20), length: Duration::from_millis(100) };
        run(&calls, pace, window, (3, &[])).unwrap()
    }

    #[test]
    fn every_call_of_an_open_loop_is_made_and_answered() {
        let report = load(Pace::Open { rate: 1_000 }, Era::Modern, 400);
        assert_eq!((report.calls, report.failed), (100, 0), "{report:?}");
    }

    #[test]
    fn large_calls_in_a_legacy_session_are_answered() {
        let report = load(Pace::Open { rate: 100 }, Era::Legacy, 3_000_000);
        assert_eq!((report.calls, report.failed), (10, 0), "{report:?}");
    }

    #[test]
    fn an_answer_that_is_not_its_own_fails_the_call() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut inbox = Inbox::default();
                // One answer a connection: after a wrong one the generator opens another.
                if inbox.fill(&stream).is_ok_and(|read| read > 0) {
                    let body = r#"{"id":1000000000000,"result":{"text":"0123456789abcdef"}}"#;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                }
            }
        });
        let report = load_on(address, Pace::Open { rate: 100 }, Era::Modern, 400);
        assert_eq!((report.calls, report.failed), (0, 12), "{report:?}");
    }

    #[test]
    fn a_closed_loop_ends_with_its_time() {
        let report = load(Pace::Closed, Era::Modern, 4_096);
        assert!(report.calls > 0 && report.failed == 0, "{report:?}");
    }
}
