//! What a power cut leaves of files: a model of a disk behind a cache that a log of operations is played into.
//!
//! Durable is what a sync of that very file has made so (a name: a sync of its directory). Everything later is there or
//! not, sector by sector (512 bytes), in any order; sectors on their way may hold rubbish; lost ends of a file are
//! missing or zeros. Names that were not synced are there in any selection (what POSIX allows), or all up to some moment
//! that is not before the last sync of anything (what journalling file systems do). SQLite's shared memory is gone.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _};

use super::strace::Op;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Size(usize),
}

#[derive(Debug, Clone, Default)]
struct Node {
    dir: bool,
    /// As the process sees it.
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// What may or may not have arrived, with the operation that did it.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Is { path: PathBuf, node: usize },
    Gone(PathBuf),
    Moved { from: PathBuf, to: PathBuf, node: usize },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Is { path, .. } | Self::Gone(path) => path.parent() == Some(dir),
            Self::Moved { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Is { path, node } => drop(names.insert(path.clone(), *node)),
            Self::Gone(path) => drop(names.remove(path)),
            Self::Moved { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    node: usize,
    at: usize,
    append: bool,
    synchronous: bool,
}

/// The disk below one directory.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// With the number of the operation.
    pending: Vec<(usize, NameChange)>,
    /// The operation of the last sync of anything.
    synced: usize,
    open: HashMap<i64, Open>,
}

/// Files as they are found after a power cut.
#[derive(Debug)]
pub struct Image {
    /// Path below the directory; the node (to find the real file again); content, `None` for a directory.
    pub files: Vec<(PathBuf, usize, Option<Vec<u8>>)>,
    pub kind: &'static str,
}

fn is_memory(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-shm")
}

impl Disk {
    /// A directory as it lies there, all of it durable.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self { root: root.to_path_buf(), ..Self::default() };
        disk.add(root);
        disk.durable = disk.names.clone();
        disk
    }

    fn add(&mut self, path: &Path) {
        let dir = path.is_dir();
        let content = if dir { Vec::new() } else { fs::read(path).expect("readable") };
        self.nodes.push(Node { dir, cache: content.clone(), durable: content, pending: Vec::new() });
        self.names.insert(path.to_path_buf(), self.nodes.len() - 1);
        if dir {
            for entry in fs::read_dir(path).expect("a directory") {
                self.add(&entry.expect("an entry").path());
            }
        }
    }

    /// Bytes of all files as the process sees them.
    pub fn bytes(&self) -> u64 {
        self.names.values().map(|node| self.nodes[*node].cache.len() as u64).sum()
    }

    /// Bytes of it that wait in WALs.
    pub fn wal_bytes(&self) -> u64 {
        let of = |(path, node): (&PathBuf, &usize)| {
            let is_wal = path.as_os_str().as_encoded_bytes().ends_with(b"-wal");
            is_wal.then(|| self.nodes[*node].cache.len() as u64)
        };
        self.names.iter().filter_map(of).sum()
    }

    /// Where the nodes that still have a name can be found.
    pub fn places(&self) -> HashMap<usize, PathBuf> {
        self.names.iter().map(|(path, node)| (*node, path.clone())).collect()
    }

    /// A file as the process sees it.
    pub fn content(&self, path: &Path) -> Option<&[u8]> {
        self.names.get(path).map(|node| self.nodes[*node].cache.as_slice())
    }

    fn rename(&mut self, n: usize, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push((n, change));
    }

    fn change(&mut self, n: usize, node: usize, change: Change) {
        let file = &mut self.nodes[node];
        apply(&mut file.cache, &change);
        file.pending.push((n, change));
    }

