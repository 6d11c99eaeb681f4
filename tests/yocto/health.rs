//! `ironbridge-health` against real HTTP answers: what counts as well, and what the person reading the journal is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use crate::boxes::{Gateway, Said};
use crate::skip::skipped;

const HEALTH: &str = "recipes-ironbridge/ironbridge-health/files/ironbridge-health";

/// The script asks with curl; on a box the recipe brings it.
fn curl_is_there() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        skipped("the health check of a box", "curl is not installed");
    }
    there
}

fn configured(url: &str) -> Gateway {
    let gateway = Gateway::new();
    gateway.write("health.conf", &format!("# comment\nurl={url}\nca=\nconfig=/etc/ironbridge/ironbridge.toml\n"));
    gateway
}

fn health(gateway: &Gateway) -> Said {
    gateway.run(HEALTH, &[], &[])
}

/// A status page that answers one request so; its address.
fn page(answer: &'static str) -> String {
    let door = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = door.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut visitor, _) = door.accept().expect("a visitor");
        read_request(&mut visitor);
        visitor.write_all(answer.as_bytes()).expect("answered");
    });
    format!("http://{address}/health")
}

fn read_request(visitor: &mut TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && visitor.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    assert!(request.starts_with(b"GET /health HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
}

/// An address where nobody listens.
fn nobody() -> String {
    let door = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}/health", door.local_addr().expect("an address"))
}

#[test]
fn a_page_that_says_ok_is_well() {
    if !curl_is_there() {
        return;
    }
    let gateway = configured(&page("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"));
    // The page speaks for the gateway: nothing else is asked.
    gateway.program("systemctl", "exit 3");
    let said = health(&gateway);
    assert_eq!((said.code, said.text.as_str()), (0, ""));
}

#[test]
fn a_page_that_names_reasons_is_not_well_and_the_reasons_are_told() {
    if !curl_is_there() {
        return;
    }
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 14\r\nConnection: close\r\n\r\nstore: failed\n";
    let said = health(&configured(&page(answer)));
    assert_eq!(said.code, 1);
    assert!(said.text.starts_with("store: failed\n") && said.text.ends_with("/health said 503\n"), "{said:?}");
}

#[test]
fn a_page_that_hangs_up_is_not_well() {
    if !curl_is_there() {
        return;
    }
    let said = health(&configured(&page("")));
    assert_eq!(said.code, 1);
    assert!(said.text.contains("/health was not answered"), "{said:?}");
}

#[test]
fn without_a_page_the_gateway_is_well_when_it_runs_and_its_store_can_be_read() {
    if !curl_is_there() {
        return;
    }
    for url in [nobody(), String::new()] {
        let gateway = configured(&url);
        gateway.program("systemctl", "[ \"$1 $2 $3\" = \"is-active --quiet ironbridge.service\" ]");
        gateway.program("ironbridge", "[ \"$*\" = \"store status --config /etc/ironbridge/ironbridge.toml\" ]");
        let said = health(&gateway);
        assert_eq!((said.code, said.text.as_str()), (0, ""), "url {url:?}");
        gateway.program("ironbridge", "echo 'there is no store'; exit 64");
        let said = health(&gateway);
        assert_eq!((said.code, said.text.as_str()), (1, "the store cannot be read: there is no store\n"));
        gateway.program("systemctl", "[ \"$2\" = --quiet ] || echo failed; exit 3");
        let said = health(&gateway);
        assert_eq!((said.code, said.text.as_str()), (1, "ironbridge.service is failed\n"));
    }
}

#[test]
fn alive_does_not_ask_the_page() {
    let gateway = configured("http://127.0.0.1:9/health");
    gateway.program("curl", "touch \"$HOME/asked\"; exit 0");
    assert_eq!(gateway.run(HEALTH, &["--alive"], &[]).code, 0);
    assert!(!gateway.has("asked"));
}

#[test]
fn a_wrong_call_is_told() {
    let said = configured("").run(HEALTH, &["--well"], &[]);
    assert_eq!((said.code, said.text.as_str()), (64, "usage: health [--alive]\n"));
}
