//! A gateway with users, and a browser's part of a visit to its page: the cookie, the token, the login.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value as Json, json};
use tokio::net::TcpStream;

use crate::gateway::{Daemon, Home, PATIENCE, Plc, config, tag};
use crate::web::{Answer, ask, get};

/// A gateway with one device, users and rights.
pub struct Site {
    pub plc: Plc,
    pub home: Home,
    pub daemon: Daemon,
    pub page: SocketAddr,
}

/// `hmi` operates and writes; `half` operates and writes nothing; `viewer` reads one tag, `none` nothing.
pub const RULES: &str = r#"
[[broker.acl]]
user = "hmi"
read = ["gw/#"]
write = ["gw/plc/+/set"]
operate = ["plc"]
[[broker.acl]]
user = "half"
read = ["gw/#"]
operate = ["*"]
[[broker.acl]]
user = "viewer"
read = ["gw/plc/level"]
"#;

impl Site {
    pub async fn open() -> Self {
        Self::with(|text| text).await
    }

    pub async fn with(change: impl FnOnce(String) -> String) -> Self {
        let plc = Plc::start().await;
        let limits =
            "access = \"read-write\"\nwrite = { min = 0.0, max = 100.0 }\nalarm = { high = 90.0 }\nunit = \"bar\"";
        let tags = tag("level", "holding:0", "uint16", limits)
            + &tag("fixed", "holding:1", "uint16", "")
            + &tag("big", "holding:4", "uint64", "description = \"Energy </script>\"");
        let text = config(plc.line.address()).replace("[[bus]]", &format!("{RULES}[[bus]]")).replacen(
            "[[broker.listener]]",
            "[broker]\nusers_file = \"users\"\n[[broker.listener]]",
            1,
        );
        let home = Home::new(&change(text + &tags));
        let line = |name: &str| format!("{name}:{}\n", ironbridge::access::hash(name.as_bytes()).unwrap());
        std::fs::write(home.path("users"), ["hmi", "half", "viewer", "none"].map(line).concat()).unwrap();
        std::fs::set_permissions(home.path("users"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let daemon = home.run();
        let page = daemon.page().await;
        Self { plc, home, daemon, page }
    }

    /// Asks until the answer is as it should be.
    pub async fn until(&self, path: &str, what: &str, holds: impl Fn(&Json) -> bool) -> Json {
        let begun = std::time::Instant::now();
        loop {
            let answer = get(self.page, path, "").await;
            let said = serde_json::from_str(&answer.body).unwrap_or(Json::Null);
            if holds(&said) {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}: {answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub async fn browser(&self) -> Browser {
        Browser::new(self.page).await
    }

    /// A browser in which this user is logged in; his password is his name.
    pub async fn logged_in(&self, user: &str) -> Browser {
        let mut browser = self.browser().await;
        assert_eq!(browser.log_in(user, user).await.status, 200);
        browser
    }
}

/// What a browser keeps.
pub struct Browser {
    pub page: SocketAddr,
    pub cookie: String,
    pub token: String,
}

impl Browser {
    /// Has opened the page.
    pub async fn new(page: SocketAddr) -> Self {
        let mut browser = Self { page, cookie: String::new(), token: String::new() };
        browser.session().await;
        browser
    }

    /// `GET /api/session`, as the page does after every change.
    pub async fn session(&mut self) -> Json {
        let answer = self.get("/api/session").await;
        self.keep(&answer);
        let said = answer.json();
        said["csrf"].as_str().unwrap().clone_into(&mut self.token);
        said
    }

    pub async fn get(&self, path: &str) -> Answer {
        let cookie = if self.cookie.is_empty() { String::new() } else { format!("Cookie: {}\r\n", self.cookie) };
        get(self.page, path, &cookie).await
    }

    /// A POST as the page sends it.
    pub async fn post(&self, path: &str, body: &Json) -> Answer {
        self.post_with(path, &body.to_string(), &[]).await
    }

    /// The same with some of its headers replaced; an empty one is left out.
    pub async fn post_with(&self, path: &str, body: &str, other: &[(&str, &str)]) -> Answer {
        let (host, origin) = (self.page.to_string(), format!("http://{}", self.page));
        let mut headers = vec![
            ("Host", host.as_str()),
            ("Origin", &origin),
            ("Content-Type", "application/json"),
            ("X-CSRF-Token", &self.token),
            ("Cookie", &self.cookie),
        ];
        for (name, value) in other {
            match headers.iter_mut().find(|(known, _)| known == name) {
                Some(header) => header.1 = value,
                None => headers.push((name, value)),
            }
        }
        let lines = headers.iter().filter(|(_, value)| !value.is_empty());
        let lines = lines.fold(String::new(), |all, (name, value)| all + name + ": " + value + "\r\n");
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n{body}");
        ask(TcpStream::connect(self.page).await.unwrap(), &request).await
    }

    pub async fn log_in(&mut self, user: &str, password: &str) -> Answer {
        let answer = self.post("/api/login", &json!({ "user": user, "password": password })).await;
        self.keep(&answer);
        self.session().await;
        answer
    }

    pub async fn log_out(&mut self) -> Answer {
        let answer = self.post("/api/logout", &json!({})).await;
        self.keep(&answer);
        self.session().await;
        answer
    }

    fn keep(&mut self, answer: &Answer) {
        let set = answer.header("set-cookie");
        if let Some(pair) = set.split(';').next().filter(|pair| !pair.is_empty()) {
            pair.clone_into(&mut self.cookie);
        }
    }
}
