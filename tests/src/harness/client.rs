//! A client that sends exactly the bytes a test wants.

use super::within;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// What bytes go to and come from.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}

/// Connects a socket.
#[expect(clippy::disallowed_methods, reason = "a client of the gateway, not the gateway")]
pub(crate) async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = within(10, "a connection", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects a socket from this address of the machine.
#[expect(clippy::disallowed_methods, reason = "a client of the gateway, not the gateway")]
pub(crate) async fn dial_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = within(10, "a connection", socket.connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects under TLS, to a server of this name.
pub(crate) async fn dial_tls(
    address: SocketAddr,
    config: &ClientConfig,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(10, "a handshake", connector.connect(name, dial(address).await?)).await
}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    address: SocketAddr,
}

/// The connection ended within a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenOff;

/// One answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// Status code.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Decoded body; empty if only the head was read.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The reason of a refusal, from its body.
    pub(crate) fn reason(&self) -> String {
        self.json()["error"]["data"]["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).await.unwrap()
    }

    /// Connects where the other side may not listen any more.
    pub(crate) async fn try_connect(address: SocketAddr) -> std::io::Result<Client> {
        Ok(Client::over(dial(address).await?, address))
    }

    /// Speaks HTTP/1.1 on a connection to `address`.
    pub(crate) fn over(stream: impl Duplex + 'static, address: SocketAddr) -> Client {
        Client { stream: Box::new(stream), buffer: Vec::new(), address }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(30, "the write", self.try_send(bytes)).await.unwrap();
    }

    /// Sends without expecting that anybody still reads.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a POST with a length.
    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, String)], body: &[u8]) {
        within(30, "the write", self.try_post(path, headers, body)).await.unwrap();
    }

    /// Sends a POST without expecting that anybody still reads.
    pub(crate) async fn try_post(
        &mut self,
        path: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let head = self.head("POST", path, headers);
        let head = format!(
            "{head}content-type: application/json\r\naccept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.try_send(&[head.as_bytes(), body].concat()).await
    }

    /// Opens a GET stream.
    pub(crate) async fn open_stream(&mut self, path: &str, headers: &[(&str, String)]) {
        let head = self.head("GET", path, headers);
        self.send(format!("{head}accept: text/event-stream\r\n\r\n").as_bytes()).await;
    }

    /// Request line and headers, open for more.
    pub(crate) fn head(&self, method: &str, path: &str, headers: &[(&str, String)]) -> String {
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{fields}", self.address)
    }

    /// Closes the sending half.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads one complete answer.
    pub(crate) async fn response(&mut self) -> Response {
        within(30, "an answer", async {
            let mut response = self.read_head().await.expect("an answer before the connection ended");
            response.body = self.read_body(&response).await;
            response
        })
        .await
    }

    /// Reads one complete answer; `None` if the connection ends before any byte of it.
    pub(crate) async fn try_response(&mut self) -> Option<Response> {
        let answer = async {
            let mut response = self.read_head().await?;
            response.body = self.read_body(&response).await;
            Some(response)
        };
        within(30, "an answer or the end of the connection", answer).await
    }

    /// Reads the head of an answer only.
    pub(crate) async fn response_head(&mut self) -> Response {
        within(30, "the head of an answer", self.read_head())
            .await
            .expect("a head before the connection ended")
    }

    async fn read_head(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break end;
            }
            if self.fill().await == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Some(Response { status, headers, body: Vec::new() })
    }

    async fn read_body(&mut self, response: &Response) -> Vec<u8> {
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                assert!(self.fill().await > 0, "the body broke off");
            }
            return self.buffer.drain(..length).collect();
        }
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.read_chunk().await.expect("the body broke off") {
                body.extend(chunk);
            }
        }
        body
    }

    /// The next chunk of a chunked body; `None` at its proper end.
    async fn read_chunk(&mut self) -> Result<Option<Vec<u8>>, BrokenOff> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.split(';').next().unwrap(), 16).unwrap();
        while self.buffer.len() < size + 2 {
            if self.fill().await == 0 {
                return Err(BrokenOff);
            }
        }
        let chunk: Vec<u8> = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        Ok((size > 0).then_some(chunk))
    }

    /// The next chunk, within a time; panics if the body breaks off.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let chunk = within(30, "a chunk", self.read_chunk()).await.expect("a chunk broke off")?;
        Some(String::from_utf8(chunk).unwrap())
    }

    /// The same where the body may break off, and however long it takes.
    pub(crate) async fn try_chunk(&mut self) -> Result<Option<String>, BrokenOff> {
        Ok(self.read_chunk().await?.map(|chunk| String::from_utf8(chunk).unwrap()))
    }

    /// The next piece of the body that follows `head`, of any framing; `None` at its proper end.
    pub(crate) async fn piece(&mut self, head: &mut Response) -> Result<Option<Vec<u8>>, BrokenOff> {
        if head.header("transfer-encoding") == Some("chunked") {
            return self.read_chunk().await;
        }
        let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        let missing = length - head.body.len();
        while self.buffer.is_empty() && missing > 0 {
            if self.fill().await == 0 {
                return Err(BrokenOff);
            }
        }
        let piece: Vec<u8> = self.buffer.drain(..missing.min(self.buffer.len())).collect();
        head.body.extend(&piece);
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Reads the head of an answer; `None` if the connection ends before.
    pub(crate) async fn try_head(&mut self) -> Option<Response> {
        self.read_head().await
    }

    /// The rest of a chunked body as text.
    pub(crate) async fn rest(&mut self) -> String {
        let mut text = String::new();
        while let Some(chunk) = self.chunk().await {
            text.push_str(&chunk);
        }
        text
    }

    async fn line(&mut self) -> Result<String, BrokenOff> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|part| part == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            if self.fill().await == 0 {
                return Err(BrokenOff);
            }
        }
    }

    /// Everything up to the end of the connection, as text; a reset counts as the end.
    pub(crate) async fn until_closed(&mut self) -> String {
        within(30, "the end of the connection", async { while self.fill().await > 0 {} }).await;
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    async fn fill(&mut self) -> usize {
        self.buffer.reserve(64 * 1024);
        self.stream.read_buf(&mut self.buffer).await.unwrap_or(0)
    }
}
