//! One connection and the calls on it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for one call.
const WITHIN: Duration = Duration::from_secs(30);

/// Where calls go and what they carry.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    authority: String,
    path: String,
    tool: String,
    padding: String,
}

impl Target {
    /// Reads the URL; only addresses of this machine are taken.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(url: &str, tool: &str, padding: usize) -> Result<Target, String> {
        let rest = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut found = authority.to_socket_addrs().map_err(|error| format!("{authority}: {error}"))?;
        let address = found.find(|address| address.ip().is_loopback());
        Ok(Target {
            address: address.ok_or("load goes to addresses of this machine only")?,
            authority: authority.to_owned(),
            path: format!("/{path}"),
            tool: tool.to_owned(),
            padding: "x".repeat(padding),
        })
    }

    fn request(&self, number: u64) -> Vec<u8> {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"load","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"{}","arguments":{{"text":"{}"}},{meta}}}}}"#,
            self.tool, self.padding
        );
        format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
             mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            self.authority,
            self.tool,
            body.len()
        )
        .into_bytes()
    }
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    #[expect(
        clippy::disallowed_methods,
        reason = "a load generator, not the proxy; the address is this machine's"
    )]
    pub(crate) async fn open(target: &Target) -> Result<Connection, String> {
        let stream = TcpStream::connect(target.address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Connection { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Makes one call and checks that its answer carries its id and a result.
    ///
    /// # Errors
    /// What was wrong with the answer; the connection cannot be used again.
    pub(crate) async fn call(&mut self, target: &Target, number: u64) -> Result<(), String> {
        match timeout(WITHIN, self.exchange(target, number)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {WITHIN:?}")),
        }
    }

    async fn exchange(&mut self, target: &Target, number: u64) -> Result<(), String> {
        self.stream.write_all(&target.request(number)).await.map_err(|error| error.to_string())?;
        let end = self.read_until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        self.buffer.drain(..end);
        let body = match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            Some(length) => self.take(length.parse().map_err(|_| "a bad content-length")?).await?,
            None => self.read_chunks().await?,
        };
        let text = String::from_utf8_lossy(&body);
        if !head.starts_with("http/1.1 200") {
            return Err(head.lines().next().unwrap_or_default().to_owned());
        }
        let id = format!("\"id\":{number}");
        let own = text.contains(&format!("{id},")) || text.contains(&format!("{id}}}"));
        if own && text.contains("\"result\"") {
            Ok(())
        } else {
            Err("an answer without its id or result".to_owned())
        }
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let end = self.read_until(b"\r\n").await?;
            let line: Vec<u8> = self.buffer.drain(..end).collect();
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| "a bad chunk size")?;
            let mut chunk = self.take(size + 2).await?;
            chunk.truncate(size);
            if size == 0 {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_until(&mut self, end: &[u8]) -> Result<usize, String> {
        loop {
            if let Some(found) = self.buffer.windows(end.len()).position(|part| part == end) {
                return Ok(found + end.len());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err("the connection closed within an answer".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_goes_to_this_machine_only() {
        assert!(Target::parse("http://127.0.0.1:8080/mcp", "echo", 0).is_ok());
        assert!(Target::parse("http://192.0.2.1:80/mcp", "echo", 0).is_err());
        assert!(Target::parse("https://127.0.0.1/mcp", "echo", 0).is_err());
    }
}
