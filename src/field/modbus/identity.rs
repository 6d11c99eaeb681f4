//! Who a device is: Read Device Identification (FC 43, MEI type 14), and Report Server ID (FC 17) of older ones.
//!
//! The format is pure and fed by `frame`, which must know where an answer ends; the asking goes through a session and its
//! gate like any read. Promises: nothing is written; the number of requests has a bound, whatever a device says about more
//! to come; texts are printable.
//!
//! Application Protocol 1.1b3, section 6.21. Request and reply PDU:
//!
//! ```text
//! request  2B 0E  code, object        code 1 basic, 2 regular, 3 extended (each a stream from `object` on), 4 one object
//! reply    2B 0E  code                as asked
//!          conformity                 1 basic, 2 regular, 3 extended; + 0x80: single objects can be read too
//!          more                       FF: not all fitted, go on at `next`; 00: that was all
//!          next                       object to go on with, 00 otherwise
//!          count                      objects in this reply, each: id, length, that many bytes of text
//! ```
//!
//! Objects: 0 vendor, 1 product code, 2 revision are basic; 3 vendor's address on the net, 4 product name, 5 model,
//! 6 the name a user gave are regular; 80 ..= FF are the maker's own. FC 17 (section 6.13): `11`, byte count, and data of
//! the maker's choice, mostly an id, FF for "runs", and a text.

use std::collections::BTreeMap;

use super::session::{Session, Trouble};

/// Encapsulated Interface Transport.
pub const FUNCTION: u8 = 43;
/// Of it, Read Device Identification.
pub const MEI_TYPE: u8 = 14;
/// Report Server ID.
pub const REPORT_SERVER_ID: u8 = 17;
/// Function, type, code, conformity, more, next, count.
const HEAD: usize = 7;
/// Unit, PDU, CRC: the longest frame of a serial line.
const RTU_FRAME_MAX: usize = 256;
/// Most requests for one category: a device with 256 objects of a line each answers in fewer.
const PARTS_MAX: usize = 16;

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Vendor, product code, revision.
    Basic = 1,
    /// Names and addresses too.
    Regular = 2,
    /// What the maker likes.
    Extended = 3,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The category that was asked for.
    pub code: u8,
    /// What the device has.
    pub conformity: u8,
    /// Where to go on.
    pub next: Option<u8>,
    /// Ids and contents.
    pub objects: Vec<(u8, &'a [u8])>,
}

impl<'a> Part<'a> {
    /// Of a whole reply PDU; `None`: it is none, or its lengths do not add up.
    pub fn read(pdu: &'a [u8]) -> Option<Self> {
        let (&[FUNCTION, MEI_TYPE, code, conformity, more, next, count], mut rest) = pdu.split_first_chunk::<HEAD>()?
        else {
            return None;
        };
        let mut objects = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (&[id, length], behind) = rest.split_first_chunk()?;
            let (text, behind) = behind.split_at_checked(length.into())?;
            objects.push((id, text));
            rest = behind;
        }
        rest.is_empty().then_some(Self { code, conformity, next: (more == 0xFF).then_some(next), objects })
    }
}

/// The whole length of the RTU reply that may begin with these bytes, as far as they tell: while they end before the last
/// object does, more than there are. `None`: no such reply begins like this. `code`: what was asked for, if that is known.
pub fn rtu_length(bytes: &[u8], code: Option<u8>) -> Option<usize> {
    let pdu = bytes.get(1..)?;
    let is_wrong = |at: usize, wanted: u8| pdu.get(at).is_some_and(|byte| *byte != wanted);
    if is_wrong(0, FUNCTION) || is_wrong(1, MEI_TYPE) || code.is_some_and(|code| is_wrong(2, code)) {
        return None;
    }
    let mut length = 1 + HEAD;
    for _ in 0..pdu.get(HEAD - 1).copied().unwrap_or(0) {
        length += 2 + bytes.get(length + 1).copied().map_or(0, usize::from);
    }
    Some(length + 2).filter(|length| *length <= RTU_FRAME_MAX)
}

/// What a device says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Printable text by object id.
    pub objects: BTreeMap<u8, String>,
}

impl Identity {
    /// Who made it.
    pub fn vendor(&self) -> Option<&str> {
        self.text(0)
    }

    /// What it is: of product name, model and code the first that says something.
    pub fn product(&self) -> Option<&str> {
        [4, 5, 1].into_iter().find_map(|object| self.text(object))
    }

    /// Its version.
    pub fn revision(&self) -> Option<&str> {
        self.text(2)
    }

    fn text(&self, object: u8) -> Option<&str> {
        self.objects.get(&object).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// What the standard calls an object; `None`: it is the maker's own.
    pub const fn name(object: u8) -> Option<&'static str> {
        Some(match object {
            0 => "vendor",
            1 => "product_code",
            2 => "revision",
            3 => "vendor_url",
            4 => "product_name",
            5 => "model_name",
            6 => "user_name",
            _ => return None,
        })
    }
}

