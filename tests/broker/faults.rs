//! A disk that is full, fails, or loses what it has: what could not be kept is refused and never acknowledged, what was
//! acknowledged arrives, and it works again by itself once the disk does.

use crate::gateway::{Daemon, Home, PATIENCE};
use crate::sessions::{More as _, back, lasting};
use crate::strace;
use crate::support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbridge::config::plan::AclPlan;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use support::{Client4, Client5, Running, Setup, Wishes, filter, message, tag, until};

/// strace, attached; detached when dropped.
struct Injection(Child);

/// Only of the broker's file.
fn inject(home: &Home, what: &str) -> Command {
    let mut command = Command::new("strace");
    for file in ["broker.db", "broker.db-wal"] {
        command.arg("-P").arg(home.path("data").join(file));
    }
    command.args(["-f", "-qq", "-e", &format!("inject={what}"), "-o"]).arg(home.path("injected"));
    command
}

/// How many calls were made to fail.
fn injected(home: &Home) -> usize {
    std::fs::read_to_string(home.path("injected")).map_or(0, |log| log.matches("(INJECTED)").count())
}

impl Injection {
    fn begin(daemon: &Daemon, home: &Home, calls: &str, error: &str) -> Self {
        let mut command = inject(home, &format!("{calls}:error={error}"));
        command.args(["-p", &daemon.pid().to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("strace runs"))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT); // it may be gone
        let _ = self.0.wait();
    }
}

/// Publishes one after the other, until one is (not) taken; all that were are noted. At QoS 1 while the disk may fail at any
/// moment: PUBCOMP cannot refuse, it waits for the disk.
async fn publish_until(taken: bool, sender: &mut Client5, next: &mut u32, accepted: &mut Vec<String>) {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE * 2, "in vain until one is taken: {taken}");
        let text = next.to_string();
        let qos = if taken && next.is_multiple_of(2) { 2 } else { 1 };
        *next += 1;
        let was_taken = sender.give(message("q", qos, &text)).await;
        if was_taken {
            accepted.push(text);
        }
        if was_taken == taken {
            return;
        }
    }
}

