//! A line behind a serial server has one master: the gateway, or one tool.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use crate::gateway;

use gateway::{Daemon, Home, Watch, config, tag, until};
use ironbridge::config::{HostFacts, parse};
use ironbridge::plant::site::{Place, Site, SiteOptions};

const VALUE: &str = "gw/plc/v";
/// Of a tool that asks nobody, because somebody else asks there.
const REFUSED: (i32, &str) = (75, "so it has one master");

/// A meter behind a serial server, and the configuration of a gateway that asks it.
async fn meter() -> (Site, SocketAddr, String) {
    let of = |place: &str| {
        let text = config(([127, 0, 0, 1], 1).into()).replace("127.0.0.1:1\"", &format!("{place}\""));
        text.replace("\"modbus-tcp\"", "\"modbus-rtu-over-tcp\"") + &tag("v", "holding:0", "uint16", "")
    };
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let plan = parse(&of("nowhere:4001"), Path::new("/x.toml"), &facts).unwrap().plan;
    let site = Site::serve(&plan, &SiteOptions::default()).await.unwrap();
    let Some(Place::Net(place)) = site.place("line").cloned() else { panic!("on TCP") };
    (site, place, of(&place.to_string()))
}

/// What a tool says: how it ended, and its words.
async fn tool(home: &Home, words: &str) -> (Option<i32>, String) {
    let mut command = home.command(&words.split_whitespace().collect::<Vec<_>>());
    command.stdout(Stdio::piped());
    let told = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (told.status.code(), String::from_utf8([told.stdout, told.stderr].concat()).unwrap())
}

async fn is_refused(home: &Home, words: &str) -> bool {
    let (code, said) = tool(home, words).await;
    code == Some(REFUSED.0) && said.contains(REFUSED.1)
}

/// Has anybody the name of this line?
fn is_held(at: SocketAddr) -> bool {
    let names = std::fs::read_to_string("/proc/net/unix").unwrap();
    names.lines().any(|line| line.ends_with(&format!("@ironbridge line {at}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_gateway_asks_on_a_line_no_tool_does_and_a_reload_lets_none_in() {
    let (site, at, text) = meter().await;
    let home = Home::new(&text);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until(VALUE, "a value", |it| it["quality"] == "good").await;
    for words in [
        format!("read rtu-over-tcp {at} holding:0"),
        "read --config ironbridge.toml plc/v".to_owned(),
        format!("write rtu-over-tcp {at} holding:0 7 --yes"),
        format!("scan tcp {at} --rtu-over-tcp --units 1-2 --timeout 50ms"),
        "check --live --config ironbridge.toml".to_owned(),
    ] {
        let (code, said) = tool(&home, &words).await;
        assert_eq!(code, Some(REFUSED.0), "{words}: {said}");
        assert!(said.contains(REFUSED.1) && said.contains("over MQTT"), "{words}: {said}");
    }
    let (code, said) = tool(&home, "capture --config ironbridge.toml --for 500ms --output c").await;
    assert!(code == Some(75) && said.contains("nobody was asked"), "{said}");
    home.configure(&text.replace("\"line\"", "\"other\"")); // another bus, on the same line
    let (code, said) = tool(&home, "reload --config ironbridge.toml").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(is_refused(&home, &format!("read rtu-over-tcp {at} holding:0")).await);
    assert_eq!(daemon.times_said("may be those to somebody else"), 0);
    assert_eq!(daemon.stop().await, Some(0));
    let (code, said) = tool(&home, &format!("read rtu-over-tcp {at} holding:0")).await;
    assert_eq!(code, Some(0), "{said}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_keeps_another_one_out_and_the_gateway_goes_on_beside_it_and_has_the_line_when_it_ends() {
    let (site, at, text) = meter().await;
    let home = Home::new(&text);
    let read = format!("read rtu-over-tcp {at} holding:0");
    let watching = Daemon::start(home.command(&[&read, "--watch", "50ms"].join(" ").split(' ').collect::<Vec<_>>()));
    until("the first tool asks", || is_held(at)).await;
    assert!(is_refused(&home, &read).await);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until(VALUE, "a value all the same", |it| it["quality"] == "good").await;
    daemon.heard_times("may be those to somebody else", 1).await;
    drop(watching);
    until("the gateway has the line", || is_held(at)).await;
    assert!(is_refused(&home, &read).await);
    assert_eq!(daemon.stop().await, Some(0));
    site.stop().await;
}
