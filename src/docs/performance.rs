//! <!-- docs/performance.md, with its pictures as data: of two definitions the first counts. -->
//!
#![doc = include_str!("../../docs/images.md")]
#![doc = include_str!("../../docs/performance.md")]
