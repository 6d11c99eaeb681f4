//! Logins: what a flood of wrong ones costs others, what is remembered, what a restart or a reload in between changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbridge::config::plan::{Anonymous, BrokerPlan};
use rumqttc::v5::mqttbytes::v5;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::access::{HASH, login, rule, setup, v5};
use crate::support::{Client5, PATIENCE, Running, Setup, Wishes, filter, message, tag, until};

/// As `ironbridge passwd` writes it: as dear to check as in the plant. "password".
fn dear() -> String {
    ironbridge::access::hash(b"password").expect("memory and random numbers")
}

/// A connection from another address of loopback.
async fn from(last: u8, broker: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, last], 0).into()).expect("an address of loopback");
    socket.connect(broker.address).await.expect("a connection")
}

async fn logs_in(stream: TcpStream, id: &str, name: &str, password: &str) -> v5::ConnectReturnCode {
    Client5::over(stream, id, login(name, password)).await.1.code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_logins_delays_neither_a_good_login_elsewhere_nor_messages_nor_those_known_here() {
    let users_file = Some(format!("hmi:{}\nscada:{HASH}\nlogger:{HASH}\n", dear()));
    let acl = vec![rule("*", &["#"], &["#"])];
    let broker = Arc::new(Running::with(Setup { anonymous: Anonymous::Read, users_file, acl, ..setup() }).await);
    let mut known = v5(&broker, "logger", "known").await;
    known.subscribe(filter("plant/#", 0), None).await;
    let mut flood = JoinSet::new();
    for number in 0..300_u32 {
        let broker = Arc::clone(&broker);
        flood.spawn(async move {
            let name = ["hmi", "scada", "logger", "nobody"][number as usize % 4];
            let Ok(stream) = TcpStream::connect(broker.address).await else { return };
            let code = logs_in(stream, &format!("f{number}"), name, &format!("guess {number}")).await;
            let told = [v5::ConnectReturnCode::NotAuthorized, v5::ConnectReturnCode::ServerBusy];
            assert!(told.contains(&code), "{code:?}");
        });
    }
    until("the flood has begun", || broker.access.stats.wrong.get() + broker.access.stats.busy.get() > 20).await;
    let begun = Instant::now();
    assert_eq!(logs_in(from(7, &broker).await, "good", "scada", "password").await, v5::ConnectReturnCode::Success);
    let elsewhere = begun.elapsed();
    drop(v5(&broker, "logger", "again").await);
    for number in 0..100 {
        broker.publisher.retain(tag(1), number.to_string().into());
    }
    while known.message().await.payload != "99" {}
    let all = begun.elapsed();
    // A new name at another address waits for its name's pause, 1 s at most, and for those before it at the desk; all of
    // this would take minutes if the flood came first.
    assert!(elsewhere < Duration::from_secs(30) && all < Duration::from_secs(45), "{elsewhere:?}, {all:?}");
    flood.abort_all();
    let waiting = format!("{:?}", broker.access).len();
    assert!(waiting < 1 << 20, "{waiting} characters of state");
}

#[tokio::test]
async fn who_fails_again_and_again_is_told_to_come_back() {
    let broker = Arc::new(Running::with(setup()).await);
    let mut crowd = JoinSet::new();
    for number in 0..80 {
        let broker = Arc::clone(&broker);
        crowd.spawn(async move {
            let stream = TcpStream::connect(broker.address).await.expect("a connection");
            logs_in(stream, &format!("c{number}"), "hmi", "wrong").await
        });
    }
    let busy = || broker.access.stats.busy.get() > 0;
    until("somebody is told to come back", busy).await;
    let mut codes = Vec::new();
    while codes.iter().all(|code| *code != v5::ConnectReturnCode::ServerBusy) {
        codes.push(crowd.join_next().await.expect("one of them").expect("no panic"));
    }
    crowd.abort_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_back_together_are_not_checked_again() {
    let broker = Running::with(Setup { users_file: Some(format!("hmi:{}\n", dear())), ..setup() }).await;
    let begun = Instant::now();
    drop(v5(&broker, "hmi", "first").await);
    let one = begun.elapsed();
    let begun = Instant::now();
    for number in 0..100 {
        drop(v5(&broker, "hmi", &number.to_string()).await);
    }
    let hundred = begun.elapsed();
    assert!(hundred < one * 50, "one check takes {one:?}, a hundred that are remembered {hundred:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_login_that_was_on_its_way_when_its_user_was_removed_does_not_stay() {
    let broker = Arc::new(Running::with(setup()).await);
    for _ in 0..6 {
        drop(Client5::open(broker.address, "x", login("hmi", "wrong")).await);
    }
    // Slowed down by now.
    let address = broker.address;
    let late = tokio::spawn(async move { Client5::open(address, "late", login("hmi", "password")).await });
    let mut other = v5(&broker, "root", "other").await;
    for _ in 0..10 {
        other.ping().await;
    }
    std::fs::write(broker.dir.path().join("users"), format!("root:{HASH}\n")).expect("written");
    broker.access.reload(&broker.plan);
    broker.control.rejudge();
    let (mut client, connack) = tokio::time::timeout(PATIENCE, late).await.expect("answered").expect("no panic");
    match connack.code {
        v5::ConnectReturnCode::Success => {
            assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
        }
        code => assert_eq!(code, v5::ConnectReturnCode::NotAuthorized),
    }
}

#[tokio::test]
async fn a_kept_session_is_not_owed_what_the_rules_after_a_restart_do_not_let_it_read() {
    let broker = Running::with(setup()).await;
    let address = broker.address;
    let keep = |address| {
        Client5::open(address, "kept", |wishes| {
            login("hmi", "password")(wishes);
            wishes.connect.clean_start = false;
            wishes.properties.session_expiry_interval = Some(3600);
        })
    };
    let (mut kept, _) = keep(address).await;
    for path in ["machines/#", "u/hmi/#"] {
        kept.subscribe(filter(path, 1), None).await;
    }
    drop(kept);
    let dir = broker.stop().await;
    let mut acl = setup().acl;
    acl[0] = rule("hmi", &["other/#"], &[]);
    let broker = Running::at(Setup { acl, ..setup() }, dir).await;
    let mut root = v5(&broker, "root", "r").await;
    for topic in ["machines/1", "u/hmi/1"] {
        root.publish(message(topic, 1, "x")).await;
    }
    // Allowed again: what came meanwhile is not made up for.
    broker.access.reload(&BrokerPlan { acl: setup().acl, ..broker.plan.clone() });
    broker.control.rejudge();
    let (mut kept, connack) = keep(broker.address).await;
    assert!(connack.session_present);
    assert_eq!(kept.message().await.topic, "u/hmi/1");
    kept.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_session_belongs_to_whoever_began_it() {
    let broker = Running::with(setup()).await;
    let mut hmi = v5(&broker, "hmi", "shared id").await;
    for thief in ["root", "other"] {
        let (_, connack) = Client5::open(broker.address, "shared id", login(thief, "password")).await;
        assert_eq!(connack.code, v5::ConnectReturnCode::ClientIdentifierNotValid, "{thief}");
    }
    let (_, connack) = Client5::open(broker.address, "shared id", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::ClientIdentifierNotValid);
    hmi.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_nobody_in_particular_left_behind_yields_to_who_shows_who_he_is() {
    let broker = Running::with(setup()).await;
    let lasting = |wishes: &mut Wishes| {
        wishes.connect.clean_start = false;
        wishes.properties.session_expiry_interval = Some(3600);
    };
    let (mut before, _) = Client5::open(broker.address, "panel", lasting).await;
    before.ping().await;
    let named = |wishes: &mut Wishes| {
        lasting(wishes);
        login("hmi", "password")(wishes);
    };
    let (_, connack) = Client5::open(broker.address, "panel", named).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::ClientIdentifierNotValid, "nobody throws it out");
    drop(before);
    until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
    let (mut panel, connack) = Client5::open(broker.address, "panel", named).await;
    assert_eq!((connack.code, connack.session_present), (v5::ConnectReturnCode::Success, false));
    panel.ping().await;
    broker.stop().await;
}
