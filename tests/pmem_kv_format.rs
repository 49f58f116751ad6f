//! `examples/pmem_kv/FORMAT.md` says what the code does: its tables, and a pool that is made after it.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

use std::fs;

use crate::store::format::{FOOTER, PAGE, SUPERBLOCK, layout};
use crate::store::media::VolatileMedia;
use crate::store::{Access, Store};

const FORMAT: &str = include_str!("../examples/pmem_kv/FORMAT.md");

/// Rows of the tables of fields: the section's heading, the field's name, its first byte, its bytes.
fn fields() -> Vec<(&'static str, &'static str, usize, usize)> {
    let (mut section, mut fields) = ("", Vec::new());
    for line in FORMAT.lines() {
        section = line.strip_prefix("## ").unwrap_or(section);
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", at, bytes, name, _, ""] = cells[..] else {
            continue;
        };
        if let (Ok(at), Ok(bytes)) = (at.parse(), bytes.parse()) {
            fields.push((section, name.trim_matches('`'), at, bytes));
        }
    }
    fields
}

#[test]
fn the_tables_are_those_of_the_code() {
    let written = fields();
    assert_eq!(written, layout());
    // They leave no gap, and end where the structure ends.
    for (structure, size) in [("Superblock", SUPERBLOCK), ("Record extent", FOOTER)] {
        let mut end = 0;
        for (_, name, at, bytes) in written.iter().filter(|field| field.0 == structure) {
            assert_eq!(*at, end, "{structure}, {name}");
            end += bytes;
        }
        assert_eq!(end, size, "{structure}");
    }
}

/// A bit at a time, as the text has it: no code in common with the example.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ ((crc & 1) * 0x1EDC_6F41_u32.reverse_bits());
        }
    }
    !crc
}

/// Sets the fields of the structure that ends where `bytes` end, then its checksum over all of them.
fn set(bytes: &mut [u8], section: &str, values: &[(&str, u64)]) -> u32 {
    let structure = bytes.len() - 64;
    let mut put = |name: &str, value: u64| {
        let field = fields().into_iter().find(|f| f.0 == section && f.1 == name);
        let (_, _, at, size) = field.unwrap();
        bytes[structure + at..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    for (name, value) in values {
        put(name, *value);
    }
    put("crc", 0);
    let crc = crc32c(bytes);
    // `crc` is the one field that both structures have, and in the same place.
    bytes[structure + 8..][..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A pool of 40 pages with the key `name` in slot 3 and pages 4 to 5, written after the text alone.
fn by_hand(value: &[u8]) -> Vec<u8> {
    let mut superblock = [0; 64];
    let fields = [
        ("magic", u64::from_le_bytes(*b"PMEMKV\r\n")),
        ("version", 1),
        ("page_size", 4096),
        ("capacity", 40),
        ("directory", 2),
        ("first", 3),
        ("id", 77),
    ];
    set(&mut superblock, "Superblock", &fields);

    let mut extent = [0; 2 * 4096];
    extent[..value.len()].copy_from_slice(value);
    extent[2 * 4096 - 64 - 4..][..4].copy_from_slice(b"name");
    let fields = [
        ("magic", u64::from_le_bytes(*b"KVRECORD")),
        ("key_len", 4),
        ("value_len", value.len() as u64),
        ("seq", 9),
        ("slot", 3),
        ("pages", 2),
    ];
    let crc = set(&mut extent, "Record extent", &fields);

    let mut pool = vec![0; 7 * 4096];
    pool[..64].copy_from_slice(&superblock);
    pool[4096..][..64].copy_from_slice(&superblock);
    let entry = 4 | 2 << 32 | u64::from(crc & 0xff) << 56;
    pool[2 * 4096 + 8 * 3..][..8].copy_from_slice(&entry.to_le_bytes());
    pool[4 * 4096..6 * 4096].copy_from_slice(&extent);
    pool
}

#[test]
fn a_pool_made_after_the_text_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("by_hand.pool");
    let value = [b'v'; 5000];
    let bytes = by_hand(&value);
    fs::write(&path, &bytes).unwrap();
    let open = |access| Store::open(&path, access, Some(Box::new(VolatileMedia))).unwrap();
    let store = open(Access::Read);
    assert_eq!((store.problems(), store.notes()), (&[][..], &[][..]));
    assert_eq!(&*store.get(b"name").unwrap().unwrap(), &value);
    let [(_, entry)] = &store.scan(b"")[..] else {
        panic!("{:?}", store.scan(b""));
    };
    assert_eq!((entry.seq, entry.slot, entry.extent.start()), (9, 3, 4));
    let stat = store.stat().unwrap();
    assert_eq!((stat.id, stat.capacity, stat.usage.used), (77, 40, 2));
    store.close();

    // And the other way round: what a put makes of it are the bytes that the text wants.
    let store = open(Access::Write);
    store.put(b"name", &value).unwrap();
    let place = store.scan(b"name")[0].1.extent.start() * PAGE;
    store.close();
    let mut expected = bytes[4 * 4096..6 * 4096].to_vec();
    let crc = set(&mut expected, "Record extent", &[("seq", 10)]);
    let after = fs::read(&path).unwrap();
    assert!(after[place as usize..][..2 * 4096] == expected[..]);
    let entry = (place / PAGE) | 2 << 32 | u64::from(crc & 0xff) << 56;
    assert_eq!(after[2 * 4096 + 8 * 3..][..8], entry.to_le_bytes());
    assert_eq!(after[..2 * 4096], bytes[..2 * 4096]);
}
