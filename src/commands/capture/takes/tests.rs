//! Bytes of each kind of outcome, and what is told of them.

use super::*;
use crate::field::modbus::frame::crc16;

fn line(kind: &str) -> Line {
    let [name, place, settings] = ["b", "somewhere", ""].map(str::to_owned);
    Line { name, kind: kind.to_owned(), place, settings, response_timeout: Duration::ZERO }
}

fn rtu(body: &[u8]) -> Vec<u8> {
    [body, &crc16(body).to_le_bytes()].concat()
}

fn event(line: u32, ms: u64, what: What) -> Event {
    Event { at: Duration::from_millis(ms), line, connection: 0, what }
}

fn sent(bytes: Vec<u8>) -> What {
    What::Sent { took: Duration::ZERO, bytes }
}

fn received(bytes: Vec<u8>) -> What {
    What::Received { took: Duration::ZERO, bytes }
}

fn told(lines: &[Line], events: Vec<Event>) -> Vec<Item> {
    let (mut takes, mut items) = (Takes::default(), Vec::new());
    for line in lines {
        takes.line(line);
    }
    for event in events {
        takes.push(event, &mut |item| items.push(item));
    }
    takes.finish(&mut |item| items.push(item));
    items
}

/// What is made of answers to one question after the other on a serial line.
fn judged(answers: &[Vec<u8>]) -> Vec<(Found, Noise)> {
    let mut events = vec![event(0, 0, What::Opened)];
    for (at, answer) in (1u64..).zip(answers) {
        events.push(event(0, at * 100, sent(rtu(&[1, 3, 0, 0, 0, 1]))));
        if !answer.is_empty() {
            events.push(event(0, at * 100 + 5, received(answer.clone())));
        }
    }
    let takes = told(&[line("modbus-rtu-over-tcp")], events).into_iter();
    takes.filter_map(|item| if let Item::Take(take) = item { Some((take.found, take.noise)) } else { None }).collect()
}

#[test]
fn what_came_is_judged_as_the_gateway_judges_it() {
    let right = rtu(&[1, 3, 2, 0, 5]);
    let mut broken = right.clone();
    broken[4] ^= 1;
    let nothing = Noise::default();
    let answer = || Found::Answer(vec![3, 2, 0, 5]);
    let cases = [
        (right.clone(), answer(), nothing),
        (rtu(&[1, 0x83, 6]), Found::Answer(vec![0x83, 6]), nothing),
        (Vec::new(), Found::Silence, nothing),
        (rtu(&[2, 3, 2, 0, 5]), Found::Foreign, Noise { foreign: 1, ..nothing }),
        (rtu(&[1, 3, 4, 0, 5, 0, 6]), Found::Stale, Noise { stale: 1, ..nothing }),
        (rtu(&[1, 3, 0, 0, 0, 1]), Found::Echo, Noise { echo: 1, ..nothing }),
        ([rtu(&[1, 3, 0, 0, 0, 1]), right.clone()].concat(), answer(), Noise { echo: 1, ..nothing }),
        ([vec![0xFF, 0xFE], right.clone()].concat(), answer(), Noise { garbage: 2, ..nothing }),
        ([right.clone(), right.clone()].concat(), answer(), Noise { stale: 1, ..nothing }),
    ];
    let answers: Vec<_> = cases.iter().map(|(bytes, _, _)| bytes.clone()).collect();
    let expected: Vec<_> = cases.into_iter().map(|(_, found, noise)| (found, noise)).collect();
    assert_eq!(judged(&answers), expected);
    let judged = judged(&[broken]);
    assert!(judged[0].0 == Found::Broken && judged[0].1.crc == 1, "{judged:?}");
}

#[test]
fn questions_are_told_in_the_order_of_their_begin_whatever_took_longest() {
    let answer = || received(rtu(&[1, 3, 2, 0, 5]));
    let ask = || sent(rtu(&[1, 3, 0, 0, 0, 1]));
    let lines = [line("modbus-rtu-over-tcp"), line("modbus-rtu-over-tcp")];
    let items = told(
        &lines,
        vec![
            event(0, 10, ask()), // slow
            event(1, 20, ask()),
            event(1, 25, answer()),
            event(1, 30, ask()),
            event(1, 35, answer()),
            event(0, 500, answer()),
            event(1, 510, What::Closed { by: By::Them, error: String::new() }),
        ],
    );
    let order: Vec<_> = items.iter().map(|item| (item.at().as_millis(), item.line())).collect();
    assert_eq!(order, [(10, 0), (20, 1), (30, 1), (510, 1)]);
    let Item::Take(last) = &items[2] else { panic!("a question") };
    assert_eq!(last.closed, Some((Duration::from_millis(480), By::Them)));
}

#[test]
fn lines_that_are_no_modbus_are_told_byte_by_byte() {
    let items = told(
        &[line("line")],
        vec![event(0, 1, sent(b"SI\r\n".to_vec())), event(0, 2, received(b"S S 1\r\n".to_vec()))],
    );
    assert!(matches!(items[..], [Item::Note(_), Item::Note(_)]), "{items:?}");
}
