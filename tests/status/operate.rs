//! Commands from the page: who may, what comes of them, and what is written down.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::{Value as Json, json};

use crate::gateway::{Watch, until};
use crate::visit::Site;

fn write(value: &Json) -> Json {
    json!({"device": "plc", "tag": "level", "value": value})
}

const WRITE: &str = "/api/command/write";

#[tokio::test]
async fn a_write_goes_the_way_of_a_set_message_and_its_result_comes_back() {
    let site = Site::open().await;
    let watch = Watch::on_all(site.daemon.mqtt().await).await;
    let browser = site.logged_in("hmi").await;
    let mut order = write(&json!(42));
    order["id"] = json!("click-1");
    let done = browser.post(WRITE, &order).await;
    assert_eq!((done.status, done.json()), (200, json!({"id": "click-1", "outcome": "done", "read_back": 42})));
    assert_eq!(site.plc.word(0), 42);
    watch.until("gw/plc/level/set/result", "the same result", |result| result["id"] == "click-1").await;
    let again = browser.post(WRITE, &order).await.json();
    assert_eq!(again["outcome"], "done");
    assert_eq!(site.plc.writes(), 1, "the browser sent it twice");
    for (value, reason) in
        [(json!(101), "range"), (json!("42"), "payload"), (json!(null), "payload"), (json!(-1), "range")]
    {
        let refused = browser.post(WRITE, &write(&value)).await;
        assert_eq!(refused.json(), json!({"outcome": "refused", "reason": reason}));
    }
    let fixed = browser.post(WRITE, &json!({"device": "plc", "tag": "fixed", "value": 1})).await;
    assert_eq!(fixed.json(), json!({"outcome": "refused", "reason": "access"}));
    assert_eq!(site.plc.writes(), 1);
    let line = site.daemon.heard("audit=\"operated\"").await;
    for word in
        ["from=\"127.0.0.1\"", "identity=\"user:hmi\"", "device=\"plc\"", "tag=\"level\"", "operation=\"write\""]
    {
        assert!(line.contains(word), "{word} in {line}");
    }
    assert_eq!(site.daemon.stop().await, Some(0));
}

#[tokio::test]
async fn without_the_right_nothing_is_done_and_that_is_written_down() {
    let site = Site::open().await;
    let (half, viewer, stranger) = (site.logged_in("half").await, site.logged_in("viewer").await, site.browser().await);
    let asked = half.post("/api/command/poll", &json!({"device": "plc"})).await;
    assert_eq!((asked.status, asked.json()), (200, json!({"outcome": "asked"})));
    site.daemon.heard("operation=\"poll\" outcome=\"asked\"").await; // nobody knows yet what comes of it
    let refused = half.post(WRITE, &write(&json!(1))).await;
    assert_eq!(refused.status, 403, "who operates does not yet write: {refused:?}");
    assert_eq!(half.post("/api/command/poll", &json!({"device": "nobody"})).await.status, 404);
    for operation in ["poll", "pause", "resume", "reset"] {
        let path = format!("/api/command/{operation}");
        assert_eq!(viewer.post(&path, &json!({"device": "plc"})).await.status, 403, "{operation}");
        assert_eq!(viewer.post(&path, &json!({"device": "nobody"})).await.status, 403, "what is there is not told");
        assert_eq!(stranger.post(&path, &json!({"device": "plc"})).await.status, 401, "{operation}");
    }
    assert_eq!(viewer.post(WRITE, &write(&json!(1))).await.status, 403);
    assert_eq!(stranger.post(WRITE, &write(&json!(1))).await.status, 401);
    assert_eq!(site.plc.writes(), 0);
    let mut forger = site.logged_in("hmi").await;
    forger.token = "0".repeat(64);
    assert_eq!(forger.post("/api/command/pause", &json!({"device": "plc"})).await.status, 403);
    for (identity, rest) in [
        ("user:viewer", "device=\"plc\" tag=\"\" operation=\"poll\" outcome=\"not_allowed\""),
        ("user:half", "device=\"nobody\" tag=\"\" operation=\"poll\" outcome=\"not_there\""),
        ("anonymous", "device=\"\" tag=\"\" operation=\"poll\" outcome=\"not_logged_in\""),
        ("user:hmi", "device=\"\" tag=\"\" operation=\"pause\" outcome=\"forged\""),
    ] {
        let line = format!("audit=\"operate_refused\" from=\"127.0.0.1\" identity=\"{identity}\" {rest}");
        site.daemon.heard(&line).await;
    }
    site.daemon.heard_times("outcome=\"not_logged_in\"", 1).await; // once a minute
    let odd = json!({"device": "plc", "more": 1});
    assert_eq!(half.post("/api/command/poll", &odd).await.status, 400);
    assert_eq!(half.post("/api/command/explode", &json!({"device": "plc"})).await.status, 404);
}

