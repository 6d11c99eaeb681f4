//! Commands from the page: write a tag; poll, pause, resume or reset a device.
//!
//! A write goes the way of a `…/set` message (`flow::command`): allow list, limits, journal, read-back. The others go to the
//! bus of the device (`flow::operate`). Who asks is logged in, has the device in an `operate` of `[[broker.acl]]`, and for a
//! write the tag's `…/set` in a `write`, too. Each is in the audit trail with user and address, done or refused, those of
//! strangers too, also when the browser does not wait for the answer.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `POST /api/command/write` | `{"device":…,"tag":…,"value":…}`, optional `"id"` | 200: the result as on `…/set/result`, or `{"outcome":"pending"}` |
//! | `POST /api/command/pause`, `resume`, `reset` | `{"device":…}` | 200 `{"outcome":"done"}`, or `asked`: see below |
//! | `POST /api/command/poll` | `{"device":…}` | 200 `{"outcome":"asked"}`: what comes of it is seen in the values |
//!
//! `done`: the bus has taken note, and of what it sent before nothing is under way; a paused device is sent nothing any more.
//! `asked`: the bus is still busy, and takes note as soon as it is not.
//!
//! 401: not logged in. 403: no such right, or `login`'s conditions are not met. 404: no such device or tag. 409: not now.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Lobby;
use super::api::may_write;
use super::login::{operator, problem};
use super::visitor::From;
use crate::access::{self, Deed, Identity};
use crate::flow::command::{self, Admission, CommandEntry, Redelivery, Reply, Request, Retained};
use crate::flow::notice::{Notice, Phase};
use crate::flow::operate::{Heeded, Operation};
use crate::model::command::{Outcome, Refusal};
use crate::model::tag::{DeviceIx, TagIx};
use crate::payload::json;

/// For journal and result together, below what the server gives an answer: what takes longer runs all the same, and its
/// result is only on `…/set/result`. No browser should wait for as long as a command may.
const RESULT_WITHIN: Duration = Duration::from_secs(15);

/// For a bus to take note. One that waits for an answer, or repeats a request, takes longer at times: it is asked then, and
/// that is what is said.
const HEEDED_WITHIN: Duration = Duration::from_secs(5);

/// Outcomes of what a bus is asked.
const ASKED: &str = "asked";
const DONE: &str = "done";

/// Outcomes of what went nowhere.
const NOT_ALLOWED: &str = "not_allowed";
const NOT_THERE: &str = "not_there";

/// Writes under way at once, and waits for a bus to take note, those whose browser is gone among them.
pub(super) const WRITES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    device: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    device: String,
    tag: String,
    value: serde_json::Value,
    id: Option<String>,
}

/// `POST /api/command/{poll,pause,resume,reset}`
pub(super) async fn device(State(lobby): State<Lobby>, parts: Parts, body: Bytes) -> Response {
    let word = parts.uri.path().rsplit('/').next().unwrap_or_default();
    let operation = Operation::named(word);
    let who = match operator(&lobby, &parts, operation.map_or("", Operation::as_str)) {
        Ok(who) => who,
        Err(denied) => return denied.answer(),
    };
    let (Some(operation), Ok(Wish { device })) = (operation, serde_json::from_slice(&body)) else {
        return problem(StatusCode::BAD_REQUEST, "the body is {\"device\":\"NAME\"}");
    };
    let from = From::of(&parts).address();
    let deed = |outcome| Deed { who: &who, from, device: &device, tag: "", operation: operation.as_str(), outcome };
    if !lobby.access.may_operate(&who, &device) {
        lobby.access.operate_refused(deed(NOT_ALLOWED));
        return problem(StatusCode::FORBIDDEN, "you may not operate this device (`operate` in [[broker.acl]])");
    }
    let Some(ix) = device_named(&lobby, &device) else {
        lobby.access.operate_refused(deed(NOT_THERE));
        return problem(StatusCode::NOT_FOUND, "there is no such device");
    };
    let heeded = match (lobby.operate)(ix, operation) {
        Ok(heeded) => heeded,
        Err(unwilling) => {
            access::operated(&deed(unwilling.as_str()));
            return problem(StatusCode::CONFLICT, &unwilling.to_string());
        }
    };
    // A task of its own: what was asked is written down, too, when the browser goes away.
    let asked = tokio::spawn(async move {
        let outcome = outcome(&lobby, operation, heeded).await;
        let deed = Deed { who: &who, from, device: &device, tag: "", operation: operation.as_str(), outcome };
        access::operated(&deed);
        tell(&lobby, &who, &device, (operation, outcome));
        outcome
    });
    super::json(&serde_json::json!({ "outcome": asked.await.unwrap_or(ASKED) }))
}

