//! One connection of the misbehaving broker; the version is the one that CONNECT asks for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::Connect;
use rumqttc::mqttbytes::{Error, Protocol, matches};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::wire::{self, In, PublishIn};
use super::{Arrived, Old, Orders, Shared};

/// Publishes to one subscriber that are not yet acknowledged.
const SUBSCRIBER_WINDOW: usize = 20;

struct Peer<S> {
    stream: S,
    shared: Arc<Shared>,
    number: usize,
    connect: Option<Connect>,
    version: Protocol,
    aliases: HashMap<u16, String>,
    publishes: usize,
    owed_acks: VecDeque<(Instant, u16, u8)>,
    filters: Vec<String>,
    cursor: usize,
    unacknowledged: VecDeque<(u16, usize)>,
    next_id: u16,
}

/// What happens next to a connection.
enum Next {
    Go,
    CloseInOrder,
    Cut,
}

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>, number: usize) {
    let mut orders = shared.orders.subscribe();
    let mut grown = shared.grown.subscribe();
    let (cut, told) = (orders.borrow().cut, orders.borrow().tell.0);
    let mut peer = Peer {
        stream,
        shared,
        number,
        connect: None,
        version: Protocol::V4,
        aliases: HashMap::new(),
        publishes: 0,
        owed_acks: VecDeque::new(),
        filters: Vec::new(),
        cursor: 0,
        unacknowledged: VecDeque::new(),
        next_id: 0,
    };
    let mut buffer = BytesMut::new();
    let next = loop {
        let now = orders.borrow_and_update().clone();
        if now.cut != cut {
            break Next::Cut;
        }
        if now.tell.0 != told {
            let _ = peer.raw(&now.tell.1).await;
            break Next::Cut;
        }
        if now.black_hole {
            if orders.changed().await.is_err() {
                break Next::Cut;
            }
            continue;
        }
        if peer.pay_acks(&now).await.is_err() || peer.feed_subscriber().await.is_err() {
            break Next::Cut;
        }
        let due = match peer.owed_acks.front() {
            Some((due, ..)) if !now.withhold_acks => *due,
            _ => Instant::now() + Duration::from_secs(3600),
        };
        tokio::select! {
            read = peer.stream.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => break Next::Cut,
                Ok(_) => match peer.packets(&mut buffer, &now).await {
                    Next::Go => {}
                    other => break other,
                },
            },
            _ = orders.changed() => {}
            _ = grown.changed(), if !peer.filters.is_empty() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    };
    peer.gone(&next);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn packets(&mut self, buffer: &mut BytesMut, orders: &Orders) -> Next {
        loop {
            if self.connect.is_none()
                && let Some(asked) = wire::protocol_of(buffer)
            {
                self.version = asked;
                if let (Some(old), Protocol::V5) = (orders.old, asked) {
                    return self.too_new(old, buffer).await;
                }
            }
            let packet = match wire::read(self.version, buffer) {
                Ok(packet) => packet,
                Err(Error::InsufficientBytes(_)) => return Next::Go,
                Err(error) => panic!("the client sent nonsense: {error}"),
            };
            match self.packet(packet, orders).await {
                Next::Go => {}
                other => return other,
            }
        }
    }

    /// CONNECT with MQTT 5, to a broker that does not know it.
    async fn too_new(&mut self, old: Old, buffer: &mut BytesMut) -> Next {
        buffer.clear();
        self.shared.book.lock().unwrap().too_new += 1;
        match old {
            Old::SaysSoIn5 => self.raw(&[0x20, 3, 0, 0x84, 0]).await,
            Old::SaysSoIn4 => self.raw(&[0x20, 2, 0, 0x01]).await,
            Old::Closes => return Next::Cut,
            Old::SaysSoAndStays => return self.raw(&[0x20, 2, 0, 0x01]).await,
        };
        Next::Cut
    }

    async fn packet(&mut self, packet: In, orders: &Orders) -> Next {
        match packet {
            In::Connect(connect, properties) => {
                {
                    let mut book = self.shared.book.lock().unwrap();
                    book.connects.push(connect.clone());
                    book.connect_properties.push(properties);
                }
                if orders.no_connack {
                    return Next::Go;
                }
                if let Some(code) = orders.refuse {
                    let _ = self.raw(&wire::refusal(self.version, code)).await;
                    return Next::Cut;
                }
                if !connect.clean_session {
                    self.cursor =
                        self.shared.book.lock().unwrap().cursors.get(&connect.client_id).copied().unwrap_or(0);
                }
                self.connect = Some(connect);
                tokio::time::sleep(orders.greeting_delay).await;
                self.raw(&wire::welcome(self.version, orders.agree.as_ref())).await
            }
            In::Publish(publish) => self.publish(publish, orders).await,
            In::Subscribe(id, wanted) => {
                let (filters, retained): (Vec<String>, Vec<_>) = wanted.into_iter().unzip();
                {
                    let mut book = self.shared.book.lock().unwrap();
                    book.subscriptions.push((self.number, filters.clone()));
                    book.retained_wanted.push(retained);
                }
                if filters.iter().all(|filter| filter.ends_with("/set")) {
                    self.cursor = self.shared.book.lock().unwrap().log.len(); // a command is not kept for anyone
                }
                if !orders.no_suback {
                    let granted = vec![if orders.refuse_subscriptions { 0x80 } else { 1 }; filters.len()];
                    if let Next::Cut = self.raw(&wire::suback(self.version, id, &granted)).await {
                        return Next::Cut;
                    }
                }
                self.filters.extend(filters);
                Next::Go
            }
            In::Unsubscribe(id, filters) => {
                self.filters.retain(|filter| !filters.contains(filter));
                self.shared.book.lock().unwrap().unsubscribed.extend(filters);
                if orders.no_unsuback {
                    return Next::Go;
                }
                self.raw(&wire::unsuback(self.version, id)).await
            }
            In::PubAck(id) => {
                self.shared.book.lock().unwrap().acknowledged += 1;
                self.unacknowledged.retain(|(sent, _)| *sent != id);
                let upto = self.unacknowledged.front().map_or(self.cursor, |(_, at)| *at);
                let client = self.connect.as_ref().unwrap().client_id.clone();
                self.shared.book.lock().unwrap().cursors.insert(client, upto);
                Next::Go
            }
            In::Ping => self.raw(&[0xD0, 0]).await,
            In::Disconnect => {
                self.shared.book.lock().unwrap().disconnects += 1;
                Next::CloseInOrder
            }
        }
    }

    async fn publish(&mut self, publish: PublishIn, orders: &Orders) -> Next {
        let client = self.connect.as_ref().expect("CONNECT comes first").client_id.clone();
        let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
        let max = orders.agree.as_ref().and_then(|agree| agree.topic_alias_max).unwrap_or(0);
        assert!(alias.is_none_or(|alias| (1..=max).contains(&alias)), "alias {alias:?} of {max}");
        let topic = match (publish.topic.as_str(), alias) {
            ("", Some(alias)) => self.aliases.get(&alias).expect("an alias is told before it is used").clone(),
            (topic, Some(alias)) => self.aliases.entry(alias).insert_entry(topic.to_owned()).get().clone(),
            (topic, None) => topic.to_owned(),
        };
        assert!(!topic.is_empty(), "a publish without a topic");
        let at_once = orders.agree.as_ref().and_then(|agree| agree.receive_max).unwrap_or(u16::MAX);
        assert!(self.owed_acks.len() < usize::from(at_once), "more than the Receive Maximum of {at_once}");
        let denied = orders.deny.iter().find(|(denied, _)| *denied == topic).map_or(0, |(_, reason)| *reason);
        let has = |text: &String| String::from_utf8_lossy(&publish.payload).contains(text);
        if orders.fall_over.as_ref().is_some_and(has) {
            return Next::Cut;
        }
        let denied = orders.deny_payload.as_ref().filter(|(text, _)| has(text)).map_or(denied, |(_, reason)| *reason);
        if denied == 0 {
            self.shared.log(Arrived {
                topic,
                payload: publish.payload,
                retain: publish.retain,
                dup: publish.dup,
                qos: publish.qos,
                client,
                connection: self.number,
                will: false,
                topic_bytes: publish.topic.len(),
                properties: publish.properties,
            });
        } else {
            self.shared.book.lock().unwrap().denied += 1;
        }
        self.publishes += 1;
        if denied != 0 && orders.close_when_denied {
            if self.version == Protocol::V5 {
                let _ = self.raw(&wire::puback(publish.id, denied)).await;
            }
            return Next::Cut;
        }
        if orders.cut_after_publishes.is_some_and(|limit| self.publishes >= limit) {
            return Next::Cut;
        }
        if let Some(bytes) = &orders.answer_with {
            return self.raw(&bytes.clone()).await;
        }
        self.owed_acks.push_back((Instant::now() + orders.ack_delay, publish.id, denied));
        {
            let mut book = self.shared.book.lock().unwrap();
            book.most_unacknowledged = book.most_unacknowledged.max(self.owed_acks.len());
        }
        match self.pay_acks(orders).await {
            Ok(()) => Next::Go,
            Err(_) => Next::Cut,
        }
    }

    async fn pay_acks(&mut self, orders: &Orders) -> std::io::Result<()> {
        if orders.withhold_acks {
            return Ok(());
        }
        if orders.acks_in_pairs_swapped && self.publishes > 4 && self.owed_acks.len() >= 2 {
            self.owed_acks.swap(0, 1);
        }
        while self.owed_acks.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let (_, id, reason) = self.owed_acks.pop_front().unwrap();
            if let Next::Cut = self.raw(&wire::puback(id, reason)).await {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    async fn feed_subscriber(&mut self) -> std::io::Result<()> {
        while !self.filters.is_empty() && self.unacknowledged.len() < SUBSCRIBER_WINDOW {
            let Some(arrived) = self.shared.book.lock().unwrap().log.get(self.cursor).cloned() else {
                break;
            };
            let at = self.cursor;
            self.cursor += 1;
            if !self.filters.iter().any(|filter| matches(&arrived.topic, filter)) {
                continue;
            }
            self.next_id = self.next_id % 60_000 + 1;
            let bytes = wire::publish(self.version, self.next_id, &arrived);
            self.unacknowledged.push_back((self.next_id, at));
            if let Next::Cut = self.raw(&bytes).await {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    async fn raw(&mut self, bytes: &[u8]) -> Next {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match written.await {
            Ok(()) => Next::Go,
            Err(_) => Next::Cut,
        }
    }

    fn gone(self, next: &Next) {
        let Some(connect) = self.connect else { return };
        if let (Next::Cut, Some(will)) = (next, connect.last_will) {
            self.shared.log(Arrived {
                topic: will.topic,
                payload: will.message.to_vec(),
                retain: will.retain,
                qos: will.qos,
                client: connect.client_id,
                connection: self.number,
                will: true,
                dup: false,
                topic_bytes: 0,
                properties: None,
            });
        }
    }
}
