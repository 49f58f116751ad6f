//! The floor of the store: media and block map.

use super::*;

fn pool(path: &Path, pages: u64) -> LayoutGuard<Pool> {
    let geometry = Geometry { capacity: 64 };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(pages * PAGE).unwrap();
    let shape = Shape {
        capacity: 64,
        floor: geometry.first(),
        writable: true,
    };
    let media = Box::new(FileMedia::default());
    LayoutGuard::new(Mapped::new(file, media, shape, |n| Space::new(geometry, n)).unwrap())
}

#[test]
fn the_block_map_asks_the_proof() {
    let (folder, path) = folder();
    let ours = pool(&path, 32);
    let theirs = pool(&folder.path().join("other"), 32);
    let extent = ours.map().allocate(4).unwrap();
    let punch = |proof: &Drained<'_, Pool>| ours.map().punch_hole(extent, proof);

    let other = theirs.break_layouts(..).wait().unwrap();
    assert!(matches!(punch(&other), Err(OpError::WrongMapping)));
    let truncated = ours.map().truncate(32, &other);
    assert!(matches!(truncated, Err(OpError::WrongMapping)));
    let small = ours
        .break_layouts(range(extent.start(), extent.end() - 1))
        .wait()
        .unwrap();
    assert!(matches!(punch(&small), Err(OpError::NotCovered)));
    let truncated = ours.map().truncate(10, &small);
    assert!(matches!(truncated, Err(OpError::NotCovered)));
    drop(small);
    assert_eq!(ours.map().engine().usage().used, 4);
    let enough = ours.break_layouts(extent).wait().unwrap();
    assert_eq!(punch(&enough).unwrap(), 4);
    // A second time they are not in use any more, whoever has allocated them meanwhile.
    let again = punch(&enough);
    assert!(matches!(again, Err(OpError::Map(SpaceError::NotUsed { pages })) if pages == extent));
    assert_eq!(ours.map().engine().usage().free, 32 - 3);
}

#[test]
fn truncation_cuts_off_nothing_that_is_used() {
    let (_folder, path) = folder();
    let guard = pool(&path, 32);
    let low = guard.map().allocate(4).unwrap();
    let high = guard.map().allocate(4).unwrap();
    let cut = guard.truncate(high.end() - 1).wait();
    assert!(
        matches!(cut, Err(OpError::Map(SpaceError::TailUsed { .. }))),
        "{cut:?}"
    );
    assert_eq!(guard.truncate(high.end()).wait().unwrap(), 32 - high.end());
    assert_eq!(fs::metadata(&path).unwrap().len(), high.end() * PAGE);
    for pages in [0, 2, 65] {
        let cut = guard.truncate(pages).wait();
        assert!(
            matches!(cut, Err(OpError::Map(SpaceError::Length { .. }))),
            "{cut:?}"
        );
    }
    // Growing frees nothing, and the new pages can be had.
    assert_eq!(guard.truncate(20).wait().unwrap(), 0);
    assert_eq!(guard.map().engine().usage().free, 20 - high.end());
    // A tail that is set aside is nobody's, until it is cut off or put back.
    guard.punch_hole(low).wait().unwrap();
    let at = guard.map().set_tail_aside().unwrap();
    assert_eq!(at, high.end());
    assert_eq!(guard.map().allocate_below(5, u64::MAX), None);
    // Nor does the file grow meanwhile: the new pages would be part of the tail.
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let map = guard.map();
        scope.spawn(move || sender.send(map.allocate(20)).unwrap());
        assert!(
            receiver.recv_timeout(A_WHILE).is_err(),
            "it did not wait for the truncation"
        );
        guard.map().put_tail_back();
        assert_eq!(receiver.recv().unwrap().unwrap(), range(at, at + 20));
    });
}

#[test]
fn bytes_are_lent_for_pins_and_changed_for_proofs_only() {
    let (folder, path) = folder();
    let guard = pool(&path, 32);
    let other = pool(&folder.path().join("other"), 32);
    let map = guard.map();
    let fill = |proof, pages| Pool::fill(proof, pages).map(|mut filling| filling.fill(b'a'));
    let proof = |pages| guard.break_layouts(pages).wait().unwrap();
    let mut filling = Pool::fill(proof(range(5, 7)), range(5, 7)).unwrap();
    assert_eq!(filling.len(), 2 * PAGE as usize);
    filling[4090..4103].copy_from_slice(b"across a page");
    assert!(matches!(
        Pool::pin(&guard, range(6, 7)),
        Err(NotPinned::Refused(_))
    ));
    drop(filling);
    for pages in [range(4, 6), range(6, 8), range(8, 9)] {
        assert!(fill(proof(range(5, 7)), pages).is_err(), "{pages}");
    }
    let theirs = other.break_layouts(..).wait().unwrap();
    assert!(map.shrink(&theirs, 10).is_err() && map.punch(&theirs, range(5, 6)).is_err());
    drop(theirs);

    let lent = Pool::pin(&guard, range(5, 7)).unwrap();
    assert_eq!(&lent[4090..4103], b"across a page");
    assert_eq!(lent.len(), 2 * PAGE as usize);
    drop(lent);
    // Superblocks, directory, and what is behind the end of the file are not lent, nor written to.
    for pages in [
        range(0, 1),
        range(2, 4),
        range(31, 33),
        range(64, 65),
        range(1 << 60, 1 << 61),
    ] {
        let lent = Pool::pin(&guard, pages);
        assert!(matches!(lent, Err(NotPinned::Outside)), "{pages}: {lent:?}");
    }
    for pages in [range(0, 1), range(2, 4), range(31, 33), range(64, 65)] {
        let all = guard.break_layouts(..).wait().unwrap();
        assert!(fill(all, pages).is_err(), "{pages}");
    }
    let all = guard.break_layouts(..).wait().unwrap();
    assert!(map.shrink(&all, 2).is_err() && map.shrink(&all, 33).is_err());
    map.shrink(&all, 6).unwrap();
    drop(all);
    assert!(matches!(
        Pool::pin(&guard, range(5, 7)),
        Err(NotPinned::Outside)
    ));
    assert_eq!(&Pool::pin(&guard, range(5, 6)).unwrap()[4090..], b"across");
    assert!(map.load(64).is_none() && map.store(64, 1).is_err());
    assert!(map.grow(65).is_err() && map.flush(0..65 * PAGE).is_err());
}
