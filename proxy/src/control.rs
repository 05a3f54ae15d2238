//! The socket that changes state: `POST /loglevel?LEVEL`, `POST /reload`, `POST /drain`.
//!
//! HTTP over a Unix socket of mode 0600 in the state folder (0700), so that `curl --unix-socket`
//! is client enough. The peer must be the owner of that folder or root.

use crate::log::LevelHandle;
use crate::telemetry::plain;
use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_http::ResponseHeader;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One request's time, from connect to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the configuration again now.
    Reload,
    /// End the process in order.
    Drain,
}

/// The listening socket; removed when dropped.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
    level: LevelHandle,
    commands: mpsc::Sender<Command>,
}

impl Control {
    /// Listens at `path`, in a folder that is made if need be.
    ///
    /// # Errors
    /// If another process listens there, or the folder or socket cannot be made.
    pub fn bind(path: &Path, level: LevelHandle, commands: mpsc::Sender<Command>) -> io::Result<Control> {
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                let taken = format!("another process listens on {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(path)?.uid();
        Ok(Control { listener, path: path.to_owned(), owner, level, commands })
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
        let mut session = ServerSession::new_http1(Box::new(Stream::from(stream)));
        if !matches!(session.read_request().await, Ok(true)) {
            return;
        }
        let request = session.req_header();
        let answer = if permitted {
            self.obey(&request.method, request.uri.path(), request.uri.query().unwrap_or_default())
        } else {
            plain(StatusCode::FORBIDDEN, "only the owner of this process may change it\n")
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
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST /loglevel?LEVEL, /reload or /drain\n");
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
            _ => return plain(StatusCode::NOT_FOUND, "here are /loglevel?LEVEL, /reload and /drain\n"),
        };
        match self.commands.try_send(command) {
            Ok(()) => plain(StatusCode::ACCEPTED, "accepted\n"),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "busy with an earlier command\n"),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The process is ending; a socket that is gone already is what was wanted.
        drop(std::fs::remove_file(&self.path));
    }
}
