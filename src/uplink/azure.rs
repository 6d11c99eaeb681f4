//! Azure IoT Hub (preset `azure`): no broker, but a door for one device with one topic. How everything of ours goes there.
//!
//! | MQTT | here |
//! |---|---|
//! | client id | the device id |
//! | user | `{hub}/{device}/?api-version=2021-04-12`, unless `username` says otherwise |
//! | password | with `sas_key_file` a token, made anew for each connect: `SharedAccessSignature sr={uri}&sig={signature}&se={ends}`, `uri` = `{hub}/devices/{device}` url-encoded, `ends` in seconds since 1970, `signature` = base64 of HMAC-SHA256 with the device key over `{uri}\n{ends}`, url-encoded |
//! | topic `t` | `devices/{device}/messages/events/topic={t}&%24.ct={content type}&%24.ce=utf-8`, each value url-encoded: the topic is an application property of the message; content type and encoding are system properties, without which routing queries cannot look into JSON |
//! | RETAIN | not set: the hub keeps nothing, it would only add a property |
//! | commands | none; the configuration refuses them by name |

use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::config::plan::{Compress, Format, Preset, UplinkPlan};
use crate::flow::clock::Clock;
use crate::model::time::{Certainty, Wall};
use crate::road::destination::RoadError;
use crate::road::login::{Login, LoginFiles};

use super::client::JSON;

/// How long a token is good for. The hub ends the connection with it.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A session ends in order so long before its token: more than clocks are apart and a window takes to drain.
const TOKEN_MARGIN: Duration = Duration::from_secs(600);
/// As the hub names its own interface.
const API_VERSION: &str = "2021-04-12";

/// A device at a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    id: String,
    /// Of what the format makes.
    content_type: &'static str,
}

/// What a session begins with.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) login: Option<Login>,
    /// It must be left after this time, in order, for a new one.
    pub(super) good_for: Option<Duration>,
}

impl Pass {
    /// User and password as they are now.
    pub(super) async fn get(
        plan: &UplinkPlan,
        device: Option<&Device>,
        host: &str,
        clock: &Clock,
    ) -> Result<Self, RoadError> {
        let Some(device) = device else {
            let files = LoginFiles { username: plan.username.clone(), password_file: plan.password_file.clone() };
            return Ok(Self { login: files.read().await?, good_for: None });
        };
        match device.login_files(plan, host).read().await? {
            Some(key) if plan.sas_key_file.is_some() => device.sign(key, host, clock.wall_now()),
            login => Ok(Self { login, good_for: None }),
        }
    }
}

impl Device {
    /// `None`: the uplink does not lead to Azure IoT Hub.
    pub(super) fn new(plan: &UplinkPlan) -> Option<Self> {
        let content_type = match (plan.format, plan.compress) {
            (Format::Json, Compress::None) => JSON,
            _ => "application/octet-stream",
        };
        (plan.preset == Preset::Azure).then(|| Self { id: plan.client_id.clone(), content_type })
    }

    /// Where a message of ours goes; `content_type` when it is not what the format makes.
    pub(super) fn topic(&self, topic: &str, content_type: Option<&str>) -> String {
        let content_type = encoded(content_type.unwrap_or(self.content_type));
        let (device, topic) = (&self.id, encoded(topic));
        format!("devices/{device}/messages/events/topic={topic}&%24.ct={content_type}&%24.ce=utf-8")
    }

    /// Files of the login: with a device key its file stands for the password.
    fn login_files(&self, plan: &UplinkPlan, hub: &str) -> LoginFiles {
        let user = || format!("{hub}/{}/?api-version={API_VERSION}", self.id);
        LoginFiles {
            username: Some(plan.username.clone().unwrap_or_else(user)),
            password_file: plan.sas_key_file.clone().or_else(|| plan.password_file.clone()),
        }
    }

    /// The device key in a login becomes a token.
    fn sign(&self, key: Login, hub: &str, now: Wall) -> Result<Pass, RoadError> {
        if now.certainty == Certainty::Floor {
            let why = "the time is not known yet, and Azure's token needs it";
            return Err(RoadError::Disabled(why.into()));
        }
        let key_bytes = STANDARD.decode(key.password.trim()).map_err(|_| {
            RoadError::Disabled("sas_key_file: it is not base64; expected the device's primary or secondary key".into())
        })?;
        let life_s = i64::try_from(TOKEN_LIFE.as_secs()).unwrap_or(i64::MAX);
        let ends = now.unix_ms / 1000 + life_s;
        let password = token(&format!("{hub}/devices/{}", self.id), &key_bytes, ends);
        let login = Login { username: key.username, password };
        Ok(Pass { login: Some(login), good_for: Some(TOKEN_LIFE.saturating_sub(TOKEN_MARGIN)) })
    }
}

fn token(uri: &str, key: &[u8], ends: i64) -> String {
    let uri = encoded(uri);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signature = STANDARD.encode(hmac::sign(&key, format!("{uri}\n{ends}").as_bytes()));
    format!("SharedAccessSignature sr={uri}&sig={}&se={ends}", encoded(&signature))
}

/// Everything but unreserved characters as `%XX` (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes everything
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        let plan = UplinkPlan { preset: Preset::Azure, client_id: "gw-7".into(), ..UplinkPlan::plain("cloud") };
        Device::new(&plan).expect("azure")
    }

    /// Worked out with `openssl dgst -sha256 -mac HMAC -macopt hexkey:…` over the two lines.
    #[test]
    fn a_token_is_what_openssl_makes_of_the_same_key() {
        let key = STANDARD.decode("bm90IGEgcmVhbCBrZXksIGp1c3QgMzIgYnl0ZXMgbG9uZyE=").expect("base64");
        assert_eq!(
            token("hub.azure-devices.net/devices/gw-7", &key, 1_795_204_800),
            "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fgw-7&sig=7F7PckdwvtVbidyPdSGr8k73lDbrFKGOkyr4mrpN2i0%3D&se=1795204800"
        );
    }

    #[test]
    fn every_topic_of_ours_is_a_property_of_the_one_topic_of_the_device() {
        assert_eq!(
            device().topic("up/acme/pümp 1/druck", None),
            "devices/gw-7/messages/events/topic=up%2Facme%2Fp%C3%BCmp%201%2Fdruck&%24.ct=application%2Fjson&%24.ce=utf-8"
        );
    }

    #[test]
    fn a_token_needs_the_time_and_a_key_that_is_one() {
        let wall = |certainty| Wall { unix_ms: 1_795_204_800_000, certainty };
        let login = |password: &str| Login { username: "u".into(), password: password.into() };
        let sign = |password, certainty| device().sign(login(password), "hub", wall(certainty));
        assert!(matches!(sign("a2V5", Certainty::Floor), Err(RoadError::Disabled(_))));
        assert!(matches!(sign("HostName=hub;…", Certainty::Fixed), Err(RoadError::Disabled(_))));
        let pass = sign("a2V5\n", Certainty::Fixed).expect("a key");
        assert!(pass.login.is_some_and(|login| login.password.ends_with("se=1795291200")));
        assert_eq!(pass.good_for, Some(Duration::from_secs(23 * 3600 + 50 * 60)));
    }
}
