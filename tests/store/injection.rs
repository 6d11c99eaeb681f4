//! Every kind of call the store makes is made to fail, with every error that makes sense for it: always, now and then,
//! and once, for a second, by strace attached to the running process. The process lives on and goes on taking records,
//! commits again once the calls succeed again, and everything promised is there.
//!
//! That the list of calls is complete, strace says as well. `close` is left out: a call that strace makes fail is not
//! made, and a descriptor that stays open is nothing that a real failure of `close` leaves behind.
//! `IRONBRIDGE_INJECTIONS=all` tries each pair in each manner, `IRONBRIDGE_INJECTION=N` only one case.

use crate::strace;
use crate::subject;
use crate::witness;
use crate::workload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use strace::Injector;
use subject::Subject;
use witness::{Audit, Figures, Said};
use workload::Order;

/// How long calls fail.
const WINDOW: Duration = Duration::from_millis(1200);
/// A failed commit is tried again every second, a stop under way waits 5 s. An idle machine needs 2 s at most.
const RECOVERY: Duration = Duration::from_secs(60);
/// The end of a process may wait for several busy locks.
const END: Duration = Duration::from_secs(120);
/// At the same time: most of the time they wait.
const LANES: usize = 6;

/// Calls, by the names they have on different machines, and the errors they get.
const CALLS: &[(&str, &[&str])] = &[
    ("openat", &["error=EIO", "error=EMFILE", "error=ENOSPC", "error=EINTR"]),
    ("read", &["error=EIO"]),
    ("pread64", &["error=EIO", "error=EINTR"]),
    ("write", &["error=EIO", "error=ENOSPC", "error=EINTR"]),
    ("pwrite64", &["error=EIO", "error=ENOSPC", "error=EINTR", "error=EDQUOT", "retval=0"]),
    ("fsync", &["error=EIO", "error=ENOSPC"]),
    ("fdatasync", &["error=EIO", "error=ENOSPC"]),
    ("ftruncate", &["error=EIO", "error=ENOSPC", "error=EINTR"]),
    ("?unlink,?unlinkat", &["error=EIO", "error=EROFS"]),
    ("?rename,?renameat,?renameat2", &["error=EIO", "error=ENOSPC"]),
    ("?mkdir,?mkdirat", &["error=EIO", "error=ENOSPC"]),
    ("?fstat,?newfstatat,?statx", &["error=EIO", "error=ENOMEM"]),
    ("getdents64", &["error=EIO"]),
    ("?statfs,?fstatfs", &["error=EIO"]),
    ("flock", &["error=ENOLCK"]),
    ("fcntl", &["error=EIO", "error=ENOLCK"]),
    ("copy_file_range", &["error=EIO", "error=ENOSPC"]),
    ("fchown", &["error=EIO", "error=EPERM"]),
];
/// Calls that are not made to fail: those that touch no file of the store (memory, threads, time, the socket to this test),
/// and `close` (see above). `mmap` maps shared memory of SQLite, but stacks and heaps too: without those no process lives.
const OTHERS: &[&str] = &[
    "close",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "brk",
    "futex",
    "clone",
    "clone3",
    "exit",
    "exit_group",
    "rseq",
    "set_robust_list",
    "sigaltstack",
    "rt_sigprocmask",
    "rt_sigaction",
    "rt_sigreturn",
    "prctl",
    "prlimit64",
    "gettid",
    "getpid",
    "geteuid",
    "sched_getaffinity",
    "sched_yield",
    "getrandom",
    "membarrier",
    "clock_nanosleep",
    "clock_gettime",
    "gettimeofday",
    "nanosleep",
    "restart_syscall",
    "epoll_wait",
    "epoll_pwait",
    "poll",
    "ppoll",
    "sendto",
    "recvfrom",
    "shutdown",
    "tgkill",
];
/// Calls that are made so seldom that only a run of all manners is sure to meet them.
const SELDOM: &[&str] = &["read", "flock", "copy_file_range", "?mkdir,?mkdirat", "?rename,?renameat,?renameat2"];
const MANNERS: [&str; 3] = ["1+", "2+5", "3"];

