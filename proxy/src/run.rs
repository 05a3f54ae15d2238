//! The life of the process, up to the moment when it serves; what follows is in `helm`.
//!
//! Pingora's server runs on a thread of its own, because it sleeps its whole grace period when told
//! to stop. This thread decides when the process ends: when the last call is done.

use crate::admin::Admin;
use crate::control::{Claim, Command, Control};
use crate::descriptors;
use crate::frontend::bridge;
use crate::frontend::context::Gateway;
use crate::frontend::edge::{ConnectionServer, PingoraAdapter};
use crate::handover::Holding;
use crate::handover::take::{Inheritance, Predecessor};
use crate::helm::{Helm, Requests, Signals};
use crate::kept_key::kept_key;
use crate::listeners::{self, Listening, Place, SocketService};
use crate::log::{self, LevelHandle};
use crate::notify::Supervisor;
use crate::peers::news;
use crate::readiness::Readiness;
use crate::surface::Surface;
use crate::telemetry::Telemetry;
use crate::watch::Watcher;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::ServiceWithDependents;
use portunus_config::{Bootstrap, Fingerprint, Loaded};
use portunus_filters::Clock;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::interval;

const SWEEP: Duration = Duration::from_secs(1);
/// How long a change of lists may be unknown to the state folder.
const STORE: Duration = Duration::from_secs(5);

/// Services that somebody else adds.
pub type Extra = Vec<Box<dyn ServiceWithDependents>>;

/// A process that is about to start.
pub struct Process {
    /// Its configuration.
    pub loaded: Loaded,
    /// Where the configuration came from and how it was found, if it is to be watched.
    pub watched: Option<(PathBuf, Fingerprint)>,
    /// Where its listening sockets come from.
    pub origin: Origin,
    /// Where time is read.
    pub clock: Arc<dyn Clock>,
    /// Further services on the same server: the demo's. A process that has some is not succeeded.
    pub extra: Extra,
    /// A state folder of its own that goes with the process.
    pub scratch: Option<PathBuf>,
    /// Called with the listeners' addresses once they accept.
    pub ready: Box<dyn FnOnce(&Addresses) + Send>,
}

/// Where the listening sockets of a process come from.
pub enum Origin {
    /// It makes them, except for those that systemd passed to it.
    Start(Inheritance),
    /// The process that listens on the control socket gives it those that both have.
    Upgrade {
        /// It also writes where that process does.
        takes_output: bool,
    },
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
    /// Other replicas.
    pub peers: Option<SocketAddr>,
    /// Control socket.
    pub control: PathBuf,
}

struct Bound {
    listeners: Vec<(Place, Listening)>,
    telemetry: Option<(Place, Listening)>,
    admin: Option<(Place, Listening)>,
    peers: Option<(Place, Listening)>,
}

/// What the sockets and commands of a process come from.
struct Beginning {
    bound: Bound,
    control: Control,
    claim: Claim,
    inbox: mpsc::Receiver<Command>,
    supervisor: Supervisor,
    /// The old process, and those of its sockets that are ours now.
    before: Option<(Predecessor, Vec<usize>)>,
}

/// Runs until a signal, a command or a successor ends the process.
///
/// # Errors
/// If something cannot be started: an address, a file, a thread; or if the old process does not let
/// this one succeed it.
pub fn run(process: Process) -> io::Result<()> {
    let ended = live(process);
    log::flush();
    ended
}

