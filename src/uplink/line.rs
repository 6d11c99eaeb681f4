//! The line: one MQTT connection as its two users see it. The poller does nothing but `poll()` and note what happened;
//! the feeder asks for the news. Between them a lock that is held to move values, never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rumqttc::{ConnectReturnCode, ConnectionError, Event, EventLoop, Outgoing, Packet};
use tokio::sync::Notify;

use crate::store::{Ack, Lane};

use super::window::{Alone, Answer, Sent, Window};

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The broker does not want us: a person must look at user, password, client id.
    Refused(String),
    /// Anything else.
    Lost(String),
}

/// What the feeder learns at once.
#[derive(Debug)]
pub(super) struct News {
    /// Answered since it last asked, in the order of the answers.
    pub(super) answered: Vec<(Sent, Answer)>,
    /// The broker has accepted the session.
    pub(super) accepted: bool,
    /// Messages in flight.
    pub(super) in_flight: usize,
    /// Set once the connection is gone.
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    answered: Vec<(Sent, Answer)>,
    accepted: bool,
    ended: Option<Ended>,
    cause: Option<Ended>,
}

/// Shared by poller, feeder and relay.
#[derive(Debug, Default)]
pub(super) struct Line {
    state: Mutex<State>,
    changed: Notify,
}

impl Line {
    /// The poller; returns when the connection is gone. Everything rumqttc held goes with it.
    pub(super) async fn poll(&self, mut events: EventLoop) {
        let _gone = Gone(self);
        loop {
            let result = events.poll().await;
            let mut state = self.lock();
            let noted = match result {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    state.accepted = true;
                    Ok(())
                }
                Ok(Event::Outgoing(Outgoing::Publish(id))) => state.window.left(id),
                Ok(Event::Incoming(Packet::PubAck(ack))) => {
                    let what = state.window.answered(ack.pkid, Answer::Taken, Instant::now());
                    what.map(|what| state.answered.push((what, Answer::Taken)))
                }
                Ok(_) => continue,
                Err(error) => {
                    state.ended = Some(ended(&error));
                    Ok(())
                }
            };
            if let Err(confused) = noted {
                state.ended = Some(Ended::Lost(confused.to_string()));
            }
            let over = state.ended.is_some();
            drop(state);
            self.changed.notify_one();
            if over {
                return;
            }
        }
    }

    /// The relay knows better than rumqttc why the connection broke.
    pub(super) fn broke(&self, cause: Ended) {
        self.lock().cause = Some(cause);
        self.changed.notify_one();
    }

    /// The cause that the relay gave.
    pub(super) fn cause(&self) -> Option<Ended> {
        self.lock().cause.clone()
    }

    /// Takes what happened since the last call.
    pub(super) fn news(&self) -> News {
        let mut state = self.lock();
        News {
            answered: std::mem::take(&mut state.answered),
            accepted: state.accepted,
            in_flight: state.window.in_flight(),
            ended: state.ended.clone(),
        }
    }

    /// A message is about to be handed to rumqttc.
    pub(super) fn hand(&self, what: Sent, lane: Lane, bytes: usize) {
        self.lock().window.hand(what, lane, bytes, Instant::now());
    }

    /// How many more messages of this lane may be sent now.
    pub(super) fn room(&self, lane: Lane) -> usize {
        self.lock().window.room(lane)
    }

    /// How large a message should be.
    pub(super) fn message_bytes(&self) -> usize {
        self.lock().window.message_bytes()
    }

    /// See [`Window::oldest`].
    pub(super) fn oldest(&self) -> Option<(Ack, Alone)> {
        self.lock().window.oldest()
    }

    /// From now on one message at a time.
    pub(super) fn be_careful(&self) {
        self.lock().window.be_careful();
    }

    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().window.in_flight()
    }

    /// Waits for news; one waiter only. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the poller ends, even by a panic inside rumqttc, the feeder hears of it.
struct Gone<'a>(&'a Line);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().ended.get_or_insert_with(|| Ended::Lost("the MQTT client failed".into()));
        self.0.changed.notify_one();
    }
}

fn ended(error: &ConnectionError) -> Ended {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(code) => {
            let why = match code {
                Code::BadUserNamePassword => "the broker refuses user name or password",
                Code::NotAuthorized => {
                    "the broker says: not authorised (user, password and client id are what it looks at)"
                }
                Code::BadClientId => "the broker refuses the client id",
                Code::RefusedProtocolVersion => "the broker does not speak MQTT 3.1.1",
                Code::ServiceUnavailable | Code::Success => {
                    return Ended::Lost("the broker says: service unavailable".into());
                }
            };
            Ended::Refused(why.into())
        }
        ConnectionError::NetworkTimeout => Ended::Lost("the broker did not answer CONNECT in time".into()),
        ConnectionError::FlushTimeout => Ended::Lost("the broker takes nothing any more".into()),
        ConnectionError::MqttState(rumqttc::StateError::AwaitPingResp) => {
            Ended::Lost("the broker did not answer a ping".into())
        }
        ConnectionError::MqttState(rumqttc::StateError::ConnectionAborted) => {
            Ended::Lost("the broker closed the connection".into())
        }
        other => Ended::Lost(other.to_string()),
    }
}
