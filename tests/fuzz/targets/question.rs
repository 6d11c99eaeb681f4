//! Modbus as the specification has it, written down a second time: what a question is, and whether something answers it.
//!
//! Shares nothing with the code under test, the check sums least of all.

use super::Bytes;

/// CRC-16 bit by bit (Modbus over Serial Line 1.02, section 6.2.2).
pub fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xFFFFu16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

/// Body and its CRC.
pub fn rtu(body: &[u8]) -> Vec<u8> {
    [body, &crc(body)].concat()
}

/// As text between `:` and a line end, with the LRC of section 2.5.2.2.
pub fn ascii(body: &[u8]) -> Vec<u8> {
    let lrc = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    let digits: String = body.iter().chain([&lrc]).fold(String::new(), |text, byte| text + &format!("{byte:02X}"));
    format!(":{digits}\r\n").into_bytes()
}

/// With a header (Messaging on TCP/IP 1.0b, section 3.1.3).
pub fn mbap(transaction: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short frame");
    [&transaction.to_be_bytes(), &[0, 0][..], &length.to_be_bytes(), body].concat()
}

/// A question: unit and PDU.
#[derive(Clone)]
pub struct Asked {
    /// Unit first.
    pub body: Vec<u8>,
}

impl Asked {
    /// One of the questions that are asked.
    pub fn of(bytes: &mut Bytes<'_>) -> Self {
        let unit = bytes.byte();
        let function = [1, 2, 3, 4, 5, 6, 15, 16, 22][usize::from(bytes.byte() % 9)];
        let (address, word, count) = (bytes.word().to_be_bytes(), bytes.word().to_be_bytes(), bytes.byte());
        let registers = 1 + count % 125;
        let rest = match function {
            1 | 2 => (1 + u16::from(count) * 7).to_be_bytes().to_vec(),
            3 | 4 => u16::from(registers).to_be_bytes().to_vec(),
            15 => [&[0, 8, 1][..], &word[..1]].concat(),
            16 => [&[0, 1, 2][..], &word].concat(),
            22 => [word, word].concat(),
            _ => word.to_vec(),
        };
        Self { body: [&[unit, function][..], &address, &rest].concat() }
    }

    /// Bytes of data in the answer to a read.
    fn data_bytes(&self) -> Option<usize> {
        let quantity = usize::from(u16::from_be_bytes([self.body[4], self.body[5]]));
        match self.body[1] {
            1 | 2 => Some(quantity.div_ceil(8)),
            3 | 4 => Some(2 * quantity),
            _ => None,
        }
    }

    /// A right answer with this data, or an exception.
    pub fn answer(&self, fill: u8, exception: Option<u8>) -> Vec<u8> {
        let (unit, function) = (self.body[0], self.body[1]);
        match (exception, self.data_bytes()) {
            (Some(code), _) => vec![unit, function | 0x80, code],
            (None, Some(bytes)) => {
                let count = u8::try_from(bytes).expect("a legal question");
                [&[unit, function, count][..], &vec![fill; bytes]].concat()
            }
            (None, None) if function == 22 => self.body.clone(),
            (None, None) => self.body[..6].to_vec(),
        }
    }

    /// Is this unit and PDU an answer, whoever signed it?
    pub fn is_answered_by(&self, body: &[u8]) -> bool {
        let [_, function, rest @ ..] = body else { return false };
        if *function == self.body[1] | 0x80 {
            return rest.len() == 1;
        }
        *function == self.body[1]
            && match self.data_bytes() {
                Some(bytes) => rest.len() == bytes + 1 && usize::from(rest[0]) == bytes,
                None => body[1..] == self.answer(0, None)[1..],
            }
    }
}
