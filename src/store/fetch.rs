//! The reading thread of a reader: opens chunks beside their writer and unpacks a page of records at a time.
//!
//! Knows no order and no cursors: it is asked for one place and answers with what lies there, or with what cannot be
//! read. A chunk that is evicted under it simply changes the question.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::disk::chunk::ChunkReader;
use crate::disk::directory::ChunkName;
use crate::disk::fault::Fault;
use crate::model::number::{Epoch, Number, Seq};
use crate::payload::json::Previous;

use super::cursor::{Position, Span};
use super::patience::Refused;
use super::segment::{self, Body, Place, Record};
use super::{Item, Owed, OwedBody, Shared, dictionary};

/// Records in a page: what a reader may hold ready.
const PAGE_RECORDS: usize = 4096;
/// And bytes of events and messages; the one that goes beyond is the last.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Segments read in one query: a merged one fills several pages.
const SEGMENTS: usize = 2;
/// Nobody else is kept waiting longer for a chunk that cannot be read now.
const PAUSE: Duration = Duration::from_millis(500);

/// "Read this chunk from here, at most up to there."
pub(super) struct Request {
    pub(super) name: ChunkName,
    pub(super) at: Position,
    pub(super) upto: u64,
    pub(super) epoch: u64,
    pub(super) previous: Option<Previous>,
    pub(super) answer: oneshot::Sender<Page>,
}

/// The answer.
pub(super) enum Page {
    /// Records, and where to go on.
    Items(Vec<Item>, Position),
    /// These cannot be read.
    Lost(Span),
    /// Things have changed: look again.
    Changed,
}

