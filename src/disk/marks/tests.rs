//! What a file of marks gives back, whatever became of it.

use super::*;

fn read(path: &Path) -> (Found, Vec<UplinkMark>) {
    Marks::read(path, Unreadable::TryAgain).expect("readable")
}

fn at(last: u64) -> PerClass<Mark> {
    PerClass::of(|_| Mark { epoch: 9, last, given_up: 0 })
}

#[test]
fn a_torn_block_falls_back_to_the_one_before_and_a_copy_is_recognised() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("marks");
    assert_eq!(read(&path).0, Found::Nothing);
    let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
    marks.write(&at(1), &[]).expect("written");
    marks.write(&at(2), &[]).expect("written");
    assert_eq!(read(&path).0, Found::Marks(at(2)));
    let copy = home.path().join("copy");
    std::fs::copy(&path, &copy).expect("copied");
    assert_eq!(read(&copy).0, Found::Copied(at(2)));
    File::options().write(true).open(&path).expect("open").write_all_at(&[7; 40], 0).expect("torn");
    assert_eq!(read(&path).0, Found::Marks(at(1)));
    std::fs::write(&path, b"").expect("emptied");
    assert_eq!(read(&path).0, Found::Nothing);
}

#[test]
fn a_block_whose_length_points_anywhere_is_no_block_and_the_one_before_counts() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("marks");
    let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
    marks.write(&at(1), &[]).expect("written");
    marks.write(&at(2), &[]).expect("written");
    let newer = File::options().write(true).open(&path).expect("open");
    for length in (1..=u16::MAX).step_by(7).chain([u16::MAX]) {
        newer.write_all_at(&length.to_le_bytes(), HEAD as u64).expect("damaged");
        assert_eq!(read(&path).0, Found::Marks(at(1)), "{length}");
    }
}

#[test]
fn marks_of_the_version_before_are_read_and_carry_no_uplinks() {
    let mut block = MAGIC_BEFORE.to_vec();
    for number in [3u64, 5].into_iter().chain([9u64, 70].into_iter().cycle().take(8)) {
        block.extend_from_slice(&number.to_le_bytes());
    }
    block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
    block.resize(4096, 0);
    let read = super::block(&block).expect("whole");
    assert_eq!((read.turn, read.inode, read.marks, read.uplinks), (3, 5, at(70), Vec::new()));
}

#[test]
fn what_was_given_up_comes_back_and_a_block_that_ends_before_it_has_nothing_of_it() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("marks");
    let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
    let with = [3, 0, 700, u64::MAX].map(|given_up| Mark { epoch: 9, last: 50, given_up }).into();
    let uplinks = vec![UplinkMark { uplink: "cloud".into(), ..UplinkMark::default() }];
    marks.write(&with, &uplinks).expect("written");
    assert_eq!(read(&path), (Found::Marks(with), uplinks.clone()));
    // As a version without it writes it: zeros behind the first CRC. And as a torn one may look.
    let mut bytes = std::fs::read(&path).expect("read");
    let place = 4096 + HEAD + 2 + uplinks[0].uplink.len() + 2 + 4;
    for byte in [0, 7] {
        bytes[place..place + 10].fill(byte);
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(read(&path), (Found::Marks(at(50)), uplinks.clone()));
    }
}

#[test]
fn uplinks_come_back_with_their_ranges_and_what_finds_no_room_is_left_out_whole() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("marks");
    let ranges: Vec<(u64, u64)> = (0..64).map(|n| (1_000_000 + n * 4000, 1_000_999 + n * 4000)).collect();
    let cursor =
        |ranges: &[(u64, u64)]| Some(AckedMark { epoch: (1 << 53) - 1, acked: 999_000, ranges: ranges.into() });
    let uplink = |n: usize, ranges: &[(u64, u64)]| UplinkMark {
        uplink: format!("uplink-{n}"),
        cursors: [cursor(ranges), None, cursor(&[]), cursor(ranges)].into(),
    };
    let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
    let few: Vec<_> = (0..4).map(|n| uplink(n, &ranges)).collect();
    assert_eq!(marks.write(&at(1), &few), Ok(4), "four uplinks with all the ranges they may have");
    assert_eq!(read(&path), (Found::Marks(at(1)), few));
    let many: Vec<_> = (0..40).map(|n| uplink(n, &ranges)).collect();
    let told = marks.write(&at(2), &many).expect("written");
    assert!((4..40).contains(&told), "{told}");
    assert_eq!(read(&path), (Found::Marks(at(2)), many[..told].to_vec()));
}

#[test]
fn a_place_that_the_medium_refuses_for_good_is_left_and_the_marks_go_on_in_a_new_file() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("marks");
    let mut marks = Marks::open(&path, Unreadable::TryAgain).expect("made");
    marks.write(&at(1), &[]).expect("written");
    let inode = || std::fs::metadata(&path).expect("there").ino();
    let before = inode();
    marks.file = File::open(&path).expect("for reading only: every write is refused");
    marks.write(&at(2), &[]).expect("written elsewhere");
    assert_eq!((read(&path).0, inode() == before), (Found::Marks(at(2)), false));
    marks.write(&at(3), &[]).expect("written there");
    assert_eq!(read(&path).0, Found::Marks(at(3)));
    assert_eq!(std::fs::read_dir(home.path()).expect("listed").count(), 1);
    // Where a new one cannot be made either, the old one stands.
    marks.file = File::open(&path).expect("open");
    std::fs::create_dir(home.path().join("marks.draft")).expect("in its way");
    assert!(marks.write(&at(4), &[]).is_err());
    assert_eq!(read(&path).0, Found::Marks(at(3)));
}
