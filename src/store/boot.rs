//! Opening a store, whatever lies there: polling must be able to start within two seconds.
//!
//! Only ends are looked at: each chunk's own words, its first and its last segment. What is damaged is set aside and
//! salvaged later, in the background; what is missing is declared. Fails only when the directory cannot be used at all.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::directory::{ChunkName, Directory};
use crate::disk::fault::{Fault, Unreadable};
use crate::disk::marks::{Found, Marks};
use crate::disk::meta::{Contents, Edit, Meta};
use crate::disk::tail::{TailFile, TailRow};
use crate::flow::clock::Fix;
use crate::flow::notice::{Notice, Phase};
use crate::model::number::Class;
use crate::model::time::{Boot, Stamp};

use super::cursor::Span;
use super::look::{self, Look};
use super::state::State;
use super::stream::{Held, Loss};
use super::times::Neighbours;
use super::{Opening, acked, dictionary, epochs, routes, tail, upkeep};

/// Fixes of boots before this many are forgotten, unless there is something here of them.
const BOOTS_WITH_FIXES: u32 = 64;

pub(super) const META: &str = "meta.db";
/// A copy of `meta.db`, made when something changes that the chunks cannot tell, and of what was counted on the wire once a day
/// and when the store is closed.
pub(super) const META_COPY: &str = "meta.copy";
pub(super) const MARKS: &str = "marks";
pub(super) const TAIL: &str = "tail";

/// An opened store.
pub(super) struct Opened {
    pub(super) lock: File,
    pub(super) meta: Meta,
    pub(super) marks: Marks,
    pub(super) tail: Option<TailFile>,
    pub(super) next_chunk: u64,
    pub(super) state: State,
    /// Chunks set aside, to be read in the background.
    pub(super) salvage: Vec<(Class, PathBuf)>,
    pub(super) boot: Boot,
    pub(super) fixes: Vec<Fix>,
    pub(super) latest_wall_ms: Option<i64>,
    pub(super) values: Vec<(String, i64)>,
    /// Dictionary id of each tag of the plan.
    pub(super) tag_ids: Vec<u32>,
    pub(super) damaged_files: u64,
    pub(super) notices: Vec<Notice>,
}

struct Boots {
    directory: Directory,
    unreadable: Unreadable,
    state: State,
    damaged: Vec<String>,
    salvage: Vec<(Class, PathBuf)>,
    notices: Vec<Notice>,
    highest_boot: u32,
}

/// A file that cannot be read is given up when the store has been tried to be opened for about ten seconds: until then
/// a plant's samples fit into memory.
pub(super) const fn patience(attempts: u32) -> Unreadable {
    if attempts < 10 { Unreadable::TryAgain } else { Unreadable::GiveUp }
}

/// Opens the store of a directory. Where the disk is too full even for that, the ballast goes.
pub(super) fn open(opening: &Opening, unreadable: Unreadable) -> Result<Opened, Fault> {
    let directory = Directory::at(&opening.dir);
    match open_once(opening, &directory, unreadable) {
        Err(fault) if (matches!(fault, Fault::Full(_)) || directory.is_full()) && directory.drop_ballast() => {
            open_once(opening, &directory, unreadable)
        }
        outcome => outcome,
    }
}