#[tokio::test]
async fn while_the_disk_fails_what_would_be_owed_is_refused_and_afterwards_it_works_by_itself() {
    if !strace::may_attach() {
        return;
    }
    let home = Home::new(&crate::kill::config());
    let daemon = home.run();
    let address = daemon.mqtt().await;
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    reader.subscribe(filter("q", 2), None).await;
    reader.leave().await;
    let mut sender = Client5::connect(address, "sender", lasting(3600)).await;
    let (mut next, mut accepted) = (0, Vec::new());
    for (calls, error) in [("pwrite64,write", "ENOSPC"), ("fdatasync,fsync", "EIO"), ("pwrite64", "EROFS")] {
        publish_until(true, &mut sender, &mut next, &mut accepted).await;
        let injection = Injection::begin(&daemon, &home, calls, error);
        publish_until(false, &mut sender, &mut next, &mut accepted).await;
        assert!(!sender.give(message("q", 2, "never")).await);
        // 3.1.1 has no word for it: the connection ends, without an acknowledgement.
        let mut old = Client4::connect(address, "old").await;
        let mut publish = v4::Publish::new("q", rumqttc::QoS::AtLeastOnce, "never");
        publish.pkid = 5;
        old.send(v4::Packet::Publish(publish)).await;
        assert_eq!(old.try_next().await, None, "{calls} {error}");
        assert!(sender.give(message("elsewhere", 1, "owed to nobody")).await);
        drop(injection);
        publish_until(true, &mut sender, &mut next, &mut accepted).await;
    }
    // What was refused takes no room: the sum is that of what was accepted.
    let mut watch = Client5::connect(address, "watch", |_| {}).await;
    watch.subscribe(filter("$SYS/broker/sessions/owed/count", 0), None).await;
    while watch.message().await.payload != accepted.len().to_string() {}
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    assert_eq!(reader.take_texts(accepted.len()).await, accepted);
    reader.ping().await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// As many as may be settled at a time.
#[tokio::test]
async fn a_client_whose_handshakes_cannot_end_because_the_disk_fails_is_heard_all_the_same() {
    const WINDOW: u16 = 64;
    if !strace::may_attach() {
        return;
    }
    let home = Home::new(&crate::kill::config());
    let daemon = home.run();
    let address = daemon.mqtt().await;
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    reader.subscribe(filter("q", 2), None).await;
    reader.leave().await;
    let mut sender = Client5::connect(address, "sender", lasting(3600)).await;
    for id in 1..=WINDOW {
        let mut publish = message("q", 2, "x");
        publish.pkid = id;
        sender.send(v5::Packet::Publish(publish)).await;
    }
    for id in 1..=WINDOW {
        assert!(matches!(sender.next().await, v5::Packet::PubRec(pubrec) if pubrec.pkid == id));
    }
    let injection = Injection::begin(&daemon, &home, "pwrite64,write", "ENOSPC");
    let mut other = Client5::connect(address, "other", |_| {}).await;
    publish_until(false, &mut other, &mut 0, &mut Vec::new()).await;
    for id in 1..=WINDOW {
        sender.send(v5::Packet::PubRel(v5::PubRel::new(id, None))).await;
    }
    // It is tried again, in vain.
    let failed = injected(&home);
    let began = Instant::now();
    while injected(&home) < failed + 4 {
        assert!(began.elapsed() < PATIENCE, "the disk is tried");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sender.ping().await;
    drop(injection);
    let mut over = std::collections::HashSet::new();
    while over.len() < usize::from(WINDOW) {
        let v5::Packet::PubComp(pubcomp) = sender.next().await else { panic!("a PUBCOMP") };
        assert!(over.insert(pubcomp.pkid), "each once");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

/// More than SQLite has in memory, and than waits in its log.
async fn owe_much(sender: &mut Client5) -> Vec<String> {
    let mut texts = Vec::new();
    for n in 0..120 {
        texts.push(format!("{n} {}", "x".repeat(60_000)));
        assert!(sender.give(message("q", 1, &texts[n])).await);
    }
    texts
}

#[tokio::test]
async fn a_read_that_the_medium_refuses_once_at_start_costs_no_session_and_nothing_that_is_owed() {
    if !strace::available() {
        return;
    }
    let home = Home::new(&crate::kill::config());
    let daemon = home.run();
    let address = daemon.mqtt().await;
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    reader.subscribe(filter("q", 1), None).await;
    reader.leave().await;
    let owed = owe_much(&mut Client5::connect(address, "sender", |_| {}).await).await;
    assert_eq!(daemon.stop().await, Some(0));
    let plain = home.command(&["run", "--config", "ironbridge.toml"]);
    for nth in [1, 2, 3, 5, 8] {
        let mut command = inject(&home, &format!("pread64:error=EIO:when={nth}"));
        // The tracer is the grandchild, what is traced the child.
        command.args(["-D", "--seccomp-bpf", "-e", "trace=pread64"]).arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(home.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let daemon = Daemon::start(command);
        let address = daemon.mqtt().await;
        let began = Instant::now();
        // Refused as long as it is not known what the file holds.
        loop {
            assert!(began.elapsed() < PATIENCE * 2, "the file is read in the end: {nth}");
            let (_reader, connack) = Client5::open(address, "reader", lasting(3600)).await;
            if connack.code == v5::ConnectReturnCode::Success {
                assert!(connack.session_present, "{nth}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // strace counts the calls of each thread.
        assert!(injected(&home) > 0, "a call that never failed says nothing: {nth}");
        assert_eq!(daemon.stop().await, Some(0));
    }
    let daemon = home.run();
    let mut reader = Client5::connect(daemon.mqtt().await, "reader", lasting(3600)).await;
    assert_eq!(reader.take_texts(owed.len()).await, owed);
    assert!(!home.path("data/broker.db.damaged").exists());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn while_the_medium_refuses_to_be_read_what_is_owed_waits_and_it_comes_once_it_does_not() {
    if !strace::may_attach() {
        return;
    }
    let home = Home::new(&crate::kill::config());
    let daemon = home.run();
    let address = daemon.mqtt().await;
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    reader.subscribe(filter("q", 1), None).await;
    reader.leave().await;
    let mut sender = Client5::connect(address, "sender", |_| {}).await;
    let mut owed = owe_much(&mut sender).await;
    let injection = Injection::begin(&daemon, &home, "pread64", "EIO");
    // Whatever is read before it is attached is sent, and owed until the end.
    let began = Instant::now();
    while injected(&home) < 3 {
        assert!(began.elapsed() < PATIENCE * 2, "reads fail");
        let (reader, connack) = Client5::open(address, "reader", lasting(3600)).await;
        assert!(connack.session_present, "its session is there");
        drop(reader);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(injection);
    let mut next = 120;
    publish_until(true, &mut sender, &mut next, &mut owed).await;
    let mut reader = Client5::connect(address, "reader", lasting(3600)).await;
    assert_eq!(reader.take_texts(owed.len()).await, owed);
    assert!(!home.path("data/broker.db.damaged").exists());
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn while_the_disk_fails_a_lasting_client_subscribes_and_sees_what_comes_and_both_last_once_the_disk_works() {
    if !strace::may_attach() {
        return;
    }
    let home = Home::new(&crate::kill::config());
    let mut daemon = home.run();
    let address = daemon.mqtt().await;
    for (id, path) in [("away", "q"), ("hmi", "unwanted")] {
        let mut client = Client5::connect(address, id, lasting(3600)).await;
        client.subscribe(filter(path, 1), None).await;
        client.leave().await;
    }
    let mut hmi = Client5::connect(address, "hmi", lasting(3600)).await;
    let connect = |id: &str| v4::Connect { clean_session: false, keep_alive: 0, ..v4::Connect::new(id) };
    let (mut old, _) = Client4::open(address, connect("old")).await;
    let mut sender = Client5::connect(address, "sender", |_| {}).await;
    let (mut next, mut accepted) = (0, Vec::new());
    let injection = Injection::begin(&daemon, &home, "pwrite64,write", "ENOSPC");
    publish_until(false, &mut sender, &mut next, &mut accepted).await;
    hmi.subscribe(filter("live", 1), None).await;
    old.subscribe("live", rumqttc::QoS::AtMostOnce).await;
    let unsubscribe = v5::Unsubscribe { pkid: 8, filters: vec!["unwanted".to_owned()], properties: None };
    hmi.send(v5::Packet::Unsubscribe(unsubscribe)).await;
    assert!(matches!(hmi.next().await, v5::Packet::UnsubAck(unsuback) if unsuback.pkid == 8));
    assert!(sender.give(message("live", 0, "now")).await);
    assert_eq!((&hmi.message().await.payload[..], &old.message().await.payload[..]), (&b"now"[..], &b"now"[..]));
    drop(injection);
    // What is acknowledged is on disk, and all that was entered before it.
    publish_until(true, &mut sender, &mut next, &mut accepted).await;
    daemon.kill();
    let daemon = home.run();
    let address = daemon.mqtt().await;
    let mut sender = Client5::connect(address, "sender", |_| {}).await;
    assert!(sender.give(message("unwanted", 1, "not this")).await);
    assert!(sender.give(message("live", 1, "owed")).await);
    let (mut hmi, connack) = Client5::open(address, "hmi", lasting(3600)).await;
    assert!(connack.session_present);
    assert_eq!(hmi.take().await.payload, "owed");
    hmi.ping().await;
    let (mut old, _) = Client4::open(address, connect("old")).await;
    assert!(sender.give(message("live", 0, "again")).await);
    assert_eq!(&old.message().await.payload[..], b"again");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_at_first_is_taken_in_when_it_can_sessions_and_all() {
    let broker = Running::start().await;
    let (mut client, _) = back(&broker, "c").await;
    client.subscribe(filter("q", 1), None).await;
    client.leave().await;
    assert!(broker.v5("sender").await.give(message("q", 1, "owed")).await);
    let dir = broker.stop().await;
    let (path, away) = (dir.path().join("broker.db"), dir.path().join("away"));
    std::fs::rename(&path, &away).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let broker = Running::at(Setup::default(), dir).await;
    let stats = broker.publisher.stats();
    assert_eq!(stats.sessions_away.get(), 0);
    std::fs::remove_dir(&path).expect("out of the way");
    std::fs::rename(&away, &path).expect("moved back");
    until("the session is known", || stats.sessions_away.get() == 1).await;
    assert!(broker.v5("sender").await.give(message("q", 1, "and this")).await);
    let (mut client, present) = back(&broker, "c").await;
    assert!(present);
    assert_eq!(client.take_texts(2).await, ["owed", "and this"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_file_that_is_found_damaged_at_a_late_opening_is_told_of_as_at_start() {
    for late in [false, true] {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let path = dir.path().join("broker.db");
        let spoil = || std::fs::write(&path, [0xA5; 8192]).expect("written");
        if late {
            std::fs::create_dir(&path).expect("something in the way");
        } else {
            spoil();
        }
        let mut broker = Running::at(Setup::default(), Arc::clone(&dir)).await;
        if late {
            std::fs::remove_dir(&path).expect("out of the way");
            spoil();
        }
        let told = async {
            loop {
                let told = broker.notices.recv().await.expect("a notice");
                if told.event == "broker_retained_damaged" {
                    return told;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await.expect("in time");
        assert!(told.detail.contains("broker.db.damaged"), "{told:?}");
        assert!(dir.path().join("broker.db.damaged").exists());
        broker.stop().await;
    }
}

#[tokio::test]
async fn while_a_file_cannot_be_read_no_session_in_it_is_begun_anew_nor_taken_by_somebody_else() {
    let acl =
        AclPlan { user: "*".to_owned(), read: vec!["#".to_owned()], write: vec!["#".to_owned()], operate: vec![] };
    let setup = || Setup { users: vec!["ann", "ben"], acl: vec![acl.clone()], ..Setup::default() };
    let of = |user: &'static str| {
        move |wishes: &mut Wishes| {
            wishes.login = Some(v5::Login { username: user.to_owned(), password: user.to_owned() });
        }
    };
    let lasts = |wishes: &mut Wishes| {
        lasting(3600)(wishes);
        of("ann")(wishes);
    };
    let broker = Running::with(setup()).await;
    let mut ann = Client5::connect(broker.address, "hmi", lasts).await;
    ann.subscribe(filter("q", 1), None).await;
    ann.leave().await;
    assert!(broker.v5("sender").await.give(message("q", 1, "for ann")).await);
    let dir = broker.stop().await;
    let (path, away) = (dir.path().join("broker.db"), dir.path().join("away"));
    std::fs::rename(&path, &away).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let broker = Running::at(setup(), dir).await;
    let (_, connack) = Client5::open(broker.address, "hmi", lasts).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::ServerUnavailable);
    let mut connect = v4::Connect::new("old");
    connect.clean_session = false;
    let (_, connack) = Client4::open(broker.address, connect).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::ServiceUnavailable);
    let mut ben = Client5::connect(broker.address, "hmi", of("ben")).await;
    ben.ping().await;
    std::fs::remove_dir(&path).expect("out of the way");
    std::fs::rename(&away, &path).expect("moved back");
    assert_eq!(ben.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
    let (mut ann, connack) = Client5::open(broker.address, "hmi", lasts).await;
    assert!(connack.session_present);
    assert_eq!(ann.take().await.payload, "for ann");
    broker.stop().await;
}

#[tokio::test]
async fn a_file_that_is_damaged_while_in_use_is_begun_anew_with_all_that_is_known() {
    let mut broker = Running::start().await;
    for id in ["c", "d"] {
        let (mut client, _) = back(&broker, id).await;
        client.subscribe(filter("q", 1), Some(7)).await;
        client.leave().await;
    }
    let mut sender = broker.v5("sender").await;
    let (mut client, _) = back(&broker, "e").await;
    client.subscribe(filter("e", 1), None).await;
    for n in ["1", "2", "3"] {
        assert!(sender.give(message("e", 1, n)).await);
        assert_eq!(client.take().await.payload, n);
    }
    client.leave().await;
    assert!(sender.give(v5::Publish { retain: true, ..message("kept", 1, "x") }).await);
    owe_much(&mut sender).await;
    let path = broker.dir.path().join("broker.db");
    let bytes = std::fs::metadata(&path).expect("a file").len();
    assert!(bytes > 1_000_000, "{bytes}");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    let rubbish = vec![0xA5; usize::try_from(bytes - 4096).expect("small")];
    std::os::unix::fs::FileExt::write_all_at(&file, &rubbish, 4096).expect("written");
    let (mut client, present) = back(&broker, "c").await;
    assert!(present);
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
    assert!(told.event == "broker_retained_damaged" || told.event == "broker_retained_not_kept", "{told:?}");
    let began = Instant::now();
    while !broker.v5("again").await.give(message("q", 1, "after")).await {
        assert!(began.elapsed() < PATIENCE * 2, "it is begun anew");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while client.take().await.payload != "after" {}
    client.leave().await;
    let dir: Arc<_> = broker.stop().await;
    assert!(dir.path().join("broker.db.damaged").exists());
    let broker = Running::at(Setup::default(), dir).await;
    broker.publisher.retain(tag(1), "1".into());
    let (mut other, present) = back(&broker, "d").await;
    assert!(present);
    let seen = other.take().await;
    let ids = seen.properties.expect("properties").subscription_identifiers;
    assert_eq!((&seen.payload[..], ids), (&b"after"[..], vec![7]));
    // Its ordinals went on, too: what is new is not taken for what was sent before.
    assert!(broker.v5("sender").await.give(message("e", 1, "new")).await);
    let seen = back(&broker, "e").await.0.take().await;
    assert_eq!((&seen.payload[..], seen.dup), (&b"new"[..], false));
    other.subscribe(filter("kept", 1), None).await;
    assert!(other.message().await.retain);
    broker.stop().await;
}
