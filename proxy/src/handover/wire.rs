//! Lines of JSON over a Unix stream, and sockets that travel with them.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Far more than a line with the longest name needs.
const MAX_LINE: usize = 64 * 1024;
/// Sockets that may come with one read; each line brings at most one.
const SOCKETS: usize = 4;

/// A message as its line.
pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Sends the front of `bytes`, and `socket` with it; gives the number of bytes that went.
pub(super) fn send(stream: impl AsFd, bytes: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(socket) = &socket
        && !control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(socket)))
    {
        return Err(io::Error::other("a socket does not fit beside its line"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// What has come and was not read yet.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Receives once; `false` at the end of the stream.
    pub(super) fn receive(&mut self, stream: impl AsFd) -> io::Result<bool> {
        let mut piece = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut piece)];
        let received = recvmsg(stream, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                self.sockets.extend(sockets);
            }
        }
        self.bytes.extend_from_slice(&piece[..received.bytes]);
        if self.bytes.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        Ok(received.bytes > 0)
    }

    /// The head of an HTTP answer with its empty line, if it is complete.
    pub(super) fn head(&mut self) -> Option<String> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head: Vec<u8> = self.bytes.drain(..end).collect();
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// The next message, if its line is complete.
    pub(super) fn message<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// The socket that came with the oldest line that had one.
    pub(super) fn socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop_front()
    }

    /// Whatever else has come, as text.
    pub(super) fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sockets_arrive_with_their_lines_in_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let sockets: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for (number, socket) in sockets.iter().enumerate() {
            let line = line(&number).unwrap();
            assert_eq!(send(&here, &line, Some(socket.as_fd())).unwrap(), line.len());
        }
        drop(here);
        let mut inbox = Inbox::default();
        while inbox.receive(&there).unwrap() {}
        for (number, sent) in sockets.iter().enumerate() {
            assert_eq!(inbox.message::<usize>().unwrap(), Some(number));
            let came = TcpListener::from(inbox.socket().unwrap());
            assert_eq!(came.local_addr().unwrap(), sent.local_addr().unwrap());
        }
        assert!(inbox.message::<usize>().unwrap().is_none() && inbox.socket().is_none());
    }

    #[test]
    fn a_line_without_end_and_a_line_without_sense_are_errors() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::default();
        send(&here, b"sense?\n", None).unwrap();
        assert!(inbox.receive(&there).unwrap());
        assert!(inbox.message::<usize>().is_err());
        let endless = [b'x'; 4096];
        let refused = (0..=MAX_LINE / endless.len()).find_map(|_| {
            send(&here, &endless, None).unwrap();
            inbox.receive(&there).err()
        });
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
