//! Bytes read as decisions. A decision takes one byte where it can, so that what a fuzzer changes is one
//! decision; and behind the end all bytes are 0, so that every input means something.

pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Bytes(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let n = N.min(self.0.len());
        let (head, tail) = self.0.split_at(n);
        taken[..n].copy_from_slice(head);
        self.0 = tail;
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of `n`, at most 256.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// Below 2^24.
    pub(crate) fn medium(&mut self) -> usize {
        let [a, b, c] = self.take();
        u32::from_le_bytes([a, b, c, 0]) as usize
    }

    /// Any number: mostly small ones, those near the end, and those near a power of two.
    pub(crate) fn number(&mut self) -> u64 {
        let kind = self.byte();
        let near = u64::from(kind >> 3);
        match kind & 7 {
            0 | 1 => near,
            2 => u64::from(self.byte()),
            3 => u64::MAX - near,
            4 => (1 << self.below(64)) + near,
            5 => (1_u64 << self.below(64)).wrapping_sub(near),
            6 => u64::from(u32::from_le_bytes(self.take())),
            _ => u64::from_le_bytes(self.take()),
        }
    }
}