    /// Plays operation number `n`.
    pub fn play(&mut self, n: usize, op: &Op) {
        match op {
            Op::Open { .. } => self.open_file(n, op),
            Op::Close(fd) => drop(self.open.remove(fd)),
            Op::Dup { from, to } => {
                if let Some(open) = self.open.get(from).copied() {
                    self.open.insert(*to, open);
                }
            }
            Op::Write { fd, at, data } => self.write(n, *fd, *at, data.clone()),
            Op::Seek { fd, to } => {
                if let Some(open) = self.open.get_mut(fd) {
                    open.at = usize::try_from(*to).expect("small");
                }
            }
            Op::Size { fd, bytes } => {
                if let Some(node) = self.open.get(fd).map(|open| open.node) {
                    self.change(n, node, Change::Size(usize::try_from(*bytes).expect("small")));
                }
            }
            Op::Allocate { fd, bytes } => {
                let bytes = usize::try_from(*bytes).expect("small");
                if let Some(node) = self.open.get(fd).map(|open| open.node)
                    && self.nodes[node].cache.len() < bytes
                {
                    self.change(n, node, Change::Size(bytes));
                }
            }
            Op::Sync { fd, began } => self.sync(*fd, *began),
            Op::Copy { from, from_at, to, to_at, bytes } => {
                if let Some(source) = self.open.get(from).copied() {
                    let start = from_at.map_or(source.at, |at| usize::try_from(at).expect("small"));
                    let data =
                        self.nodes[source.node].cache[start..start + usize::try_from(*bytes).expect("small")].to_vec();
                    if let (None, Some(source)) = (from_at, self.open.get_mut(from)) {
                        source.at += data.len();
                    }
                    self.write(n, *to, *to_at, data);
                }
            }
            Op::Rename { from, to } => {
                if let Some(node) = self.names.get(from).copied() {
                    self.rename(n, NameChange::Moved { from: from.clone(), to: to.clone(), node });
                }
            }
            Op::Unlink(path) => {
                if self.names.contains_key(path) {
                    self.rename(n, NameChange::Gone(path.clone()));
                }
            }
            Op::Mkdir(path) => {
                if path.starts_with(&self.root) && !self.names.contains_key(path) {
                    self.nodes.push(Node { dir: true, ..Node::default() });
                    let node = self.nodes.len() - 1;
                    self.rename(n, NameChange::Is { path: path.clone(), node });
                }
            }
            Op::Said(_) => {}
        }
    }

    fn open_file(&mut self, n: usize, op: &Op) {
        let Op::Open { fd, path, create, truncate, append, synchronous } = op else { return };
        self.open.remove(fd);
        if !path.starts_with(&self.root) {
            return;
        }
        let known = self.names.get(path).copied();
        let node = known.or_else(|| {
            create.then(|| {
                self.nodes.push(Node::default());
                let node = self.nodes.len() - 1;
                self.rename(n, NameChange::Is { path: path.clone(), node });
                node
            })
        });
        let Some(node) = node else { return };
        if *truncate && !self.nodes[node].cache.is_empty() {
            self.change(n, node, Change::Size(0));
        }
        self.open.insert(*fd, Open { node, at: 0, append: *append, synchronous: *synchronous });
    }

    fn write(&mut self, n: usize, fd: i64, at: Option<u64>, data: Vec<u8>) {
        let Some(open) = self.open.get_mut(&fd) else { return };
        let length = self.nodes[open.node].cache.len();
        let place = match at {
            Some(at) => usize::try_from(at).expect("small"),
            None if open.append => length,
            None => open.at,
        };
        if at.is_none() {
            open.at = place + data.len();
        }
        let Open { node, synchronous, .. } = *open;
        self.change(n, node, Change::Write { at: place, data });
        if synchronous {
            self.sync(fd, n + 1);
        }
    }

    fn sync(&mut self, fd: i64, began: usize) {
        let Some(node) = self.open.get(&fd).map(|open| open.node) else { return };
        self.synced = began;
        if self.nodes[node].dir {
            let Some(dir) = self.names.iter().find(|(_, known)| **known == node).map(|(path, _)| path.clone()) else {
                return;
            };
            let durable = &mut self.durable;
            self.pending.retain(|(n, change)| {
                let done = *n < began && change.is_in(&dir);
                if done {
                    change.apply(durable);
                }
                !done
            });
            return;
        }
        let file = &mut self.nodes[node];
        let late = file.pending.iter().position(|(n, _)| *n >= began).unwrap_or(file.pending.len());
        for (_, change) in file.pending.drain(..late) {
            apply(&mut file.durable, &change);
        }
    }

