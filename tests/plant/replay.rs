//! Recorded lines, played back to a foreign client: values of their time, and lines that were gone are gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ironbridge::plant::behind::{Behind as _, Presence};
use ironbridge::plant::playback::{Ending, Playback, Tempo};
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::script::{Cue, Heard, Script, Take};
use ironbridge::plant::tcp::TcpLine;
use tokio::time::timeout;
use tokio_modbus::client::{Context, Reader as _, rtu, tcp};
use tokio_modbus::slave::Slave;

use crate::patience::{PATIENCE, answer};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const MS: Duration = Duration::from_millis(1);

/// Unit 1 was asked for register 0 on Modbus TCP, and said this.
fn take(at: Duration, word: u16) -> Take {
    let answer = [&[3, 2][..], &word.to_be_bytes()].concat();
    let bytes = [&[0, 7, 0, 0, 0, 5, 1][..], &answer].concat();
    Take {
        at,
        unit_id: 1,
        request: vec![3, 0, 0, 0, 1],
        number: 7,
        heard: vec![Heard { by: MS, bytes }],
        answer: Some(answer),
        answered_after: MS,
        then: None,
    }
}

fn playing(script: Script, ending: Ending) -> Arc<Playback> {
    let playback = Arc::new(Playback::new(script, Tempo { speed: 1.0, ending }));
    let conducted = Arc::clone(&playback);
    tokio::spawn(async move { conducted.conduct().await });
    playback
}

/// What a client gets that connects anew; `None`: nothing.
async fn asked(line: &TcpLine) -> Option<u16> {
    let mut client = tcp::connect_slave(line.address(), Slave(1)).await.ok()?;
    word(&mut client).await
}

async fn word(client: &mut Context) -> Option<u16> {
    let read = timeout(Duration::from_secs(1), client.read_holding_registers(0, 1)).await.ok()?;
    read.ok()?.ok().map(|words| words[0])
}

/// Asks until it is as expected.
async fn until(expected: Option<u16>, mut ask: impl AsyncFnMut() -> Option<u16>) {
    answer(&format!("{expected:?}"), async || (ask().await == expected).then_some(())).await;
}

#[tokio::test]
async fn values_move_as_they_moved_and_begin_again() {
    let script = Script::new(vec![take(100 * MS, 1), take(300 * MS, 2), take(500 * MS, 3)], Vec::new(), 700 * MS);
    let line = TcpLine::serve(ANY, playing(script, Ending::Again)).await.expect("serves");
    for expected in [1, 2, 3, 1, 3] {
        until(Some(expected), async || asked(&line).await).await;
    }
}

#[tokio::test]
async fn at_the_end_the_last_state_stays() {
    let script = Script::new(vec![take(10 * MS, 1), take(30 * MS, 2)], Vec::new(), 50 * MS);
    let playback = playing(script, Ending::Stay);
    let line = TcpLine::serve(ANY, Arc::clone(&playback)).await.expect("serves");
    until(Some(2), async || asked(&line).await).await;
    until(Some(50), async || u16::try_from(playback.position().as_millis()).ok()).await;
    assert_eq!(asked(&line).await, Some(2));
    let mut client = tcp::connect_slave(line.address(), Slave(1)).await.expect("listens");
    let nowhere = client.read_holding_registers(5, 2).await.expect("line");
    assert!(nowhere.is_err(), "never recorded: {nowhere:?}");
    assert_eq!(playback.played().not_recorded.get(), 1);
    assert_eq!(playback.strange(), [((1, vec![3, 0, 5, 0, 2]), 1)]);
}

#[tokio::test]
async fn a_connection_that_was_lost_is_lost_and_a_device_that_was_gone_is_gone() {
    let cues = vec![(150 * MS, Cue::HangUp), (300 * MS, Cue::Gone), (450 * MS, Cue::Back)];
    let script = Script::new(vec![take(Duration::ZERO, 1)], cues, 600 * MS);
    let line = TcpLine::serve(ANY, playing(script, Ending::Again)).await.expect("serves");
    let mut client = None;
    until(None, async || {
        // The same connection all the time: it ends although it has done nothing wrong.
        if client.is_none() {
            client = tcp::connect_slave(line.address(), Slave(1)).await.ok();
        }
        word(client.as_mut()?).await
    })
    .await;
    for expected in [Some(1), None, Some(1)] {
        until(expected, async || asked(&line).await).await;
    }
}

#[tokio::test]
async fn a_device_that_is_gone_stays_gone_when_a_connection_ends_that_outlived_it() {
    let cues = vec![(50 * MS, Cue::Gone), (50 * MS, Cue::HangUp)];
    let script = Script::new(vec![take(Duration::ZERO, 1)], cues, 100 * MS);
    let playback = playing(script, Ending::Stay);
    let line = TcpLine::serve(ANY, Arc::clone(&playback)).await.expect("serves");
    let mut presence = playback.presence();
    let changed = presence.wait_for(|now| *now != Presence::Here(0));
    let now = *timeout(PATIENCE, changed).await.expect("in time").expect("it plays");
    assert_eq!(now, Presence::Away);
    assert_eq!(asked(&line).await, None);
}

#[tokio::test]
async fn an_adapter_that_was_pulled_is_pulled_and_plugged_in_again() {
    let home = tempfile::tempdir().expect("temporary directory");
    let link = home.path().join("rs485");
    let heard = vec![Heard { by: MS, bytes: vec![1, 3, 2, 0, 1, 0x79, 0x84] }];
    let take = Take { heard, ..take(Duration::ZERO, 1) };
    let cues = vec![(200 * MS, Cue::Gone), (500 * MS, Cue::Back)];
    let script = Script::new(vec![take], cues, 2000 * MS);
    let _line = RtuLine::serve(Some(&link), Pace::Instant, playing(script, Ending::Again)).expect("serves");
    let path = link.to_str().expect("UTF-8");
    let ask = async || {
        let port = tokio_serial::SerialStream::open(&tokio_serial::new(path, 19200)).ok()?;
        word(&mut rtu::attach_slave(port, Slave(1))).await
    };
    for expected in [Some(1), None, Some(1), None] {
        until(expected, ask).await;
    }
}