fn open_once(opening: &Opening, directory: &Directory, unreadable: Unreadable) -> Result<Opened, Fault> {
    directory.prepare()?;
    let lock = directory.lock()?;
    directory.remove_drafts()?;
    let mut work = Boots {
        directory: directory.clone(),
        unreadable,
        state: State::empty(),
        damaged: Vec::new(),
        salvage: Vec::new(),
        notices: Vec::new(),
        highest_boot: 0,
    };
    let (marks_found, uplinks) = Marks::read(&directory.file(MARKS), unreadable)?;
    let (mut tail_file, tail_rows) = work.open_tail()?;
    let names = directory.chunks()?;
    let (mut meta, mut contents) = work.open_meta()?;
    let nothing = names.is_empty() && work.damaged.is_empty() && marks_found == Found::Nothing && tail_rows.is_empty();
    let fresh = contents.is_none() && nothing;
    let mut known = contents.clone().unwrap_or_default();
    epochs::take(&mut work.state, &known);
    let looks = work.look_at(&names, contents.is_none())?;
    work.take_chunks(looks);
    epochs::recall(&mut work.state, &marks_found, contents.is_none());
    work.take_losses(&known);
    work.resume_salvage()?;
    work.take_tail(tail_file.as_mut(), &tail_rows);
    if let Some(contents) = &mut contents {
        acked::recall(contents, &work.state, &uplinks);
        known.cursors.clone_from(&contents.cursors);
    }
    let missing = epochs::begin(&mut work.state, &marks_found, &known);
    routes::take(&mut work.state, opening, contents.as_ref().filter(|_| !fresh), fresh);
    for (class, span) in missing.damaged {
        work.declare(class, span);
    }
    epochs::declare_given_up(&mut work.state, &work.directory, missing.given_up);
    work.declare_holes();
    for row in &known.tags {
        work.state.dictionary.extend(dictionary::tag(row.clone()).map(|tag| (tag.id, Arc::new(tag))));
    }
    let (tag_ids, changed) = dictionary::assign(&mut work.state.dictionary, &opening.tags);
    // With a new meta.db everything is written, otherwise what changed.
    let all: Vec<_> = work.state.dictionary.values().cloned().collect();
    let to_write = if contents.is_none() { all } else { changed };
    work.state.edits.extend(to_write.iter().map(|tag| Edit::PutTag(dictionary::row(tag))));
    let boot = work.number_boot(&known, &opening.boot_token);
    work.finish_edits();
    meta.apply(&std::mem::take(&mut work.state.edits))?;
    let mut marks = Marks::open(&directory.file(MARKS), unreadable)?;
    marks.write(&acked::marks_of(&work.state), &acked::uplinks_of(&work.state))?;
    directory.sync()?;
    let next_chunk = directory.highest_chunk_number()? + 1;
    work.state.begin_with(&known.meters, &known.values);
    Ok(Opened {
        lock,
        meta,
        marks,
        tail: tail_file,
        next_chunk,
        state: work.state,
        salvage: work.salvage,
        boot,
        fixes: known.fixes.iter().map(|fix| Fix { at: stamp(fix.at), unix_ms: fix.unix_ms }).collect(),
        latest_wall_ms: latest_wall(&known),
        values: known.values,
        tag_ids,
        damaged_files: work.damaged.len() as u64,
        notices: work.notices,
    })
}

fn stamp((boot, micros): (u32, i64)) -> Stamp {
    Stamp { boot: Boot(boot), micros }
}

/// What was saved last, not what is highest: a clock that once was ahead and was set right must not count for years.
fn latest_wall(known: &Contents) -> Option<i64> {
    let saved = known.values.iter().find(|(name, _)| name == upkeep::WALL).map(|(_, ms)| *ms);
    saved.or(known.fixes.last().map(|fix| fix.unix_ms))
}

