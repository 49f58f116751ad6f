//! What an input has led to, by name: a corpus in which some of it never happens tests less than it says.

pub(crate) type Seen = Vec<&'static str>;
