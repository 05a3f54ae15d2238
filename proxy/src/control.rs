//! The socket that changes state: `POST /loglevel?LEVEL`, `POST /reload`, `POST /drain`, `POST /upgrade`,
//! `POST /record?every=N&seconds=N`.
//!
//! HTTP over a Unix socket of mode 0600 in the state folder (0700), so that `curl --unix-socket`
//! is client enough. The peer must be the owner of the socket or root. Its path goes to a successor
//! without a gap: the new socket is made beside it and then renamed over it.

use crate::authorize::MAX_WITHIN;
use crate::handover::PROTOCOL;
use crate::handover::give::Candidate;
use crate::log::LevelHandle;
use crate::telemetry::plain;
use http::header::UPGRADE;
use http::{HeaderValue, Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_http::ResponseHeader;
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;

/// One request's time, from connect to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What an operator, or a successor, asked for.
pub enum Command {
    /// Read the configuration again now.
    Reload,
    /// End the process in order.
    Drain,
    /// Hand over to this process.
    Upgrade(Candidate),
    /// Record one of so many questions to policy for this long; for no time at all ends a recording.
    Record(u32, Duration),
}

/// The listening socket.
pub struct Control {
    listener: UnixListener,
    owner: u32,
    level: LevelHandle,
    commands: mpsc::Sender<Command>,
}

impl Control {
    /// Listens at `path`.
    ///
    /// # Errors
    /// If another process listens there, or the socket cannot be made.
    pub fn bind(
        path: &Path,
        level: LevelHandle,
        commands: mpsc::Sender<Command>,
    ) -> io::Result<(Control, Claim)> {
        if StdUnixStream::connect(path).is_ok() {
            let taken = format!(
                "another process listens on {}; `portunus upgrade` takes over from it",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        let control = Control::make(path, level, commands)?;
        Ok((control, Claim { path: path.to_owned(), successor_of: None }))
    }

    /// Listens beside `path`, where the old process still does, until [`Claim::move_in`].
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn bind_beside(
        path: &Path,
        level: LevelHandle,
        commands: mpsc::Sender<Command>,
    ) -> io::Result<(Control, Claim)> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".next");
        let beside = PathBuf::from(beside);
        let control = Control::make(&beside, level, commands)?;
        Ok((control, Claim { path: beside, successor_of: Some(path.to_owned()) }))
    }

    /// Listens at a path where nobody does any more.
    fn make(path: &Path, level: LevelHandle, commands: mpsc::Sender<Command>) -> io::Result<Control> {
        let told = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot make the control socket {}: {error}", path.display()),
            )
        };
        let found = std::fs::symlink_metadata(path);
        if found.is_ok_and(|found| !found.file_type().is_socket()) {
            let taken = "something else than a socket is there: take it away, or name another path";
            return Err(told(io::Error::new(io::ErrorKind::AlreadyExists, taken)));
        }
        let (listener, owner) = bind_privately(path).map_err(told)?;
        Ok(Control { listener, owner, level, commands })
    }

    /// Answers until the process ends.
    pub async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if timeout(WITHIN, self.serve(stream)).await.is_err() {
                        tracing::warn!("a request on the control socket did not end in time");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the control socket does not accept");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn serve(&self, stream: UnixStream) {
        let peer = stream.peer_cred().map(|peer| peer.uid());
        let permitted = peer.as_ref().is_ok_and(|uid| *uid == self.owner || *uid == 0);
        let Ok((stream, twin)) = twins(stream) else { return };
        let mut session = ServerSession::new_http1(Box::new(Stream::from(stream)));
        if !matches!(session.read_request().await, Ok(true)) {
            return;
        }
        let request = session.req_header();
        let answer = if !permitted {
            plain(StatusCode::FORBIDDEN, "only the owner of this process may change it\n")
        } else if (&request.method, request.uri.path()) == (&Method::POST, "/upgrade") {
            match self.upgrade(request.headers.get(UPGRADE), twin).await {
                Ok(()) => return,
                Err((status, text)) => plain(status, &text),
            }
        } else {
            self.obey(&request.method, request.uri.path(), request.uri.query().unwrap_or_default())
        };
        session.set_keepalive(None);
        let (parts, body) = answer.into_parts();
        let head = ResponseHeader::from(parts);
        if session.write_response_header(Box::new(head)).await.is_ok() {
            drop(session.write_response_body(body.into(), true).await);
        }
        session.shutdown().await;
    }

    fn obey(&self, method: &Method, path: &str, query: &str) -> Response<Vec<u8>> {
        if method != Method::POST {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST /loglevel?LEVEL, /reload, /drain, /upgrade or /record?every=N&seconds=N\n",
            );
        }
        let command = match path {
            "/loglevel" => {
                let level = query.strip_prefix("level=").unwrap_or(query);
                return match self.level.set(level) {
                    Ok(()) => {
                        tracing::info!(level, "log level changed");
                        plain(StatusCode::OK, "changed\n")
                    }
                    Err(problem) => plain(StatusCode::BAD_REQUEST, &format!("{problem}\n")),
                };
            }
            "/reload" => Command::Reload,
            "/drain" => Command::Drain,
            "/record" => match recording(query) {
                Some((every, within)) => Command::Record(every, within),
                None => return plain(StatusCode::BAD_REQUEST, RECORD),
            },
            _ => {
                return plain(
                    StatusCode::NOT_FOUND,
                    "here are /loglevel?LEVEL, /reload, /drain, /upgrade and /record?every=N&seconds=N\n",
                );
            }
        };
        match self.place() {
            Ok(place) => {
                place.send(command);
                plain(StatusCode::ACCEPTED, "accepted\n")
            }
            Err((status, text)) => plain(status, &text),
        }
    }

    /// Passes a successor on; from then on nothing of HTTP is said to it here.
    async fn upgrade(
        &self,
        protocol: Option<&HeaderValue>,
        stream: UnixStream,
    ) -> Result<(), (StatusCode, String)> {
        if protocol.is_none_or(|protocol| protocol != PROTOCOL) {
            let text = format!(
                "this process hands over by {PROTOCOL}, as `portunus upgrade` of version {} does; restart where versions differ in that\n",
                env!("CARGO_PKG_VERSION")
            );
            return Err((StatusCode::UPGRADE_REQUIRED, text));
        }
        let place = self.place()?;
        let candidate = Candidate::greet(stream)
            .await
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
        place.send(Command::Upgrade(candidate));
        Ok(())
    }

    /// Room for a command.
    fn place(&self) -> Result<mpsc::Permit<'_, Command>, (StatusCode, String)> {
        self.commands.try_reserve().map_err(|error| match error {
            TrySendError::Full(()) => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy with an earlier command\n".to_owned())
            }
            TrySendError::Closed(()) => (StatusCode::CONFLICT, "this process ends already\n".to_owned()),
        })
    }
}

