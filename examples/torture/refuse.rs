//! A process in which the system refuses `membarrier`: a filter of its own, as a container's might be.

use std::io;

use clap::ValueEnum;
use rustix::thread::{MembarrierCommand, membarrier};

/// When the system refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Refuse {
    /// From the start: every mapping is fenced.
    Start,
    /// After it was granted: breaks take the way round it.
    Later,
}

/// Refuses every `membarrier` of this thread, and of all that it starts, from now on.
pub(crate) fn refuse() -> io::Result<()> {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        // The number of the call, which comes first in what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_membarrier as u32,
            0,
            1,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            0,
            0,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: both take numbers, and the second a filter that outlives the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) == 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    // Is it so?
    match membarrier(MembarrierCommand::PrivateExpedited) {
        Err(rustix::io::Errno::NOSYS) => Ok(()),
        answer => Err(io::Error::other(format!("membarrier answers {answer:?}"))),
    }
}
