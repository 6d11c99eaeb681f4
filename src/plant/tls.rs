//! Certificates for simulated devices that speak TLS: an authority of their own, made anew each time, a device and a
//! gateway that it vouches for. A build without the feature `demo` cannot make any, and says so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

/// What a gateway must be given to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayFiles {
    /// The authority, `plant-ca.pem`.
    pub ca_file: PathBuf,
    /// A client certificate of it, `plant-gateway.crt`.
    pub certificate: PathBuf,
    /// The key to that, `plant-gateway.key`.
    pub key: PathBuf,
}

/// Makes everything and writes the gateway's part into a directory. Clients without a certificate are not let in.
#[cfg(feature = "demo")]
pub fn make(directory: &Path) -> io::Result<(Arc<ServerConfig>, GatewayFiles)> {
    use super::cloud::certs::{Authority, Validity, write_secret};
    use super::cloud::front::{ClientCertificate, server_config};
    let made = || {
        let authority = Authority::new("Ironbridge simulated plant")?;
        let device = authority.server(&["localhost", "127.0.0.1", "::1"], Validity::Valid)?;
        let gateway = authority.client("gateway", Validity::Valid)?;
        Ok((authority, device, gateway))
    };
    let (authority, device, gateway) = made().map_err(|error: super::cloud::certs::NotMade| io::Error::other(error))?;
    let config = server_config(&authority, &device, ClientCertificate::Required).map_err(io::Error::other)?;
    let files = GatewayFiles {
        ca_file: directory.join("plant-ca.pem"),
        certificate: directory.join("plant-gateway.crt"),
        key: directory.join("plant-gateway.key"),
    };
    std::fs::create_dir_all(directory)?;
    std::fs::write(&files.ca_file, authority.pem())?;
    std::fs::write(&files.certificate, &gateway.certificate)?;
    write_secret(&files.key, &gateway.key)?;
    Ok((config, files))
}

/// Says that it cannot.
#[cfg(not(feature = "demo"))]
pub fn make(_: &Path) -> io::Result<(Arc<ServerConfig>, GatewayFiles)> {
    let text = "this ironbridge was built without certificates for simulated TLS devices (feature `demo`)";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}