    /// One of the many things that a power cut now may leave.
    pub fn cut(&self, random: &mut StdRng) -> Image {
        let kind = ["posix", "posix", "posix", "journal", "journal", "all", "none"][random.random_range(0..7)];
        let mut names = self.durable.clone();
        let chance = *[0.1, 0.5, 0.9].get(random.random_range(0..3)).expect("three");
        let settled = self.pending.iter().filter(|(n, _)| *n < self.synced).count();
        let upto = random.random_range(settled..=self.pending.len());
        for (place, (_, change)) in self.pending.iter().enumerate() {
            let there = match kind {
                "posix" => random.random_bool(chance),
                "journal" => place < upto,
                kind => kind == "all",
            };
            if there {
                change.apply(&mut names);
            }
        }
        names.retain(|path, _| !is_memory(path));
        let mut dirs: Vec<PathBuf> = Vec::new();
        let mut files = Vec::new();
        for (path, node) in &names {
            if path != &self.root
                && !path.parent().is_some_and(|home| home == self.root || dirs.iter().any(|dir| dir == home))
            {
                continue; // its directory is not there
            }
            let file = &self.nodes[*node];
            if file.dir {
                dirs.push(path.clone());
            }
            let below = path.strip_prefix(&self.root).expect("below").to_path_buf();
            files.push((below, *node, (!file.dir).then(|| content(file, kind, random))));
        }
        Image { files, kind }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Size(bytes) => content.resize(*bytes, 0),
        Change::Write { at, data } => {
            if content.len() < at + data.len() {
                content.resize(at + data.len(), 0);
            }
            content[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

fn content(file: &Node, kind: &str, random: &mut StdRng) -> Vec<u8> {
    match kind {
        "all" => return file.cache.clone(),
        "none" => return file.durable.clone(),
        _ if file.pending.is_empty() => return file.durable.clone(),
        _ => {}
    }
    let mut content = file.durable.clone();
    let chance = *[0.0, 0.2, 0.5, 0.8, 1.0].get(random.random_range(0..5)).expect("five");
    let whole = random.random_bool(0.3); // writes are there or not, none is torn
    for (_, change) in &file.pending {
        let there = random.random_bool(chance);
        let Change::Write { at, data } = change else {
            if there {
                apply(&mut content, change);
            }
            continue;
        };
        let mut start = 0;
        while start < data.len() {
            let end = if whole { data.len() } else { data.len().min(start + SECTOR - (at + start) % SECTOR) };
            let part = Change::Write { at: at + start, data: data[start..end].to_vec() };
            if if whole { there } else { random.random_bool(chance) } {
                apply(&mut content, &part);
            } else if random.random_bool(0.02) {
                let mut rubbish = vec![0; end - start];
                random.fill_bytes(&mut rubbish);
                apply(&mut content, &Change::Write { at: at + start, data: rubbish });
            }
            start = end;
        }
    }
    if content.len() < file.cache.len() && random.random_bool(0.5) {
        content.resize(file.cache.len(), 0);
    }
    content
}

impl Image {
    /// Lays the files down in an empty directory. A file that is still there keeps its inode (the store knows it): it
    /// becomes a second name of the real one, which is overwritten.
    pub fn write(&self, dir: &Path, real: &HashMap<usize, PathBuf>) {
        for (path, node, content) in &self.files {
            let path = dir.join(path);
            let Some(content) = content else {
                fs::create_dir_all(&path).expect("made");
                continue;
            };
            if let Some(place) = real.get(node) {
                fs::hard_link(place, &path).expect("linked");
            }
            let mut file = File::create(&path).expect("made");
            file.write_all(content).expect("written");
        }
    }
}
