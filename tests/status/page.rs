//! The page and its API: what everybody gets, what a visitor sees of the tags, and what is no way in.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::visit::Site;
use crate::web::{ask, get};

#[tokio::test]
async fn the_page_is_one_small_file_with_two_beside_it_under_a_strict_policy() {
    let site = Site::open().await;
    let mut bytes = 0;
    for (path, kind) in [("/", "text/html"), ("/style.css", "text/css"), ("/script.js", "text/javascript")] {
        let answer = get(site.page, path, "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with(kind), "{answer:?}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(
            (answer.header("x-content-type-options"), answer.header("referrer-policy")),
            ("nosniff", "no-referrer")
        );
        bytes += answer.body.len();
        let tag = answer.header("etag");
        let again = get(site.page, path, &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
    }
    assert!(bytes < 60_000, "{bytes}");
    assert_eq!(get(site.page, "/api/tags", "").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn tags_have_their_values_exactly_a_history_and_come_in_pages() {
    let site = Site::open().await;
    site.plc.set(4, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE]);
    let answered = |said: &serde_json::Value| said["tags"][2]["quality"] == "good" && said["tags"][2]["value"] != 0;
    site.until("/api/tags?device=plc", "values", answered).await;
    let all = get(site.page, "/api/tags?device=plc&points=600", "").await;
    assert!(all.body.contains("\"value\":18446744073709551614,"), "{all:?}");
    let all = all.json();
    assert_eq!((&all["total"], all["tags"].as_array().unwrap().len()), (&json!(3), 3));
    let level = &all["tags"][0];
    assert_eq!(
        (&level["device"], &level["tag"], &level["topic"]),
        (&json!("plc"), &json!("level"), &json!("gw/plc/level"))
    );
    assert_eq!(
        (&level["unit"], &level["type"], &level["data_type"]),
        (&json!("bar"), &json!("number"), &json!("uint16"))
    );
    assert_eq!((&level["writable"], &level["may_write"]), (&json!(true), &json!(false)), "{level}");
    assert_eq!((&level["write_min"], &level["write_max"]), (&json!(0.0), &json!(100.0)));
    assert!(level["points"].as_array().unwrap().iter().all(|point| point[0].as_i64() > Some(1_500_000_000_000)));
    let one = get(site.page, "/api/tags?from=1&count=1", "").await.json();
    assert_eq!(
        (&one["total"], &one["tags"][0]["tag"], one["tags"].as_array().unwrap().len()),
        (&json!(3), &json!("fixed"), 1)
    );
    assert_eq!(get(site.page, "/api/tags?find=ENERGY", "").await.json()["tags"][0]["tag"], "big");
    assert_eq!(get(site.page, "/api/tags?device=nobody", "").await.json(), json!({"total": 0, "tags": []}));
    site.plc.set(0, &[42]);
    let path = "/api/history?device=plc&tag=level";
    let line = site
        .until(path, "a point", |said| said["points"].as_array().is_some_and(|all| all.iter().any(|it| it[1] == 42.0)))
        .await;
    assert!(line["points"].as_array().unwrap().len() <= 600);
    for path in ["/api/history", "/api/history?device=plc", "/api/tags?from=-1", "/api/tags?nonsense=1"] {
        assert_eq!(get(site.page, path, "").await.status, 400, "{path}");
    }
    assert_eq!(get(site.page, "/api/history?device=plc&tag=no", "").await.status, 404);
}

#[tokio::test]
async fn a_user_sees_the_tags_that_his_rules_let_him_read_on_the_broker() {
    let site = Site::open().await;
    site.plc.set(0, &[95]);
    site.until("/api/status", "an alarm", |said| said["alarms"][0]["tag"] == "level").await;
    let viewer = site.logged_in("viewer").await;
    let seen = viewer.get("/api/tags").await.json();
    assert_eq!((&seen["total"], &seen["tags"][0]["tag"]), (&json!(1), &json!("level")));
    assert_eq!(viewer.get("/api/history?device=plc&tag=fixed").await.status, 404);
    assert_eq!(viewer.get("/api/history?device=plc&tag=level").await.status, 200);
    assert_eq!(viewer.get("/api/status").await.json()["alarms"][0]["tag"], "level", "its tag may be read");
    let none = site.logged_in("none").await;
    assert_eq!(none.get("/api/tags").await.json(), json!({"total": 0, "tags": []}));
    assert_eq!(none.get("/api/status").await.json()["alarms"], json!([]));
}

#[tokio::test]
async fn there_is_no_other_path_no_other_method_and_no_big_body() {
    let site = Site::open().await;
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/etc/passwd",
        "/page/index.html",
        "//etc/passwd",
        "/index.html",
        "/api",
        "/api/",
        "/api/status/",
        "/style.css/..",
        "/script.js%00",
        "/\\..\\x",
        "/api/command/write/x",
        "/.git/config",
    ] {
        let answer = get(site.page, path, "").await;
        assert!(matches!(answer.status, 404 | 400), "{path}: {answer:?}");
        assert!(!answer.body.contains("root:") && !answer.body.contains("[package]"), "{path}");
    }
    let say = async |method: &str, path: &str| {
        let stream = TcpStream::connect(site.page).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            site.page
        );
        ask(stream, &head).await.status
    };
    for (method, path) in
        [("POST", "/"), ("PUT", "/api/status"), ("DELETE", "/api/tags"), ("TRACE", "/"), ("PATCH", "/api/session")]
    {
        assert_eq!(say(method, path).await, 405, "{method} {path}");
    }
    for path in ["/api/login", "/api/logout", "/api/command/write", "/api/command/pause"] {
        assert_eq!(say("GET", path).await, 405, "{path}: a GET changes nothing");
    }
    let browser = site.browser().await;
    let huge = format!("{{\"user\":\"{}\",\"password\":\"x\"}}", "u".repeat(100_000));
    let mut stream = TcpStream::connect(site.page).await.unwrap();
    let head = format!(
        "POST /api/login HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nX-CSRF-Token: {}\r\nCookie: {}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        site.page,
        browser.token,
        browser.cookie,
        huge.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = ask(stream, &huge[..20_000]).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(browser.post_with("/api/login", "[]", &[]).await.status, 400);
    assert_eq!(browser.post_with("/api/login", "{\"user\":1}", &[]).await.status, 400);
    assert_eq!(get(site.page, "/api/status", "").await.status, 200, "it is none the worse for it");
}

#[tokio::test]
async fn a_page_under_a_strange_name_is_not_answered() {
    let site = Site::open().await;
    let as_host = async |host: &str, path: &str| {
        let stream = TcpStream::connect(site.page).await.unwrap();
        ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    for path in ["/", "/api/status", "/api/session", "/api/tags"] {
        let answer = as_host("rebound.example", path).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (421, ""), "{path}");
        assert_eq!(as_host("localhost", path).await.status, 200, "{path}");
    }
}
