//! TLS upstream: chain, name and dates are checked, files may be wrong or be renewed, and none of it ends anything.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::cloud;
use crate::owed;
use crate::rig;

use std::path::PathBuf;
use std::sync::Arc;

use ironbridge::config::plan::{Transport, UplinkTlsPlan};
use ironbridge::flow::clock::{Clock, FakeTime};
use ironbridge::model::time::Boot;
use ironbridge::uplink::UplinkState;

use authority::{Authority, EXPIRED, FUTURE, VALID};
use cloud::Cloud;
use owed::OwedList;
use rig::{NOW_MS, Rig};

fn tls(authority: &Authority, identity: Option<(PathBuf, PathBuf)>) -> UplinkTlsPlan {
    UplinkTlsPlan { ca_file: authority.ca_file(), identity }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_carries_everything_and_its_sessions_are_resumed() {
    let authority = Authority::new();
    let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
    let owed = OwedList::default();
    owed.samples(1..=500);
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls = Some(tls(&authority, Some(authority.client("gw", VALID))));
    });
    cloud.until("all acknowledged", |_| owed.acknowledged() == 500).await;
    let first = rig.stats.bytes_down();
    cloud.cut();
    cloud.until("a second session", |_| rig.stats.sessions.get() == 2).await;
    owed.samples(501..=501);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 501).await;
    let second = rig.stats.bytes_down() - first;
    assert!(rig.stats.bytes_up() > 500 * 100);
    assert!(second < 600, "{second} bytes: a resumed handshake carries no certificate");
    owed.end();
    rig.finished().await;
}

