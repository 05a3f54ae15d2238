//! The main thread at work: signals and commands, a successor, and the end in order.

use crate::control::{Claim, Command};
use crate::drain::Phase;
use crate::frontend::context::Gateway;
use crate::frontend::edge::ConnectionServer;
use crate::handover::Holding;
use crate::handover::give::{Candidate, Kept};
use crate::listeners::Surface;
use crate::notify::Supervisor;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections that were idle or still queued when draining began are given this long for a request
/// on its way.
const LINGER: Duration = Duration::from_millis(250);
/// With a successor nobody waits for the end, and connections accepted last get more: time for slow
/// handshakes, and for streams that would otherwise be refused.
const SETTLING: Duration = Duration::from_secs(1);
/// After the deadline, time for the last errors to be written.
const EXPIRY: Duration = Duration::from_secs(2);

/// What the main thread steers by.
pub struct Helm {
    /// The process as messages see it.
    pub gateway: Arc<Gateway>,
    /// What the listeners lead to.
    pub server: Arc<ConnectionServer>,
    /// Our own handles on the listening sockets.
    pub holdings: Vec<Holding>,
    /// Tells Pingora to stop accepting MCP clients.
    pub stop: Arc<Notify>,
    /// Says when it has.
    pub closed: oneshot::Receiver<()>,
    /// Tells Pingora to stop accepting on the operating surfaces.
    pub close: Arc<Notify>,
    /// Has the configuration read again.
    pub reload: Arc<Notify>,
    /// The task that follows the configuration.
    pub watcher: Option<AbortHandle>,
    /// Who has to know about all this.
    pub supervisor: Supervisor,
    /// The control socket's path.
    pub claim: Claim,
    /// Why no process can succeed this one, if none can.
    pub last: Option<&'static str>,
}

/// The signals that steer the process. Those that end it do so at once as long as nobody listens for them.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    requests: Requests,
}

/// The signals that ask something of the process, or nothing: none of them ends it, from its start on.
pub struct Requests {
    hangup: Signal,
    reopen: Signal,
    ignored: [(&'static str, Signal); 3],
}

/// What a signal asks for.
enum Request {
    /// Read the configuration again.
    Reload,
    /// Open the log files again.
    Reopen,
    /// Nothing that is known here.
    Ignored(&'static str),
}

impl Requests {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// If the system does not deliver signals.
    pub fn listen() -> io::Result<Requests> {
        Ok(Requests {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            ignored: [
                ("SIGUSR2", signal(SignalKind::user_defined2())?),
                ("SIGALRM", signal(SignalKind::alarm())?),
                ("SIGIO", signal(SignalKind::io())?),
            ],
        })
    }

    async fn next(&mut self) -> Request {
        let [(first, one), (second, two), (third, three)] = &mut self.ignored;
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.reopen.recv() => Request::Reopen,
            _ = one.recv() => Request::Ignored(first),
            _ = two.recv() => Request::Ignored(second),
            _ = three.recv() => Request::Ignored(third),
        }
    }
}

impl Signals {
    /// Listens for those that end the process too.
    ///
    /// # Errors
    /// If the system does not deliver signals.
    pub fn listen(requests: Requests) -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            requests,
        })
    }
}

/// An upstream call with a successor that is over.
type Prepared = (Candidate, io::Result<Kept>);

