//! One connection of the misbehaving broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS, matches};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::{Arrived, Orders, Shared};

/// Publishes to one subscriber that are not yet acknowledged.
const SUBSCRIBER_WINDOW: usize = 20;

struct Peer<S> {
    stream: S,
    shared: Arc<Shared>,
    number: usize,
    connect: Option<Connect>,
    publishes: usize,
    owed_acks: VecDeque<(Instant, u16)>,
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
    let cut = orders.borrow().cut;
    let mut peer = Peer {
        stream,
        shared,
        number,
        connect: None,
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
            Some((due, _)) if !now.withhold_acks => *due,
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
            let packet = match Packet::read(buffer, 1 << 24) {
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

    async fn packet(&mut self, packet: Packet, orders: &Orders) -> Next {
        match packet {
            Packet::Connect(connect) => {
                self.shared.book.lock().unwrap().connects.push(connect.clone());
                if orders.no_connack {
                    return Next::Go;
                }
                if let Some(code) = orders.refuse {
                    let _ = self.write(Packet::ConnAck(ConnAck::new(code, false))).await;
                    return Next::Cut;
                }
                if !connect.clean_session {
                    self.cursor =
                        self.shared.book.lock().unwrap().cursors.get(&connect.client_id).copied().unwrap_or(0);
                }
                self.connect = Some(connect);
                self.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await
            }
            Packet::Publish(publish) => self.publish(publish, orders).await,
            Packet::Subscribe(subscribe) => {
                let codes = subscribe.filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce)).collect();
                self.filters.extend(subscribe.filters.into_iter().map(|filter| filter.path));
                self.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await
            }
            Packet::PubAck(ack) => {
                self.unacknowledged.retain(|(id, _)| *id != ack.pkid);
                let upto = self.unacknowledged.front().map_or(self.cursor, |(_, at)| *at);
                let client = self.connect.as_ref().unwrap().client_id.clone();
                self.shared.book.lock().unwrap().cursors.insert(client, upto);
                Next::Go
            }
            Packet::PingReq => self.write(Packet::PingResp).await,
            Packet::Disconnect => {
                self.shared.book.lock().unwrap().disconnects += 1;
                Next::CloseInOrder
            }
            other => panic!("the client sent {other:?}"),
        }
    }

    async fn publish(&mut self, publish: Publish, orders: &Orders) -> Next {
        let client = self.connect.as_ref().expect("CONNECT comes first").client_id.clone();
        self.shared.log(Arrived {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            retain: publish.retain,
            qos: publish.qos,
            client,
            connection: self.number,
            will: false,
        });
        self.publishes += 1;
        if orders.cut_after_publishes.is_some_and(|limit| self.publishes >= limit) {
            return Next::Cut;
        }
        self.owed_acks.push_back((Instant::now() + orders.ack_delay, publish.pkid));
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
        while self.owed_acks.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (_, id) = self.owed_acks.pop_front().unwrap();
            if let Next::Cut = self.write(Packet::PubAck(PubAck::new(id))).await {
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
            let mut publish = Publish::new(&arrived.topic, QoS::AtLeastOnce, arrived.payload);
            publish.pkid = self.next_id;
            self.unacknowledged.push_back((self.next_id, at));
            if let Next::Cut = self.write(Packet::Publish(publish)).await {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    async fn write(&mut self, packet: Packet) -> Next {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 24).unwrap();
        let written = async {
            self.stream.write_all(&bytes).await?;
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
            });
        }
    }
}
