//! Real files, and what each key must hold: the demo knows every byte that a reader may see.
//!
//! A value is the body of some file followed by a stamp: which key, which generation. Generation 0 of
//! a key is its own file; each overwrite is another file of the same kind. So bytes that are stale,
//! or somebody else's, or half written, are told apart from the right ones, whatever the checksum says.

use std::fs;
use std::io;
use std::path::Path;

use walkdir::WalkDir;

/// At most this many bytes are loaded from the directory tree.
pub(crate) const CAP: u64 = 64 << 20;
/// Small trees are loaded several times, under different names, until there are so many keys...
const KEYS: usize = 1200;
/// ... or so many bytes.
const BYTES: u64 = 24 << 20;
/// Values that are made of several files, one behind the other.
const JOINED: usize = 24;

const STAMP: usize = 24;
const STAMP_MAGIC: [u8; 8] = *b"pmemdemo";

/// The files and the keys.
#[derive(Debug)]
pub(crate) struct Corpus {
    /// The files, then the joined ones.
    bodies: Vec<Vec<u8>>,
    /// How many of them are files.
    pub(crate) files: usize,
    /// Bytes of those.
    pub(crate) bytes: u64,
    /// Key and its body at generation 0.
    keys: Vec<(String, usize)>,
}

impl Corpus {
    /// Reads the files below `dir`, without `target*` and `.git`.
    pub(crate) fn read(dir: &Path) -> io::Result<Corpus> {
        let mut names = Vec::new();
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let walk = WalkDir::new(dir).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || !skipped(entry)) {
            let entry = entry?;
            let Ok(len) = entry.metadata().map(|meta| meta.len()) else {
                continue;
            };
            if !entry.file_type().is_file() || bytes + len > CAP {
                continue;
            }
            // Other people may work in the tree: a file that has gone since is no error.
            let Ok(body) = fs::read(entry.path()) else {
                continue;
            };
            bytes += body.len() as u64;
            let name = entry.path().strip_prefix(dir).unwrap_or(entry.path());
            names.push(name.to_string_lossy().into_owned());
            bodies.push(body);
        }
        let files = bodies.len();
        if bytes == 0 {
            return Err(io::Error::other(
                "there is nothing to load: no file in it has a byte",
            ));
        }
        let copies = (KEYS / files).min((BYTES / bytes) as usize).max(1);
        let mut keys = Vec::new();
        for copy in 0..copies {
            let key = |(body, name): (usize, &String)| (format!("{copy:03}/{name}"), body);
            keys.extend(names.iter().enumerate().map(key));
        }
        // A key has at most 1,024 bytes.
        keys.retain(|(key, _)| key.len() <= crate::store::format::MAX_KEY);
        for i in 0..JOINED {
            let len = (96 << 10) + i * (16 << 10);
            let mut body = Vec::with_capacity(len);
            for part in bodies[..files].iter().cycle().skip(i * 7 % files) {
                body.extend_from_slice(&part[..part.len().min(len - body.len())]);
                if body.len() == len {
                    break;
                }
            }
            keys.push((format!("joined/{i:03}"), bodies.len()));
            bodies.push(body);
        }
        Ok(Corpus {
            bodies,
            files,
            bytes,
            keys,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn key(&self, key: usize) -> &str {
        &self.keys[key].0
    }

    /// Bytes of all values at generation 0.
    pub(crate) fn logical(&self) -> u64 {
        let len = |(_, body): &(String, usize)| (self.bodies[*body].len() + STAMP) as u64;
        self.keys.iter().map(len).sum()
    }

    /// Whether that generation of the key is a deletion. The first one never is.
    pub(crate) fn is_deletion(key: usize, generation: u64) -> bool {
        let mixed = (key as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation;
        generation > 0 && mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 61 == 0
    }

    fn body(&self, key: usize, generation: u64) -> &[u8] {
        // Files change places with files, joined ones with joined ones: the sum stays about the same.
        let home = self.keys[key].1;
        let (from, count) = match home < self.files {
            true => (0, self.files),
            false => (self.files, JOINED),
        };
        let turn = (generation % count as u64) as usize;
        &self.bodies[from + (home - from + turn) % count]
    }

    /// The value of that generation of the key.
    pub(crate) fn value(&self, key: usize, generation: u64) -> Vec<u8> {
        let body = self.body(key, generation);
        let mut value = Vec::with_capacity(body.len() + STAMP);
        value.extend_from_slice(body);
        value.extend_from_slice(&STAMP_MAGIC);
        value.extend_from_slice(&(key as u64).to_le_bytes());
        value.extend_from_slice(&generation.to_le_bytes());
        value
    }

    /// The generation that `value` is of; or, if it is not byte for byte what that generation of `key`
    /// must be, what is wrong.
    pub(crate) fn verify(&self, key: usize, value: &[u8]) -> Result<u64, String> {
        let name = self.key(key);
        let Some((body, stamp)) = value.split_last_chunk::<STAMP>() else {
            return Err(format!("{name}: {} bytes, too few", value.len()));
        };
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&stamp[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (whose, generation) = (number(8), number(16));
        if stamp[..8] != STAMP_MAGIC || whose != key as u64 {
            return Err(format!("{name}: the stamp is {}", stamp.escape_ascii()));
        }
        if body != self.body(key, generation) {
            return Err(format!(
                "{name}: the bytes are not those of generation {generation}"
            ));
        }
        Ok(generation)
    }
}

fn skipped(entry: &walkdir::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    name == ".git"
        || (name.starts_with("target") && entry.file_type().is_dir())
        || name.ends_with(".pool")
}
