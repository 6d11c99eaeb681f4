//! A box to run the layer's scripts on: a folder of its own, and stand-ins for the programs that they call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::layer;

/// What a script said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub text: String,
}

pub struct Gateway {
    home: TempDir,
}

impl Gateway {
    /// A box that has been up for 100 s and whose programs all say yes.
    pub fn new() -> Gateway {
        let gateway = Gateway { home: tempfile::tempdir().expect("a folder") };
        fs::create_dir(gateway.path("bin")).expect("a folder");
        gateway.write("uptime", "100.25 180.50\n");
        gateway.program("systemctl", "exit 0");
        gateway.program("ironbridge", "exit 0");
        gateway.program("rauc", "echo \"$*\" >>\"$HOME/rauc.calls\"");
        // Time passes only here.
        gateway.program(
            "sleep",
            "IFS=. read -r now rest <\"$HOME/uptime\"; echo \"$((now + $1)).25 9\" >\"$HOME/uptime\"",
        );
        gateway.program("health", "exit 0");
        gateway
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below home")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    pub fn read(&self, name: &str) -> String {
        crate::read(&self.path(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Puts a stand-in on the path. `$HOME` in it is this box.
    pub fn program(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Runs a script of the layer with the box's own programs in front of the machine's.
    pub fn run(&self, script: &str, arguments: &[&str], facts: &[(&str, &str)]) -> Said {
        let inherited = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .arg(layer(script))
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", format!("{}:{inherited}", self.path("bin").display()))
            .env("IRONBRIDGE_UPTIME", self.path("uptime"))
            .env("IRONBRIDGE_UPDATES", self.path("update"))
            .env("IRONBRIDGE_KERNEL_LINE", self.path("cmdline"))
            .env("IRONBRIDGE_HEALTH", self.path("bin/health"))
            .env("IRONBRIDGE_HEALTH_CONF", self.path("health.conf"))
            .envs(facts.iter().copied())
            .output()
            .expect("there is a shell");
        said(&output)
    }
}

fn said(output: &Output) -> Said {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    Said { code: output.status.code().expect("not killed"), text }
}

/// What may be run by everybody is marked so in the tree: BitBake copies the mode into bundles.
#[test]
fn every_script_of_the_layer_may_be_executed() {
    for script in [
        "dynamic-layers/rauc/recipes-core/bundles/files/ironbridge-hook",
        "recipes-ironbridge/ironbridge/files/run-ptest",
        "recipes-ironbridge/ironbridge-data/files/ironbridge-seed",
        "recipes-ironbridge/ironbridge-health/files/ironbridge-health",
        "recipes-ironbridge/ironbridge-health/files/ironbridge-trial",
    ] {
        let path: &Path = &layer(script);
        let mode = fs::metadata(path).unwrap_or_else(|error| panic!("{script}: {error}")).permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
    }
}
