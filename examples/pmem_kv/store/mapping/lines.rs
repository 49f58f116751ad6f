//! Cache lines: stored bytes on their way to the media, by an instruction for each line.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;
use std::ops::Range;

use super::Mapping;

/// A range of the mapping that was stored to.
#[derive(Debug)]
pub(crate) struct Dirty<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) bytes: Range<u64>,
}

impl Dirty<'_> {
    /// Where they are in the file.
    #[allow(dead_code, reason = "the media that ask are in the tests")]
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    /// Starts writing their cache lines back to memory; [`drain_lines`] waits for that.
    pub(crate) fn write_back(&self, with: WriteBack) {
        // No processor that has these instructions has shorter lines.
        const LINE: u64 = 64;
        let lines = self.bytes.start / LINE * LINE..self.bytes.end;
        for at in lines.step_by(LINE as usize) {
            // SAFETY: `Mapped::flush`, which alone makes a `Dirty`, has checked that the bytes lie in
            // the mapping, whose start is a page boundary; so the line's first byte does, too.
            let line = unsafe { self.mapping.base.add(at as usize) }.as_ptr();
            // SAFETY: these change no byte and no register. They may fault like a load: the file has
            // the page, since the bytes were just stored to. A processor without the instruction
            // would end the process, no worse; `of_this_processor` asks first.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                if with == WriteBack::Clwb {
                    asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
                } else {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                }
            }
            #[cfg(target_arch = "aarch64")]
            debug_assert_eq!(with, WriteBack::DcCvap, "there is no other");
            // SAFETY: as above. This is `dc cvap`, for assemblers that do not know it.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            unreachable!("{with:?} for {line:p}: `of_this_processor` has found none");
        }
    }
}

/// Waits until the lines that this thread has written back are in memory that outlives a power failure.
pub(crate) fn drain_lines() {
    // SAFETY: it only waits. As it may touch memory for all the compiler knows, no store moves across.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("sfence", options(nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// The instruction that writes a cache line back.
#[allow(dead_code, reason = "no processor has all of them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// x86-64: keeps the line in the cache.
    Clwb,
    /// x86-64: drops it.
    Clflushopt,
    /// AArch64: to the point of persistence.
    DcCvap,
}

impl WriteBack {
    /// The best that this processor has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const LEAF: u32 = 7;
        // SAFETY: every x86-64 processor has this instruction, and the leaf is asked for first.
        #[allow(unused_unsafe, reason = "newer compilers call it safe")]
        let features = unsafe {
            if __cpuid(0).eax < LEAF {
                return None;
            }
            __cpuid_count(LEAF, 0).ebx
        };
        let known = [(24, WriteBack::Clwb), (23, WriteBack::Clflushopt)];
        let has = known.into_iter().find(|(bit, _)| features >> bit & 1 == 1);
        has.map(|(_, with)| with)
    }

    /// The best that this processor has.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        std::arch::is_aarch64_feature_detected!("dpb").then_some(WriteBack::DcCvap)
    }

    /// The best that this processor has.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        None
    }
}
