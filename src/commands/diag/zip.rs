//! A ZIP archive, without compression: the one kind of file that a double click opens on Windows, Linux and macOS.
//!
//! What PKWARE's APPNOTE.TXT 6.3 says of it, little-endian, as far as it is used here:
//!
//! ```text
//! per file  50 4B 03 04 | version u16 = 20 | flags u16 = 0x0800 (name is UTF-8) | method u16 = 0 (stored)
//!           time u16: hour << 11 | minute << 5 | second / 2 · date u16: (year - 1980) << 9 | month << 5 | day
//!           crc u32 | size u32 | size u32 | length of name u16 | 0 u16 | name | bytes                         (4.3.7)
//! at last   per file: 50 4B 01 02 | made by u16 = 3 << 8 | 20 (UNIX) | the same fields from version to 0 u16
//!           0 u16 | 0 u16 | 0 u16 | mode << 16 u32 | offset of the file's first byte u32 | name               (4.3.12)
//!           50 4B 05 06 | 0 u16 | 0 u16 | files u16 | files u16 | bytes of the list u32 | its offset u32 | 0 u16 (4.3.16)
//! ```
//!
//! Everything stays far below 4 GiB and 65 535 files (the bundle bounds it), so none of the larger forms is needed.

/// A regular file that its owner may read and write.
const MODE: u32 = 0o100_600;
/// Stored, nothing else: what is in here is small.
const STORED: u16 = 0;
const VERSION: u16 = 20;
const NAME_IS_UTF8: u16 = 0x0800;

/// Day and time of day, as the archive writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    date: u16,
    time: u16,
}

impl Moment {
    /// Of a time such as `2026-11-20T20:00:00.000Z`; 1980, the beginning, if it is none.
    pub(super) fn of(text: &str) -> Self {
        let part = |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<u16>().ok());
        let parts = (part(0, 4), part(5, 7), part(8, 10), part(11, 13), part(14, 16), part(17, 19));
        let (Some(year @ 1980..=2107), Some(month), Some(day), Some(hour), Some(minute), Some(second)) = parts else {
            return Self { date: 1 << 5 | 1, time: 0 };
        };
        Self { date: (year - 1980) << 9 | month << 5 | day, time: hour << 11 | minute << 5 | (second / 2) }
    }
}

/// An archive that grows in memory.
#[derive(Debug)]
pub(super) struct Zip {
    bytes: Vec<u8>,
    list: Vec<u8>,
    files: u16,
    moment: Moment,
}

impl Zip {
    /// An empty one; all its files are of this moment.
    pub(super) fn new(moment: Moment) -> Self {
        Self { bytes: Vec::new(), list: Vec::new(), files: 0, moment }
    }

    /// Bytes so far, the list at the end included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.list.len()
    }

    /// Puts a file in.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        let offset = size(self.bytes.len());
        let fields = self.fields(name, content);
        self.bytes.extend_from_slice(b"PK\x03\x04");
        self.bytes.extend_from_slice(&fields);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(content);
        self.list.extend_from_slice(b"PK\x01\x02");
        self.list.extend_from_slice(&(3 << 8 | VERSION).to_le_bytes());
        self.list.extend_from_slice(&fields);
        self.list.extend_from_slice(&[0; 6]);
        self.list.extend_from_slice(&(MODE << 16).to_le_bytes());
        self.list.extend_from_slice(&offset.to_le_bytes());
        self.list.extend_from_slice(name.as_bytes());
        self.files += 1;
    }

    fn fields(&self, name: &str, content: &[u8]) -> Vec<u8> {
        let mut fields = Vec::with_capacity(26);
        for word in [VERSION, NAME_IS_UTF8, STORED, self.moment.time, self.moment.date] {
            fields.extend_from_slice(&word.to_le_bytes());
        }
        for number in [crc32fast::hash(content), size(content.len()), size(content.len())] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        fields.extend_from_slice(&[0; 2]);
        fields
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (offset, length) = (size(self.bytes.len()), size(self.list.len()));
        self.bytes.append(&mut self.list);
        self.bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend_from_slice(&self.files.to_le_bytes());
        self.bytes.extend_from_slice(&self.files.to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
    }
}

/// Never more than the bound of a bundle; see above.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_specification_says() {
        let mut zip = Zip::new(Moment::of("2026-11-21T19:10:54.123Z"));
        zip.add("a.txt", b"hello");
        assert_eq!(zip.len(), 30 + 5 + 5 + 46 + 5);
        let bytes = zip.finish();
        assert_eq!(&bytes[..10], b"PK\x03\x04\x14\x00\x00\x08\x00\x00");
        assert_eq!(&bytes[10..14], &[0x5b, 0x99, 0x75, 0x5d], "19:10:54 and 2026-11-21");
        assert_eq!(&bytes[14..18], &0x3610_A686_u32.to_le_bytes(), "the CRC of hello");
        assert_eq!(&bytes[30..40], b"a.txthello");
        assert_eq!(&bytes[40..44], b"PK\x01\x02");
        assert_eq!(&bytes[bytes.len() - 22..][..4], b"PK\x05\x06");
        assert_eq!(&bytes[bytes.len() - 6..], &[40, 0, 0, 0, 0, 0], "where the list begins");
        assert_eq!(Moment::of("never"), Moment { date: 33, time: 0 });
    }
}
