//! Who a simulated device says it is: Read Device Identification (FC 43, MEI type 14), server side.
//!
//! Written from the Application Protocol 1.1b3, section 6.21, and apart from the field room, so that the two are two
//! opinions. Streams that do not fit into one reply go on in the next; single objects can be read too.

use super::pdu::{ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE, exception};

/// Encapsulated Interface Transport.
pub const FUNCTION: u8 = 43;
/// Of it, Read Device Identification.
const MEI_TYPE: u8 = 14;
/// Single objects can be read (section 6.21, "Conformity Level"); below it the highest category there is.
const SINGLE: u8 = 0x80;
/// Bytes for objects in one reply: a PDU without its seven of head.
const OBJECT_BYTES_MAX: usize = 253 - 7;
/// Bytes of one text: with its head it must fit into a reply.
const TEXT_MAX: usize = OBJECT_BYTES_MAX - 2;

/// The objects of a device: basic ones (0 to 2) first, then regular ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    objects: Vec<(u8, Vec<u8>)>,
}

impl Identity {
    /// Vendor, product code and revision. Texts beyond 244 bytes are cut.
    pub fn new(vendor: &str, product: &str, revision: &str) -> Self {
        let mut identity = Self { objects: Vec::new() };
        for (object, text) in (0u8..).zip([vendor, product, revision]) {
            identity.set(object, text);
        }
        identity
    }

    /// The same with another object (section 6.21: 3 to 6 have meanings), or with another text for one.
    #[must_use]
    pub fn with(mut self, object: u8, text: &str) -> Self {
        self.set(object, text);
        self
    }

    fn set(&mut self, object: u8, text: &str) {
        let text = text.bytes().take(TEXT_MAX).collect();
        match self.objects.binary_search_by_key(&object, |(id, _)| *id) {
            Ok(at) => self.objects[at].1 = text,
            Err(at) => self.objects.insert(at, (object, text)),
        }
    }

    /// Answers a request PDU of this function.
    pub fn answer(&self, request: &[u8]) -> Vec<u8> {
        let &[FUNCTION, MEI_TYPE, code, first] = request else {
            let code = if request.get(1) == Some(&MEI_TYPE) { ILLEGAL_VALUE } else { ILLEGAL_FUNCTION };
            return exception(FUNCTION, code);
        };
        let last = match code {
            1 => 0x02,
            2 => 0x7F,
            3 => 0xFF,
            4 => return self.single(first),
            _ => return exception(FUNCTION, ILLEGAL_VALUE),
        };
        // "If the Object Id does not match any known object, the server responds as if object 0 were pointed out."
        let first = if self.objects.iter().any(|(id, _)| *id == first) { first } else { 0 };
        let (mut next, mut count, mut body) = (None, 0, Vec::new());
        for (id, text) in self.objects.iter().filter(|(id, _)| (first..=last).contains(id)) {
            if body.len() + 2 + text.len() > OBJECT_BYTES_MAX {
                next = Some(*id);
                break;
            }
            count += 1;
            put(&mut body, *id, text);
        }
        let more = if next.is_some() { 0xFF } else { 0 };
        [&[FUNCTION, MEI_TYPE, code, self.conformity(), more, next.unwrap_or(0), count][..], &body].concat()
    }

    fn conformity(&self) -> u8 {
        let category = match self.objects.last() {
            Some((0x80.., _)) => 3,
            Some((0x03.., _)) => 2,
            _ => 1,
        };
        SINGLE | category
    }

    fn single(&self, object: u8) -> Vec<u8> {
        let Some((id, text)) = self.objects.iter().find(|(id, _)| *id == object) else {
            return exception(FUNCTION, ILLEGAL_ADDRESS);
        };
        let mut reply = vec![FUNCTION, MEI_TYPE, 4, self.conformity(), 0, 0, 1];
        put(&mut reply, *id, text);
        reply
    }
}

fn put(into: &mut Vec<u8>, id: u8, text: &[u8]) {
    into.extend([id, u8::try_from(text.len()).unwrap_or(u8::MAX)]); // TEXT_MAX is below
    into.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_byte_for_byte() {
        let identity = Identity::new("AC", "X", "1").with(4, "Name");
        let cases: &[(&[u8], &[u8])] = &[
            // code, conformity, more, next, count; then id, length, text
            (&[43, 14, 1, 0], &[43, 14, 1, 0x82, 0, 0, 3, 0, 2, b'A', b'C', 1, 1, b'X', 2, 1, b'1']),
            (&[43, 14, 1, 2], &[43, 14, 1, 0x82, 0, 0, 1, 2, 1, b'1']),
            (&[43, 14, 2, 4], &[43, 14, 2, 0x82, 0, 0, 1, 4, 4, b'N', b'a', b'm', b'e']),
            (&[43, 14, 4, 1], &[43, 14, 4, 0x82, 0, 0, 1, 1, 1, b'X']),
            (&[43, 14, 4, 9], &[0xAB, 2]), // no such object
            (&[43, 14, 5, 0], &[0xAB, 3]), // no such category
            (&[43, 14, 1], &[0xAB, 3]),    // cut short
            (&[43, 13, 1, 0], &[0xAB, 1]), // CANopen
            (&[43], &[0xAB, 1]),
        ];
        for (request, reply) in cases {
            assert_eq!(identity.answer(request), *reply, "{request:02x?}");
        }
        assert_eq!(identity.answer(&[43, 14, 2, 9])[6], 4, "an unknown object: from the beginning");
    }

    #[test]
    fn what_does_not_fit_follows_in_the_next_reply() {
        let identity = Identity::new(&"v".repeat(200), &"p".repeat(200), &"r".repeat(300));
        let mut first = 0;
        for (more, next) in [(0xFF, 1), (0xFF, 2), (0, 0)] {
            let reply = identity.answer(&[43, 14, 1, first]);
            assert!(reply.len() <= 253);
            assert_eq!((reply[4], reply[5], reply[6]), (more, next, 1));
            first = next;
        }
    }
}
