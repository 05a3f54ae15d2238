//! [`Buffer`]: memory for text that arrives in parts.

use bytes::{Bytes, BytesMut};
use memmap2::{Advice, MmapMut};
use std::fmt;
use std::ops::Deref;

/// Longest text that grows in memory of the allocator, if its length was told before.
const MAX_HEAP_BYTES: usize = 64 << 10;

/// Step in which such a text grows. As many may wait for room to go on as there are connections: each takes little more
/// than it is.
const STEP_BYTES: usize = 4 << 10;

/// Pages of a map that are asked for at once: one by one, as they are written to, costs twice as much.
const POPULATED_BYTES: usize = 64 << 10;

/// Longest part that may share its memory with what comes after it.
const MAX_SHARED_BYTES: usize = 4 << 10;

/// Text that arrives in parts.
///
/// One whose length was told before is allocated at once if that is at most 64 KiB. A longer one grows by 4 KiB up to there, and
/// is one memory map of its whole length from then on: it takes what was written into it and at most 64 KiB more, and goes
/// back to the system as soon as nobody holds it, where an allocator keeps it for the next ones. Any other doubles on the
/// heap.
#[derive(Default)]
pub struct Buffer {
    memory: Memory,
    /// Bytes that there may be in all; 0 if that was not told.
    planned: usize,
}

enum Memory {
    Heap(BytesMut),
    Mapped(Mapped),
}

/// The first `len` bytes of a map are text. Pages for the first `populated` bytes were asked for.
struct Mapped {
    map: MmapMut,
    len: usize,
    populated: usize,
}

impl Buffer {
    /// Tells how many bytes there may be in all. It costs nothing that there are fewer.
    pub fn plan(&mut self, bytes: usize) {
        self.planned = bytes;
    }

    /// Appends `part`.
    pub fn push(&mut self, part: &[u8]) {
        let bytes = self.len() + part.len();
        let capacity = match &self.memory {
            Memory::Heap(heap) => heap.capacity(),
            Memory::Mapped(mapped) => mapped.map.len(),
        };
        if bytes > capacity {
            self.grow(bytes);
        }
        match &mut self.memory {
            Memory::Heap(heap) => heap.extend_from_slice(part),
            Memory::Mapped(mapped) => mapped.push(part),
        }
    }

    /// Makes room for `bytes` in all, or more.
    fn grow(&mut self, bytes: usize) {
        if self.planned > 0 && bytes > MAX_HEAP_BYTES {
            let at_least = if bytes > self.planned { 2 * bytes } else { self.planned };
            // The heap has to do if the system maps no more.
            if let Ok(map) = MmapMut::map_anon(at_least) {
                let mut mapped = Mapped { map, len: 0, populated: 0 };
                mapped.push(self);
                self.memory = Memory::Mapped(mapped);
                return;
            }
        }
        let doubled = if self.planned > 0 && bytes <= MAX_HEAP_BYTES { 0 } else { 2 * self.len() };
        let planned = if self.planned > MAX_HEAP_BYTES { 0 } else { self.planned };
        let step = if self.is_empty() { 1 } else { STEP_BYTES };
        let mut heap = BytesMut::with_capacity(bytes.next_multiple_of(step).max(planned).max(doubled));
        heap.extend_from_slice(self);
        self.memory = Memory::Heap(heap);
    }

    /// Takes out the first `count` bytes; the others stay, apart from a long part that was taken. What was planned is over.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, count: usize) -> Bytes {
        match std::mem::take(self).memory {
            Memory::Heap(mut heap) => {
                let part = heap.split_to(count).freeze();
                let is_alone = heap.is_empty() || part.len() > MAX_SHARED_BYTES;
                // Else a stream that waits would hold what its longest part took.
                self.memory = Memory::Heap(if is_alone { BytesMut::from(&heap[..]) } else { heap });
                part
            }
            Memory::Mapped(mut mapped) => {
                self.push(&mapped.as_ref()[count..]);
                mapped.len = count;
                Bytes::from_owner(mapped)
            }
        }
    }

    /// All of it, where it lies.
    pub fn freeze(self) -> Bytes {
        match self.memory {
            Memory::Heap(heap) => heap.freeze(),
            Memory::Mapped(mapped) => Bytes::from_owner(mapped),
        }
    }
}

