//! Logging in at the page: who gets in, what his browser must show, and how long it lasts.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::{Authority, VALID};
use crate::gateway::{PATIENCE, until};
use crate::health::trusting;
use crate::visit::{Browser, RULES, Site};
use crate::web::{ask, get};

#[tokio::test]
async fn a_user_of_the_broker_logs_in_is_known_and_logs_out() {
    let site = Site::open().await;
    let mut browser = site.browser().await;
    let before = browser.cookie.clone();
    let stranger = browser.session().await;
    assert_eq!(
        (&stranger["user"], &stranger["may_log_in"], &stranger["operate"]),
        (&Json::Null, &json!(true), &json!([]))
    );
    let answer = browser.log_in("hmi", "hmi").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"user": "hmi"})));
    let set = answer.header("set-cookie");
    assert!(set.starts_with("ironbridge=") && set.contains("; HttpOnly") && set.contains("; SameSite=Strict"), "{set}");
    assert!(!set.contains("Secure") && set.contains("; Path=/;"), "{set}");
    assert_ne!(browser.cookie, before, "nobody knows the name of a session beforehand");
    let known = browser.session().await;
    assert_eq!((&known["user"], &known["operate"]), (&json!("hmi"), &json!(["plc"])));
    let (inside, token) = (browser.cookie.clone(), browser.token.clone());
    assert_eq!(browser.log_out().await.status, 200);
    assert_eq!(browser.session().await["user"], Json::Null);
    let mut old = Browser { page: site.page, cookie: inside, token };
    assert_eq!(old.session().await["user"], Json::Null, "it is over on this side, too");
    assert_eq!(old.post("/api/command/poll", &json!({"device": "plc"})).await.status, 401);
    site.daemon.heard_times("audit=\"logout\"", 1).await;
    site.daemon.heard_times("audit=\"login\"", 1).await;
    assert_eq!(site.daemon.stop().await, Some(0));
}

#[tokio::test]
async fn wrong_passwords_are_refused_slowed_down_and_in_the_audit_trail() {
    let site = Site::open().await;
    let mut browser = site.browser().await;
    for (user, password) in [("hmi", "wrong"), ("hmi", ""), ("nobody", "hmi"), ("", "")] {
        let answer = browser.log_in(user, password).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (401, ""), "{user}");
        assert_eq!(answer.json()["error"], "unknown user or wrong password");
    }
    site.daemon.heard("audit=\"login_refused\"").await;
    let begun = Instant::now();
    loop {
        let guess = Instant::now();
        let answer = browser.log_in("hmi", "wrong").await;
        if answer.status == 503 || guess.elapsed() >= Duration::from_millis(900) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "guessing goes on as fast as before");
    }
    assert!(site.daemon.said("wrong").is_none_or(|line| !line.contains("password=")), "no password is ever written");
}

#[tokio::test]
async fn a_post_needs_the_token_of_its_own_cookie_json_and_an_origin_of_ours() {
    let site = Site::open().await;
    let browser = site.logged_in("hmi").await;
    let other = site.logged_in("hmi").await;
    let body = json!({"device": "plc"}).to_string();
    let post = async |headers: &[(&str, &str)]| browser.post_with("/api/command/poll", &body, headers).await.status;
    assert_eq!(post(&[]).await, 200);
    assert_eq!(post(&[("Origin", "")]).await, 200, "not a browser");
    assert_eq!(post(&[("X-CSRF-Token", "")]).await, 403);
    assert_eq!(post(&[("X-CSRF-Token", &other.token)]).await, 403);
    assert_eq!(post(&[("X-CSRF-Token", &"0".repeat(64))]).await, 403);
    assert_eq!(post(&[("Origin", "http://evil.example")]).await, 403);
    assert_eq!(post(&[("Origin", "null")]).await, 403);
    assert_eq!(post(&[("Content-Type", "text/plain")]).await, 415);
    assert_eq!(post(&[("Content-Type", "application/x-www-form-urlencoded")]).await, 415);
    assert_eq!(post(&[("Cookie", "")]).await, 403);
    assert_eq!(post(&[("Cookie", &format!("ironbridge={}", "0".repeat(64)))]).await, 403);
    // hmi:hmi. A browser would send it to whoever makes it ask.
    let basic = ("Authorization", "Basic aG1pOmhtaQ==");
    assert_eq!(post(&[basic, ("Cookie", ""), ("X-CSRF-Token", "")]).await, 403);
    let stranger = site.browser().await;
    assert_eq!(stranger.post_with("/api/command/poll", &body, &[basic]).await.status, 401);
    assert_eq!(get(site.page, "/api/tags", "Authorization: Basic aG1pOmhtaQ==\r\n").await.status, 200);
    assert_eq!(get(site.page, "/api/tags", "Authorization: Basic aG1pOndyb25n\r\n").await.status, 401);
    let cross =
        stranger.post_with("/api/login", "{\"user\":\"hmi\",\"password\":\"hmi\"}", &[("X-CSRF-Token", "")]).await;
    assert_eq!(cross.status, 403, "nobody is logged in by somebody else's page");
}