#[tokio::test]
async fn a_paused_device_is_left_alone_and_says_so_everywhere_until_it_is_resumed() {
    let site = Site::open().await;
    let watch = Watch::on_all(site.daemon.mqtt().await).await;
    let browser = site.logged_in("hmi").await;
    watch.until("gw/plc/level", "a value", |sample| sample["quality"] == "good").await;
    let device = json!({"device": "plc"});
    assert_eq!(browser.post("/api/command/pause", &device).await.json(), json!({"outcome": "done"}));
    let bad = watch.until("gw/plc/level", "bad", |sample| sample["cause"] == "paused").await;
    assert_eq!((&bad["value"], &bad["quality"]), (&Json::Null, &json!("bad")));
    watch.until("ironbridge/gw/device/plc", "paused", |device| device["state"] == "paused").await;
    site.until("/api/status", "paused", |said| said["devices"][0]["state"] == "paused").await;
    let event = watch.until("ironbridge/gw/event", "an event", |event| event["event"] == "device_paused").await;
    assert!(event["detail"].as_str().unwrap().contains("hmi"), "{event}");
    let asked = site.plc.requests();
    assert_eq!(browser.post(WRITE, &write(&json!(7))).await.json(), json!({"outcome": "refused", "reason": "paused"}));
    let poll = browser.post("/api/command/poll", &device).await;
    assert_eq!((poll.status, poll.json()["error"].is_string()), (409, true));
    assert_eq!(site.plc.requests(), asked, "not a byte");
    assert_eq!(browser.post("/api/command/resume", &device).await.status, 200);
    until("it is asked again", || site.plc.requests() > asked).await;
    site.until("/api/status", "answering", |said| said["devices"][0]["state"] == "answering").await;
    assert_eq!(browser.post("/api/command/reset", &device).await.status, 200);
    let reset = |said: &Json| said["devices"][0]["polls"].as_u64().is_some_and(|polls| polls < 10);
    site.until("/api/status", "counts from the beginning", reset).await;
}

#[tokio::test]
async fn no_reload_ends_a_pause_whatever_it_changes() {
    let site = Site::open().await;
    let watch = Watch::on_all(site.daemon.mqtt().await).await;
    let browser = site.logged_in("hmi").await;
    watch.until("gw/plc/level", "a value", |sample| sample["quality"] == "good").await;
    let device = json!({"device": "plc"});
    assert_eq!(browser.post("/api/command/pause", &device).await.status, 200);
    until("it is paused", || site.daemon.times_said("device is paused") == 1).await;
    let asked = site.plc.requests();
    let mut text = std::fs::read_to_string(site.home.path("ironbridge.toml")).unwrap();
    // Its bus begins anew; it goes on as another one behind the same connection.
    let changes = [("response_timeout = \"500ms\"", "response_timeout = \"600ms\""), ("unit_id = 1", "unit_id = 2")];
    for (times, (from, to)) in (2..).zip(changes) {
        text = text.replacen(from, to, 1);
        site.home.configure(&text);
        site.daemon.signal(rustix::process::Signal::HUP);
        until("it is still paused", || site.daemon.times_said("device is paused") == times).await;
    }
    // It is taken out, and put back: at another place now, but still with somebody's hands in it.
    let at = text.find("[[device]]").unwrap();
    site.home.configure(&text[..at].replacen("operate = [\"plc\"]\n", "", 1));
    site.daemon.signal(rustix::process::Signal::HUP);
    until("it is gone", || site.daemon.said("name=\"plc\" how=\"removed\"").is_some()).await;
    site.home.configure(&text);
    site.daemon.signal(rustix::process::Signal::HUP);
    until("it is still paused", || site.daemon.times_said("device is paused") == 4).await;
    assert_eq!(site.plc.requests(), asked, "not a byte");
    assert_eq!(site.daemon.stop().await, Some(0));
}