impl Boots {
    /// Opens `meta.db`; if it is damaged it is set aside and its copy taken; without one a new file is begun. Contents
    /// `None`: it is new, or was new when an earlier start did not come to fill it.
    fn open_meta(&mut self) -> Result<(Meta, Option<Contents>), Fault> {
        let path = self.directory.file(META);
        if path.try_exists()? {
            // Looked at before it is opened for writing: one of a newer version is not to be touched.
            let open = || Meta::look(&path).and_then(|_| Meta::open(&path));
            let fault = match open() {
                Ok((meta, contents)) => return Ok((meta, contents.is_filled().then_some(contents))),
                Err(fault) if fault.is_damage() || matches!(fault, Fault::Refused(_)) => fault,
                Err(fault) => return Err(fault),
            };
            let sure = look::sure(|| Err(fault.clone()), || Meta::look_at_content(&path).map(drop));
            if self.unreadable == Unreadable::TryAgain && !sure.as_ref().is_err_and(Fault::is_damage) {
                let whole = || Fault::Unavailable("its content is whole, but it cannot be opened".into());
                return Err(sure.err().unwrap_or_else(whole));
            }
            self.set_aside(META, &fault)?;
        } else {
            self.directory.remove_database(META)?; // a log without its database
        }
        let copy = self.directory.file(META_COPY);
        let look = if copy.try_exists()? {
            Some(look::sure(|| Meta::look(&copy), || Meta::look_at_content(&copy)))
        } else {
            None
        };
        if let Some(Err(fault)) = &look
            && !fault.is_damage()
            && self.unreadable == Unreadable::TryAgain
        {
            return Err(fault.clone());
        }
        if matches!(look, Some(Ok(_))) {
            std::fs::copy(copy, &path)?;
            File::open(&path)?.sync_all()?; // before anything in a log refers to it
            if let Ok((meta, contents)) = Meta::open(&path) {
                tracing::warn!("meta.db is missing; its copy is used");
                return Ok((meta, contents.is_filled().then_some(contents)));
            }
            self.directory.remove_database(META)?;
        }
        Ok((Meta::create(&path)?, None))
    }

    /// Opens the tail; what it has is looked at later. One that cannot be read is no reason not to start for long.
    fn open_tail(&mut self) -> Result<(Option<TailFile>, Vec<TailRow>), Fault> {
        match TailFile::open(&self.directory.file(TAIL), self.unreadable) {
            Ok((file, rows)) => {
                self.highest_boot = rows.iter().map(|row| row.row.boot).fold(self.highest_boot, u32::max);
                Ok((file, rows))
            }
            Err(fault) if self.unreadable == Unreadable::TryAgain => Err(fault),
            Err(fault) => {
                self.set_aside(TAIL, &fault)?;
                Ok((None, Vec::new()))
            }
        }
    }

    fn set_aside(&mut self, name: &str, fault: &Fault) -> Result<(), Fault> {
        let aside = self.directory.set_aside(name)?;
        tracing::error!(file = name, error = %fault, aside = %aside.display(), "damaged store file set aside");
        self.is_lost(name, format!("{name} was set aside in quarantine: {fault}"));
        Ok(())
    }

    /// It cannot even be moved: it stays where it is, and what it held counts as lost.
    fn pass_over(&mut self, name: &str, fault: &Fault) {
        tracing::error!(file = name, error = %fault, "store file can be neither read nor set aside; it is passed over");
        self.is_lost(name, format!("{name} can be neither read nor set aside: {fault}"));
    }

    fn is_lost(&mut self, name: &str, detail: String) {
        let subject = name.to_owned();
        self.notices.push(Notice { event: "store_damaged", phase: Phase::Once, subject, detail });
        self.damaged.push(name.to_owned());
    }

