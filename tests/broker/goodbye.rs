//! What a client said last counts, also when its connection has no use any more by the time it is read.

use crate::support::*;

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

fn will() -> v5::LastWill {
    v5::LastWill::new("will", "gone", QoS5::AtMostOnce, false, None)
}

/// A goodbye after so many messages.
fn last_words(messages: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    for n in 0..messages {
        message("burst", 0, &n.to_string()).write(&mut bytes).expect("encodable");
    }
    bytes.extend_from_slice(&[0xE0, 0]);
    bytes
}

#[tokio::test]
async fn what_a_client_said_last_counts_though_it_is_back_before_that_was_read() {
    let broker = Running::start().await;
    let mut reader = broker.v4("reader").await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    for lasting in [false, true] {
        let wish = |wishes: &mut Wishes| {
            wishes.will = Some(will());
            if lasting {
                wishes.connect.clean_start = false;
                wishes.properties.session_expiry_interval = Some(60);
            }
        };
        let mut hasty = Client5::connect(broker.address, "hasty", wish).await;
        for messages in [0, 1, 10, 100, 1000] {
            hasty.stream.write_all(&last_words(messages)).await.expect("sent");
            let back = Client5::connect(broker.address, "hasty", wish).await;
            for n in 0..messages {
                let seen = reader.message().await;
                assert_eq!((&*seen.topic, &seen.payload[..]), ("burst", n.to_string().as_bytes()));
            }
            reader.ping().await;
            assert!(hasty.try_next().await.is_none(), "it said goodbye: nobody tells it why it must go");
            hasty = back;
        }
        drop(hasty);
        assert_eq!(reader.message().await.topic, "will");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_goodbye_counts_though_the_client_left_much_unread() {
    let broker = Running::start().await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    for _ in 0..5 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let stream = socket.connect(broker.address).await.expect("a connection");
        let (mut deaf, _) = Client5::over(stream, "deaf", |wishes| wishes.will = Some(will())).await;
        deaf.subscribe(filter("plant/#", 0), None).await;
        let before = broker.publisher.stats().conflated.get();
        let long = "x".repeat(100_000);
        until("more waits for it than it takes", || {
            broker.publisher.retain_many((0..10).map(|n| (tag(n), long.clone().into())));
            broker.publisher.stats().conflated.get() > before + 100
        })
        .await;
        deaf.stream.write_all(&last_words(0)).await.expect("sent");
        drop(deaf);
        until("it has gone", || broker.publisher.stats().clients.get() == 1).await;
        watcher.ping().await;
    }
    broker.stop().await;
}
