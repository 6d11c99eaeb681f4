//! Numbers and texts of a record, to bytes and back; the format is in `record`. Pure.

/// Seven bits a byte, low ones first; the top bit says that more follow.
pub fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// `None`: too few bytes, or more than 64 bits.
pub fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for place in 0..10 {
        let byte = take(bytes, 1)?[0];
        let bits = u64::from(byte & 0x7F);
        number |= bits.checked_shl(7 * place).filter(|shifted| shifted >> (7 * place) == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Folded: 0, -1, 1, -2 …
pub fn put_signed(number: i64, out: &mut Vec<u8>) {
    put_number((number << 1 ^ number >> 63).cast_unsigned(), out);
}

/// The same back.
pub fn signed(bytes: &mut &[u8]) -> Option<i64> {
    let folded = number(bytes)?;
    Some((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
}

/// Its length and UTF-8.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// The same back.
pub fn text(bytes: &mut &[u8]) -> Option<String> {
    let size = usize::try_from(number(bytes)?).ok()?;
    String::from_utf8(take(bytes, size)?.to_vec()).ok()
}

/// The next so many bytes; `None`: there are fewer.
pub fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}