    fn look_at(&mut self, names: &[ChunkName], all_tags: bool) -> Result<Vec<(ChunkName, Look)>, Fault> {
        let mut looks = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let last_of_class = names.get(place + 1).is_none_or(|next| next.class != name.class);
            match look::surely(&self.directory, *name, all_tags || last_of_class) {
                Ok(Some(found)) => looks.push((*name, found)),
                // Made, but nothing was ever committed to it.
                Ok(None) => self.directory.remove_database(&name.file_name())?,
                Err(Fault::Full(text)) => return Err(Fault::Full(text)),
                Err(fault) if self.unreadable == Unreadable::TryAgain && !fault.is_damage() => return Err(fault),
                // Salvage may still get at parts of it.
                Err(fault) => match self.set_aside(&name.file_name(), &fault) {
                    Err(stays) if self.unreadable == Unreadable::GiveUp => self.pass_over(&name.file_name(), &stays),
                    done => done?,
                },
            }
        }
        Ok(looks)
    }

    fn take_chunks(&mut self, looks: Vec<(ChunkName, Look)>) {
        for (name, mut look) in looks {
            self.highest_boot = self.highest_boot.max(look.boot);
            let tags = std::mem::take(&mut look.tags).into_iter().filter_map(dictionary::tag);
            self.state.dictionary.extend(tags.map(|tag| (tag.id, Arc::new(tag))));
            let stream = self.state.stream_mut(name.class);
            let ordinal = match stream.ordinal_of(look.info.epoch) {
                Some(ordinal) => ordinal,
                None => epochs::adopt(stream, &look.info, look.last),
            };
            if let Some(life) = stream.life_mut(ordinal) {
                life.last = life.last.max(look.last);
            }
            stream.found(Held { name, span: Span { ordinal, first: look.first, last: look.last }, times: look.times });
        }
    }

    fn take_losses(&mut self, known: &Contents) {
        for row in &known.losses {
            if let Some(class) = Class::from_code(row.class) {
                let stream = self.state.stream_mut(class);
                if let Some(loss) = stream.loss_from(row) {
                    stream.losses.push(loss);
                    stream.losses.sort_by_key(|loss| loss.span);
                }
            }
        }
    }

    /// What of the tail is needed still; the rest of its file may be used again.
    fn take_tail(&mut self, file: Option<&mut TailFile>, rows: &[TailRow]) {
        tail::adopt(&mut self.state, rows);
        if let Some(file) = file {
            file.keep(|class, epoch, first, _| self.state.stream(class).is_in_tail(epoch, first));
        }
    }

    fn declare_holes(&mut self) {
        for class in Class::ALL {
            if !self.state.stream(class).salvaging {
                for span in self.state.stream(class).holes() {
                    self.declare(class, span);
                }
            }
        }
    }

    /// Chunks in quarantine that have not been read to the end.
    fn resume_salvage(&mut self) -> Result<(), Fault> {
        for (class, path) in self.directory.chunks_aside()? {
            self.state.stream_mut(class).salvaging = true;
            self.salvage.push((class, path));
        }
        Ok(())
    }

    fn declare(&mut self, class: Class, span: Span) {
        tracing::error!(class = %class, first = span.first, last = span.last, "records lost; a gap is declared");
        let (from, to) = Neighbours::of(self.state.stream(class), span).times(&self.directory);
        self.state.declare(class, &Loss { span, reason: "damaged".into(), from, to });
        self.notices.push(Notice {
            event: "store_damaged",
            phase: Phase::Once,
            subject: class.as_str().to_owned(),
            detail: format!("{} records of stream {class} are lost", span.len()),
        });
    }

    fn number_boot(&mut self, known: &Contents, token: &str) -> Boot {
        if let Some((number, _)) = known.boots.iter().find(|(_, known)| known == token) {
            return Boot(*number);
        }
        let number = known.boots.last().map_or(0, |(number, _)| *number).max(self.highest_boot) + 1;
        self.state.edits.push(Edit::PutBoot(number, token.to_owned()));
        // What is still to be salvaged may be of any boot.
        if self.salvage.is_empty() {
            let oldest = self.state.oldest_boot().map_or(number, |boot| boot.0);
            self.state.edits.push(Edit::DropFixesBefore(oldest.min(number.saturating_sub(BOOTS_WITH_FIXES))));
        }
        Boot(number)
    }

    fn finish_edits(&mut self) {
        let mut edits = Vec::new();
        for stream in self.state.streams.values() {
            edits.extend(stream.epochs.iter().map(|life| Edit::PutEpoch(stream.epoch_row(life))));
        }
        for ledger in &self.state.ledgers {
            edits.extend(self.state.cursor_rows(ledger));
        }
        self.state.edits.extend(edits);
    }
}