/// What an uplink says about a cloud whose server certificate is wrong in some way; nothing must get through.
async fn refused_because(server: Arc<rustls::ServerConfig>, ca: &Authority, host: Option<&str>) -> String {
    let cloud = Cloud::start_tls(server).await;
    let owed = OwedList::default();
    owed.samples(1..=10);
    let mut rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls = Some(tls(ca, Some(ca.client("gw", VALID))));
        if let Some(host) = host {
            parts.plan.servers[0].host = host.into();
        }
    });
    cloud.until("some attempts", |_| rig.stats.failures.get() >= 2).await;
    assert_eq!(owed.acknowledged(), 0);
    assert!(cloud.connects().is_empty(), "no CONNECT to a server that is not trusted");
    assert_eq!(rig.told(), ["uplink_refused active"]);
    let error = rig.stats.last_error().unwrap();
    rig.stop.begin();
    rig.finished().await;
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_the_wrong_ca_name_or_dates_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let why = refused_because(theirs.server("127.0.0.1", VALID), &ours, None).await;
    assert!(why.contains("UnknownIssuer") || why.contains("BadSignature"), "{why}");
    let why = refused_because(ours.server("127.0.0.1", EXPIRED), &ours, None).await;
    assert!(why.contains("expired"), "{why}");
    let why = refused_because(ours.server("127.0.0.1", FUTURE), &ours, None).await;
    assert!(why.contains("not valid yet"), "{why}");
    let why = refused_because(ours.server("broker.example.com", VALID), &ours, Some("localhost")).await;
    assert!(why.contains("not valid for name"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_clock_fix_a_certificate_that_begins_after_the_floor_is_accepted_and_one_that_ended_is_not() {
    let authority = Authority::new();
    for (years, floor_ms, accepted) in [(FUTURE, NOW_MS, true), (VALID, 0, true), (EXPIRED, NOW_MS, false)] {
        let cloud = Cloud::start_tls(authority.server("127.0.0.1", years)).await;
        let owed = OwedList::default();
        owed.samples(1..=1);
        let rig = Rig::start_with(&cloud, &owed, |parts| {
            parts.clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), floor_ms);
            parts.plan.servers[0].transport = Transport::Tls;
            parts.plan.tls = Some(tls(&authority, Some(authority.client("gw", VALID))));
        });
        if accepted {
            cloud.until("acknowledged", |_| owed.acknowledged() == 1).await;
        } else {
            cloud.until("refused", |_| rig.stats.failures.get() >= 2).await;
            assert_eq!(owed.acknowledged(), 0);
        }
        rig.stop.begin();
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_broken_and_mismatched_files_disable_the_uplink_until_they_are_mended() {
    let authority = Authority::new();
    let good = authority.client("good", VALID);
    let other = authority.client("other", VALID);
    let expired = authority.client("expired", EXPIRED);
    let at = |name: &str| authority.home.path().join(name);
    std::fs::write(at("broken.pem"), "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(at("empty.pem"), "").unwrap();
    let ca = std::fs::read_to_string(authority.ca_file()).unwrap();
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let cases = [
        ("ca_file", None, read(&good.0), read(&good.1)),
        ("ca_file", Some(String::new()), read(&good.0), read(&good.1)),
        ("ca_file", Some(read(&at("broken.pem"))), read(&good.0), read(&good.1)),
        ("certificate", Some(ca.clone()), String::new(), read(&good.1)),
        ("no private key", Some(ca.clone()), read(&good.0), "nonsense".into()),
        ("do not work together", Some(ca.clone()), read(&good.0), read(&other.1)),
        ("has expired", Some(ca.clone()), read(&expired.0), read(&expired.1)),
    ];
    for (expected, wrong_ca, wrong_certificate, wrong_key) in cases {
        let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
        let owed = OwedList::default();
        owed.samples(1..=5);
        let (ca_file, certificate, key) = (at("used-ca.pem"), at("used.crt"), at("used.key"));
        // made first, so that what is written into it later is for its owner alone
        std::fs::write(&key, "").unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        drop(std::fs::remove_file(&ca_file));
        if let Some(text) = wrong_ca {
            std::fs::write(&ca_file, text).unwrap();
        }
        std::fs::write(&certificate, wrong_certificate).unwrap();
        std::fs::write(&key, wrong_key).unwrap();
        let mut rig = Rig::start_with(&cloud, &owed, |parts| {
            let identity = Some((certificate.clone(), key.clone()));
            parts.plan.servers[0].transport = Transport::Tls;
            parts.plan.tls = Some(UplinkTlsPlan { ca_file: ca_file.clone(), identity });
        });
        cloud.until("disabled", |_| rig.stats.standing() == UplinkState::Disabled).await;
        let why = rig.stats.last_error().unwrap();
        assert!(why.contains(expected), "expected {expected:?} in: {why}");
        cloud.until("looked again", |_| rig.stats.failures.get() >= 2).await;
        let told = rig.told();
        let soon = expected == "has expired"; // said as well, and said before
        assert_eq!(told.iter().any(|told| told == "certificate_expiring active"), soon, "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("uplink_disabled active"), "{expected}");
        std::fs::write(&ca_file, &ca).unwrap();
        std::fs::write(&certificate, read(&good.0)).unwrap();
        std::fs::write(&key, read(&good.1)).unwrap();
        cloud.until("works once mended", |_| owed.acknowledged() == 5).await;
        assert!(rig.told().iter().any(|told| told == "uplink_disabled cleared"), "{expected}");
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_the_broker_does_not_trust_is_told_so() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let cloud = Cloud::start_tls(ours.server("127.0.0.1", VALID)).await;
    for identity in [None, Some(theirs.client("gw", VALID))] {
        let owed = OwedList::default();
        let mut rig = Rig::start_with(&cloud, &owed, |parts| {
            parts.plan.servers[0].transport = Transport::Tls;
            parts.plan.tls = Some(tls(&ours, identity));
        });
        cloud.until("some attempts", |_| rig.stats.failures.get() >= 2).await;
        assert!(cloud.connects().is_empty());
        let why = rig.stats.last_error().unwrap();
        assert!(why.contains("does not accept our certificate"), "{why}");
        assert_eq!(rig.told(), ["uplink_refused active"]);
        rig.stop.begin();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_read_at_each_connect_and_a_missing_file_disables() {
    let cloud = Cloud::start().await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("password");
    let owed = OwedList::default();
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.username = Some("gw".into());
        parts.plan.password_file = Some(file.clone());
    });
    cloud.until("disabled", |_| rig.stats.standing() == UplinkState::Disabled).await;
    assert!(rig.stats.last_error().unwrap().contains("password_file"));
    for (written, sent) in [("first\n", "first"), ("second", "second")] {
        std::fs::write(&file, written).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let sessions = rig.stats.sessions.get();
        cloud.cut();
        cloud.until("a session", |_| rig.stats.sessions.get() > sessions).await;
        let connect = cloud.connects().pop().unwrap();
        let login = connect.login.unwrap();
        assert_eq!((login.username.as_str(), login.password.as_str()), ("gw", sent));
    }
    rig.stop.begin();
    rig.finished().await;
}