/// What can be said of it: that it is done when the bus has taken note. In a crowd nobody waits for that.
async fn outcome(lobby: &Lobby, operation: Operation, heeded: Heeded) -> &'static str {
    if operation == Operation::Poll {
        return ASKED; // what comes of it is seen in the values
    }
    let Ok(_place) = Arc::clone(&lobby.writes).try_acquire_owned() else { return ASKED };
    if timeout(HEEDED_WITHIN, heeded).await.is_ok() { DONE } else { ASKED }
}

/// Others want to know why a device is silent; that it was polled is no news.
fn tell(lobby: &Lobby, who: &Identity, device: &str, (operation, outcome): (Operation, &str)) {
    let (event, done) = match operation {
        Operation::Poll => return,
        Operation::Pause => ("device_paused", "paused"),
        Operation::Resume => ("device_resumed", "resumed"),
        Operation::Reset => ("device_reset", "reset"),
    };
    let when = if outcome == DONE { "" } else { ", as soon as its bus has time" };
    let detail = format!("{done} on the status page by {}{when}", who.name().unwrap_or_default());
    lobby.notices.tell(Notice { event, phase: Phase::Once, subject: device.to_owned(), detail });
}

/// `POST /api/command/write`
pub(super) async fn write(State(lobby): State<Lobby>, parts: Parts, body: Bytes) -> Response {
    let who = match operator(&lobby, &parts, "write") {
        Ok(who) => who,
        Err(denied) => return denied.answer(),
    };
    let Ok(Write { device, tag, value, id }) = serde_json::from_slice(&body) else {
        let text = "the body is {\"device\":\"NAME\",\"tag\":\"NAME\",\"value\":…}";
        return problem(StatusCode::BAD_REQUEST, text);
    };
    let from = From::of(&parts).address();
    let deed = |outcome| Deed { who: &who, from, device: &device, tag: &tag, operation: "write", outcome };
    if !lobby.access.may_operate(&who, &device) {
        lobby.access.operate_refused(deed(NOT_ALLOWED));
        return problem(StatusCode::FORBIDDEN, "you may not operate this device (`operate` in [[broker.acl]])");
    }
    let Some(ix) = tag_named(&lobby, &device, &tag) else {
        lobby.access.operate_refused(deed(NOT_THERE));
        return problem(StatusCode::NOT_FOUND, "there is no such tag");
    };
    // What nobody may write is refused where all commands are.
    let plan = lobby.values.plan();
    let of = plan.tag(ix).filter(|of| of.access.writes());
    if of.is_some_and(|of| !may_write(&lobby, &who, (&device, of))) {
        lobby.access.operate_refused(deed(NOT_ALLOWED));
        let text = "you may not write this tag (its `…/set` in a `write` of [[broker.acl]])";
        return problem(StatusCode::FORBIDDEN, text);
    }
    let mut payload = serde_json::json!({ "value": value });
    if let Some(id) = &id {
        payload["id"] = id.as_str().into();
    }
    let Ok(place) = Arc::clone(&lobby.writes).try_acquire_owned() else {
        access::operated(&deed(Refusal::Busy.as_str()));
        return answer(json::command_result(None, &Outcome::Refused(Refusal::Busy)));
    };
    let (replies, results) = command::replies(Arc::default());
    let request = Request {
        tag: ix,
        payload: payload.to_string().into_bytes(),
        retained: Retained::No,
        redelivery: Redelivery::First,
        expiry: None,
        correlation: None,
        response_topic: None,
        origin: origin(&who, from),
        replies: Some(replies),
        at: lobby.values.clock().now(),
    };
    let commands = lobby.commands.clone();
    carry(commands, request, results, move |outcome| {
        let deed = Deed { who: &who, from, device: &device, tag: &tag, operation: "write", outcome };
        access::operated(&deed);
        place
    })
    .await
}

