//! Reading a recording, record by record, however it ended.
//!
//! Fed by a file. Promises: what is handed out is what was written; a file that was cut off, or is still being written,
//! ends where its last whole record ends, and says so.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::record::{BODY_MAX, Codec, HEADER, Record, Step};

/// Read in one go.
const CHUNK: usize = 256 << 10;

/// A file is no recording, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// The system says no.
    #[error("{path}: {error}", path = path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is no recording of `ironbridge capture`", path = .0.display())]
    Foreign(PathBuf),
    /// Of a later version.
    #[error("{path} is a recording of version {version}; this program reads version {}", HEADER[7], path = path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u8,
    },
}

/// How a recording ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It was ended.
    Ended,
    /// Between two records: cut off, or still being written.
    Open,
    /// Within a record, so many bytes of it are there.
    Torn(u64),
    /// What follows this many bytes is not what was written.
    Damaged(u64),
}

/// A recording being read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: PathBuf,
    codec: Codec,
    pending: Vec<u8>,
    start: usize,
    passed: u64,
    tail: Option<Tail>,
}

impl Reader {
    /// Opens a file and looks at its header.
    pub fn open(path: &Path) -> Result<Self, NotRead> {
        let refused = |error| NotRead::Refused { path: path.to_owned(), error };
        let mut file = File::open(path).map_err(refused)?;
        let mut header = [0; HEADER.len()];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(NotRead::Foreign(path.to_owned()));
            }
            read => read.map_err(refused)?,
        }
        if header[..7] != HEADER[..7] {
            return Err(NotRead::Foreign(path.to_owned()));
        }
        if header[7] != HEADER[7] {
            return Err(NotRead::Newer { path: path.to_owned(), version: header[7] });
        }
        let passed = HEADER.len() as u64;
        let codec = Codec::default();
        Ok(Self { file, path: path.to_owned(), codec, pending: Vec::new(), start: 0, passed, tail: None })
    }

    /// The next record; `None`: see [`Self::tail`].
    pub fn read(&mut self) -> Result<Option<Record>, NotRead> {
        loop {
            if self.tail.is_some_and(|tail| tail != Tail::Ended) {
                return Ok(None);
            }
            match self.codec.take(&self.pending[self.start..]) {
                Step::Record(record, used) => {
                    self.start += used;
                    self.passed += used as u64;
                    if record == Record::End {
                        self.tail = Some(Tail::Ended);
                    }
                    return Ok(Some(record));
                }
                Step::Damaged => self.tail = Some(Tail::Damaged(self.passed)),
                Step::Incomplete if self.fill()? => {}
                Step::Incomplete => {
                    let torn = (self.pending.len() - self.start) as u64;
                    let open = if torn == 0 { Tail::Open } else { Tail::Torn(torn) };
                    if self.tail == Some(Tail::Ended) && torn == 0 {
                        return Ok(None);
                    }
                    self.tail = Some(open);
                }
            }
        }
    }

    /// How it ends; known once there is no further record.
    pub fn tail(&self) -> Tail {
        self.tail.unwrap_or(Tail::Open)
    }

    /// More of the file; false: there is no more, or more than a record may have is waiting.
    fn fill(&mut self) -> Result<bool, NotRead> {
        if self.pending.len() - self.start > BODY_MAX + CHUNK {
            return Ok(false);
        }
        self.pending.drain(..self.start);
        self.start = 0;
        let refused = |error| NotRead::Refused { path: self.path.clone(), error };
        let read = (&self.file).take(CHUNK as u64).read_to_end(&mut self.pending).map_err(refused)?;
        Ok(read > 0)
    }
}
