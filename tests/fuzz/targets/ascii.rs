//! Modbus ASCII to bytes and back.

use ironbridge::field::modbus::ascii::{Text, first, from_rtu, to_rtu};

use super::question::{ascii, rtu};

/// Any bytes are looked through; any body comes back.
pub fn run(data: &[u8]) {
    let mut rest = data;
    while let Some(text) = first(rest) {
        let (Text::Frame(range, _) | Text::Broken(range)) = &text;
        let part = &rest[range.clone()];
        assert!(part.len() > 1 || part == b":", "no progress");
        assert!(part[0] == b':' && !part[1..].contains(&b':'), "a start inside of a frame");
        assert!(!rest[..range.start].contains(&b':'), "a start was passed over");
        if let Text::Frame(_, body) = &text {
            let right = ascii(body);
            let digits = part.strip_suffix(b"\n").expect("an end");
            let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
            assert!(
                digits.eq_ignore_ascii_case(&right[..right.len() - 2]),
                "{body:02X?} is not {}",
                part.escape_ascii()
            );
            let mut frame = Vec::new();
            to_rtu(body, &mut frame);
            assert_eq!(frame, rtu(body));
            assert_eq!(from_rtu(&frame), Some(right));
        }
        rest = &rest[range.end..];
    }
    let body = &data[..data.len().min(254)];
    if body.len() >= 2 {
        let text = from_rtu(&rtu(body)).expect("long enough");
        assert_eq!(first(&text), Some(Text::Frame(0..text.len(), body.to_vec())));
    }
}
