//! A look at a chunk's ends: its own words, its first and its last segment. And who is believed that a file is damaged.

use crate::disk::chunk::{ChunkInfo, ChunkReader, ChunkWriter, TagRow};
use crate::disk::directory::{ChunkName, Directory};
use crate::disk::fault::Fault;

use super::segment::{self, Place};
use super::times::Times;

/// What a look at a chunk's ends shows.
pub(super) struct Look {
    pub(super) info: ChunkInfo,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) times: Times,
    pub(super) boot: u32,
    pub(super) tags: Vec<TagRow>,
}

/// SQLite alone is not believed that something is damaged (see `disk::image`): only what the content, read in one piece,
/// says twice.
pub(super) fn sure<T>(
    look: impl FnOnce() -> Result<T, Fault>,
    content: impl Fn() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let unless_damaged = |fault: Fault| if fault.is_damage() { content() } else { Err(fault) };
    look().or_else(unless_damaged).or_else(unless_damaged)
}

/// Looks; `None` when there is nothing in it.
pub(super) fn surely(directory: &Directory, name: ChunkName, with_tags: bool) -> Result<Option<Look>, Fault> {
    let content = || ends(&ChunkReader::of_content(&directory.chunk(name))?, name, with_tags);
    match sure(|| look(directory, name, with_tags), content) {
        Ok(None) => content(), // it will be removed
        look => look,
    }
}

fn look(directory: &Directory, name: ChunkName, with_tags: bool) -> Result<Option<Look>, Fault> {
    let path = directory.chunk(name);
    ChunkReader::open(&path)?;
    if directory.has_log(name) {
        ChunkWriter::open(&path, 32)?.finish();
    }
    ends(&ChunkReader::open(&path)?, name, with_tags)
}

fn ends(chunk: &ChunkReader, name: ChunkName, with_tags: bool) -> Result<Option<Look>, Fault> {
    let info = chunk.info()?;
    if info.class != name.class || info.number != name.number {
        return Err(Fault::Damaged("the file is not what its name says".into()));
    }
    let (Some(first), Some(last)) = (chunk.first()?, chunk.last()?) else { return Ok(None) };
    // Both: a first number that is none claims what other chunks hold.
    for end in [&first, &last] {
        segment::check(Place { class: info.class, epoch: info.epoch }, end)?;
    }
    let tags = if with_tags { chunk.tags()? } else { Vec::new() };
    let times = Times::of(&first).and(Times::of(&last));
    Ok(Some(Look { info, first: first.first, last: last.last, times, boot: last.boot, tags }))
}