impl Mapped {
    fn push(&mut self, part: &[u8]) {
        let end = self.len + part.len();
        if end > self.populated {
            let asked = end.next_multiple_of(POPULATED_BYTES).min(self.map.len());
            // Linux before 5.14 cannot: each page comes when it is first written to.
            let _ = self.map.advise_range(Advice::PopulateWrite, self.populated, asked - self.populated);
            self.populated = asked;
        }
        self.map[self.len..end].copy_from_slice(part);
        self.len = end;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(heap) => heap,
            Memory::Mapped(mapped) => mapped.as_ref(),
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(BytesMut::new())
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = matches!(self.memory, Memory::Mapped(_));
        formatter.debug_struct("Buffer").field("len", &self.len()).field("mapped", &mapped).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 1 << 20;

    fn planned(bytes: usize) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.push(b"first ");
        buffer.plan(bytes);
        buffer
    }

    fn heap_bytes(buffer: &Buffer) -> Option<usize> {
        match &buffer.memory {
            Memory::Heap(heap) => Some(heap.capacity()),
            Memory::Mapped(_) => None,
        }
    }

    #[test]
    fn only_long_texts_that_were_planned_are_mapped() {
        for (planned_bytes, bytes, mapped) in
            [(LONG, MAX_HEAP_BYTES, false), (LONG, MAX_HEAP_BYTES + 1, true), (0, LONG, false)]
        {
            let mut buffer = planned(planned_bytes);
            buffer.push(&vec![b'x'; bytes - buffer.len()]);
            assert_eq!(heap_bytes(&buffer).is_none(), mapped, "{bytes} of {planned_bytes}");
            assert!(buffer.starts_with(b"first xxx") && buffer.len() == bytes);
        }
    }

    #[test]
    fn long_text_is_never_moved_within_its_plan() {
        let mut buffer = planned(LONG);
        buffer.push(&[b'x'; MAX_HEAP_BYTES]);
        let at = buffer.as_ptr();
        while buffer.len() + 1_000 <= LONG {
            buffer.push(&[b'x'; 1_000]);
        }
        let whole = buffer.freeze();
        assert!(whole.starts_with(b"first xxx") && whole.len() > LONG - 1_000);
        assert_eq!(whole.as_ptr(), at);
    }

    #[test]
    fn short_text_has_its_plan_at_once() {
        let mut buffer = planned(MAX_HEAP_BYTES);
        buffer.push(b"x");
        assert_eq!(heap_bytes(&buffer), Some(MAX_HEAP_BYTES));
    }

    #[test]
    fn text_longer_than_its_plan_stays_whole() {
        let part: Vec<u8> = (0..=255).collect();
        for planned in [0, 1, MAX_HEAP_BYTES, LONG] {
            let mut buffer = Buffer::default();
            buffer.plan(planned);
            for _ in 0..LONG / part.len() + 3 {
                buffer.push(&part);
            }
            assert_eq!(buffer.len(), LONG + 3 * part.len());
            assert!(buffer.chunks(part.len()).all(|chunk| chunk == part), "{planned}");
        }
    }

    #[test]
    fn text_that_waits_takes_little_more_than_it_is() {
        let mut buffer = planned(LONG);
        while buffer.len() + 1_000 < MAX_HEAP_BYTES {
            buffer.push(&[b'x'; 1_000]);
            let capacity = heap_bytes(&buffer).unwrap();
            assert!(capacity < buffer.len() + STEP_BYTES, "{capacity} for {}", buffer.len());
        }
    }

    #[test]
    fn text_without_a_plan_is_copied_as_often_as_it_doubles() {
        let (mut buffer, mut moves, mut at) = (Buffer::default(), 0, std::ptr::null());
        while buffer.len() < LONG {
            buffer.push(&[b'x'; 100]);
            moves += usize::from(buffer.as_ptr() != at);
            at = buffer.as_ptr();
        }
        assert!(moves < 30, "{moves}");
    }

    #[test]
    fn what_follows_a_long_part_holds_no_memory_of_it() {
        for plan in [0, LONG] {
            let mut buffer = planned(plan);
            buffer.push(&[b'x'; 2 * MAX_HEAP_BYTES]);
            buffer.push(b"rest");
            let part = buffer.split_to(buffer.len() - 4);
            assert!(part.starts_with(b"first xxx") && part.ends_with(b"x"));
            assert_eq!(&buffer[..], b"rest");
            assert!(heap_bytes(&buffer).unwrap() < 100, "{:?} after {plan}", heap_bytes(&buffer));
        }
    }

    #[test]
    fn short_parts_are_taken_without_a_copy_of_what_follows() {
        let mut buffer = Buffer::default();
        buffer.push(b"ab");
        let at = buffer[1..].as_ptr();
        assert_eq!(buffer.split_to(1), "a");
        assert_eq!(buffer.as_ptr(), at);
        assert_eq!(buffer.split_to(1), "b");
        assert!(buffer.is_empty());
    }
}
