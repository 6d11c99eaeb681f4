//! Small recordings, and what is answered out of them.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn take(at: u32, request: &[u8], answer: &[u8]) -> Take {
    let heard = vec![Heard { by: 7 * MS, bytes: [&[0, 9, 0, 0, 0, 1][..], answer].concat() }];
    let answer = Some(answer.to_vec());
    Take {
        at: MS * at,
        unit_id: 1,
        request: request.to_vec(),
        number: 9,
        heard,
        answer,
        answered_after: 7 * MS,
        then: None,
    }
}

/// Reads holding registers `start` to `start + words.len()`.
fn read(at: u32, start: u8, words: &[u16]) -> Take {
    let count = u8::try_from(words.len()).expect("few");
    take(at, &[3, 0, start, 0, count], &answer(3, words))
}

fn silent(at: u32, start: u8, count: u8) -> Take {
    Take { heard: Vec::new(), answer: None, ..take(at, &[3, 0, start, 0, count], &[]) }
}

fn script(takes: Vec<Take>) -> Script {
    Script::new(takes, Vec::new(), 1000 * MS)
}

fn ask(script: &Script, at: u32, unit_id: u8, pdu: &[u8]) -> Reply {
    let request = Request { unit_id, pdu: pdu.to_vec(), raw: Vec::new(), numbers: [1, 0, 0, 0] };
    script.reply(MS * at, Framing::Mbap, &request)
}

/// The PDU of the one frame that is said.
fn pdu_of(said: &[Utterance]) -> Vec<u8> {
    said.iter().flat_map(Utterance::bytes).skip(7).collect()
}

fn words(script: &Script, at: u32, start: u8, count: u8) -> Option<Vec<u8>> {
    match ask(script, at, 1, &[3, 0, start, 0, count]) {
        Reply::Recorded(said) => Some(said.iter().flat_map(Utterance::bytes).skip(6).collect()),
        Reply::Image(said) => Some(pdu_of(&said)),
        Reply::NotRecorded(_) | Reply::Nobody => None,
    }
}

#[test]
fn the_same_question_gets_what_it_got_at_that_time() {
    let script = script(vec![read(100, 0, &[1, 2]), read(200, 0, &[3, 4])]);
    for (at, expected) in [(0, [1, 2]), (100, [1, 2]), (199, [1, 2]), (200, [3, 4]), (5000, [3, 4])] {
        assert_eq!(words(&script, at, 0, 2), Some(answer(3, &expected)), "at {at} ms");
    }
}

#[test]
fn parts_of_what_was_read_come_from_the_image_of_that_time_and_nothing_is_made_up() {
    let script = script(vec![read(100, 0, &[1, 2, 3]), read(150, 3, &[4]), read(200, 0, &[11, 12, 13])]);
    assert_eq!(words(&script, 120, 1, 2), Some(answer(3, &[2, 3])));
    assert_eq!(words(&script, 180, 2, 2), Some(answer(3, &[3, 4])), "over two questions");
    assert_eq!(words(&script, 250, 1, 3), Some(answer(3, &[12, 13, 4])));
    assert_eq!(ask(&script, 250, 1, &[3, 0, 3, 0, 2]), Reply::NotRecorded(vec![0x83, 2]), "one of them never was");
    assert_eq!(ask(&script, 250, 1, &[4, 0, 0, 0, 1]), Reply::NotRecorded(vec![0x84, 2]), "another table");
    assert_eq!(ask(&script, 250, 1, &[6, 0, 0, 0, 1]), Reply::NotRecorded(vec![0x86, 1]), "nothing was written");
    assert_eq!(ask(&script, 250, 2, &[3, 0, 0, 0, 1]), Reply::Nobody);
}

#[test]
fn bits_are_cut_out_bit_by_bit() {
    let script = script(vec![take(0, &[1, 0, 0, 0, 10], &[1, 2, 0b1010_0101, 0b10])]);
    let said = |pdu: &[u8]| match ask(&script, 1, 1, pdu) {
        Reply::Image(said) => pdu_of(&said),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&[1, 0, 2, 0, 8]), [1, 1, 0b1010_1001]);
    assert_eq!(said(&[1, 0, 9, 0, 1]), [1, 1, 1]);
}

#[test]
fn what_was_silent_is_silent_for_its_parts_too_and_busy_is_busy() {
    let script = script(vec![read(100, 0, &[1, 2]), silent(200, 0, 2), take(300, &[3, 0, 0, 0, 2], &[0x83, 6])]);
    assert_eq!(ask(&script, 250, 1, &[3, 0, 0, 0, 2]), Reply::Recorded(Vec::new()));
    assert_eq!(ask(&script, 250, 1, &[3, 0, 1, 0, 1]), Reply::Image(Vec::new()));
    assert_eq!(words(&script, 350, 1, 1), Some(vec![0x83, 6]));
    assert_eq!(words(&script, 150, 1, 1), Some(answer(3, &[2])));
}

#[test]
fn transaction_ids_are_todays_and_late_ones_are_as_late_as_they_were() {
    let mut bytes = [[0, 8, 0, 0, 0, 2, 1, 0x83].as_slice(), &[0, 9, 0, 0, 0, 3, 1, 0x83, 2], &[0, 9, 0]].concat();
    renumber(&mut bytes, 9, 0x100);
    assert_eq!(
        bytes,
        [[0, 0xFF, 0, 0, 0, 2, 1, 0x83].as_slice(), &[1, 0, 0, 0, 0, 3, 1, 0x83, 2], &[0, 9, 0]].concat()
    );
}

#[test]
fn pieces_keep_their_pauses_and_what_came_much_later_is_said_on_its_own() {
    let heard = |by, byte| Heard { by: MS * by, bytes: vec![byte; 8] };
    let heard = vec![heard(5, 1), heard(45, 2), heard(900, 3)];
    let take = Take { heard, then: Some((950 * MS, Then::HangUp)), ..read(0, 0, &[1]) };
    let Reply::Recorded(said) = ask(&script(vec![take]), 0, 1, &[3, 0, 0, 0, 1]) else { panic!("recorded") };
    let said: Vec<_> = said.iter().map(|said| (said.after, said.pieces.len(), said.then)).collect();
    assert_eq!(said, [(5 * MS, 2, Then::Stay), (900 * MS, 1, Then::Stay), (950 * MS, 0, Then::HangUp)]);
}
