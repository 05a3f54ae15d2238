//! Floods of HTTP/2 frames that ask for work and carry none.
//!
//! Each of these costs its sender nothing and keeps this side busy: resets (CVE-2023-44487), pings,
//! settings, priorities, continuations, empty data (CVE-2019-9512 to 9518, CVE-2024-27316). They are
//! counted on the bytes before anything answers them, and a connection with too many of them ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames without work that a connection may send at once; real clients send a few.
const BURST: u32 = 1000;
/// How fast that allowance comes back.
const REFILL: Duration = Duration::from_millis(10);
/// Window updates belong to data that a client receives: so many bytes for each are free, up to a bound.
const BYTES_PER_UPDATE: usize = 256;
const FREE_BYTES: usize = 16 << 20;
/// What comes beyond costs less than other frames, for a client may grant its windows ahead.
const UPDATES_PER_POINT: u32 = 32;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
const ACK: u8 = 1;

/// Reads frame heads from a connection's bytes and weighs them (RFC 9113 §4.1).
#[derive(Debug)]
pub(super) struct FrameScale {
    head: [u8; HEAD_BYTES],
    filled: usize,
    /// Bytes of the preface or of a payload that are still to pass.
    skip: usize,
    points: u32,
    updates: u32,
    /// Bytes that the client was sent and has not answered by window updates.
    unanswered: usize,
    refilled: Instant,
}

impl FrameScale {
    /// A scale for a connection that begins with `skip` bytes of no frame.
    pub(super) fn new(skip: usize, now: Instant) -> FrameScale {
        FrameScale {
            head: [0; HEAD_BYTES],
            filled: 0,
            skip,
            points: BURST,
            updates: 0,
            unanswered: 0,
            refilled: now,
        }
    }

    /// Notes that the client was sent so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unanswered = self.unanswered.saturating_add(bytes).min(FREE_BYTES);
    }

    /// Looks at the next bytes; false if they are too much.
    pub(super) fn weigh(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if self.is_idle_work(kind, flags) && !self.spend(now) {
                    return false;
                }
            }
        }
        true
    }

    fn is_idle_work(&mut self, kind: u8, flags: u8) -> bool {
        match kind {
            DATA => self.skip == 0 && flags & END_STREAM == 0,
            SETTINGS | PING => flags & ACK == 0,
            PRIORITY | RST_STREAM | CONTINUATION => true,
            WINDOW_UPDATE if self.unanswered >= BYTES_PER_UPDATE => {
                self.unanswered -= BYTES_PER_UPDATE;
                false
            }
            WINDOW_UPDATE => {
                self.updates = (self.updates + 1) % UPDATES_PER_POINT;
                self.updates == 0
            }
            _ => false,
        }
    }

    fn spend(&mut self, now: Instant) -> bool {
        if self.points == 0 {
            let earned = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
            self.points = u32::try_from(earned).unwrap_or(BURST).min(BURST);
            self.refilled = now;
        }
        match self.points.checked_sub(1) {
            Some(left) => {
                self.points = left;
                true
            }
            None => false,
        }
    }
}

/// A stream of bytes that ends when its frames are too many.
#[derive(Debug)]
pub(super) struct Weighed<T> {
    inner: T,
    /// Bytes that were read before HTTP/2 was recognised.
    ahead: io::Cursor<Vec<u8>>,
    scale: FrameScale,
    flooded: bool,
}

impl<T> Weighed<T> {
    /// Weighs `inner`, of which `ahead` was read already.
    pub(super) fn new(inner: T, ahead: Vec<u8>, preface: usize) -> Weighed<T> {
        let scale = FrameScale::new(preface, Instant::now());
        Weighed { inner, ahead: io::Cursor::new(ahead), scale, flooded: false }
    }

    /// The stream within.
    pub(super) fn inner(&self) -> &T {
        &self.inner
    }

    fn noted(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.scale.sent(bytes);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Weighed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.flooded {
            return Poll::Ready(Err(flood()));
        }
        let before = buf.filled().len();
        let read = match this.ahead.position() < this.ahead.get_ref().len() as u64 {
            true => Pin::new(&mut this.ahead).poll_read(cx, buf),
            false => Pin::new(&mut this.inner).poll_read(cx, buf),
        };
        if let Poll::Ready(Ok(())) = read
            && !this.scale.weigh(&buf.filled()[before..], Instant::now())
        {
            this.flooded = true;
            return Poll::Ready(Err(flood()));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Weighed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.noted(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

fn flood() -> io::Error {
    io::Error::other("a flood of HTTP/2 frames that carry no work")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + length, 0);
        frame
    }

    /// How many of these frames a connection may send at once.
    fn allowed(kind: u8, flags: u8, length: usize, most: u32) -> u32 {
        let start = Instant::now();
        let mut scale = FrameScale::new(0, start);
        let frame = frame(kind, flags, length);
        (0..most).find(|_| !scale.weigh(&frame, start)).unwrap_or(most)
    }

    #[test]
    fn frames_without_work_are_bounded_and_others_are_not() {
        let most = 100_000;
        let cases = [
            ("resets", RST_STREAM, 0, 4, BURST),
            ("pings", PING, 0, 8, BURST),
            ("settings", SETTINGS, 0, 0, BURST),
            ("priorities", PRIORITY, 0, 5, BURST),
            ("continuations", CONTINUATION, 0, 0, BURST),
            ("empty data", DATA, 0, 0, BURST),
            ("window updates", WINDOW_UPDATE, 0, 4, BURST * UPDATES_PER_POINT + UPDATES_PER_POINT - 1),
            ("answers to pings", PING, ACK, 8, most),
            ("answers to settings", SETTINGS, ACK, 0, most),
            ("data", DATA, 0, 1, most),
            ("the end of data", DATA, END_STREAM, 0, most),
            ("headers", 1, 4, 30, most),
        ];
        for (name, kind, flags, length, expected) in cases {
            assert_eq!(allowed(kind, flags, length, most), expected, "{name}");
        }
    }

    #[test]
    fn window_updates_for_what_was_sent_are_free() {
        let start = Instant::now();
        let update = frame(WINDOW_UPDATE, 0, 4);
        let mut scale = FrameScale::new(0, start);
        // Two for each frame of 16 KiB, as many clients do, and far more of them than are free otherwise.
        for _ in 0..100_000 {
            scale.sent(16 << 10);
            assert!(scale.weigh(&update, start) && scale.weigh(&update, start));
        }
        let beyond = (0..).take_while(|_| scale.weigh(&update, start)).count();
        let most = FREE_BYTES / BYTES_PER_UPDATE + ((BURST + 1) * UPDATES_PER_POINT) as usize;
        assert!(beyond < most, "{beyond}");
    }

    #[test]
    fn the_allowance_comes_back_with_time() {
        let start = Instant::now();
        let mut scale = FrameScale::new(0, start);
        let ping = frame(PING, 0, 8);
        assert!((0..BURST).all(|_| scale.weigh(&ping, start)));
        let later = start + REFILL * 3;
        assert_eq!((0..10).take_while(|_| scale.weigh(&ping, later)).count(), 3);
    }

    #[test]
    fn frames_are_found_however_their_bytes_arrive() {
        let start = Instant::now();
        let wire =
            [b"PREFACE".to_vec(), frame(DATA, 0, 20), frame(PING, 0, 8), frame(RST_STREAM, 0, 4)].concat();
        for step in 1..wire.len() {
            let mut scale = FrameScale::new(7, start);
            assert!(wire.chunks(step).all(|bytes| scale.weigh(bytes, start)));
            assert_eq!(scale.points, BURST - 2, "in steps of {step}");
        }
    }
}
