//! A process under strace, and what it did to files: the log of its system calls, read back as operations.
//!
//! Calls of several threads are told apart by their thread; a call counts where it ended, but for `close`, whose
//! descriptor may have a new owner before it does. Reads are not of interest.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::skip::skipped;

/// Everything that changes files, names or descriptors, and what is said over a socket.
const CALLS: &str = "trace=openat,open,creat,close,dup,dup2,dup3,fcntl,write,writev,pwrite64,pwritev,pwritev2,lseek,\
                     ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,\
                     unlinkat,mkdir,mkdirat,rmdir,link,linkat,copy_file_range,sendfile,sendto";

/// One operation of the traced process.
#[derive(Debug, Clone)]
pub enum Op {
    Open {
        fd: i64,
        path: PathBuf,
        create: bool,
        truncate: bool,
        append: bool,
        synchronous: bool,
    },
    Close(i64),
    Dup {
        from: i64,
        to: i64,
    },
    /// `at` is `None` at the descriptor's own position.
    Write {
        fd: i64,
        at: Option<u64>,
        data: Vec<u8>,
    },
    Seek {
        fd: i64,
        to: u64,
    },
    Size {
        fd: i64,
        bytes: u64,
    },
    /// Made at least so long.
    Allocate {
        fd: i64,
        bytes: u64,
    },
    /// Everything that was written to it before operation `began` is durable now.
    Sync {
        fd: i64,
        began: usize,
    },
    Copy {
        from: i64,
        from_at: Option<u64>,
        to: i64,
        to_at: Option<u64>,
        bytes: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink(PathBuf),
    Mkdir(PathBuf),
    /// Bytes sent over a socket.
    Said(Vec<u8>),
}

/// Is there a strace that may trace here?
pub fn available() -> bool {
    let traced = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let may = traced.is_ok_and(|status| status.success());
    if !may {
        skipped("what needs strace", "it is not installed, or may not trace here");
    }
    may
}

/// May it attach to a process that runs, and is no child of its own? Containers and hardened systems may forbid that alone.
pub fn may_attach() -> bool {
    if !available() {
        return false;
    }
    let Ok(mut sleeper) = Command::new("sleep").arg("60").spawn() else { return false };
    let injector = Injector::attach(sleeper.id(), Path::new("/dev/null"), "read", "error=EIO", "1");
    let may = injector.is_some();
    injector.map(Injector::detach);
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    if !may {
        skipped("calls that fail", "strace may not attach to a running process here");
    }
    may
}

/// strace, making calls of a running process fail.
pub struct Injector {
    strace: Child,
    log: PathBuf,
}

impl Injector {
    /// `None` where strace may not attach.
    pub fn attach(pid: u32, log: &Path, calls: &str, error: &str, manner: &str) -> Option<Self> {
        let mut strace = Command::new("strace")
            .args(["-f", "-o"])
            .arg(log)
            .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{error}:when={manner}")])
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let attached = lines.by_ref().map_while(Result::ok).find(|line| line.contains("attached"));
        std::thread::spawn(move || lines.for_each(drop)); // it says more with each thread
        if attached.is_none() {
            let _ = strace.wait();
            return None;
        }
        Some(Self { strace, log: log.to_path_buf() })
    }

    /// Lets go of the process; how many calls were made to fail.
    pub fn detach(mut self) -> u64 {
        let pid = rustix::process::Pid::from_child(&self.strace);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.strace.wait();
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("(INJECTED)")).count() as u64
    }
}

/// A command that runs another one under strace, with all it writes, into a log.
pub fn traced(log: &Path, program: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-xx", "-s", "4194304", "-e", CALLS, "-o"]).arg(log).arg(program);
    command
}

/// Reads a log.
pub fn read(log: &Path) -> Vec<Op> {
    let text = std::fs::read_to_string(log).expect("a log");
    let mut ops = Vec::new();
    let mut begun: HashMap<&str, (String, usize)> = HashMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            if start.starts_with("close(") {
                ops.extend(parse(&format!("{start}) = 0"), ops.len()));
            } else {
                begun.insert(thread, (start.trim_end().to_owned(), ops.len()));
            }
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (Some((start, at)), Some((_, end))) = (begun.remove(thread), resumed.split_once("resumed>")) else {
                continue;
            };
            ops.extend(parse(&format!("{start}{end}"), at));
        } else {
            ops.extend(parse(rest, ops.len()));
        }
    }
    ops
}

/// An argument: text as strace printed it, or the bytes of a string.
enum Word {
    Plain(String),
    Bytes(Vec<u8>),
}

impl Word {
    fn path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStringExt as _;
        match self {
            Self::Plain(text) => PathBuf::from(text),
            Self::Bytes(bytes) => PathBuf::from(std::ffi::OsString::from_vec(bytes.clone())),
        }
    }

    fn number(&self) -> Option<i64> {
        match self {
            Self::Plain(text) => text.trim_matches(['[', ']']).parse().ok(),
            Self::Bytes(_) => None,
        }
    }

    fn place(&self) -> Option<u64> {
        self.number().and_then(|number| u64::try_from(number).ok())
    }

    fn has(&self, word: &str) -> bool {
        matches!(self, Self::Plain(text) if text.contains(word))
    }
}