/// Not a test of its own: what is made to fail.
#[test]
fn the_process_whose_calls_fail() {
    if let Some(order) = Order::mine() {
        order.obey();
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    number: u64,
    calls: &'static str,
    error: &'static str,
    manner: &'static str,
}

/// What came of it: calls that failed, how long until the next commit, figures.
type Outcome = Result<(u64, Duration, Figures), String>;

fn suffer(case: Case) -> Outcome {
    let home = witness::place();
    let order = order(home.path(), case.number);
    let mut said = Said::default();
    let subject = Subject::run("injection::the_process_whose_calls_fail", &order);
    if !subject.commits(30, RECOVERY) {
        return Err("nothing is committed even before".into());
    }
    let Some(injector) =
        Injector::attach(subject.process.id(), &home.path().join("log"), case.calls, case.error, case.manner)
    else {
        return Err("strace cannot attach".into());
    };
    disturb(case.calls, &order.dir);
    let failed = injector.detach();
    let freed = Instant::now();
    let again = subject.commits(3, RECOVERY);
    let recovered = freed.elapsed();
    let ended = subject.stop(END, &mut said);
    if !again {
        return Err(format!("no commit for {recovered:?} after {failed} failures, ended well: {ended}"));
    }
    if !ended {
        return Err("the process did not end well".into());
    }
    if let Some(wrong) = said.other.iter().find(|line| line.starts_with("wrong")) {
        return Err(wrong.clone());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let audit = Audit::of(&order.dir, order.max_size);
    let figures = runtime.block_on(audit.run(&said)).map_err(|complaints| complaints.join("\n    "))?;
    Ok((failed, recovered, figures))
}

/// Waits while calls fail. Some are made only when something is missing that a store has once for all: it goes away, and the
/// process, which has what it needs of it in memory, makes it anew.
fn disturb(calls: &str, dir: &Path) {
    let missing: &[&str] = match calls {
        "write" => &["tail", "ballast"],
        "copy_file_range" => &["meta.db"],
        _ => &[],
    };
    let began = Instant::now();
    while began.elapsed() < WINDOW {
        for name in missing {
            drop(std::fs::remove_file(dir.join(name))); // it may be missing still
        }
        std::thread::sleep(WINDOW / 4);
    }
}

/// How the store is made to work while calls fail; it works on until it is stopped.
fn order(home: &Path, seed: u64) -> Order {
    Order {
        dir: home.join("store"),
        socket: home.join("socket"),
        seed,
        ids: 1_000_000_000,
        steps: 40,
        lives: u64::MAX,
        max_size: 4 * 1024 * 1024,
        auditor: true,
    }
}

/// Several at a time.
fn suffer_all(cases: VecDeque<Case>) -> Vec<(Case, Outcome)> {
    let (cases, outcomes) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(case) = { cases.lock().expect("no panic").pop_front() } {
                    let outcome = suffer(case);
                    outcomes.lock().expect("no panic").push((case, outcome));
                }
            });
        }
    });
    outcomes.into_inner().expect("no panic")
}

#[test]
fn every_kind_of_call_that_the_store_makes_is_made_to_fail_in_some_case() {
    if !strace::may_attach() {
        return;
    }
    let home = witness::place();
    let order = order(home.path(), 1);
    let subject = Subject::run("injection::the_process_whose_calls_fail", &order);
    let log = home.path().join("log");
    // Nothing fails: `when` is beyond all calls.
    let injector = Injector::attach(subject.process.id(), &log, "all", "error=EIO", "65535").expect("attached");
    assert!(subject.commits(2000, RECOVERY), "through several openings and closings");
    injector.detach();
    assert!(subject.stop(END, &mut Said::default()));
    let log = std::fs::read_to_string(log).expect("a log");
    let names = log.lines().filter_map(|line| line.split_once(char::is_whitespace)?.1.trim_start().split_once('('));
    let made: BTreeSet<&str> = names.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
    let failing: BTreeSet<&str> =
        CALLS.iter().flat_map(|(calls, _)| calls.split(',')).map(|call| call.trim_start_matches('?')).collect();
    let unknown: Vec<_> = made.iter().filter(|call| !failing.contains(*call) && !OTHERS.contains(call)).collect();
    assert!(unknown.is_empty(), "no case makes these fail: {unknown:?}");
    assert!(made.contains("pwrite64") && made.contains("fdatasync") && made.contains("unlink"), "{made:?}");
}

