//! The life of the process: start, signals, end.
//!
//! Pingora's server runs on a thread of its own, because it sleeps its whole grace period when told
//! to stop. This thread decides when the process ends: when the last call is done.

use crate::admin::Admin;
use crate::clock::SystemClock;
use crate::context::Gateway;
use crate::control::{Command, Control};
use crate::drain::Phase;
use crate::edge::{Edge, Rim};
use crate::listeners::{Given, Listening, listen};
use crate::log;
use crate::readiness::Readiness;
use crate::telemetry::Telemetry;
use crate::watch::Watcher;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::ServiceWithDependents;
use portunus_config::{Fingerprint, Loaded};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::{interval, sleep, timeout};

/// Connections that were idle or still queued when draining began are given this long for a request
/// on its way.
const LINGER: Duration = Duration::from_millis(250);
/// After the deadline, time for the last errors to be written.
const EXPIRY: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(1);

/// Services that somebody else adds.
pub type Extra = Vec<Box<dyn ServiceWithDependents>>;

/// A process that is about to start.
pub struct Process {
    /// Its configuration.
    pub loaded: Loaded,
    /// Where the configuration came from and how it was found, if it is to be watched.
    pub watched: Option<(PathBuf, Fingerprint)>,
    /// Further services on the same server: the demo's.
    pub extra: Extra,
    /// A state folder of its own that goes with the process.
    pub scratch: Option<PathBuf>,
    /// Called with the listeners' addresses once they accept.
    pub ready: Box<dyn FnOnce(&Addresses) + Send>,
}

/// Where the process listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Data listeners, in the order of the document.
    pub listeners: Vec<SocketAddr>,
    /// Telemetry surface.
    pub telemetry: Option<SocketAddr>,
    /// Admin surface.
    pub admin: Option<SocketAddr>,
    /// Control socket.
    pub control: PathBuf,
}

struct Bound {
    listeners: Vec<Listening>,
    telemetry: Option<Listening>,
    admin: Option<Listening>,
}

/// Runs until a signal or command ends the process.
///
/// # Errors
/// If something cannot be started: an address, a file, a thread.
pub fn run(process: Process) -> io::Result<()> {
    let Process { loaded, watched, extra, scratch, ready } = process;
    let level = log::start(&loaded.bootstrap.log).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("aside")
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    make_state_folder(&loaded.bootstrap.state)?;
    for warning in &loaded.warnings {
        tracing::warn!(path = warning.path, hint = warning.hint, "{}", warning.problem);
    }
    let gateway = Arc::new(Gateway::new(loaded, Arc::new(SystemClock::new()))?);
    let bound = bind(&gateway)?;
    let readiness = Readiness::default();
    let listening = readiness.wait_for("listeners");
    let addresses = bound.addresses(gateway.bootstrap.control.clone());
    let (commands, inbox) = mpsc::channel(4);
    let control = Control::bind(&gateway.bootstrap.control, level, commands)?;
    let stop = Arc::new(Notify::new());
    let edge = Arc::new(Edge::new(Arc::clone(&gateway), &addresses.listeners));
    spawn_server("data", data(&gateway, &edge, &bound)?, Arc::clone(&stop))?;
    // Nobody notifies these: they end with the process.
    spawn_server("surfaces", surfaces(&gateway, &bound, readiness, extra)?, Arc::new(Notify::new()))?;
    let queues = bound.listeners.iter().map(Listening::share).collect::<io::Result<_>>()?;
    // A handle that stays open keeps a socket listening.
    drop(bound);
    let reload = Arc::new(Notify::new());
    spawn_asides(&runtime, &gateway, control, watched, &reload);
    let aside = Aside { gateway: Arc::clone(&gateway), edge, queues, stop, reload };
    runtime.block_on(async {
        // The sockets listen already; who connects now waits for Pingora's threads, not in vain.
        drop(listening);
        announce(&gateway, &addresses);
        ready(&addresses);
        aside.until_the_end(inbox).await
    })?;
    gateway.access_log.close();
    std::fs::remove_file(&gateway.bootstrap.control).ok();
    if let Some(scratch) = scratch {
        std::fs::remove_dir_all(scratch).ok();
    }
    Ok(())
}

/// What the main thread steers by.
struct Aside {
    gateway: Arc<Gateway>,
    edge: Arc<Edge>,
    /// Our own handles on the listening sockets.
    queues: Vec<TcpListener>,
    stop: Arc<Notify>,
    reload: Arc<Notify>,
}

impl Aside {
    async fn until_the_end(self, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.reload.notify_one(),
                command = commands.recv() => match command {
                    Some(Command::Reload) => self.reload.notify_one(),
                    Some(Command::Drain) | None => break,
                },
            }
        }
        let Aside { gateway, edge, queues, stop, .. } = self;
        tokio::select! {
            () = drain(&gateway, edge, queues, &stop) => {}
            _ = interrupt.recv() => tracing::warn!("interrupted again: ending at once"),
        }
        Ok(())
    }
}