/// Asks a device who it is, as much as it has, up to this category. An error: it says nothing at all. What it says of
/// higher categories than basic is taken if it comes. Not cancel-safe.
pub async fn read(session: &mut Session, unit: u8, up_to: Category) -> Result<Identity, Trouble> {
    let mut identity = Identity::default();
    let mut has = stream(session, unit, Category::Basic, &mut identity).await?;
    for category in [Category::Regular, Category::Extended] {
        if category <= up_to && category as u8 <= has & 0x7F {
            match stream(session, unit, category, &mut identity).await {
                Ok(_) => {}
                Err(lost @ Trouble::Lost { .. }) => return Err(lost),
                Err(_) => has = 0, // says that it has it, and has it not
            }
        }
    }
    Ok(identity)
}

/// All objects of a category, in as many parts as the device makes of them; the conformity it claims.
async fn stream(session: &mut Session, unit: u8, category: Category, into: &mut Identity) -> Result<u8, Trouble> {
    let (mut object, mut conformity) = (0, 0);
    for _ in 0..PARTS_MAX {
        let answer = session.ask(unit, &[FUNCTION, MEI_TYPE, category as u8, object]).await?;
        let part = Part::read(&answer).ok_or(Trouble::Protocol)?;
        conformity = part.conformity;
        into.objects.extend(part.objects.iter().map(|(id, bytes)| (*id, printable(bytes))));
        match part.next {
            Some(next) if next > object => object = next,
            _ => break, // the end, or a device that would go round in circles
        }
    }
    Ok(conformity)
}

/// The text in a device's Report Server ID (FC 17). Not cancel-safe.
pub async fn report(session: &mut Session, unit: u8) -> Result<String, Trouble> {
    let answer = session.ask(unit, &[REPORT_SERVER_ID]).await?;
    Ok(printable(answer.get(2..).unwrap_or_default()))
}

/// What of a device's bytes can be shown on a terminal: anything else separates words.
/// Public for texts that devices keep in registers.
pub fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|letter| if letter.is_control() || letter == char::REPLACEMENT_CHARACTER { ' ' } else { letter })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of section 6.21: "Company identification", "Product code XX", "V2.11".
    fn example() -> Vec<u8> {
        let mut pdu = vec![0x2B, 0x0E, 1, 1, 0, 0, 3];
        for (id, text) in [(0, "Company identification"), (1, "Product code XX"), (2, "V2.11")] {
            pdu.extend([id, u8::try_from(text.len()).expect("short")]);
            pdu.extend(text.bytes());
        }
        pdu
    }

    #[test]
    fn a_reply_is_read_when_its_lengths_add_up() {
        let pdu = example();
        let part = Part::read(&pdu).expect("is right");
        assert_eq!((part.code, part.conformity, part.next, part.objects.len()), (1, 1, None, 3));
        assert_eq!(part.objects[2], (2, &b"V2.11"[..]));
        for end in 0..pdu.len() {
            assert_eq!(Part::read(&pdu[..end]), None, "{end} bytes of it");
        }
        assert_eq!(Part::read(&[pdu.as_slice(), &[0]].concat()), None, "a byte too many");
        let more = [0x2B, 0x0E, 1, 0x83, 0xFF, 2, 0];
        assert_eq!(Part::read(&more).and_then(|part| part.next), Some(2));
        assert_eq!(Part::read(&[0x2B, 0x0D, 1, 1, 0, 0, 0]), None, "CANopen's MEI type");
    }

    #[test]
    fn the_end_of_an_rtu_reply_shows_when_its_last_object_has_begun() {
        let frame = [&[7][..], &example(), &[0, 0]].concat();
        for end in 1..frame.len() {
            let length = rtu_length(&frame[..end], Some(1)).expect("may be one");
            assert!(length > end && length <= frame.len(), "{end} bytes: {length}");
        }
        assert_eq!(rtu_length(&frame, Some(1)), Some(frame.len()));
        assert_eq!(rtu_length(&frame, Some(2)), None, "another category");
        assert_eq!(rtu_length(&[7, 43, 13], None), None, "another type");
        assert_eq!(rtu_length(&[7, 43, 14, 1, 1, 0, 0, 1, 0, 250], None), None, "longer than any frame");
    }

    #[test]
    fn what_a_device_says_can_be_shown() {
        assert_eq!(printable(b"\x1b[31mACME\0\0 \xFF GmbH\n"), "[31mACME GmbH");
        let objects = [(0, "ACME"), (1, "X1"), (4, "")].map(|(id, text)| (id, text.to_owned()));
        let identity = Identity { objects: objects.into() };
        assert_eq!((identity.vendor(), identity.product(), identity.revision()), (Some("ACME"), Some("X1"), None));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, code: u8) {
            Part::read(&bytes);
            rtu_length(&bytes, Some(code));
        }
    }
}
