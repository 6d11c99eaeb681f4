//! Four packets from the broker that rumqttc 0.25.1 loses, read from the bytes as they pass the relay.
//!
//! * Its MQTT 5 reader waits for more after a CONNACK or DISCONNECT that has no properties. For DISCONNECT that is lawful
//!   (MQTT 5, section 3.14.2.2.1: `E0 01 8E` is "session taken over", and what mosquitto sends); as CONNACK it is what a
//!   broker of MQTT 3.1.1 answers to version 5 (`20 02 00 01`). Without this file both would look like a dead link.
//! * It takes a PUBACK with a reason that section 3.4.2.1 does not list for a broken stream. mosquitto answers so to what
//!   is above its `message_size_limit`, which it does not announce: `40 03 00 07 95`, "packet too large". The session ends
//!   for it all the same, but now it is known which message it was about.
//! * It reads as much as is there, and where that ends with the end of the connection it forgets what it had read: a broker
//!   that refuses a publish and closes at once (mosquitto does for a topic that its access list forbids, `40 03 00 07 87`)
//!   would seem never to have answered.
//!
//! Pure: bytes in, packets out; only framing is looked at, so it costs nothing beside the acknowledgements it passes.

use super::answer;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// A CONNACK of MQTT 3.1.1.
    OldConnack,
    /// A DISCONNECT with this reason and nothing else.
    Disconnect(u8),
    /// A PUBACK for this packet id with a reason that rumqttc does not know.
    Answer(u16, u8),
    /// A PUBACK that says no, with a reason that it knows.
    Refusal(u16, u8),
}

/// CONNACK (section 2.1.2).
const CONNACK: u8 = 0x20;
/// PUBACK.
const PUBACK: u8 = 0x40;
/// DISCONNECT.
const DISCONNECT: u8 = 0xE0;

/// Follows the packets of one connection.
#[derive(Debug, Default)]
pub(super) struct Ear {
    step: Step,
    first: u8,
    length: usize,
    shift: u32,
    /// The first bytes of the body.
    head: [u8; 3],
    taken: usize,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    First,
    Length,
    Body,
    /// Not MQTT any more; rumqttc will say so.
    Lost,
}

impl Ear {
    /// The next bytes, cut wherever the network cut them.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<Heard> {
        let (mut heard, mut rest) = (Vec::new(), bytes);
        while let Some((byte, after)) = rest.split_first() {
            match self.step {
                Step::First => {
                    *self = Self { step: Step::Length, first: *byte, ..Self::default() };
                    rest = after;
                }
                Step::Length => {
                    self.length |= usize::from(byte & 0x7F) << self.shift;
                    self.shift += 7;
                    rest = after;
                    self.step = match (byte & 0x80 != 0, self.shift, self.length) {
                        (true, 28.., _) => Step::Lost,
                        (true, ..) => Step::Length,
                        (false, _, 0) => Step::First,
                        (false, ..) => Step::Body,
                    };
                }
                Step::Body => {
                    for (place, byte) in self.head.iter_mut().skip(self.taken).zip(rest) {
                        *place = *byte;
                    }
                    let now = rest.len().min(self.length - self.taken);
                    self.taken += now;
                    rest = &rest[now..];
                    if self.taken == self.length {
                        heard.extend(self.packet());
                        self.step = Step::First;
                    }
                }
                Step::Lost => return heard,
            }
        }
        heard
    }

    fn packet(&self) -> Option<Heard> {
        match (self.first, self.length) {
            (CONNACK, 2) => Some(Heard::OldConnack),
            (DISCONNECT, 1) => Some(Heard::Disconnect(self.head[0])),
            (PUBACK, 3..) => {
                let [high, low, code] = self.head;
                let id = u16::from_be_bytes([high, low]);
                match code {
                    _ if !answer::is_known(code) => Some(Heard::Answer(id, code)),
                    0x80.. => Some(Heard::Refusal(id, code)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_are_heard_among_others_however_the_bytes_are_cut() {
        let mut stream = vec![0x20, 3, 0, 0, 0]; // CONNACK with an empty property list: rumqttc reads it
        stream.extend([0x40, 2, 0, 1]); // PUBACK
        stream.extend([0x30, 0x85, 0x02]); // PUBLISH of 261 bytes that look like what we look for
        stream.extend([0xE0; 261]);
        stream.extend([0xD0, 0]); // PINGRESP
        stream.extend([0x40, 4, 0, 2, 0x97, 0]); // PUBACK, quota exceeded: rumqttc knows it
        stream.extend([0x40, 3, 0x01, 0x07, 0x95]); // PUBACK, packet too large
        stream.extend([0xE0, 1, 0x8E]); // DISCONNECT, session taken over
        for cut in 1..stream.len() {
            let mut ear = Ear::default();
            let heard: Vec<_> = stream.chunks(cut).flat_map(|bytes| ear.hear(bytes)).collect();
            let all = [Heard::Refusal(2, 0x97), Heard::Answer(0x0107, 0x95), Heard::Disconnect(0x8E)];
            assert_eq!(heard, all, "cut every {cut}");
        }
        assert_eq!(Ear::default().hear(&[0x20, 2, 0, 1]), [Heard::OldConnack]);
        assert_eq!(Ear::default().hear(&[0xE0, 2, 0x8B, 0]), [], "rumqttc reads this one");
    }

    #[test]
    fn what_is_no_mqtt_is_left_alone() {
        let mut ear = Ear::default();
        assert_eq!(ear.hear(b"\xff\xff\xff\xff\xff\xff HTTP/1.1 400"), []);
        assert_eq!(ear.hear(&[0xE0, 1, 0x8E]), []);
    }
}