#[test]
fn a_read_or_a_look_at_a_file_that_fails_once_is_no_damage_and_costs_neither_a_record_nor_an_epoch() {
    if !strace::may_attach() {
        return;
    }
    let reads = [("pread64", "error=EIO"), ("?fstat,?newfstatat,?statx", "error=EIO"), ("openat", "error=EMFILE")];
    let mut cases = VecDeque::new();
    for (calls, error) in reads {
        // One after the other of its calls, through openings, merges, readers and closings.
        for manner in ["2", "17", "60", "150"] {
            cases.push_back(Case { number: 1000 + cases.len() as u64, calls, error, manner });
        }
    }
    let mut failures = BTreeMap::new();
    for (case, outcome) in suffer_all(cases) {
        let (failed, _, figures) = outcome.unwrap_or_else(|complaint| panic!("{case:?}\n    {complaint}"));
        assert_eq!((figures.damaged, figures.epochs), (0, 0), "{case:?} {figures:?}");
        *failures.entry(case.calls).or_insert(0) += failed;
    }
    assert!(failures.values().all(|failed| *failed > 0), "calls that never failed say nothing: {failures:?}");
}

/// SQLite calls a read that the medium refused "malformed" when it happens inside a statement: no number of looks that fail so
/// says anything about the content.
#[test]
fn a_read_that_fails_again_and_again_is_no_damage() {
    if !strace::may_attach() {
        return;
    }
    let manners = ["2+3", "3+3", "4+4", "2+5", "4+5", "3+6", "6+7", "5+9"];
    let cases = manners.into_iter().zip(2000..);
    let cases = cases.map(|(manner, number)| Case { number, calls: "pread64", error: "error=EIO", manner });
    for (case, outcome) in suffer_all(cases.collect()) {
        let (failed, _, figures) = outcome.unwrap_or_else(|complaint| panic!("{case:?}\n    {complaint}"));
        assert_eq!(figures.damaged, 0, "{case:?} {figures:?}");
        assert!(failed > 0, "{case:?}: a call that never failed says nothing");
    }
}

#[test]
fn no_failing_call_ends_the_process_or_costs_a_promise_and_it_recovers_by_itself() {
    if !strace::may_attach() {
        return;
    }
    let all = std::env::var("IRONBRIDGE_INJECTIONS").is_ok_and(|what| what == "all");
    let mut cases = VecDeque::new();
    for (calls, errors) in CALLS {
        for error in *errors {
            for (n, manner) in MANNERS.into_iter().enumerate() {
                if all || n == cases.len() % 2 || (n == 2 && cases.len() % 3 == 0) {
                    cases.push_back(Case { number: cases.len() as u64 + 1, calls, error, manner });
                }
            }
        }
    }
    if let Some(only) = std::env::var("IRONBRIDGE_INJECTION").ok().and_then(|text| text.parse::<u64>().ok()) {
        cases.retain(|case: &Case| case.number == only);
    }
    let (count, began) = (cases.len(), Instant::now());
    let outcomes = suffer_all(cases);
    let mut by_call: BTreeMap<&str, (u64, u64, Duration)> = BTreeMap::new();
    let (mut figures, mut wrong) = (Figures::default(), Vec::new());
    for (case, outcome) in &outcomes {
        match outcome {
            Ok((failed, recovered, more)) => {
                let entry = by_call.entry(case.calls).or_default();
                *entry = (entry.0 + 1, entry.1 + failed, entry.2.max(*recovered));
                figures.add(more);
            }
            Err(complaint) => wrong.push(format!("{case:?}\n    {complaint}")),
        }
    }
    eprintln!("{count} cases in {:?}; {figures:?}", began.elapsed());
    eprintln!("{:<32} {:>6} {:>9} {:>20}", "call", "cases", "failures", "slowest recovery");
    for (call, (cases, failures, slowest)) in &by_call {
        eprintln!("{call:<32} {cases:>6} {failures:>9} {slowest:>20.1?}");
    }
    // One case by itself may be one of a call that is not made in time.
    if count > CALLS.len() {
        let expected = by_call.iter().filter(|(call, _)| all || !SELDOM.contains(*call));
        let never: Vec<_> = expected.filter(|(_, (_, failures, _))| *failures == 0).map(|(call, _)| call).collect();
        assert!(never.is_empty(), "never made: {never:?}");
    }
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n"));
}