/// Splits `name(arguments) = result`; strings are printed as `"\x41\x42"`.
fn split(line: &str) -> Option<(&str, Vec<Word>, i64)> {
    let (name, mut rest) = line.split_once('(')?;
    let (mut words, mut plain) = (Vec::new(), String::new());
    loop {
        let place = rest.find(['"', ',', ')'])?;
        plain.push_str(&rest[..place]);
        let sign = rest.as_bytes()[place];
        rest = &rest[place + 1..];
        if sign == b'"' {
            let end = rest.find('"')?;
            words.push(Word::Bytes(bytes(&rest[..end])));
            rest = rest[end + 1..].strip_prefix("...").unwrap_or(&rest[end + 1..]);
            plain.clear();
            continue;
        }
        if !plain.trim().is_empty() {
            words.push(Word::Plain(plain.trim().to_owned()));
        }
        plain.clear();
        if sign == b')'
            && let Some(result) = rest.trim_start().strip_prefix('=')
        {
            let number = result.split_whitespace().next()?;
            return Some((name, words, number.parse().ok()?));
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => c - b'0',
        _ => c - b'a' + 10,
    };
    hex.as_bytes().chunks_exact(4).map(|sign| digit(sign[2]) << 4 | digit(sign[3])).collect()
}

fn parse(line: &str, began: usize) -> Option<Op> {
    let (name, words, result) = split(line)?;
    if result < 0 {
        return None;
    }
    let fd = || words.first().and_then(Word::number);
    let path = |place: usize| words.get(place).map(Word::path);
    let data = || {
        let strings = words.iter().filter_map(|word| if let Word::Bytes(bytes) = word { Some(bytes) } else { None });
        let mut all: Vec<u8> = strings.flatten().copied().collect();
        assert!(all.len() as u64 >= result.unsigned_abs(), "the log is cut: {}", &line[..60]);
        all.truncate(usize::try_from(result).expect("not negative"));
        all
    };
    Some(match name {
        "openat" | "open" | "creat" => {
            let first = usize::from(name == "openat");
            let flags = words.get(first + 1);
            let has = |flag: &str| name == "creat" || flags.is_some_and(|flags| flags.has(flag));
            let synchronous = flags.is_some_and(|flags| flags.has("O_DSYNC") || flags.has("O_SYNC"));
            let append = flags.is_some_and(|flags| flags.has("O_APPEND"));
            let (create, truncate) = (has("O_CREAT"), has("O_TRUNC"));
            Op::Open { fd: result, path: path(first)?, create, truncate, append, synchronous }
        }
        "close" => Op::Close(fd()?),
        "dup" | "dup2" | "dup3" => Op::Dup { from: fd()?, to: result },
        "fcntl" if words.get(1)?.has("F_DUPFD") => Op::Dup { from: fd()?, to: result },
        "write" | "writev" => Op::Write { fd: fd()?, at: None, data: data() },
        "pwrite64" => Op::Write { fd: fd()?, at: words.last()?.place(), data: data() },
        "pwritev" | "pwritev2" | "sync_file_range" | "truncate" => panic!("not understood: {name}"),
        "lseek" => Op::Seek { fd: fd()?, to: result.unsigned_abs() },
        "ftruncate" => Op::Size { fd: fd()?, bytes: words.get(1)?.place()? },
        "fallocate" if words.get(1)?.number() == Some(0) => {
            Op::Allocate { fd: fd()?, bytes: words.get(2)?.place()? + words.get(3)?.place()? }
        }
        "fallocate" => {
            assert!(words.get(1)?.has("KEEP_SIZE") && !words.get(1)?.has("PUNCH"), "not understood: {line}");
            return None;
        }
        "fsync" | "fdatasync" => Op::Sync { fd: fd()?, began },
        "copy_file_range" => Op::Copy {
            from: fd()?,
            from_at: words.get(1)?.place(),
            to: words.get(2)?.number()?,
            to_at: words.get(3)?.place(),
            bytes: result.unsigned_abs(),
        },
        "sendfile" => Op::Copy {
            from: words.get(1)?.number()?,
            from_at: words.get(2)?.place(),
            to: fd()?,
            to_at: None,
            bytes: result.unsigned_abs(),
        },
        "rename" => Op::Rename { from: path(0)?, to: path(1)? },
        "renameat" | "renameat2" => Op::Rename { from: path(1)?, to: path(3)? },
        "unlink" | "rmdir" => Op::Unlink(path(0)?),
        "unlinkat" => Op::Unlink(path(1)?),
        "mkdir" => Op::Mkdir(path(0)?),
        "mkdirat" => Op::Mkdir(path(1)?),
        "link" | "linkat" => panic!("not understood: {line}"),
        "sendto" => Op::Said(data()),
        _ => return None,
    })
}

/// An operation without what it wrote.
pub fn short(op: &Op) -> String {
    match op {
        Op::Write { fd, at, data } => format!("{} bytes to {fd} at {at:?}", data.len()),
        Op::Said(_) => "said".to_owned(),
        op => format!("{op:?}"),
    }
}
