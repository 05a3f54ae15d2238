//! [`Buffer`]: memory for text that arrives in parts.

use bytes::{Bytes, BytesMut};
use memmap2::MmapMut;
use std::fmt;
use std::ops::Deref;

/// Longest text for which memory of the allocator is reserved.
pub const MAX_HEAP_BYTES: usize = 256 << 10;

/// Shortest text that grows by doubling. Many that are shorter may wait at the same time for room to go on: they take
/// little more than they are.
const MIN_DOUBLED_BYTES: usize = 64 << 10;
/// Step in which shorter ones grow.
const STEP_BYTES: usize = 4 << 10;

/// Longest part that may share its memory with what comes after it.
const MAX_SHARED_BYTES: usize = 4 << 10;

/// Text that arrives in parts.
///
/// A long one lies in a memory map of its own: it takes what was written into it and no more, and goes back to the system
/// as soon as nobody holds it. An allocator keeps what it had for long texts, for the next ones.
#[derive(Default)]
pub struct Buffer(Memory);

enum Memory {
    Heap(BytesMut),
    Mapped(Mapped),
}

/// The first `len` bytes of a map are text.
struct Mapped {
    map: MmapMut,
    len: usize,
}

impl Buffer {
    /// Makes room for `bytes` in all, so that they are not copied each time they are more.
    ///
    /// Beyond [`MAX_HEAP_BYTES`] they are mapped, or on the heap where the system maps no more.
    pub fn reserve(&mut self, bytes: usize) {
        let capacity = match &self.0 {
            Memory::Heap(heap) => heap.capacity(),
            Memory::Mapped(mapped) => mapped.map.len(),
        };
        if bytes <= capacity {
            return;
        }
        let mapped = (bytes > MAX_HEAP_BYTES).then(|| MmapMut::map_anon(bytes).ok()).flatten();
        self.0 = match mapped {
            Some(mut map) => {
                map[..self.len()].copy_from_slice(self);
                Memory::Mapped(Mapped { map, len: self.len() })
            }
            None => {
                let mut heap = match std::mem::take(&mut self.0) {
                    Memory::Heap(heap) => heap,
                    Memory::Mapped(mapped) => BytesMut::from(mapped.as_ref()),
                };
                heap.reserve(bytes - heap.len());
                Memory::Heap(heap)
            }
        };
    }

    /// Appends `part`.
    pub fn push(&mut self, part: &[u8]) {
        if let Memory::Mapped(mapped) = &self.0
            && mapped.map.len() - mapped.len < part.len()
        {
            self.reserve((2 * self.len()).max(self.len() + part.len()));
        }
        match &mut self.0 {
            Memory::Heap(heap) => {
                let bytes = heap.len() + part.len();
                if bytes > heap.capacity() && !heap.is_empty() && bytes < MIN_DOUBLED_BYTES {
                    let mut larger = BytesMut::with_capacity(bytes.next_multiple_of(STEP_BYTES));
                    larger.extend_from_slice(heap);
                    *heap = larger;
                }
                heap.extend_from_slice(part);
            }
            Memory::Mapped(mapped) => {
                let end = mapped.len + part.len();
                mapped.map[mapped.len..end].copy_from_slice(part);
                mapped.len = end;
            }
        }
    }

    /// Takes out the first `count` bytes; the others stay, apart from a long part that was taken.
    pub fn split_to(&mut self, count: usize) -> Bytes {
        match std::mem::take(&mut self.0) {
            Memory::Heap(mut heap) => {
                let part = heap.split_to(count).freeze();
                let is_alone = heap.is_empty() || part.len() > MAX_SHARED_BYTES;
                // Else a stream that waits would hold what its longest part took.
                self.0 = Memory::Heap(if is_alone { BytesMut::from(&heap[..]) } else { heap });
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
        match self.0 {
            Memory::Heap(heap) => heap.freeze(),
            Memory::Mapped(mapped) => Bytes::from_owner(mapped),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
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
        let mapped = matches!(self.0, Memory::Mapped(_));
        formatter.debug_struct("Buffer").field("len", &self.len()).field("mapped", &mapped).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 4 * MAX_HEAP_BYTES;

    fn is_mapped(buffer: &Buffer) -> bool {
        matches!(buffer.0, Memory::Mapped(_))
    }

    #[test]
    fn only_long_texts_are_mapped() {
        for (bytes, mapped) in [(1, false), (MAX_HEAP_BYTES, false), (MAX_HEAP_BYTES + 1, true)] {
            let mut buffer = Buffer::default();
            buffer.push(b"a");
            buffer.reserve(bytes);
            assert_eq!((is_mapped(&buffer), &buffer[..]), (mapped, &b"a"[..]), "{bytes}");
        }
    }

    #[test]
    fn text_that_there_is_room_for_is_never_moved() {
        for bytes in [MAX_HEAP_BYTES, LONG] {
            let mut buffer = Buffer::default();
            buffer.push(b"first ");
            buffer.reserve(bytes);
            let at = buffer.as_ptr();
            while buffer.len() + 1_000 <= bytes {
                buffer.push(&[b'x'; 1_000]);
            }
            let whole = buffer.freeze();
            assert!(whole.starts_with(b"first xxx") && whole.len() > bytes - 1_000, "{bytes}");
            assert_eq!(whole.as_ptr(), at, "{bytes}");
        }
    }

    #[test]
    fn text_longer_than_its_room_stays_whole() {
        let mut buffer = Buffer::default();
        buffer.reserve(LONG);
        let part: Vec<u8> = (0..=255).collect();
        for _ in 0..LONG / part.len() + 3 {
            buffer.push(&part);
        }
        assert!(is_mapped(&buffer) && buffer.len() == LONG + 3 * part.len());
        assert!(buffer.chunks(part.len()).all(|chunk| chunk == part));
    }

    #[test]
    fn text_that_waits_takes_little_more_than_it_is() {
        let mut buffer = Buffer::default();
        while buffer.len() + 1_000 < MIN_DOUBLED_BYTES {
            buffer.push(&[b'x'; 1_000]);
            let Memory::Heap(heap) = &buffer.0 else { panic!("it is mapped") };
            assert!(heap.capacity() < heap.len() + STEP_BYTES, "{} for {}", heap.capacity(), heap.len());
        }
    }

    #[test]
    fn what_follows_a_long_part_holds_no_memory_of_it() {
        for reserved in [0, LONG] {
            let mut buffer = Buffer::default();
            buffer.reserve(reserved);
            buffer.push(&[b'x'; MAX_SHARED_BYTES + 1]);
            buffer.push(b"rest");
            let part = buffer.split_to(MAX_SHARED_BYTES + 1);
            assert!(part.iter().all(|byte| *byte == b'x') && part.len() == MAX_SHARED_BYTES + 1);
            assert_eq!(&buffer[..], b"rest");
            let Memory::Heap(heap) = &buffer.0 else { panic!("it is mapped") };
            assert!(heap.capacity() < 100, "{} after {reserved}", heap.capacity());
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
