//! Who may open a pool, and for what.

use super::*;

#[test]
fn a_second_writer_is_refused_and_readers_may_be_several() {
    let (_folder, path) = folder();
    let store = create(&path, 32);
    store.put(b"key", b"value").unwrap();
    for access in [Access::Write, Access::Read] {
        let second = Store::open(&path, access, None);
        assert!(
            matches!(second, Err(StoreError::InUse { .. })),
            "{second:?}"
        );
    }
    let second = Store::create(&path, 32 * PAGE, None);
    assert!(
        matches!(second, Err(StoreError::Exists { .. })),
        "{second:?}"
    );
    store.close();
    let one = Store::open(&path, Access::Read, None).unwrap();
    let two = Store::open(&path, Access::Read, None).unwrap();
    assert_eq!(&*one.get(b"key").unwrap().unwrap(), b"value");
    assert_eq!(&*two.get(b"key").unwrap().unwrap(), b"value");
    let writer = Store::open(&path, Access::Write, None);
    assert!(
        matches!(writer, Err(StoreError::InUse { .. })),
        "{writer:?}"
    );
}

#[test]
fn a_pool_opened_for_reading_is_not_changed() {
    let (_folder, path) = folder();
    let store = create(&path, 64);
    store.put(b"key", b"value").unwrap();
    store.put(b"gone", b"value").unwrap();
    store.del(b"gone").unwrap();
    store.close();
    let before = fs::read(&path).unwrap();
    let store = Store::open(&path, Access::Read, None).unwrap();
    assert!(matches!(store.put(b"key", b"v"), Err(StoreError::ReadOnly)));
    assert!(matches!(store.del(b"key"), Err(StoreError::ReadOnly)));
    let compacted = store.compact(Effort::Pack, || true);
    assert!(matches!(compacted, Err(StoreError::ReadOnly)));
    assert_eq!(&*store.get(b"key").unwrap().unwrap(), b"value");
    store.close();
    assert_eq!(before, fs::read(&path).unwrap());
}

#[test]
fn there_is_no_pool_of_no_pages() {
    let (_folder, path) = folder();
    for bytes in [0, 15 * PAGE, u64::MAX] {
        let made = Store::create(&path, bytes, None);
        assert!(
            matches!(made, Err(StoreError::Capacity { found }) if found == bytes),
            "{made:?}"
        );
    }
    assert!(!path.exists());
    let open = Store::open(&path, Access::Write, None);
    assert!(matches!(open, Err(StoreError::NoPool { .. })), "{open:?}");
}