fn origin(who: &Identity, from: std::net::IpAddr) -> String {
    format!("page:{} from {from}", who.name().unwrap_or_default())
}

/// Hands the command in and waits for its end, for a while. It is a task of its own: a browser that goes away, or a journal
/// that takes long, leaves no command of which the audit trail does not say what became. What `told` gives back is kept to
/// the end.
async fn carry<Kept: Send + 'static>(
    commands: CommandEntry,
    request: Request,
    mut results: mpsc::Receiver<Reply>,
    told: impl FnOnce(&'static str) -> Kept + Send + 'static,
) -> Response {
    let carried = tokio::spawn(async move {
        let admission = commands.submit(request).await;
        let _kept = told(if let Admission::Refused(reason) = admission { reason.as_str() } else { "accepted" });
        match admission {
            Admission::Refused(reason) => Some(json::command_result(None, &Outcome::Refused(reason))),
            Admission::Accepted => results.recv().await.map(|reply| reply.result),
        }
    });
    match timeout(RESULT_WITHIN, carried).await {
        Ok(Ok(Some(result))) => answer(result),
        _ => super::json(&serde_json::json!({ "outcome": "pending" })),
    }
}

fn answer(result: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], result).into_response()
}

fn device_named(lobby: &Lobby, name: &str) -> Option<DeviceIx> {
    let plan = lobby.values.plan();
    plan.devices.iter().zip((0..).map(DeviceIx)).find(|(device, _)| device.name == name).map(|(_, ix)| ix)
}

fn tag_named(lobby: &Lobby, device: &str, name: &str) -> Option<TagIx> {
    let (plan, device) = (lobby.values.plan(), device_named(lobby, device)?);
    let mut numbered = plan.tags.iter().zip((0..).map(TagIx));
    numbered.find(|(tag, _)| tag.device == device && tag.name == name).map(|(_, ix)| ix)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::flow::command::{Submitted, road};
    use crate::model::time::{Boot, Stamp};

    fn order() -> (Request, mpsc::Receiver<Reply>) {
        let (replies, results) = command::replies(Arc::default());
        let request = Request {
            tag: TagIx(0),
            payload: Vec::new(),
            retained: Retained::No,
            redelivery: Redelivery::First,
            expiry: None,
            correlation: None,
            response_topic: None,
            origin: "page:hmi".to_owned(),
            replies: Some(replies),
            at: Stamp { boot: Boot(1), micros: 0 },
        };
        (request, results)
    }

    /// What is said of a write to the audit trail.
    fn audit() -> (impl FnOnce(&'static str) + Send + 'static, oneshot::Receiver<&'static str>) {
        let (say, said) = oneshot::channel();
        (move |outcome| say.send(outcome).expect("the test listens"), said)
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_takes_long_makes_a_write_pending_before_the_server_breaks_it_off() {
        let (entry, mut commands) = road();
        let ((request, results), (told, said)) = (order(), audit());
        let began = Instant::now();
        let answer = carry(entry, request, results, told).await;
        assert!(began.elapsed() < super::super::server::ANSWER_WITHIN, "{:?}", began.elapsed());
        let body = to_bytes(answer.into_body(), 100).await.expect("a body");
        assert_eq!(&body[..], br#"{"outcome":"pending"}"#);
        let Submitted { admitted, .. } = commands.recv().await.expect("it was handed in");
        admitted.send(Admission::Accepted).expect("somebody still waits");
        assert_eq!(said.await, Ok("accepted"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_a_write_is_written_down_also_when_the_browser_is_gone() {
        for (admission, outcome) in
            [(Admission::Accepted, "accepted"), (Admission::Refused(Refusal::Range), Refusal::Range.as_str())]
        {
            let (entry, mut commands) = road();
            let ((request, results), (told, said)) = (order(), audit());
            let browser = tokio::spawn(carry(entry, request, results, told));
            let Submitted { admitted, .. } = commands.recv().await.expect("it is handed in");
            browser.abort();
            assert!(browser.await.is_err_and(|ended| ended.is_cancelled()));
            admitted.send(admission).expect("somebody still waits");
            assert_eq!(said.await, Ok(outcome));
        }
    }
}
