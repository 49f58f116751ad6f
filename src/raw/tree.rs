//! An ordered interval structure: which of very many ranges overlap some pages.
//!
//! Problem: with a million leases outstanding, a break of one page must find the few that overlap it
//! without looking at the rest. Idea: a B-tree of the ranges by their start, in which every node also says
//! how far the ranges below it reach; whatever ends before the wanted pages, or starts behind them, is not
//! looked into.
//!
//! Finding the k overlapping ones of n ranges takes O(log n + k) nodes. Nodes are wide, so that the whole
//! way down is some five of them, and lie in one vector, so that nothing here needs a pointer. Source of
//! the idea: the augmented interval tree of Cormen, Leiserson, Rivest and Stein, *Introduction to
//! Algorithms*.

use crate::range::PageRange;

/// Items of a node.
const WIDTH: usize = 16;

/// Ranges, each with a key. The same range may be in it several times, the same key only once.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Nodes that are not in use.
    idle: Vec<u32>,
    root: Option<u32>,
    len: usize,
}

struct Node {
    len: u8,
    leaf: bool,
    items: [Item; WIDTH],
}

/// In a leaf: a range and its key. Above: a child, with the first start and key below it, and the last end.
#[derive(Clone, Copy, Default)]
struct Item {
    start: u64,
    end: u64,
    key: u32,
    child: u32,
}

impl Item {
    fn order(&self) -> (u64, u32) {
        (self.start, self.key)
    }
}

impl Node {
    fn new(leaf: bool) -> Self {
        Self {
            len: 0,
            leaf,
            items: [Item::default(); WIDTH],
        }
    }

    fn items(&self) -> &[Item] {
        &self.items[..usize::from(self.len)]
    }

    fn is_full(&self) -> bool {
        usize::from(self.len) == WIDTH
    }

    fn insert(&mut self, at: usize, item: Item) {
        let len = usize::from(self.len);
        self.items.copy_within(at..len, at + 1);
        self.items[at] = item;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) {
        let len = usize::from(self.len);
        self.items.copy_within(at + 1..len, at);
        self.len -= 1;
    }