fn live(process: Process) -> io::Result<()> {
    let Process { mut loaded, watched, origin, clock, extra, scratch, ready } = process;
    let level = log::start(&loaded.bootstrap.log).map_err(io::Error::other)?;
    descriptors::claim(&loaded.bootstrap);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("aside")
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let requests = Requests::listen()?;
    make_state_folder(&loaded.bootstrap.state)?;
    loaded.warnings.extend(descriptors::doubt(&loaded.bootstrap));
    for warning in &loaded.warnings {
        let at = warning.at.as_ref().map(tracing::field::display);
        tracing::warn!(at, path = warning.path, hint = warning.hint, "{}", warning.problem);
    }
    let Beginning { bound, control, claim, inbox, supervisor, before } =
        begin(&loaded.bootstrap, origin, level)?;
    let gateway = gateway(loaded, clock)?;
    let addresses = bound.addresses(gateway.bootstrap.control.clone());
    let last = (!extra.is_empty()).then_some("a demo cannot be upgraded: end it and start anew");
    let readiness = Readiness::default();
    let server = Arc::new(ConnectionServer::new(Arc::clone(&gateway), &addresses.listeners, addresses.peers));
    let (stop, close, reload) =
        (Arc::<Notify>::default(), Arc::<Notify>::default(), Arc::<Notify>::default());
    let (data, closed) = data(&gateway, &server, &bound, &readiness, &supervisor)?;
    let surfaces = surfaces(&gateway, &server, &bound, readiness.clone(), extra)?;
    let holdings = bound.into_holdings()?;
    spawn_server("data", data, Arc::clone(&stop))?;
    // In a drain without a successor nobody notifies these: they end with the process.
    spawn_server("surfaces", surfaces, Arc::clone(&close))?;
    runtime.block_on(readiness.ready());
    let watcher = spawn_asides(&runtime, &gateway, control, watched, &reload);
    let records = Arc::clone(&gateway);
    let mut helm =
        Helm { gateway, server, holdings, stop, closed, close, reload, watcher, supervisor, claim, last };
    let succeeded = before.map_or(Ok(()), |(predecessor, claimed)| predecessor.ready(claimed));
    // Up to here a signal that ends this process does so at once, and the old one goes on.
    let signals = Signals::listen(requests)?;
    if let Err(error) = succeeded {
        runtime.block_on(helm.step_back(signals));
        records.recorder.access_log.close();
        return Err(error);
    }
    if let Err(error) = helm.claim.move_in() {
        tracing::error!(%error, "the control socket cannot take the place of the old one");
    }
    announce(&helm.gateway, &addresses);
    helm.supervisor.ready("serving");
    ready(&addresses);
    runtime.block_on(helm.until_the_end(signals, inbox));
    store(&records);
    records.recorder.access_log.close();
    if let Some(scratch) = scratch {
        std::fs::remove_dir_all(scratch).ok();
    }
    Ok(())
}

/// Gets the sockets, and the supervisor that goes with them.
fn begin(bootstrap: &Bootstrap, origin: Origin, level: LevelHandle) -> io::Result<Beginning> {
    let (commands, inbox) = mpsc::channel(4);
    match origin {
        Origin::Start(mut inheritance) => {
            // First, because it tells best what is wrong where another process runs.
            let (control, claim) = Control::bind(&bootstrap.control, level, commands)?;
            let bound = Bound::of(bootstrap, &mut inheritance)?;
            inheritance.settle()?;
            let supervisor = Supervisor::of_environment();
            Ok(Beginning { bound, control, claim, inbox, supervisor, before: None })
        }
        Origin::Upgrade { takes_output } => {
            let (predecessor, mut inheritance) = Predecessor::ask(&bootstrap.control, takes_output)?;
            let bound = Bound::of(bootstrap, &mut inheritance)?;
            let claimed = inheritance.settle()?;
            let (control, claim) = Control::bind_beside(&bootstrap.control, level, commands)?;
            let supervisor = Supervisor::inherited(predecessor.old_process());
            Ok(Beginning { bound, control, claim, inbox, supervisor, before: Some((predecessor, claimed)) })
        }
    }
}

