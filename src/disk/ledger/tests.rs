//! The ledger as the broker uses it.

use std::sync::Arc;

use super::*;

fn ready(mut committed: Committed) -> Option<Result<(), NotCommitted>> {
    committed.try_recv().ok()
}

fn message(payload: &str) -> Arc<MessageRow> {
    let payload = payload.to_owned().into();
    Arc::new(MessageRow { topic: "t".into(), qos: 1, payload, properties: bytes::Bytes::new(), expires_unix_ms: None })
}

fn owing(ordinal: u64) -> Owing {
    Owing { ordinal, qos: 1, retain: false, identifiers: vec![7, 268_435_455] }
}

fn session(id: SessionId, client: &str) -> SessionRow {
    let (client_id, owner) = (client.into(), "anonymous".into());
    SessionRow { id, client_id, owner, version: 5, expiry_s: 60, left_unix_ms: None, dropped: 0 }
}

#[tokio::test]
async fn what_is_owed_is_there_after_a_reopen_until_it_is_settled() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(found.sessions.is_empty());
    let (a, b) = (ledger.new_session(), ledger.new_session());
    for (id, client) in [(a, "a"), (b, "b")] {
        ledger.session(session(id, client));
        let filter: Arc<str> = "x/#".into();
        ledger.subscription(id, filter.clone(), Some(SubscriptionRow { filter, options: 1, identifier: Some(9) }));
    }
    let first = ledger.owe(message("1"), &[(a, owing(1)), (b, owing(1))], None);
    let second = ledger.owe(message("2"), &[(a, owing(2))], Some((b, 5)));
    assert_eq!((first.await.expect("told"), second.await.expect("told")), (Ok(()), Ok(())));
    let page = ledger.page(a, 1, 1000).await.expect("told").expect("read");
    assert_eq!(page.iter().map(|row| &row.message.payload[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(page[0].identifiers, [7, 268_435_455]);
    let cancelled = ledger.owe(message("3"), &[(a, owing(3))], None);
    ledger.settle(a, 3);
    assert_eq!(ready(cancelled), Some(Ok(())), "nobody is owed it any more");
    ledger.settle(a, 1);
    assert_eq!(ledger.release(a, 2).await.expect("told"), Ok(()));
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    let kept = &found.sessions;
    assert_eq!(kept.iter().map(|kept| kept.session.clone()).collect::<Vec<_>>(), [session(a, "a"), session(b, "b")]);
    assert_eq!((kept[0].owed_count, kept[0].owed_bytes, kept[1].owed_count, kept[1].owed_bytes), (1, 0, 1, 2));
    assert_eq!((kept[1].received.as_slice(), kept[1].subscriptions.len()), (&[5][..], 1));
    assert!(kept[0].next_ordinal >= 1027, "{}", kept[0].next_ordinal);
    assert_eq!(kept[0].next_ordinal % PACKET_IDS, (2 + 1024) % PACKET_IDS);
    let page = ledger.page(a, 0, 1000).await.expect("told").expect("read");
    assert!(page.len() == 1 && page[0].released && page[0].ordinal == 2);
    assert!(ledger.new_session() > b);
    assert_eq!(ledger.finish(b, 5).await.expect("told"), Ok(()));
    assert_eq!(ready(ledger.finish(b, 5)), Some(Ok(())), "it is gone already");
}
