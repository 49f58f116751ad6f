//! The block map: the engine's own page-to-block mapping, called only under a proof.

use crate::drained::Drained;
use crate::error::OpError;
use crate::range::PageRange;

/// The engine's side: which block is behind which page, and the allocator those blocks go back to.
///
/// # Writing one, in three steps
///
/// 1. Keep your map and your allocator behind interior mutability (`&self` methods): the operations
///    may run on any thread that breaks.
/// 2. Implement [`punch_hole`](Self::punch_hole), and whichever of the others your engine has. Ask
///    the proof first: [`Drained::is_of`] (else [`OpError::WrongMapping`]) and [`Drained::covers`]
///    (else [`OpError::NotCovered`]).
///    What the engine itself cannot do goes out as [`OpError::Map`]: `.map_err(OpError::Map)?`.
///    A break keeps pins out, not your own allocator: map blocks in under a pin of their pages, so that no
///    truncate comes in between.
/// 3. Put it into [`LayoutGuard::new`](crate::LayoutGuard::new), and let every path on which a block
///    leaves the mapping go through the guard's operations.
///
/// # What is promised to the map
///
/// While a method runs, no pin and no lease overlaps the proof's ranges, none is granted, and what
/// the earlier holders did happens before the call (promises **I1**, **I2**, **I7**). Operations on
/// overlapping ranges never run at the same time; those on disjoint ranges may.
///
/// # What the map must not do
///
/// It must not pin or break pages of its own proof: that waits for itself, for ever. If it panics,
/// the range is reopened and nothing of this crate is poisoned; its own state is its own affair.
///
/// Each method returns the number of pages whose blocks were freed.
///
/// # Examples
///
/// In the [guide](crate::docs::guide#a-block-map-in-three-steps), and [`ExtentMap`](crate::maps::ExtentMap).
pub trait BlockMap: Sized {
    /// What can go wrong in the engine.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Frees the blocks behind `pages`; the pages become holes. The proof covers `pages`.
    ///
    /// # Errors
    ///
    /// The engine's own, as [`OpError::Map`]; [`OpError::WrongMapping`] or [`OpError::NotCovered`]
    /// for a proof that does not fit.
    ///
    /// # Examples
    ///
    /// Called by [`LayoutGuard::punch_hole`](crate::LayoutGuard::punch_hole) and [`Drained::punch_hole`].
    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>>;

    /// Makes `pages` read as zeroes, by whatever is cheapest. The proof covers `pages`.
    ///
    /// # Errors
    ///
    /// [`OpError::Unsupported`] unless implemented; else as [`punch_hole`](Self::punch_hole).
    ///
    /// # Examples
    ///
    /// Called by [`LayoutGuard::zero_range`](crate::LayoutGuard::zero_range) and [`Drained::zero_range`].
    fn zero_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        let _ = (pages, proof);
        Err(OpError::Unsupported)
    }

    /// Sets the mapping's length to `new_len` pages, freeing the blocks of all pages beyond. The proof covers
    /// the pages `new_len..`.
    ///
    /// # Errors
    ///
    /// [`OpError::Unsupported`] unless implemented; else as [`punch_hole`](Self::punch_hole).
    ///
    /// # Examples
    ///
    /// Called by [`LayoutGuard::truncate`](crate::LayoutGuard::truncate) and [`Drained::truncate`].
    fn truncate(
        &self,
        new_len: u64,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        let _ = (new_len, proof);
        Err(OpError::Unsupported)
    }

    /// Takes `pages` out, freeing their blocks; every later page moves down by `pages.len()`. The
    /// proof covers the pages `pages.start()..`.
    ///
    /// # Errors
    ///
    /// [`OpError::Unsupported`] unless implemented; else as [`punch_hole`](Self::punch_hole).
    ///
    /// # Examples
    ///
    /// Called by [`LayoutGuard::collapse_range`](crate::LayoutGuard::collapse_range) and [`Drained::collapse_range`].
    fn collapse_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        let _ = (pages, proof);
        Err(OpError::Unsupported)
    }

    /// Makes room: `pages` become a hole, and what was at `pages.start()` and later moves up by
    /// `pages.len()`. The proof covers the pages `pages.start()..`.
    ///
    /// # Errors
    ///
    /// [`OpError::Unsupported`] unless implemented; else as [`punch_hole`](Self::punch_hole).
    ///
    /// # Examples
    ///
    /// Called by [`LayoutGuard::insert_range`](crate::LayoutGuard::insert_range) and [`Drained::insert_range`].
    fn insert_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        let _ = (pages, proof);
        Err(OpError::Unsupported)
    }
}