/// Makes the socket in a folder that nobody else can enter, and moves it to its place when its mode is
/// right: at no moment can others connect, whatever folder it is for. Gives its owner too.
fn bind_privately(path: &Path) -> io::Result<(UnixListener, u32)> {
    let mut random = [0; 4];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no randomness"))?;
    // A name that nobody can take before.
    let folder = path.with_file_name(format!(".p{:x}", u32::from_ne_bytes(random)));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let inside = folder.join("s");
    let made = || {
        let listener = UnixListener::bind(&inside)?;
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&inside)?.uid();
        std::fs::rename(&inside, path)?;
        Ok((listener, owner))
    };
    let made = made();
    if made.is_err() {
        std::fs::remove_file(&inside).ok();
    }
    std::fs::remove_dir(&folder).ok();
    made
}

const RECORD: &str = "write /record?every=100&seconds=600: one question of 100, for ten minutes; at most a \
    day. /record?seconds=0 ends a recording\n";

/// Of how many questions one is recorded, and for how long.
fn recording(query: &str) -> Option<(u32, Duration)> {
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let every = value("every").map_or(Some(1), |every| every.parse().ok()).filter(|every| *every > 0)?;
    let within = Duration::from_secs(value("seconds")?.parse().ok()?);
    (within <= MAX_WITHIN).then_some((every, within))
}

/// Two handles on one connection.
fn twins(stream: UnixStream) -> io::Result<(UnixStream, UnixStream)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?;
    Ok((UnixStream::from_std(stream)?, UnixStream::from_std(twin)?))
}

/// The path of the control socket, as far as it is ours; removed with the value.
pub struct Claim {
    path: PathBuf,
    /// The path that this socket is going to have.
    successor_of: Option<PathBuf>,
}

impl Claim {
    /// Puts the socket in the place of the old process's, in one step.
    ///
    /// # Errors
    /// If the file system says no: then the socket stays beside it.
    pub fn move_in(&mut self) -> io::Result<()> {
        if let Some(path) = &self.successor_of {
            std::fs::rename(&self.path, path)?;
            self.path = path.clone();
            self.successor_of = None;
        }
        Ok(())
    }

    /// Leaves the path to the process that goes on; a socket beside it is of no use to that one.
    pub fn leave(mut self) {
        if self.successor_of.is_none() {
            self.path = PathBuf::new();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The process is ending; a socket that is gone already is what was wanted.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_where_it_appears_and_replaces_nothing_but_a_socket() {
        let folder = std::env::temp_dir().join(format!("portunus-control-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        let (level, commands) = (LevelHandle::unread(), mpsc::channel(1).0);
        let refused = Control::make(&path, level.clone(), commands.clone()).err().unwrap();
        assert!(refused.to_string().contains("something else than a socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let control = Control::make(&path, level.clone(), commands.clone()).unwrap();
            let made = std::fs::symlink_metadata(&path).unwrap();
            assert!(made.file_type().is_socket());
            assert_eq!((made.permissions().mode() & 0o777, made.uid()), (0o600, control.owner));
            let names: Vec<_> =
                std::fs::read_dir(&folder).unwrap().map(|one| one.unwrap().file_name()).collect();
            assert_eq!(names, ["control.sock"], "nothing is left beside it");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