/// Starts the thread; it ends when the sender is dropped.
pub(super) fn start(shared: Arc<Shared>, uplink: usize) -> mpsc::Sender<Request> {
    let (requests, mut asked) = mpsc::channel::<Request>(2);
    let run = move || {
        let mut desk = Desk::default();
        while let Some(request) = asked.blocking_recv() {
            if request.answer.is_closed() {
                continue; // rewound meanwhile
            }
            let page = serve(&shared, uplink, &mut desk, &request);
            let _ = request.answer.send(page);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("store-read".into()).spawn(run) {
        tracing::error!(error = %error, "reading thread cannot start");
    }
    requests
}

/// What is kept from request to request.
#[derive(Default)]
struct Desk {
    open: Option<Open>,
    /// Chunks that the medium refused at the last attempt; only such as are held.
    refused: HashMap<ChunkName, Refused>,
}

/// What is kept from page to page.
struct Open {
    name: ChunkName,
    chunk: ChunkReader,
    /// The segment last unpacked: its first and last seq, and its records.
    segment: Option<(u64, u64, Vec<Record>)>,
}

fn serve(shared: &Shared, uplink: usize, desk: &mut Desk, request: &Request) -> Page {
    if request.name.is_tail() {
        return match read_tail(shared, request) {
            Page::Items(items, at) => Page::Items(without_acknowledged(shared, uplink, request, items), at),
            page => page,
        };
    }
    let wait = desk.refused.get(&request.name).map_or(Duration::ZERO, |refused| refused.wait(Instant::now()));
    if !wait.is_zero() {
        std::thread::sleep(wait.min(PAUSE));
        return Page::Changed;
    }
    // SQLite alone is not believed that something is damaged or missing: see `disk::image`.
    let page = match page(shared, &mut desk.open, request) {
        Ok(Page::Lost(_)) => judge(shared, request),
        Err(fault) if fault.is_damage() => judge(shared, request),
        page => page,
    };
    let held = |name| shared.state().streams.values().any(|stream| stream.chunks.iter().any(|held| held.name == name));
    match page {
        Ok(page) => {
            if desk.refused.remove(&request.name).is_some() {
                tracing::info!(file = request.name.file_name(), "chunk can be read again");
            }
            match page {
                Page::Items(items, at) => Page::Items(without_acknowledged(shared, uplink, request, items), at),
                page => page,
            }
        }
        Err(_) if !held(request.name) => Page::Changed,
        Err(fault) if fault.is_damage() || path(shared, request).try_exists().is_ok_and(|there| !there) => {
            tracing::error!(file = request.name.file_name(), error = %fault, "chunk cannot be read");
            Page::Lost(whole(request))
        }
        Err(fault) => {
            desk.refused.retain(|name, _| held(*name));
            desk.refuse(request, &fault)
        }
    }
}

impl Desk {
    /// The medium refuses a chunk: it stays as it is and is tried again, for an hour at least.
    fn refuse(&mut self, request: &Request, fault: &Fault) -> Page {
        let now = Instant::now();
        match self.refused.get_mut(&request.name) {
            Some(refused) => refused.again(now),
            None => {
                tracing::warn!(file = request.name.file_name(), error = %fault, "chunk cannot be read now; trying again");
                self.refused.insert(request.name, Refused::first(now));
            }
        }
        if self.refused.get(&request.name).is_some_and(|refused| refused.is_hopeless(now)) {
            tracing::error!(file = request.name.file_name(), error = %fault, "chunk could not be read for long; given up");
            self.refused.remove(&request.name);
            return Page::Lost(whole(request));
        }
        Page::Changed
    }
}

/// All that was asked for.
const fn whole(request: &Request) -> Span {
    Span { ordinal: request.at.ordinal, first: request.at.seq, last: request.upto }
}

/// Reads a page of the content as it was read in one piece; what is lost there twice is lost.
fn judge(shared: &Shared, request: &Request) -> Result<Page, Fault> {
    let look = || {
        let chunk = ChunkReader::of_content(&path(shared, request))?;
        read(shared, &mut Open { name: request.name, chunk, segment: None }, request)
    };
    match look() {
        Ok(Page::Lost(_)) => look(),
        Err(fault) if fault.is_damage() => look(),
        sure => sure,
    }
}

/// Opens the chunk if need be and reads a page of it.
fn page(shared: &Shared, open: &mut Option<Open>, request: &Request) -> Result<Page, Fault> {
    let mut opened = match open.take().filter(|open| open.name == request.name) {
        Some(open) => open,
        None => {
            let chunk = ChunkReader::open(&shared.directory.chunk(request.name))?;
            Open { name: request.name, chunk, segment: None }
        }
    };
    let page = read(shared, &mut opened, request)?;
    // At the end of what is written the file is closed: if it is evicted its space is free at once.
    if matches!(&page, Page::Items(_, at) if at.seq <= request.upto) {
        *open = Some(opened);
    }
    Ok(page)
}

fn path(shared: &Shared, request: &Request) -> PathBuf {
    shared.directory.chunk(request.name)
}

/// Reads a page of what is not in a chunk yet, from memory.
fn read_tail(shared: &Shared, request: &Request) -> Page {
    let place = Place { class: request.name.class, epoch: request.epoch };
    let (mut at, mut items) = (request.at, Vec::new());
    while !is_full(&items) && at.seq <= request.upto {
        let row = shared.state().stream(place.class).tail_at(at).map(Arc::clone);
        let Some(row) = row else { break }; // merged meanwhile
        match segment::unpack(place, &row) {
            Ok(records) => at.seq = push(shared, request, (row.first, at.seq), &records, &mut items),
            Err(_) if !items.is_empty() => break,
            Err(fault) => {
                tracing::error!(class = %place.class, error = %fault, "segment in memory cannot be read");
                return Page::Lost(Span { ordinal: at.ordinal, first: at.seq, last: row.last.min(request.upto) });
            }
        }
    }
    if items.is_empty() { Page::Changed } else { Page::Items(items, at) }
}

/// Reads a page; stops before damage, and reports damage only when it comes first.
fn read(shared: &Shared, open: &mut Open, request: &Request) -> Result<Page, Fault> {
    let place = Place { class: request.name.class, epoch: request.epoch };
    let (mut at, mut items) = (request.at, Vec::new());
    let span = |at: Position, last: u64| Span { ordinal: at.ordinal, first: at.seq, last: last.min(request.upto) };
    while !is_full(&items) && at.seq <= request.upto {
        if let Some((first, last, records)) = &open.segment
            && (*first..=*last).contains(&at.seq)
        {
            at.seq = push(shared, request, (*first, at.seq), records, &mut items);
            continue;
        }
        open.segment = None;
        let rows = match open.chunk.segments_from(at.seq, SEGMENTS) {
            Ok(rows) => rows,
            Err(_) if !items.is_empty() => break,
            Err(fault) => return Err(fault),
        };
        // The first may be the one before the hole that `at` lies in.
        let mut rows = rows.into_iter().skip_while(|row| row.last < at.seq);
        let Some(row) = rows.next() else {
            // Nothing at or after this place.
            return Ok(if items.is_empty() { Page::Lost(span(at, request.upto)) } else { Page::Items(items, at) });
        };
        let missing = (row.first > at.seq).then(|| row.first - 1);
        let unpacked = if missing.is_some() { Ok(Vec::new()) } else { segment::unpack(place, &row) };
        match (missing, unpacked) {
            (None, Ok(records)) => open.segment = Some((row.first, row.last, records)),
            _ if !items.is_empty() => return Ok(Page::Items(items, at)),
            (Some(last), _) => return Ok(Page::Lost(span(at, last))),
            (None, Err(_)) => {
                let next = rows.next().map(|row| row.first - 1);
                let next = next.or_else(|| Some(open.chunk.segments_from(row.first + 1, 2).ok()?.get(1)?.first - 1));
                return Ok(Page::Lost(span(at, next.unwrap_or(request.upto).max(at.seq))));
            }
        }
    }
    Ok(Page::Items(items, at))
}

/// Bytes of a page beyond the places of its items.
fn bytes(items: &[Item]) -> usize {
    let bytes = |item: &Item| match item {
        Item::Record(Owed { body: OwedBody::Event { topic, body }, .. }) => topic.len() + body.len(),
        Item::Record(Owed { body: OwedBody::Message { topic, message }, .. }) => topic.len() + message.bytes(),
        _ => 0,
    };
    items.iter().map(bytes).sum()
}

fn is_full(items: &[Item]) -> bool {
    items.len() >= PAGE_RECORDS || bytes(items) >= PAGE_BYTES
}

/// Adds the records of a segment from seq `from` on, up to the asked end or a full page; returns the next seq.
fn push(
    shared: &Shared,
    request: &Request,
    (first, from): (u64, u64),
    records: &[Record],
    items: &mut Vec<Item>,
) -> u64 {
    let (mut next, mut bytes) = (from, bytes(items));
    let state = shared.state();
    let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
    for (seq, record) in (from..=request.upto).zip(records.iter().skip(skipped)) {
        if items.len() >= PAGE_RECORDS || bytes >= PAGE_BYTES {
            break;
        }
        bytes += record.body.bytes();
        next = seq + 1;
        let number = Number { stream: request.name.class, epoch: Epoch(request.epoch), seq: Seq(seq) };
        let previous = request.previous.filter(|_| seq == 1);
        let body = match record.body.clone() {
            Body::Event { topic, body } => OwedBody::Event { topic, body },
            Body::Message { topic, message } => OwedBody::Message { topic, message },
            Body::Sample { tag, value, quality } => {
                OwedBody::Sample { tag: state.tag(tag).unwrap_or_else(|| dictionary::unknown(tag)), value, quality }
            }
        };
        items.push(Item::Record(Owed { number, previous, body, at: record.at }));
    }
    next
}

/// Records that were acknowledged out of order before a rewind are not handed out again.
fn without_acknowledged(shared: &Shared, uplink: usize, request: &Request, mut items: Vec<Item>) -> Vec<Item> {
    let state = shared.state();
    let cursor = state.ledgers.get(uplink).and_then(|ledger| ledger.cursors[request.name.class].as_ref());
    if let Some(cursor) = cursor.filter(|cursor| !cursor.ranges().is_empty() || cursor.acked >= request.at) {
        items.retain(|item| match item {
            Item::Record(owed) => !cursor.has(Position { ordinal: request.at.ordinal, seq: owed.number.seq.0 }),
            Item::Gap(_) => true,
        });
    }
    items
}
