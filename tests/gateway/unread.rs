//! Nobody reads what the daemon says, for a while or at all: it goes on, and ends, as if somebody did.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;

use crate::gateway::{Daemon, Home, PATIENCE, Plc, config, tag, until};

/// For a standard error that takes nothing more until somebody reads what is in it.
fn full() -> (UnixStream, UnixStream) {
    let (reader, mut writer) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("set");
    loop {
        match writer.write(&[b'\n'; 256]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    writer.set_nonblocking(false).expect("set");
    (reader, writer)
}

/// The daemon, and the other end of its standard error, which is full.
fn speaking_to_nobody(home: &Home) -> (UnixStream, Daemon) {
    let (reader, writer) = full();
    let mut command = home.command(&["run", "--config", "ironbridge.toml"]);
    command.stderr(Stdio::from(OwnedFd::from(writer)));
    (reader, Daemon::speaking_elsewhere(command))
}

async fn polling(home: &Home, plc: &Plc) -> (UnixStream, Daemon) {
    let (reader, daemon) = speaking_to_nobody(home);
    until("the plant is polled", || plc.requests() > 10).await;
    (reader, daemon)
}

#[tokio::test]
async fn a_reader_of_its_words_that_stands_still_holds_neither_polling_nor_the_end_up() {
    let plc = Plc::start().await;
    let home = Home::new(&(config(plc.line.address()) + &tag("a", "holding:0", "uint16", "")));
    let (_unread, mut daemon) = polling(&home, &plc).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test]
async fn a_configuration_that_is_wrong_ends_it_where_nobody_reads_why_too() {
    let home = Home::new("[gateway]\nnaem = \"gw\"\n");
    let (_unread, mut daemon) = speaking_to_nobody(&home);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(78));
}

#[tokio::test]
async fn what_was_said_while_nobody_read_is_there_from_the_first_word_to_the_last() {
    let plc = Plc::start().await;
    let home = Home::new(&(config(plc.line.address()) + &tag("a", "holding:0", "uint16", "")));
    let (mut reader, mut daemon) = polling(&home, &plc).await;
    daemon.signal(Signal::TERM);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    let text = reading.join().unwrap();
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} in\n{}", text.trim()));
    assert!(place("listening for MQTT clients address=") < place("everything polled is committed"));
    assert!(!text.contains("lost"), "{}", text.trim());
}