    /// The child below which `order` belongs.
    fn way(&self, order: (u64, u32)) -> usize {
        let behind = self.items().partition_point(|i| i.order() <= order);
        behind.saturating_sub(1)
    }
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, range: PageRange, key: u32) {
        let item = Item {
            start: range.start(),
            end: range.end(),
            key,
            child: 0,
        };
        self.len += 1;
        let root = match self.root {
            Some(root) => root,
            None => self.make(Node::new(true)),
        };
        self.root = Some(root);
        if let Some(right) = self.insert_below(root, item) {
            let mut above = Node::new(false);
            above.insert(0, self.summary(root));
            above.insert(1, right);
            self.root = Some(self.make(above));
        }
    }

    /// Takes the range with this key out. `false`: it is not in it.
    pub(super) fn remove(&mut self, range: PageRange, key: u32) -> bool {
        let Some(mut root) = self.root else {
            return false;
        };
        if !self.remove_below(root, (range.start(), key)) {
            return false;
        }
        self.len -= 1;
        while !self.node(root).leaf && self.node(root).len == 1 {
            let child = self.node(root).items[0].child;
            self.idle.push(root);
            root = child;
        }
        self.root = Some(root);
        if self.len == 0 {
            *self = Self::default();
        }
        true
    }

    /// Calls `found` with the key of every range that overlaps `pages`.
    pub(super) fn overlapping(&self, pages: PageRange, found: &mut impl FnMut(u32)) {
        if let Some(root) = self.root {
            self.overlapping_below(root, pages, found);
        }
    }

    fn overlapping_below(&self, at: u32, pages: PageRange, found: &mut impl FnMut(u32)) {
        let node = self.node(at);
        for item in node.items() {
            if item.start >= pages.end() {
                break;
            }
            if item.end <= pages.start() {
                continue;
            }
            if node.leaf {
                found(item.key);
            } else {
                self.overlapping_below(item.child, pages, found);
            }
        }
    }

    /// Puts `item` into the tree below node `at`. If that had to be split: the new right half.
    fn insert_below(&mut self, at: u32, item: Item) -> Option<Item> {
        if self.node(at).leaf {
            let place = self
                .node(at)
                .items()
                .partition_point(|i| i.order() < item.order());
            return self.insert_into(at, place, item);
        }
        let way = self.node(at).way(item.order());
        let child = self.node(at).items[way].child;
        let split = self.insert_below(child, item);
        self.node_mut(at).items[way] = self.summary(child);
        self.insert_into(at, way + 1, split?)
    }

    fn insert_into(&mut self, at: u32, place: usize, item: Item) -> Option<Item> {
        if !self.node(at).is_full() {
            self.node_mut(at).insert(place, item);
            return None;
        }
        // Ascending starts fill nodes to the end: then nothing is left behind half empty.
        let keep = if place == WIDTH { WIDTH - 1 } else { WIDTH / 2 };
        let mut right = Node::new(self.node(at).leaf);
        for (n, moved) in self.node(at).items()[keep..].iter().enumerate() {
            right.insert(n, *moved);
        }
        self.node_mut(at).len = keep as u8;
        if place > keep {
            right.insert(place - keep, item);
        } else {
            self.node_mut(at).insert(place, item);
        }
        let right = self.make(right);
        Some(self.summary(right))
    }

    fn remove_below(&mut self, at: u32, order: (u64, u32)) -> bool {
        if self.node(at).leaf {
            let place = self.node(at).items().partition_point(|i| i.order() < order);
            let found = self.node(at).items().get(place).map(Item::order) == Some(order);
            if found {
                self.node_mut(at).remove(place);
            }
            return found;
        }
        let way = self.node(at).way(order);
        let Some(child) = self.node(at).items().get(way).map(|i| i.child) else {
            return false;
        };
        if !self.remove_below(child, order) {
            return false;
        }
        if self.node(child).len == 0 {
            self.idle.push(child);
            self.node_mut(at).remove(way);
        } else {
            self.node_mut(at).items[way] = self.summary(child);
            self.join(at, way);
            self.join(at, way.saturating_sub(1));
        }
        true
    }

    /// Joins the children `way` and `way + 1` of node `at` if they are nearly empty.
    fn join(&mut self, at: u32, way: usize) {
        let [Some(left), Some(right)] =
            [way, way + 1].map(|w| self.node(at).items().get(w).map(|i| i.child))
        else {
            return;
        };
        let (len, more) = (self.node(left).len, self.node(right).len);
        if usize::from(len + more) > WIDTH / 2 {
            return;
        }
        let moved = self.node(right).items;
        for (n, item) in moved.iter().take(usize::from(more)).enumerate() {
            self.node_mut(left).insert(usize::from(len) + n, *item);
        }
        self.idle.push(right);
        self.node_mut(at).remove(way + 1);
        self.node_mut(at).items[way] = self.summary(left);
    }

    /// What the node above says of node `at`, which is not empty.
    fn summary(&self, at: u32) -> Item {
        let items = self.node(at).items();
        Item {
            start: items[0].start,
            end: items.iter().map(|i| i.end).max().unwrap_or(0),
            key: items[0].key,
            child: at,
        }
    }

    fn make(&mut self, node: Node) -> u32 {
        match self.idle.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use rand::rngs::SmallRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    impl Tree {
        fn overlapping_sorted(&self, pages: PageRange) -> Vec<u32> {
            let mut found = Vec::new();
            self.overlapping(pages, &mut |key| found.push(key));
            found.sort_unstable();
            found
        }

        /// Every summary is right, everything is in order, no node is lost.
        fn check(&self) {
            let Some(root) = self.root else {
                assert_eq!((self.len, self.nodes.len(), self.idle.len()), (0, 0, 0));
                return;
            };
            let (mut nodes, mut ranges) = (0, Vec::new());
            self.check_below(root, &mut nodes, &mut ranges);
            assert!(ranges.is_sorted());
            assert_eq!(ranges.len(), self.len);
            assert_eq!(nodes + self.idle.len(), self.nodes.len());
        }

        fn check_below(&self, at: u32, nodes: &mut usize, ranges: &mut Vec<(u64, u32)>) {
            *nodes += 1;
            assert!(self.node(at).len > 0);
            for item in self.node(at).items() {
                if self.node(at).leaf {
                    ranges.push(item.order());
                } else {
                    let real = self.summary(item.child);
                    assert_eq!((real.order(), real.end), (item.order(), item.end));
                    self.check_below(item.child, nodes, ranges);
                }
            }
        }
    }

    /// Against a list, with few and many overlaps, long and short ranges, the ends of the address space.
    #[test]
    fn finds_what_a_list_finds() {
        for seed in 0..40 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let space = [8, 300, 100_000, u64::MAX][seed as usize % 4];
            let longest = [3, 40, u64::MAX][seed as usize % 3].min(space);
            let (mut tree, mut list) = (Tree::default(), Vec::new());
            let range = |rng: &mut SmallRng| {
                let start = rng.random_range(0..space);
                let end = start
                    .saturating_add(rng.random_range(1..=longest))
                    .min(space);
                PageRange::new(start, end).unwrap()
            };
            for key in 0..3_000 {
                // Grows, then shrinks, then grows again.
                if rng.random_ratio(if key / 1_000 == 1 { 1 } else { 3 }, 4) || list.is_empty() {
                    let new = range(&mut rng);
                    tree.insert(new, key);
                    list.push((new, key));
                } else {
                    let (old, key) = list.swap_remove(rng.random_range(0..list.len()));
                    assert!(tree.remove(old, key));
                    assert!(!tree.remove(old, key));
                }
                if key % 10 == 0 {
                    tree.check();
                    let pages = range(&mut rng);
                    let overlaps = list.iter().filter(|(r, _)| r.overlaps(&pages));
                    let mut expected: Vec<u32> = overlaps.map(|(_, key)| *key).collect();
                    expected.sort_unstable();
                    assert_eq!(tree.overlapping_sorted(pages), expected, "{pages:?}");
                }
            }
            list.shuffle(&mut rng);
            for (old, key) in list.drain(..) {
                assert!(tree.remove(old, key));
            }
            tree.check();
        }
    }

    /// A tree that has been full and is nearly empty again has given its nodes back for use, and looks at
    /// few of them.
    #[test]
    fn shrinks_again() {
        let mut tree = Tree::default();
        let page = |n: u64| PageRange::new(n, n + 1).unwrap();
        for n in 0..10_000 {
            tree.insert(page(n), n as u32);
        }
        let full = tree.nodes.len();
        assert!(
            full < 10_000 / (WIDTH - 3),
            "{full} nodes, and starts ascend"
        );
        for n in 0..10_000 {
            if n % 100 != 0 {
                assert!(tree.remove(page(n), n as u32));
            }
        }
        tree.check();
        assert!(full - tree.idle.len() <= 100 / 4 + 10);
    }
}