/// A gateway that goes on with what an earlier process kept.
fn gateway(loaded: Loaded, clock: Arc<dyn Clock>) -> io::Result<Arc<Gateway>> {
    let kept_key = kept_key(&loaded.bootstrap.state, &loaded.bootstrap.sealing.keys)?;
    let gateway = Arc::new(Gateway::keeping(loaded, clock, kept_key.as_ref().map(<[u8; 32]>::as_slice))?);
    restore(&gateway);
    Ok(gateway)
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

impl Bound {
    /// Listens wherever the configuration says, on what is inherited first.
    fn of(bootstrap: &Bootstrap, inheritance: &mut Inheritance) -> io::Result<Bound> {
        let mut listen = |surface, name: &str, bind| -> io::Result<(Place, Listening)> {
            let place = Place { surface, name: name.to_owned(), bind };
            let listening = inheritance.listen(&place)?;
            Ok((place, listening))
        };
        let listeners =
            bootstrap.listeners.iter().map(|one| listen(listeners::Surface::Mcp, &one.name, one.bind));
        Ok(Bound {
            listeners: listeners.collect::<io::Result<_>>()?,
            telemetry: bootstrap
                .telemetry
                .map(|bind| listen(listeners::Surface::Telemetry, "telemetry", bind))
                .transpose()?,
            admin: bootstrap
                .admin
                .map(|bind| listen(listeners::Surface::Admin, "admin", bind))
                .transpose()?,
            peers: bootstrap
                .peers
                .as_ref()
                .map(|peers| listen(listeners::Surface::Peers, &peers.listener.name, peers.listener.bind))
                .transpose()?,
        })
    }

    fn addresses(&self, control: PathBuf) -> Addresses {
        let address = |(_, listening): &(Place, Listening)| listening.address;
        Addresses {
            listeners: self.listeners.iter().map(address).collect(),
            telemetry: self.telemetry.as_ref().map(address),
            admin: self.admin.as_ref().map(address),
            peers: self.peers.as_ref().map(address),
            control,
        }
    }

    /// What remains of this when Pingora has its own handles: a handle that stays open keeps a socket
    /// listening.
    fn into_holdings(self) -> io::Result<Vec<Holding>> {
        let all = self.listeners.into_iter().chain(self.telemetry).chain(self.admin).chain(self.peers);
        let holding = |(place, listening): (Place, Listening)| {
            Ok(Holding { place, supervised: listening.supervised, socket: listening.share()? })
        };
        all.map(holding).collect()
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

/// The data listeners, and when they have stopped accepting: they are told to when draining begins.
///
/// The process is ready when their threads run, and alive for the watchdog while these do.
fn data(
    gateway: &Arc<Gateway>,
    connection_server: &Arc<ConnectionServer>,
    bound: &Bound,
    readiness: &Readiness,
    supervisor: &Supervisor,
) -> io::Result<(Server, oneshot::Receiver<()>)> {
    let mut server = server(gateway.bootstrap.threads);
    let listening: Vec<&Listening> = bound.listeners.iter().map(|(_, listening)| listening).collect();
    let (starting, beat) = (readiness.wait_for("listeners"), supervisor.clone().beat());
    let tended = Arc::clone(gateway);
    let companion = Box::pin(async move {
        drop(starting);
        // Background tasks that call upstreams fill the pools of calls, so they run here too.
        tokio::spawn(bridge::hear(Arc::clone(&tended)));
        tokio::spawn(news::run(Arc::clone(&tended)));
        tended.backend.calls.set(Handle::current()).ok();
        beat.await;
    });
    let (closing, closed) = oneshot::channel();
    let service =
        SocketService::new("data", PingoraAdapter(Arc::clone(connection_server)), &listening, None)?;
    server.add_service(service.beside(companion).notifying(closing));
    Ok((server, closed))
}

/// What answers until the process ends: the operating surfaces, so that its end can be watched, and
/// other replicas, whose clients wait for what is kept here.
fn surfaces(
    gateway: &Arc<Gateway>,
    connection_server: &Arc<ConnectionServer>,
    bound: &Bound,
    readiness: Readiness,
    extra: Extra,
) -> io::Result<Server> {
    let mut server = server(1);
    if let Some((_, listening)) = &bound.telemetry {
        let app = Telemetry::new(Arc::clone(gateway), readiness, listening.address);
        let app = Surface::new("telemetry", app);
        server.add_service(SocketService::new("telemetry", app, &[listening], None)?);
    }
    if let Some((_, listening)) = &bound.admin {
        let app = Surface::new("admin", Admin::new(Arc::clone(gateway), listening.address));
        server.add_service(SocketService::new("admin", app, &[listening], None)?);
    }
    if let Some((_, listening)) = &bound.peers {
        let threads = Some(gateway.bootstrap.threads);
        server.add_service(SocketService::new(
            "peers",
            PingoraAdapter(Arc::clone(connection_server)),
            &[listening],
            threads,
        )?);
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
) -> Option<AbortHandle> {
    runtime.spawn(control.run());
    let watcher = watched.map(|(path, fingerprint)| {
        let watcher = Watcher::new(Arc::clone(gateway), &path, fingerprint);
        runtime.spawn(watcher.run(Arc::clone(reload))).abort_handle()
    });
    runtime.spawn(store_changes(Arc::clone(gateway)));
    let gateway = Arc::clone(gateway);
    runtime.spawn(async move {
        let mut tick = interval(SWEEP);
        loop {
            tick.tick().await;
            gateway.backend.session_pools.sweep(&gateway.backend);
            gateway.estate.sessions.sweep(&gateway);
            gateway.backend.reads.sweep(gateway.clock.now());
            gateway.estate.catalogs.sweep(gateway.clock.now(), &gateway.active().snapshot);
            gateway.backend.instances.probe(&gateway.backend);
            gateway.estate.callers.keys.refresh(&gateway);
            let sizes = gateway.backend.sweep(Instant::now()).into_iter().chain(gateway.estate.sizes());
            for (table, size) in sizes {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                gateway.metrics.tables.with_label_values(&[table]).set(size);
            }
            gateway.glance().policy_runtime.sweep(&gateway.metrics, gateway.clock.now().monotonic);
            gateway.measure_limits();
            gateway.estate.counters.sweep(gateway.clock.now().into());
            gateway.peers.sweep(Instant::now(), gateway.clock.now());
            gateway.recorder.access_log.sweep(Instant::now());
            descriptors::sweep(Instant::now());
        }
    });
    watcher
}

/// Takes back the lists and keys of issuers that an earlier process knew; what is not there is asked for.
fn restore(gateway: &Gateway) {
    let (folder, active) = (&gateway.bootstrap.state, gateway.active());
    let restored = gateway.estate.catalogs.restore(folder, gateway.clock.now(), &active.snapshot);
    if let Err(error) = restored {
        tracing::warn!(folder = %folder.display(), %error, "lists of an earlier process cannot be read and are left out");
    }
    if let Err(error) = gateway.estate.callers.keys.restore(folder, gateway.clock.now()) {
        tracing::warn!(folder = %folder.display(), %error, "keys of issuers of an earlier process cannot be read and are left out");
    }
    if let Err(error) = gateway.estate.restore_counts(folder, gateway.clock.now()) {
        tracing::warn!(folder = %folder.display(), %error, "counts of quotas and budgets of an earlier process cannot be read and begin anew");
    }
}

async fn store_changes(gateway: Arc<Gateway>) {
    let mut tick = interval(STORE);
    loop {
        tick.tick().await;
        let gateway = Arc::clone(&gateway);
        tokio::task::spawn_blocking(move || store(&gateway)).await.ok();
    }
}

fn store(gateway: &Gateway) {
    let folder = &gateway.bootstrap.state;
    if let Err(error) = gateway.estate.catalogs.store(folder) {
        tracing::warn!(folder = %folder.display(), %error, "lists cannot be kept for a later process");
    }
    if let Err(error) = gateway.estate.callers.keys.store(folder) {
        tracing::warn!(folder = %folder.display(), %error, "keys of issuers cannot be kept for a later process");
    }
    if !gateway.active().limits.rules().is_empty()
        && let Err(error) = gateway.estate.store_counts(folder, gateway.clock.now())
    {
        tracing::warn!(folder = %folder.display(), %error, "counts of quotas and budgets cannot be kept for a later process");
    }
}

fn announce(gateway: &Gateway, addresses: &Addresses) {
    let active = gateway.active();
    for (listener, address) in gateway.bootstrap.listeners.iter().zip(&addresses.listeners) {
        tracing::info!(surface = "mcp", name = &*listener.name, %address, "listening");
    }
    let surfaces =
        [("telemetry", addresses.telemetry), ("admin", addresses.admin), ("peers", addresses.peers)];
    for (surface, address) in surfaces {
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
