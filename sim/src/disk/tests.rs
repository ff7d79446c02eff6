//! The disk does what it says, and each of its bad habits shows.

use super::*;
use yao_access::slot_file::SlotFile;
use yao_protocol::slots::Slot;

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(Random::new(seed), Canary::None);
    disk.create_directories(Path::new("/d")).expect("always");
    disk
}

fn create(disk: &SimDisk, name: &str) -> Box<dyn DiskFile> {
    disk.open(Path::new(name), Access::Create).expect("a new file")
}

#[test]
fn what_is_synced_with_its_name_survives_every_power_cut() {
    for seed in 0..200 {
        let disk = disk(seed);
        let file = create(&disk, "/d/a");
        file.write_all_at(&[7; 2_000], 0).expect("written");
        file.sync_data().expect("synced");
        disk.sync_directory(Path::new("/d")).expect("synced");
        file.write_all_at(&[8; 2_000], 1_000).expect("written");
        disk.power_cut();
        let left = disk.cached(Path::new("/d/a")).expect("its name was synced");
        assert!(left.len() >= 2_000 && left[..1_000] == [7; 1_000], "seed {seed}");
    }
}

#[test]
fn what_is_not_synced_is_lost_kept_or_torn_at_a_sector() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..400 {
        let disk = disk(seed);
        let file = create(&disk, "/d/a");
        file.write_all_at(&[0; 4_096], 0).expect("written");
        file.sync_data().expect("synced");
        disk.sync_directory(Path::new("/d")).expect("synced");
        file.write_all_at(&[9; 4_096], 0).expect("written");
        disk.power_cut();
        let left = disk.cached(Path::new("/d/a")).expect("its name was synced");
        for sector in left.chunks(SECTOR_BYTES) {
            assert!(
                sector == [0; SECTOR_BYTES] || sector == [9; SECTOR_BYTES],
                "a sector is whole"
            );
        }
        match left.iter().filter(|byte| **byte == 9).count() {
            0 => lost += 1,
            4_096 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 50 && kept > 50 && torn > 50, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_failed_sync_calls_its_pages_clean() {
    let disk = disk(1);
    let file = create(&disk, "/d/a");
    disk.sync_directory(Path::new("/d")).expect("synced");
    file.write_all_at(b"lost", 0).expect("written");
    disk.set_troubles(|troubles| troubles.error_permille = 1_000);
    file.sync_data().expect_err("the disk fails");
    disk.set_troubles(|troubles| troubles.error_permille = 0);
    file.sync_data().expect("nothing is dirty any more");
    assert_eq!(disk.cached(Path::new("/d/a")).as_deref(), Some(&b"lost"[..]), "still in the cache");
    assert_eq!(disk.look_durable(Path::new("/d/a"), <[u8]>::len), Some(0), "never on the medium");
    file.drop_cached().expect("always");
    assert_eq!(disk.cached(Path::new("/d/a")).as_deref(), Some(&b""[..]));
}

#[test]
fn a_name_without_its_directory_s_sync_may_vanish() {
    let mut vanished = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        let file = create(&disk, "/d/a");
        file.write_all_at(b"x", 0).expect("written");
        file.sync_all().expect("synced");
        disk.power_cut();
        vanished += u32::from(disk.cached(Path::new("/d/a")).is_none());
    }
    assert!((20..80).contains(&vanished), "{vanished} of 100");
}

#[test]
fn a_full_disk_takes_overwrites_only() {
    let disk = disk(1);
    let file = create(&disk, "/d/a");
    file.write_all_at(&[1; 100], 0).expect("written");
    disk.set_troubles(|troubles| troubles.full = true);
    file.write_all_at(&[2; 100], 0).expect("nothing grows");
    let error = file.write_all_at(&[3; 100], 50).expect_err("it would grow");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    disk.open(Path::new("/d/b"), Access::Create).expect_err("a name needs room");
}

#[test]
fn a_process_is_killed_in_the_operation_that_was_named() {
    let disk = disk(1);
    let file = create(&disk, "/d/a");
    disk.kill_after(1);
    file.write_all_at(b"one", 0).expect("the first one");
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        file.write_all_at(b"two", 3).expect("never reached");
    }));
    assert!(killed.expect_err("killed").is::<Killed>());
    file.write_all_at(b"six", 0).expect("the disk itself goes on");
}

/// A process is killed between the write and the sync of a slot: the next one reads it out of the
/// page cache, and tells others of it. A power cut then must not take it away.
#[test]
fn m2_a_slot_that_was_read_survives_a_power_cut() {
    const MAGIC: [u8; 8] = *b"YAOTEST\0";
    let path = Path::new("/d/slots");
    for seed in 0..40 {
        let disk = disk(seed);
        drop(SlotFile::create(&disk, path, MAGIC, |_| vec![1]).expect("a new file"));
        let newer = Slot { sequence: 2, payload: vec![2] };
        let file = disk.open(path, Access::Write).expect("there");
        file.write_all_at(&newer.encode(MAGIC), newer.offset()).expect("written");
        let read = || SlotFile::open(&disk, path, MAGIC).expect("it opens").1.newest;
        assert_eq!(read(), newer);
        disk.power_cut();
        assert_eq!(read(), newer, "seed {seed}");
    }
}
