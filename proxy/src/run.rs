//! The life of the process: start, signals, end.
//!
//! Pingora's server runs on a thread of its own, because it sleeps its whole grace period when told
//! to stop. This thread decides when the process ends: when the last call is done.

use crate::admin::Admin;
use crate::clock::SystemClock;
use crate::context::Gateway;
use crate::control::{Command, Control};
use crate::drain::Phase;
use crate::edge::Edge;
use crate::listeners::{Reserved, reserve};
use crate::log::{self, LevelHandle};
use crate::readiness::Readiness;
use crate::telemetry::Telemetry;
use crate::watch::Watcher;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::listening::Service;
use portunus_config::{Fingerprint, Loaded};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::{interval, sleep, timeout};

/// Connections that were idle when draining began are given this long for a request on its way.
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
    listeners: Vec<Reserved>,
    telemetry: Option<Reserved>,
    admin: Option<Reserved>,
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
    let control = Control::bind(&gateway.bootstrap.control, level.clone(), commands)?;
    let stop = Arc::new(Notify::new());
    spawn_server("data", data(&gateway, &bound), Arc::clone(&stop))?;
    // Nobody notifies these: they end with the process.
    spawn_server("surfaces", surfaces(&gateway, &bound, readiness, extra), Arc::new(Notify::new()))?;
    let reload = Arc::new(Notify::new());
    spawn_asides(&runtime, &gateway, control, watched, &reload);
    let aside = Aside { gateway: Arc::clone(&gateway), stop, reload, level };
    runtime.block_on(async {
        accepting(&addresses).await;
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
    stop: Arc<Notify>,
    reload: Arc<Notify>,
    level: LevelHandle,
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
        tokio::select! {
            () = self.drain() => {}
            _ = interrupt.recv() => tracing::warn!("interrupted again: ending at once"),
        }
        Ok(())
    }

    /// Ends in order: not ready, no new connections, calls finish, deadline.
    async fn drain(&self) {
        let drain = &self.gateway.drain;
        let settings = self.gateway.bootstrap.drain;
        tracing::info!(in_flight = drain.in_flight(), "draining");
        drain.advance(Phase::Leaving);
        sleep(settings.delay).await;
        drain.advance(Phase::Draining);
        self.stop.notify_one();
        let calm = async {
            sleep(LINGER).await;
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
        // Keeps the level handle, and with it the log, alive to the last line.
        let _ = &self.level;
    }
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
        listeners: bootstrap
            .listeners
            .iter()
            .map(|listener| reserve(listener.bind))
            .collect::<io::Result<_>>()?,
        telemetry: bootstrap.telemetry.map(reserve).transpose()?,
        admin: bootstrap.admin.map(reserve).transpose()?,
    })
}

impl Bound {
    fn addresses(&self, control: PathBuf) -> Addresses {
        let address = |reserved: &Reserved| reserved.address;
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
    let conf = ServerConf { threads, grace_period_seconds: Some(24 * 60 * 60), ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    server
}

/// The data listeners: these stop accepting when draining begins.
fn data(gateway: &Arc<Gateway>, bound: &Bound) -> Server {
    let mut server = server(gateway.bootstrap.threads);
    let addresses: Vec<SocketAddr> = bound.listeners.iter().map(|reserved| reserved.address).collect();
    let mut data = Service::new("data".to_owned(), Edge::new(Arc::clone(gateway), &addresses));
    for reserved in &bound.listeners {
        data.add_listener(reserved.endpoint());
    }
    server.add_service(data);
    server
}

/// The operating surfaces: these answer until the process ends, so that its end can be watched.
fn surfaces(gateway: &Arc<Gateway>, bound: &Bound, readiness: Readiness, extra: Extra) -> Server {
    let mut server = server(1);
    if let Some(reserved) = &bound.telemetry {
        let mut surface =
            Service::new("telemetry".to_owned(), Telemetry::new(Arc::clone(gateway), readiness));
        surface.add_listener(reserved.endpoint());
        server.add_service(surface);
    }
    if let Some(reserved) = &bound.admin {
        let mut surface = Service::new("admin".to_owned(), Admin::new(Arc::clone(gateway), reserved.address));
        surface.add_listener(reserved.endpoint());
        server.add_service(surface);
    }
    server.add_services(extra);
    server
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

/// Waits until the listeners take connections: Pingora does not say when it has bound them.
#[expect(clippy::disallowed_methods, reason = "asks our own listeners whether they are up")]
async fn accepting(addresses: &Addresses) {
    for address in &addresses.listeners {
        let mut probe = *address;
        if probe.ip().is_unspecified() {
            probe.set_ip(if probe.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        while tokio::net::TcpStream::connect(probe).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    }
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
