//! <!-- docs/orderings.md, whose links lead elsewhere from here: of two definitions the first counts. -->
//! [protocol]: ../../../src/layout_lease/raw/protocol.rs.html
//! [slots]: ../../../src/layout_lease/raw/slots.rs.html
//! [models]: #what-checks-it
//!
#![doc = include_str!("../../docs/orderings.md")]
