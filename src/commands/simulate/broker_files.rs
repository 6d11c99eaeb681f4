//! The files that `[broker]` names, as they must be written in a configuration that lies elsewhere. Pure.

use std::ops::Range;

use serde::Deserialize;
use serde_spanned::Spanned;
use toml::Value;

/// `[broker]`, as far as it names files.
#[derive(Debug, Deserialize)]
pub(super) struct Broker {
    users_file: Option<Spanned<String>>,
    #[serde(default)]
    listener: Vec<Listener>,
}

#[derive(Debug, Deserialize)]
struct Listener {
    listen: Option<Spanned<String>>,
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
struct Tls {
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    client_ca: Option<Spanned<String>>,
}

impl Broker {
    /// Each with its place, and as it is written there.
    pub(super) fn edits(&self, absolute: impl Fn(&str) -> String) -> Vec<(Range<usize>, String)> {
        let tls = self.listener.iter().filter_map(|listener| listener.tls.as_ref());
        let of_tls = tls.flat_map(|tls| [&tls.certificate, &tls.key, &tls.client_ca]);
        let files = of_tls.chain([&self.users_file]).flatten().map(|file| (file, absolute(file.get_ref())));
        let sockets = self.listener.iter().filter_map(|listener| listener.listen.as_ref());
        let sockets = sockets.filter_map(|listen| {
            let path = listen.get_ref().strip_prefix("unix:")?;
            Some((listen, format!("unix:{}", absolute(path))))
        });
        let written = |(old, new): (&Spanned<String>, String)| (old.span(), Value::String(new).to_string());
        files.chain(sockets).map(written).collect()
    }
}
