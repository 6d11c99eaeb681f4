//! `simulate --cloud`: rumqttd behind TLS, its certificates in a directory `cloud` beside the rewritten config, or in a
//! temporary one. A build for appliances has no cloud inside and says so.

#[cfg(feature = "demo")]
pub use with::SimulatedCloud;
#[cfg(not(feature = "demo"))]
pub use without::SimulatedCloud;

#[cfg(feature = "demo")]
mod with {
    use std::path::{Path, PathBuf};

    use crate::commands::Failed;
    use crate::commands::simulate::parent;
    use crate::commands::simulate::report::CloudReport;
    use crate::commands::simulate::rewrite::CloudChange;
    use crate::plant::cloud::Cloud;
    use crate::plant::cloud::front::ClientCertificate;

    /// The running cloud and its files.
    pub struct SimulatedCloud {
        cloud: Cloud,
        temporary: Option<PathBuf>,
        password: PathBuf,
    }

    impl SimulatedCloud {
        /// Starts it.
        pub async fn start(out: Option<&Path>) -> Result<Self, Failed> {
            let temporary = std::env::temp_dir().join(format!("ironbridge-simulate-{}", std::process::id()));
            let (directory, temporary) = match out {
                Some(out) => (parent(out).join("cloud"), None),
                None => (temporary.clone(), Some(temporary)),
            };
            let cloud = Cloud::start(&directory, ClientCertificate::None)
                .await
                .map_err(|error| Failed::TryAgain(error.to_string()))?;
            let password = directory.join("cloud.password");
            std::fs::write(&password, "any\n")
                .map_err(|error| Failed::TryAgain(format!("{}: {error}", password.display())))?;
            Ok(Self { cloud, temporary, password })
        }

        /// What an uplink must be told.
        pub fn change(&self) -> CloudChange {
            let files = self.cloud.files().clone();
            CloudChange {
                url: format!("mqtts://{}", self.cloud.address()),
                ca: files.ca,
                certificate: files.client_certificate,
                key: files.client_key,
                password: self.password.clone(),
            }
        }

        /// What people are told.
        pub fn report(&self) -> CloudReport {
            let change = self.change();
            CloudReport {
                url: change.url,
                url_without_tls: format!("mqtt://{}", self.cloud.plain_address()),
                ca_file: change.ca.display().to_string(),
                certificate: change.certificate.display().to_string(),
                key: change.key.display().to_string(),
            }
        }

        /// Ends it and removes what was temporary.
        pub async fn stop(self) {
            self.cloud.stop().await;
            if let Some(directory) = self.temporary {
                let _ = std::fs::remove_dir_all(directory);
            }
        }
    }
}

#[cfg(not(feature = "demo"))]
mod without {
    use std::path::Path;

    use crate::commands::Failed;
    use crate::commands::simulate::report::CloudReport;
    use crate::commands::simulate::rewrite::CloudChange;

    /// Cannot be made.
    pub enum SimulatedCloud {}

    #[expect(clippy::unused_async, reason = "the same signatures as with the cloud")]
    impl SimulatedCloud {
        /// Says that there is none.
        pub async fn start(_: Option<&Path>) -> Result<Self, Failed> {
            let text = "--cloud: this ironbridge was built without the simulated cloud (feature `demo`)";
            Err(Failed::Config(text.to_owned()))
        }

        /// Never called.
        pub fn change(&self) -> CloudChange {
            match *self {}
        }

        /// Never called.
        pub fn report(&self) -> CloudReport {
            match *self {}
        }

        /// Never called.
        pub async fn stop(self) {
            match self {}
        }
    }
}
