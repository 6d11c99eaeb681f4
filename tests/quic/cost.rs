//! What the forecast says of a connect, against the byte meter of real ones.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use ironbridge::config::plan::{
    AclPlan, Anonymous, ClientCertificate, ListenerPlan, ServerPlan, Transport, UplinkPlan,
};
use ironbridge::config::wire;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Destination, TlsFiles};
use ironbridge::road::{Now, Road};
use rumqttc::v5::mqttbytes::v5;

use crate::authority::{Authority, VALID};
use crate::support::{Client5, Running, Setup, message, until};
use crate::{any, door, line, put, tls};

/// Connects with a status of the usual length and an end in order; each one's wire bytes.
async fn connects(way: &mut Road, broker: &Running, count: usize) -> Vec<f64> {
    let mut costs = Vec::new();
    for _ in 0..count {
        let before = way.meter().snapshot().total();
        let (stream, relay) = line(way).await.unwrap();
        let (mut client, _) = Client5::over(stream, "gw", |_| {}).await;
        client.publish(message("own/status", 1, &"x".repeat(260))).await;
        client.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
        drop(client);
        relay.await.unwrap();
        until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
        costs.push(f64::from(u32::try_from(way.meter().snapshot().total() - before).unwrap()));
    }
    costs
}

/// Full with certificates both ways, and resumed, at the doors of this scheme.
async fn measured(scheme: &str) -> [f64; 2] {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    std::fs::write(home.join("clients.pem"), authority.pem()).unwrap();
    // As many bytes as the chains have that the figures were measured with, of public authorities and clouds; the test's
    // own certificates are short.
    let longer = |path: &std::path::Path, more: usize| {
        let leaf = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, leaf + &authority.pem().repeat(more)).unwrap();
    };
    longer(&home.join("server.crt"), 3);
    let identity = authority.client("gw", VALID);
    longer(&identity.0, 2);
    let mut costs = Vec::new();
    for clients in [Some(ClientCertificate::Required), None] {
        let anonymous = if clients.is_some() { Anonymous::None } else { Anonymous::ReadWrite };
        let plan = match scheme {
            "quic" => door(home, clients, anonymous),
            _ => ListenerPlan { tls: Some(tls(home, clients)), ..ListenerPlan::plain(any(), anonymous) },
        };
        let own = vec!["own/#".to_owned()];
        let acl = AclPlan { user: "cert:gw".to_owned(), read: own.clone(), write: own, operate: Vec::new() };
        let broker = Running::with(Setup { doors: vec![plan], acl: vec![acl], ..Setup::default() }).await;
        let files = TlsFiles { ca_file: authority.ca_file(), identity: clients.map(|_| identity.clone()) };
        let to = Destination::from_url(&format!("{scheme}://{}", broker.address), Some(files)).unwrap();
        let now = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
        let mut way = Road::new(to, Now::new(move || now), home.to_owned());
        // The last datagrams of a connection are sent by nobody who could be waited for: they are in the next one's sum.
        let all = connects(&mut way, &broker, 6).await;
        costs.push(if clients.is_some() { all.iter().sum::<f64>() / 6.0 } else { all[1..].iter().sum::<f64>() / 5.0 });
    }
    [costs[0], costs[1]]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_costs_what_the_forecast_says() {
    let mut off = Vec::new();
    for (scheme, transport) in [("mqtts", Transport::Tls), ("quic", Transport::Quic)] {
        let measured = measured(scheme).await;
        let mut uplink = UplinkPlan::plain("cloud");
        uplink.servers = vec![ServerPlan { host: "broker".to_owned(), port: 1, transport }];
        let forecast = wire::upkeep(&uplink).connects;
        let forecast = [forecast.most / wire::CONNECTS[1], forecast.least / wire::CONNECTS[0]];
        for (what, forecast, measured) in [("full", forecast[0], measured[0]), ("resumed", forecast[1], measured[1])] {
            println!("{scheme}, {what}: {forecast:.0} forecast, {measured:.0} measured");
            off.push((forecast - measured).abs() / measured);
        }
    }
    assert!(off.iter().all(|off| *off < 0.2), "within a fifth: {off:?}");
}
