//! What other machines can reach, a listener of the broker or the status page: with TLS and a login, or not at all.

use std::path::PathBuf;

use super::super::section::Section;
use super::super::source::At;

/// What is exposed, in the words of its problems.
pub struct Exposed {
    /// Such as "a listener".
    pub what: &'static str,
    /// By which keys somebody could log in.
    pub logins: &'static str,
    /// What is not there when nobody could.
    pub lacks: &'static str,
}

impl Exposed {
    /// Other machines need TLS, and a way to log in. `at`: where its address stands.
    pub fn check(&self, section: &Section<'_, '_>, at: At, can_log_in: bool) {
        let Self { what, logins, lacks } = self;
        if section.get("tls").is_none() {
            let message = format!("{what} that other machines can reach needs `tls` and a login ({logins})");
            let allowed = "a loopback address, or tls = { certificate, key }";
            section.report(section.wrong("listen", at, message).allowed(allowed));
        } else if !can_log_in {
            section.report(section.wrong("listen", at, format!("nobody could log in here: there is {lacks}")));
        }
    }
}

/// `certificate` and `key` of an open `tls` table.
pub fn identity(tls: &Section<'_, '_>) -> Option<(PathBuf, PathBuf)> {
    let why = "the file with our certificate and those it is signed with, PEM";
    let certificate = tls.required_path("certificate", why);
    let key = tls.required_path("key", "the file with the key of the certificate, PEM");
    certificate.zip(key)
}
