//! The witness at the far end: an MQTT client of the cloud that knows nothing of the gateway and keeps the books.
//!
//! Every record's number goes into the ledger; every value of a tag is checked against what the plant really held. It
//! connects to the cloud directly, so that only the gateway suffers from the link.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::commands::Failed;
use crate::flow::stop::Stop;
use crate::model::lock::Hold as _;
use crate::model::number::Number;
use crate::model::value::Value;
use crate::plant::cloud::Cloud;
use crate::plant::site::Site;
use crate::receive::client::{Client, ClientParts, DELIVERIES_MAX, Delivery, Happened, Kept, ReceiveError};
use crate::receive::decode::{Numbered, Received, decode};
use crate::receive::ledger::{Begin, Ledger, Noted, Report};
use crate::road::Now;
use crate::road::destination::{Destination, TlsFiles};
use crate::road::login::LoginFiles;

/// It must be connected within this time, before the gateway starts.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// Wrong values that are told one by one.
const WRONG_LISTED_MAX: usize = 5;

/// What the verifier has found so far.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The ledger's sums.
    pub report: Option<Report>,
    /// Values of tags that were compared with the plant.
    pub checked: u64,
    /// Values that the plant never held.
    pub wrong: u64,
    /// Some of them.
    pub wrong_listed: Vec<String>,
    /// Samples without a value (a dead device says so once per tag).
    pub without_value: u64,
}

/// A running verifier.
pub struct Verifier {
    books: Arc<Mutex<Books>>,
    stop: Stop,
    tasks: (JoinHandle<Result<(), ReceiveError>>, JoinHandle<()>),
}

struct Books {
    ledger: Ledger,
    findings: Findings,
}

impl Verifier {
    /// Connects and subscribes to everything. `run_dir`: a private directory for the road's socket.
    pub async fn start(cloud: &Cloud, run_dir: PathBuf, now: Now, site: Arc<Site>) -> Result<Self, Failed> {
        let files = cloud.files().clone();
        let tls = TlsFiles { ca_file: files.ca, identity: Some((files.client_certificate, files.client_key)) };
        let address = cloud.address();
        let parts = ClientParts {
            to: Destination { tls: Some(tls), ..Destination::plain(&address.ip().to_string(), address.port()) },
            login: LoginFiles { username: None, password_file: None },
            client_id: "demo-verifier".into(),
            kept: Kept::Yes,
            filters: vec!["#".into()],
            run_dir,
            now,
        };
        let (into, mut happened) = mpsc::channel(DELIVERIES_MAX);
        let (stop, books) = (Stop::new(), Arc::new(Mutex::new(Books::new())));
        let client = tokio::spawn(Client::new(parts).run(into, stop.clone()));
        let connected = tokio::time::timeout(CONNECT_MAX, happened.recv()).await;
        if !matches!(connected, Ok(Some(Happened::Connected))) {
            return Err(Failed::Internal(format!("the verifier cannot connect to the simulated cloud: {connected:?}")));
        }
        let notes = Arc::clone(&books);
        let clerk = tokio::spawn(async move {
            while let Some(happened) = happened.recv().await {
                if let Happened::Message(delivery) = happened {
                    lock(&notes).take(&delivery, &site);
                    delivery.acknowledge();
                }
            }
        });
        Ok(Self { books, stop, tasks: (client, clerk) })
    }

    /// What it has found so far.
    pub fn findings(&self) -> Findings {
        let books = lock(&self.books);
        Findings { report: Some(books.ledger.report()), ..books.findings.clone() }
    }

    /// Tells it what the gateway's store says was the newest number of each stream.
    pub fn expect(&self, newest: &[Number]) {
        let mut books = lock(&self.books);
        for number in newest {
            books.ledger.note_newest(number.stream, number.epoch, number.seq);
        }
    }

    /// Ends it.
    pub async fn stop(self) -> Findings {
        let findings = self.findings();
        self.stop.hurry();
        // Both end with the stop; what they return no longer matters.
        drop(self.tasks.0.await);
        drop(self.tasks.1.await);
        findings
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.hold()
}

impl Books {
    /// It is there before the gateway, so every stream is expected from its first number.
    fn new() -> Self {
        Self { ledger: Ledger::new(Begin::One), findings: Findings::default() }
    }

    fn take(&mut self, delivery: &Delivery, site: &Site) {
        match decode(delivery.topic(), delivery.payload()) {
            Received::Numbered(record) => {
                if self.ledger.note(record.number, record.previous) == Noted::New {
                    self.check(delivery.topic(), &record, site);
                }
            }
            Received::Gap { stream, epoch, first, last, .. } => self.ledger.note_gap(stream, epoch, first, last),
            // The gateway's word about itself is not evidence; its store is asked at the end.
            Received::Status(_) | Received::Other => {}
        }
    }

    fn check(&mut self, topic: &str, record: &Numbered, site: &Site) {
        let Some(value) = value(&record.body) else {
            if record.body.get("quality").and_then(Json::as_str) == Some("bad") {
                self.findings.without_value += 1;
            }
            return;
        };
        match site.held(topic, &value) {
            Some(true) => self.findings.checked += 1,
            Some(false) => {
                self.findings.checked += 1;
                self.findings.wrong += 1;
                if self.findings.wrong_listed.len() < WRONG_LISTED_MAX {
                    self.findings.wrong_listed.push(format!("{topic} = {value}"));
                }
            }
            None => {} // an event or a command's result: no tag of the plant
        }
    }
}

fn value(body: &serde_json::Map<String, Json>) -> Option<Value> {
    Some(match body.get("value")? {
        Json::Bool(bit) => Value::Bool(*bit),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::Uint(number),
            (None, Some(number)) => Value::Int(number),
            (None, None) => Value::Float(number.as_f64()?),
        },
        _ => return None,
    })
}
