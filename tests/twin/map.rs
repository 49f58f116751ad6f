//! The twin of `ExtentMap`: one entry for each page that has a block, and the set of the blocks that none
//! has.

use std::collections::{BTreeMap, BTreeSet};

use layout_lease::maps::ExtentError;

use crate::model::{Op, Pages};

/// Pages with blocks, and the blocks that no page has.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) pages: BTreeMap<u64, u64>,
    pub(crate) free: BTreeSet<u64>,
    pub(crate) len: u64,
}

impl Map {
    pub(crate) fn new(blocks: u64) -> Map {
        Map {
            pages: BTreeMap::new(),
            free: (0..blocks).collect(),
            len: 0,
        }
    }

    /// Gives every hole of `pages` a block; which one, `choose` says: that is the allocator's own affair.
    pub(crate) fn allocate(
        &mut self,
        pages: Pages,
        choose: impl Fn(u64) -> Option<u64>,
    ) -> Result<Vec<u64>, ExtentError> {
        let mapped = self.pages.keys().filter(|&&page| pages.has(page)).count();
        let needed = pages.len() - mapped as u64;
        let free = self.free.len() as u64;
        if needed > free {
            return Err(ExtentError::OutOfSpace { needed, free });
        }
        let mut new = Vec::new();
        for page in pages.lo..pages.hi {
            if self.pages.contains_key(&page) {
                continue;
            }
            let block = choose(page).unwrap_or_else(|| panic!("page {page} got no block"));
            assert!(
                self.free.remove(&block),
                "page {page} got block {block}, which was not free"
            );
            self.pages.insert(page, block);
            new.push(page);
        }
        self.len = self.len.max(pages.hi);
        Ok(new)
    }

    /// A block operation; that it may be done is somebody else's affair.
    pub(crate) fn run(&mut self, op: Op) -> Result<u64, ExtentError> {
        let len = self.len;
        match op {
            Op::Punch(pages) => Ok(self.free(|page| pages.has(page))),
            Op::Zero(pages) => {
                self.len = len.max(pages.hi);
                Ok(self.free(|page| pages.has(page)))
            }
            Op::Truncate(new_len) => {
                self.len = new_len;
                Ok(self.free(|page| page >= new_len))
            }
            Op::Collapse(pages) => {
                if pages.hi >= len {
                    let pages = pages.real();
                    return Err(ExtentError::OutOfRange { pages, len });
                }
                let freed = self.free(|page| pages.has(page));
                self.renumber(|page| {
                    if page < pages.hi {
                        page
                    } else {
                        page - pages.len()
                    }
                });
                self.len = len - pages.len();
                Ok(freed)
            }
            Op::Insert(pages) => {
                let count = pages.len();
                if pages.lo >= len {
                    let pages = pages.real();
                    return Err(ExtentError::OutOfRange { pages, len });
                }
                if u128::from(len) + u128::from(count) > u128::from(u64::MAX) {
                    return Err(ExtentError::Overflow { count, len });
                }
                self.renumber(|page| if page < pages.lo { page } else { page + count });
                self.len = len + count;
                Ok(0)
            }
        }
    }

    fn free(&mut self, goes: impl Fn(u64) -> bool) -> u64 {
        let gone: Vec<u64> = self
            .pages
            .keys()
            .copied()
            .filter(|&page| goes(page))
            .collect();
        for page in &gone {
            self.free.extend(self.pages.remove(page));
        }
        gone.len() as u64
    }

    fn renumber(&mut self, to: impl Fn(u64) -> u64) {
        let old = std::mem::take(&mut self.pages);
        self.pages = old
            .into_iter()
            .map(|(page, block)| (to(page), block))
            .collect();
    }

    /// The extents there must be: as long as pages and blocks go on together, it is one.
    pub(crate) fn extents(&self) -> Vec<(Pages, u64)> {
        let mut extents: Vec<(Pages, u64)> = Vec::new();
        for (&page, &block) in &self.pages {
            match extents.last_mut() {
                Some((pages, first)) if pages.hi == page && *first + pages.len() == block => {
                    pages.hi += 1;
                }
                _ => extents.push((Pages::one(page), block)),
            }
        }
        extents
    }
}
