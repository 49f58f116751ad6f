//! The names of file systems.

use core::fmt;

/// Which file system a file is on: its `Display` is the name, for people.
///
/// Told by the magic number that `statfs` gives. Families that share a number share the name, and a
/// stacked file system (overlayfs, FUSE) is named itself, not what is below it, although it is the one
/// below that has an operation or lacks it.
///
/// # Examples
///
/// ```
/// use layout_lease::maps::FileBlocks;
/// let system = FileBlocks::in_place(tempfile::tempfile()?, 4096)?.file_system();
/// match system.name() {
///     Some(name) => assert_eq!(system.to_string(), name),
///     None => assert!(system.to_string().contains(&format!("{:#x}", system.magic()))),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSystem {
    magic: u64,
}

/// By magic number, which is four bytes on every architecture.
const NAMES: &[(u64, &str)] = &[
    (0xef53, "ext4"), // ext2 and ext3, too
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1994, "tmpfs"), // memfd, too
    (0x8584_58f6, "ramfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x7366_746e, "ntfs3"),
];

impl FileSystem {
    pub(super) fn of_magic(magic: u64) -> Self {
        // Where the field is a signed word, a number with the top bit set has been widened.
        let magic = magic & 0xffff_ffff;
        FileSystem { magic }
    }

    /// The magic number, as in `statfs(2)`.
    ///
    /// # Examples
    ///
    /// See [`FileSystem`].
    #[must_use]
    pub fn magic(&self) -> u64 {
        self.magic
    }

    /// The name; `None` if the number is not known here.
    ///
    /// # Examples
    ///
    /// See [`FileSystem`].
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        let known = NAMES.iter().find(|(magic, _)| *magic == self.magic);
        known.map(|(_, name)| *name)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "the file system {:#x}", self.magic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_have_names_and_others_a_number() {
        let name = |magic| FileSystem::of_magic(magic).to_string();
        assert_eq!(name(0x9123_683e), "btrfs");
        assert_eq!(
            name(0xffff_ffff_9123_683e),
            "btrfs",
            "widened with its sign"
        );
        assert_eq!(name(0x1234), "the file system 0x1234");
        assert_eq!(FileSystem::of_magic(0x1234).name(), None);
    }
}