#[tokio::test]
async fn where_strangers_see_nothing_the_page_asks_for_a_login() {
    let site = Site::with(|text| text.replacen("anonymous = \"read\"\n", "", 1)).await;
    assert_eq!(get(site.page, "/", "").await.status, 200, "or nobody could log in");
    for path in ["/api/status", "/api/tags", "/api/history?device=plc&tag=level"] {
        assert_eq!(get(site.page, path, "").await.status, 401, "{path}");
    }
    let browser = site.logged_in("hmi").await;
    assert_eq!(browser.get("/api/status").await.status, 200);
    assert_eq!(browser.get("/api/tags").await.json()["total"], 3);
}

#[tokio::test]
async fn a_page_that_is_open_without_a_login_is_not_in_the_audit_trail_as_one_that_was_refused() {
    let site = Site::with(|text| text.replacen("anonymous = \"read\"\n", "", 1)).await;
    let browser = site.browser().await;
    for path in ["/api/status", "/api/tags", "/metrics"] {
        assert_eq!(browser.get(path).await.status, 401, "{path}");
    }
    let guess = get(site.page, "/api/status", "Authorization: Basic aG1pOndyb25n\r\n").await; // hmi:wrong
    assert_eq!(guess.status, 401);
    let refused = site.daemon.heard("audit=\"login_refused\"").await;
    assert!(refused.contains("reason=\"credentials\""), "{refused}");
    site.daemon.heard_times("audit=\"login_refused\"", 1).await;
}

#[tokio::test]
async fn who_logs_in_with_every_request_is_one_line_of_the_audit_trail_and_one_more_after_a_refusal() {
    let site = Site::open().await;
    let ask = async |login: &str| {
        get(site.page, "/api/tags", &format!("Authorization: Basic {login}\r\n")).await.status // hmi:hmi, hmi:wrong
    };
    for (login, status) in [("aG1pOmhtaQ==", 200), ("aG1pOmhtaQ==", 200), ("aG1pOndyb25n", 401), ("aG1pOmhtaQ==", 200)]
    {
        assert_eq!(ask(login).await, status);
    }
    until("it is told again", || site.daemon.times_said("audit=\"login\"") == 2).await;
    assert_eq!(ask("aG1pOmhtaQ==").await, 200);
    assert_eq!(site.daemon.times_said("audit=\"login\""), 2);
}

#[tokio::test]
async fn over_tls_the_cookie_belongs_to_this_host_and_never_goes_out_in_the_clear() {
    let authority = Authority::new();
    let (certificate, key) = authority.server_pem("localhost", VALID);
    let keys = tempfile::tempdir().unwrap();
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        std::fs::write(keys.path().join(name), text).unwrap();
        std::fs::set_permissions(keys.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = |name: &str| keys.path().join(name).display().to_string();
    let tls = format!("tls = {{ certificate = \"{}\", key = \"{}\" }}\n", path("server.crt"), path("server.key"));
    let site = Site::with(|text| text.replacen("anonymous = \"read\"\n", &tls, 1)).await;
    let connector = TlsConnector::from(trusting(&authority));
    let say = async |request: String| {
        let stream = TcpStream::connect(site.page).await.unwrap();
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        ask(stream, &request).await
    };
    let known = say("GET /api/session HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned()).await;
    let cookie = known.header("set-cookie").split(';').next().unwrap().to_owned();
    let (token, body) = (known.json()["csrf"].as_str().unwrap().to_owned(), "{\"user\":\"hmi\",\"password\":\"hmi\"}");
    let login = |origin: &str| {
        format!(
            "POST /api/login HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nConnection: close\r\nCookie: {cookie}\r\n\
             X-CSRF-Token: {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(say(login("http://localhost")).await.status, 403, "a page in the clear may be anybody's");
    let inside = say(login("https://localhost")).await;
    let set = inside.header("set-cookie");
    assert_eq!(inside.status, 200, "{inside:?}");
    assert!(set.starts_with("__Host-ironbridge=") && set.contains("; Path=/;") && set.ends_with("; Secure"), "{set}");
}

#[tokio::test]
async fn a_session_ends_when_its_user_is_removed() {
    let site = Site::open().await;
    let mut browser = site.logged_in("hmi").await;
    let line = format!("viewer:{}\n", ironbridge::access::hash(b"viewer").unwrap());
    std::fs::write(site.home.path("users"), line).unwrap();
    site.daemon.signal(rustix::process::Signal::HUP);
    until("the users are read", || site.daemon.times_said("users file read") >= 2).await;
    assert_eq!(browser.session().await["user"], Json::Null);
    assert_eq!(browser.post("/api/command/poll", &json!({"device": "plc"})).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_with_the_first_users_file_closes_the_page_to_whoever_does_not_log_in() {
    let mut with_users = String::new();
    let site = Site::with(|text| {
        with_users = text.replacen("anonymous = \"read\"\n", "", 1); // of [status]
        with_users.replacen("[broker]\nusers_file = \"users\"\n", "", 1).replacen(RULES, "", 1)
    })
    .await;
    assert_eq!(get(site.page, "/api/status", "").await.status, 200);
    site.home.configure(&with_users);
    site.daemon.signal(rustix::process::Signal::HUP);
    until("it has reloaded", || site.daemon.said("the status page without a login: none").is_some()).await;
    let begun = Instant::now();
    while get(site.page, "/api/status", "").await.status != 401 {
        assert!(begun.elapsed() < PATIENCE, "it is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut browser = Browser::new(site.page).await;
    assert_eq!(browser.log_in("hmi", "hmi").await.status, 200);
    assert_eq!(browser.get("/api/status").await.status, 200);
}
