//! A door of its own kind: a gateway for sensors that speak MQTT-SN 1.2 over UDP.
//!
//! **How it is built, and why.** Each sensor that has said CONNECT gets an ordinary connection to this broker: a pipe in
//! memory, with MQTT 5 in it, served by the same `welcome` and `connection` as any TCP client. So users, rules, limits,
//! takeover, sessions, wills, retained messages, audit and figures are the broker's own; what is here only translates, and an
//! acknowledgement means to a sensor what it means to everybody. Typed packets in place of bytes would have needed a second
//! entrance to the session, with its own bounds, for the sake of some copied bytes of a sensor. What MQTT does not know is
//! asked for beside the pipe: another will while connected (`Shared::change_will`), what a session remembers of its sensor
//! (`Shared::remember`: its will and topic ids), that a session which began clean lasts after all (`Shared::let_last`), and not
//! to be watched while asleep (`Watch::Doors`) nor sent anything (`Outbox::hold`): what waits then lies in the session's own
//! outbox or on its disk, within the bounds of any other client, and expires there. A PINGREQ in such a pipe is
//! answered when nothing waits any more; that is when a sensor that has woken gets its PINGRESP.
//!
//! One task per door takes datagrams from its `port` (`gateway`; sensors look for it by `multicast`): it answers what concerns
//! nobody in particular and hands the rest to the task of its client (`link`). `translator` decides, pure; `greeting` how a
//! sensor comes and goes, `asking` what it wants, `anew` when it has forgotten that, `delivering` what it gets; `names` topic
//! ids; `inner` the packets in the pipe (`pipe`); `unasked` publishes at QoS −1. All of them go by the `rules`, which a reload
//! may replace while the door is open: who may not stay by the new ones, as what it came in, is told to go, and who may does
//! not notice, awake or asleep.
//!
//! **Who is who.** A client is its address, the one of ours that it speaks to, and its wireless node behind a forwarder, from
//! its CONNECT on: whoever comes from elsewhere with the same id has to CONNECT, which takes the place of the other. Anybody
//! who can send from a sensor's address can speak for it; MQTT-SN 1.2 has nothing against that, so a door that other machines
//! can reach says `insecure_network = true`. DTLS would: no library that keeps to the one TLS stack of this program (rustls on
//! ring) speaks it.
//!
//! **Bounds.** Clients: those of all doors (half of `max_connections`, per address, and their rates). Of one client: topic ids
//! (`names`), 32 messages that have come and 16 requests without an answer. Strangers get no state, answers no longer than
//! what they sent, and so many a second. A message for a client that is too busy is dropped and counted; it is sent again by
//! whoever sent it, except at QoS 0.

mod anew;
mod asking;
mod delivering;
mod gateway;
mod greeting;
mod inner;
mod link;
mod multicast;
mod names;
mod pipe;
mod port;
mod rules;
#[cfg(test)]
mod tests;
mod translator;
mod unasked;

pub(super) use gateway::serve;