impl Helm {
    /// Runs until a signal, a command or a successor ends the process, and ends it in order.
    pub async fn until_the_end(self, mut signals: Signals, mut commands: mpsc::Receiver<Command>) {
        // It lives to the end: an upstream call that the end interrupts says so to the other side.
        let mut talks = JoinSet::new();
        let kept = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break None,
                _ = signals.interrupt.recv() => break None,
                _ = signals.quit.recv() => break None,
                request = signals.requests.next() => self.answer(&request),
                Some(Ok(prepared)) = talks.join_next() => {
                    if let Some(kept) = self.hand_over(prepared).await {
                        break Some(kept);
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Reload) => self.reload.notify_one(),
                    Some(Command::Record(every, within)) => self.record(every, within),
                    Some(Command::Upgrade(candidate)) => self.prepare(candidate, &mut talks).await,
                    Some(Command::Drain) | None => break None,
                },
            }
        };
        drop(commands);
        self.end(kept, signals).await;
    }

    /// Does what a signal asks for.
    fn answer(&self, request: &Request) {
        if let Request::Reload = request {
            return self.reload.notify_one();
        }
        answer_signal(&self.gateway, request);
    }

    /// Begins to record questions to policy, or ends it.
    fn record(&self, every: u32, within: Duration) {
        let (sampling_queue, folder) = (&self.gateway.sampling_queue, &self.gateway.bootstrap.state);
        if within.is_zero() {
            return sampling_queue.end_recording();
        }
        if let Err(error) = sampling_queue.record(every, folder, self.gateway.clock.now().wall, within) {
            tracing::error!(%error, "the recording cannot begin");
        }
    }

    /// Lets the process whose sockets these are go on alone: this one was not let in its place.
    ///
    /// What was accepted here meanwhile is finished.
    pub async fn step_back(self, signals: Signals) {
        let all = (0..self.holdings.len()).collect();
        self.end(Some(all), signals).await;
    }

    /// Begins to upstream call with a successor, if there can be one now.
    async fn prepare(&self, mut candidate: Candidate, talks: &mut JoinSet<Prepared>) {
        let pid = candidate.pid;
        let holdings = self.holdings.iter().map(Holding::share).collect::<io::Result<Vec<_>>>();
        let refusal = match (&holdings, self.last) {
            (_, Some(why)) => Some(why.to_owned()),
            (Err(error), _) => Some(error.to_string()),
            _ if !talks.is_empty() => Some("another upgrade is under way".to_owned()),
            _ if !self.supervisor.knows(pid) => Some(
                "a supervisor looks after it, and the successor would be outside of its unit: upgrade with `systemctl reload`"
                    .to_owned(),
            ),
            _ => None,
        };
        if let Some(why) = refusal {
            tracing::warn!(pid, why, "upgrade refused");
            return candidate.refuse(&why).await;
        }
        tracing::info!(pid, "handing the listening sockets to a successor");
        self.supervisor.reloading(&format!("handing over to process {pid}"));
        let (drain, old) = (Arc::clone(&self.gateway.drain), self.supervisor.old_process());
        talks.spawn(async move {
            let kept = candidate.prepare(&holdings.unwrap_or_default(), old, &drain).await;
            (candidate, kept)
        });
    }

    /// Gives the place to a successor that serves; or goes on.
    async fn hand_over(&self, (mut candidate, kept): Prepared) -> Option<Kept> {
        let pid = candidate.pid;
        let outcome = match kept {
            Ok(kept) => {
                // Before the successor is told: it may say more only as the main process.
                self.supervisor.main_process(pid);
                candidate.succeed().await.map(|()| kept)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(kept) => {
                tracing::info!(pid, "a successor serves");
                Some(kept)
            }
            Err(error) => {
                tracing::warn!(pid, %error, "the upgrade failed, this process goes on");
                self.supervisor.main_process(std::process::id());
                self.supervisor.ready("serving after an upgrade that failed");
                None
            }
        }
    }

    async fn end(self, kept: Option<Kept>, mut signals: Signals) {
        let gateway = Arc::clone(&self.gateway);
        let mut draining = pin!(self.drain(kept));
        loop {
            tokio::select! {
                () = &mut draining => return,
                _ = signals.interrupt.recv() => return tracing::warn!("interrupted again: ending at once"),
                request = signals.requests.next() => answer_signal(&gateway, &request),
            }
        }
    }

    /// Ends in order: not ready, no new connections, calls finish, deadline.
    async fn drain(self, kept: Option<Kept>) {
        let Helm { gateway, server, holdings, stop, closed, close, watcher, claim, supervisor, .. } = self;
        let (drain, settings) = (&gateway.drain, gateway.bootstrap.drain);
        // Logged only when the process is no longer ready: tools act on the line.
        let announce =
            || tracing::info!(in_flight = drain.in_flight(), successor = kept.is_some(), "draining");
        // Until the end, where the path of the control socket stays this process's.
        let mut _claimed = None;
        if kept.is_some() {
            // Changes from now on are meant for the successor.
            watcher.iter().for_each(AbortHandle::abort);
            claim.leave();
            drain.succeed();
            announce();
            close.notify_one();
            stop.notify_one();
            // Whose stream ends asks again at once, and must not be accepted here.
            drop(timeout(EXPIRY, closed).await);
            sleep(SETTLING).await;
        } else {
            _claimed = Some(claim);
            drain.advance(Phase::Leaving);
            announce();
            supervisor.stopping("draining");
            sleep(settings.delay).await;
            stop.notify_one();
        }
        drain.advance(Phase::Draining);
        tracing::debug!("ending streams, and connections that are idle");
        let calm = async {
            tokio::join!(server.accept_rest(unshared(holdings, kept.as_ref()), LINGER), sleep(LINGER));
            drain.idle().await;
        };
        if timeout(settings.deadline, calm).await.is_err() {
            tracing::warn!(
                in_flight = drain.in_flight(),
                "the drain deadline passed: ending what still runs"
            );
            drain.advance(Phase::Expired);
            if timeout(EXPIRY, drain.idle()).await.is_err() {
                tracing::error!(in_flight = drain.in_flight(), "calls were cut off");
            }
        }
        tracing::info!("drained");
    }
}

/// Does what a signal asks for, as long as the process lives: its logs may be rotated while it drains.
fn answer_signal(gateway: &Gateway, request: &Request) {
    match request {
        Request::Reload => tracing::info!("SIGHUP ignored: the process ends"),
        Request::Reopen => {
            tracing::info!("SIGUSR1: opening the log files again");
            gateway.recorder.access_log.reopen();
        }
        Request::Ignored(signal) => tracing::warn!(signal, "signal ignored: it asks for nothing here"),
    }
}

/// The sockets of MCP clients that close with this process: what waits in their queues is for nobody
/// else, and a filter on them concerns nobody else.
fn unshared(holdings: Vec<Holding>, kept: Option<&Kept>) -> Vec<std::net::TcpListener> {
    let shared =
        |index: usize, one: &Holding| one.supervised || kept.is_some_and(|kept| kept.contains(&index));
    holdings
        .into_iter()
        .enumerate()
        .filter(|(index, one)| one.place.surface == Surface::Mcp && !shared(*index, one))
        .map(|(_, one)| one.socket)
        .collect()
}
