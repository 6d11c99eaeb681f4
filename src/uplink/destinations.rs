//! From the plan to the road: what each server of an uplink is reached by.

use crate::config::plan::{self, UplinkPlan};
use crate::road::destination::{Bind, Destination, Proxy, ProxyKind, TlsFiles};
use crate::road::inside::Whose;
use crate::road::login::LoginFiles;

/// One for each server, in the order of the plan. `alpn` is what the preset wants to hear on port 443, where MQTT
/// and HTTPS share a door.
pub(super) fn destinations(plan: &UplinkPlan, alpn_on_443: Option<&str>) -> Vec<Destination> {
    let tls = plan.tls.as_ref().map(|tls| TlsFiles { ca_file: tls.ca_file.clone(), identity: tls.identity.clone() });
    let proxy = plan.proxy.as_ref().map(|proxy| Proxy {
        kind: match proxy.kind {
            plan::ProxyKind::Http => ProxyKind::Http,
            plan::ProxyKind::Socks5 => ProxyKind::Socks5,
        },
        host: proxy.host.clone(),
        port: proxy.port,
        login: LoginFiles { username: proxy.username.clone(), password_file: proxy.password_file.clone() },
    });
    let server = |server: &plan::ServerPlan| Destination {
        host: server.host.clone(),
        port: server.port,
        websocket: match &server.transport {
            plan::Transport::Tcp | plan::Transport::Tls | plan::Transport::Local => None,
            plan::Transport::Websocket { path } | plan::Transport::SecureWebsocket { path } => Some(path.clone()),
        },
        tls: tls.clone().filter(|_| server.transport.is_secure()),
        alpn: alpn_on_443
            .filter(|_| server.port == 443 && server.transport == plan::Transport::Tls)
            .map_or_else(Vec::new, |name| vec![name.into()]),
        proxy: proxy.clone(),
        whose: if server.transport == plan::Transport::Local { Whose::Own } else { Whose::Elsewhere },
    };
    plan.servers.iter().map(server).collect()
}

/// What the sockets of a path are bound to.
pub(super) fn bind(bind: &plan::Bind) -> Bind {
    match bind {
        plan::Bind::System => Bind::System,
        plan::Bind::Interface(name) => Bind::Interface(name.clone()),
        plan::Bind::Source(address) => Bind::Source(*address),
    }
}
