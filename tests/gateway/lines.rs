//! Instruments that speak lines of their own, from their words to topics.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{BufRead as _, BufReader as StdBufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::gateway;
use crate::ports::own_port;

use gateway::{Daemon, Home, Watch, config};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const WEIGHT: &str = "gw/scale/weight";

/// `[gateway]` to the local broker, without a bus.
fn base() -> String {
    let text = config(([127, 0, 0, 1], 1).into());
    text.split("[[bus]]").next().unwrap().to_owned()
}

/// A scale behind a serial server: answers every question with what it is told to, or not at all.
struct Scale {
    says: Arc<Mutex<Option<&'static str>>>,
    task: JoinHandle<()>,
}

impl Scale {
    async fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let says = Arc::new(Mutex::new(None));
        let told = Arc::clone(&says);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &told).await;
            }
        });
        Self { says, task }
    }

    fn says(&self, what: Option<&'static str>) {
        *self.says.lock().unwrap() = what;
    }
}

impl Drop for Scale {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(stream: TcpStream, says: &Mutex<Option<&'static str>>) {
    let mut stream = BufReader::new(stream);
    let mut question = String::new();
    while stream.read_line(&mut question).await.is_ok_and(|count| count > 0) {
        assert_eq!(question, "SI\r\n");
        question.clear();
        let answer = *says.lock().unwrap();
        if let Some(answer) = answer {
            let _ = stream.write_all(format!("{answer}\r\n").as_bytes()).await; // the gateway may have left
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_is_good_moving_overloaded_silent_gone_and_back() {
    let port = own_port();
    let scale = Scale::at(port).await;
    scale.says(Some("S S     100.00 g"));
    let text = base()
        + &format!(
            r#"
[[bus]]
name = "scales"
type = "line"
endpoint = "127.0.0.1:{port}"
frame_end = "\r\n"
response_timeout = "300ms"
[[device]]
name = "scale"
bus = "scales"
send = "SI\r\n"
poll = "50ms"
match = ['S (?P<state>[SD]) +(?P<weight>-?[0-9.]+) g', 'S (?P<state>[-+I])']
status = {{ field = "state", good = ["S"], uncertain = ["D"] }}
[[device.tag]]
name = "weight"
field = "weight"
unit = "g"
scale = 0.001
[[device.tag]]
name = "state"
field = "state"
type = "string(1)"
"#
        );
    let home = Home::new(&text);
    let daemon = home.run();
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch.until(WEIGHT, "good", |it| it["value"] == 0.1 && it["quality"] == "good").await;
    scale.says(Some("S D     101.50 g"));
    watch.until(WEIGHT, "moving", |it| it["value"] == 0.1015 && it["quality"] == "uncertain").await;
    scale.says(Some("S +"));
    watch.until(WEIGHT, "overload", |it| it["value"].is_null() && it["cause"] == "exception").await;
    watch.until("gw/scale/state", "overload", |it| it["value"] == "+" && it["quality"] == "good").await;
    scale.says(Some("S S  1x2.00 g"));
    watch.until(WEIGHT, "what nobody understands", |it| it["quality"] == "bad" && it["cause"] == "protocol").await;
    scale.says(None);
    watch.until(WEIGHT, "silence", |it| it["quality"] == "bad" && it["cause"] == "timeout").await;
    let device = |state: &'static str| move |it: &serde_json::Value| it["state"] == state;
    watch.until("ironbridge/gw/device/scale", "down", device("down")).await;
    scale.says(Some("S S     200.00 g"));
    watch.until(WEIGHT, "back", |it| it["value"] == 0.2 && it["quality"] == "good").await;
    drop(scale);
    watch.until(WEIGHT, "unplugged", |it| it["quality"] == "bad" && it["cause"] == "transport").await;
    let scale = Scale::at(port).await;
    scale.says(Some("S S     300.00 g"));
    watch.until(WEIGHT, "plugged in again", |it| it["value"] == 0.3 && it["quality"] == "good").await;
    let all = watch.on(WEIGHT);
    let good = all.iter().map(gateway::Seen::json).filter(|it| it["quality"] == "good");
    for value in good {
        assert!([0.1, 0.2, 0.3].iter().any(|known| value["value"] == *known), "{value}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_examples_run_against_their_own_simulation() {
    let home = Home::new("");
    let shipped = |name: &str| {
        let text = std::fs::read_to_string(format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        text[text.find("[[bus]]").unwrap()..]
            .replace("poll = \"1s\"", "poll = \"100ms\"")
            .replace("\"500ms\"", "\"50ms\"")
    };
    home.configure(&(base() + &shipped("scale") + &shipped("gps")));
    let simulate = home.command(&["simulate", "--config", "ironbridge.toml", "--write-config", "desk/run.toml"]);
    std::fs::create_dir(home.path("desk")).unwrap();
    let mut simulation = { simulate }.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = StdBufReader::new(simulation.stdout.take().unwrap()).lines();
    let told = said.by_ref().map(Result::unwrap).take_while(|line| !line.starts_with("serving"));
    let told: Vec<String> = told.collect();
    assert!(told.iter().any(|line| line.contains("scale-line") && line.contains("/dev/pts/")), "{told:?}");
    let daemon = Daemon::start(home.command(&["run", "--config", "desk/run.toml"]));
    let watch = Watch::on_all(daemon.mqtt().await).await;
    watch
        .until(WEIGHT, "stable", |it| it["quality"] == "good" && it["value"].as_f64().is_some_and(|it| it > 99.0))
        .await;
    watch.until(WEIGHT, "moving", |it| it["quality"] == "uncertain").await;
    watch.until(WEIGHT, "overload", |it| it["cause"] == "exception" && it["value"].is_null()).await;
    let altitude = |it: &serde_json::Value| it["value"].as_f64().filter(|_| it["quality"] == "good");
    let first = watch.until("gw/gps/altitude", "a number", |it| altitude(it).is_some()).await;
    watch
        .until("gw/gps/altitude", "another number", |it| altitude(it).is_some_and(|now| Some(now) != altitude(&first)))
        .await;
    watch
        .until("gw/gps/latitude", "worked out", |it| it["value"].as_f64().is_some_and(|it| (48.0..49.0).contains(&it)))
        .await;
    assert_eq!(daemon.stop().await, Some(0));
    simulation.kill().unwrap();
    simulation.wait().unwrap();
}