/// Ends in order: not ready, no new connections, calls finish, deadline.
async fn drain(gateway: &Gateway, edge: Arc<Edge>, queues: Vec<TcpListener>, stop: &Notify) {
    let (drain, settings) = (&gateway.drain, gateway.bootstrap.drain);
    tracing::info!(in_flight = drain.in_flight(), "draining");
    drain.advance(Phase::Leaving);
    sleep(settings.delay).await;
    drain.advance(Phase::Draining);
    stop.notify_one();
    let calm = async {
        edge.accept_rest(queues, LINGER).await;
        drain.idle().await;
    };
    if timeout(settings.deadline, calm).await.is_err() {
        tracing::warn!(in_flight = drain.in_flight(), "the drain deadline passed: ending what still runs");
        drain.advance(Phase::Expired);
        if timeout(EXPIRY, drain.idle()).await.is_err() {
            tracing::error!(in_flight = drain.in_flight(), "calls were cut off");
        }
    }
    tracing::info!("drained");
}

/// Tells Pingora to stop accepting.
struct Stop(Arc<Notify>);

#[async_trait::async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        self.0.notified().await;
        ShutdownSignal::GracefulTerminate
    }
}

fn make_state_folder(path: &Path) -> io::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let mode = made.and_then(|()| std::fs::metadata(path)).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot make the state folder {}: {error}", path.display()))
    })?;
    if mode.permissions().mode() & 0o077 != 0 {
        tracing::warn!(folder = %path.display(), "the state folder is open to others: chmod 700 it");
    }
    Ok(())
}

fn bind(gateway: &Gateway) -> io::Result<Bound> {
    let bootstrap = &gateway.bootstrap;
    Ok(Bound {
        listeners: bootstrap.listeners.iter().map(|one| listen(one.bind)).collect::<io::Result<_>>()?,
        telemetry: bootstrap.telemetry.map(listen).transpose()?,
        admin: bootstrap.admin.map(listen).transpose()?,
    })
}

impl Bound {
    fn addresses(&self, control: PathBuf) -> Addresses {
        let address = |listening: &Listening| listening.address;
        Addresses {
            listeners: self.listeners.iter().map(address).collect(),
            telemetry: self.telemetry.as_ref().map(address),
            admin: self.admin.as_ref().map(address),
            control,
        }
    }
}

/// A server of Pingora for `threads` a service. The main thread ends the process; Pingora only has
/// to stay out of its way.
fn server(threads: usize) -> Server {
    // One thread has nobody to share tasks with: the scheduler that can costs it about a tenth.
    let work_stealing = threads > 1;
    let grace_period_seconds = Some(24 * 60 * 60);
    let conf = ServerConf { threads, work_stealing, grace_period_seconds, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    server
}

/// The data listeners: these stop accepting when draining begins.
fn data(gateway: &Gateway, edge: &Arc<Edge>, bound: &Bound) -> io::Result<Server> {
    let mut server = server(gateway.bootstrap.threads);
    let listening: Vec<&Listening> = bound.listeners.iter().collect();
    server.add_service(Given::new("data", Rim(Arc::clone(edge)), &listening, None)?);
    Ok(server)
}

/// The operating surfaces: these answer until the process ends, so that its end can be watched.
fn surfaces(gateway: &Arc<Gateway>, bound: &Bound, readiness: Readiness, extra: Extra) -> io::Result<Server> {
    let mut server = server(1);
    if let Some(listening) = &bound.telemetry {
        let app = Telemetry::new(Arc::clone(gateway), readiness);
        server.add_service(Given::new("telemetry", app, &[listening], None)?);
    }
    if let Some(listening) = &bound.admin {
        let app = Admin::new(Arc::clone(gateway), listening.address);
        server.add_service(Given::new("admin", app, &[listening], None)?);
    }
    server.add_services(extra);
    Ok(server)
}

fn spawn_server(name: &str, server: Server, stop: Arc<Notify>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || server.run(RunArgs { shutdown_signal: Box::new(Stop(stop)) }))?;
    Ok(())
}

fn spawn_asides(
    runtime: &Runtime,
    gateway: &Arc<Gateway>,
    control: Control,
    watched: Option<(PathBuf, Fingerprint)>,
    reload: &Arc<Notify>,
) {
    runtime.spawn(control.run());
    if let Some((path, fingerprint)) = watched {
        runtime.spawn(Watcher::new(Arc::clone(gateway), &path, fingerprint).run(Arc::clone(reload)));
    }
    let gateway = Arc::clone(gateway);
    runtime.spawn(async move {
        let mut tick = interval(SWEEP);
        loop {
            tick.tick().await;
            gateway.estate.sweep(Instant::now(), &gateway.metrics);
        }
    });
}

fn announce(gateway: &Gateway, addresses: &Addresses) {
    let active = gateway.active();
    for (listener, address) in gateway.bootstrap.listeners.iter().zip(&addresses.listeners) {
        tracing::info!(surface = "mcp", name = listener.name, %address, "listening");
    }
    for (surface, address) in [("telemetry", addresses.telemetry), ("admin", addresses.admin)] {
        if let Some(address) = address {
            tracing::info!(surface, %address, "listening");
        }
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = %active.revision,
        servers = active.snapshot.routes.iter().count(),
        control = %addresses.control.display(),
        "ready"
    );
}
