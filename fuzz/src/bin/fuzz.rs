//! One binary for all targets: `LEASE_FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::LazyLock;

use targets::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LEASE_FUZZ_TARGET").expect("LEASE_FUZZ_TARGET names a target");
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    target.expect("there is such a target").1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
