//! Pieces of what arrives: read into a buffer that is only there while there is something in it, and joined
//! only if there is more than one.

use bytes::{BufMut, Bytes, BytesMut};
use portunus_base::Buffer;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::yield_now;

/// Most that is read at once into an empty buffer.
pub const MAX_FIRST_READ_BYTES: usize = 16 << 10;

/// Appends what has come to the buffer and gives how many bytes it is, 0 at the end. Safe to cancel.
///
/// Most connections wait most of the time, and most of what comes is short: an empty buffer becomes as long as what was
/// read, at most [`MAX_FIRST_READ_BYTES`], and takes no memory before. One that is not empty gets `most` more bytes at most.
/// Where so much has come, more is likely to follow: other tasks have their turn before it is read. If this is cancelled
/// then, what was read is in `buffer`.
///
/// # Errors
/// As the stream says.
pub async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    most: usize,
) -> io::Result<usize> {
    let room = if buffer.is_empty() { MAX_FIRST_READ_BYTES } else { most };
    let read = poll_fn(|context| {
        if !buffer.is_empty() {
            buffer.reserve(most);
            return pin!(stream.read_buf(&mut buffer.limit(most))).poll(context);
        }
        // Else it would keep the memory of what it held before while it waits.
        *buffer = BytesMut::new();
        let mut bytes = [const { MaybeUninit::uninit() }; MAX_FIRST_READ_BYTES];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
        *buffer = BytesMut::from(read.filled());
        Poll::Ready(Ok(buffer.len()))
    })
    .await?;
    if read == room {
        // The runtime itself ends a turn after 128 reads, which are two megabytes.
        yield_now().await;
    }
    Ok(read)
}

/// A body that arrives in pieces; one that comes in a single piece is never copied.
#[derive(Default)]
pub struct Pieces {
    first: Bytes,
    joined: Buffer,
}

impl Pieces {
    /// Adds the next piece; `likely` is how many bytes there will be in the end.
    pub fn push(&mut self, piece: Bytes, likely: usize) {
        if self.is_empty() {
            self.first = piece;
            return;
        }
        if self.joined.is_empty() {
            self.joined.plan(likely.max(self.first.len() + piece.len()));
            self.joined.push(&self.first);
        }
        self.joined.push(&piece);
    }

    /// Tells how many bytes there may be in all.
    pub fn plan(&mut self, bytes: usize) {
        self.joined.plan(bytes);
        if self.joined.is_empty() {
            self.joined.push(&std::mem::take(&mut self.first));
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.joined.len().max(self.first.len())
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them in one.
    pub fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_buffer() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut buffer = BytesMut::new();
        for text in ["first", "second"] {
            let waited = tokio::select! {
                biased;
                _ = fill(&mut near, &mut buffer, 4096) => false,
                () = std::future::ready(()) => true,
            };
            assert!(waited && buffer.capacity() == 0);
            far.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(fill(&mut near, &mut buffer, 4096).await.unwrap(), text.len());
            assert_eq!(buffer.capacity(), text.len(), "as much as came");
            assert_eq!(buffer.split(), text);
        }
        far.write_all(b"half").await.unwrap();
        fill(&mut near, &mut buffer, 4096).await.unwrap();
        tokio::select! {
            biased;
            _ = fill(&mut near, &mut buffer, 4096) => panic!("nothing more has come"),
            () = std::future::ready(()) => {}
        }
        drop(far);
        assert_eq!(fill(&mut near, &mut buffer, 4096).await.unwrap(), 0);
        assert_eq!(buffer, "half", "what has arrived stays");
    }

    #[tokio::test]
    async fn no_more_is_read_at_once_than_asked_for() {
        let (mut near, mut far) = tokio::io::duplex(1 << 10);
        let mut buffer = BytesMut::with_capacity(1 << 10);
        buffer.extend_from_slice(b"half");
        far.write_all(&[b'x'; 1 << 10]).await.unwrap();
        assert_eq!(fill(&mut near, &mut buffer, 100).await.unwrap(), 100);
    }

    #[tokio::test]
    async fn a_full_read_lets_other_tasks_run() {
        let (mut near, mut far) = tokio::io::duplex(4 * MAX_FIRST_READ_BYTES);
        far.write_all(&[b'x'; 3 * MAX_FIRST_READ_BYTES + 1]).await.unwrap();
        let mut buffer = BytesMut::new();
        for (reads, gives_way) in [(1, true), (2, true), (3, true), (4, false)] {
            let gave_way = tokio::select! {
                biased;
                read = fill(&mut near, &mut buffer, MAX_FIRST_READ_BYTES) => { read.unwrap(); false }
                () = std::future::ready(()) => true,
            };
            assert_eq!(gave_way, gives_way, "read {reads}");
            assert_eq!(buffer.len(), (reads * MAX_FIRST_READ_BYTES).min(3 * MAX_FIRST_READ_BYTES + 1));
        }
    }

    #[test]
    fn pieces_are_joined_in_order() {
        let mut pieces = Pieces::default();
        assert!(pieces.is_empty());
        for piece in ["ab", "c", "", "def"] {
            pieces.push(Bytes::from_static(piece.as_bytes()), 6);
        }
        assert_eq!(pieces.len(), 6);
        assert_eq!(pieces.into_bytes(), "abcdef");
    }

    #[test]
    fn a_single_piece_stays_where_it_is() {
        let piece = Bytes::from(vec![7; 100]);
        let mut pieces = Pieces::default();
        pieces.push(piece.clone(), 100);
        assert_eq!(pieces.into_bytes().as_ptr(), piece.as_ptr());
    }
}
