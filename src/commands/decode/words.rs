//! The words of a command line: which of them are decimal, which hex. Pure.
//!
//! Decimal (`17142`, also `-2` as some tools print it) unless a word has a hex letter or `0x`: then all of them are hex
//! where they have four digits, because tools print the registers of one read alike. Longer hex is cut into registers.

/// More registers than one read can bring are no reading of a device.
pub const WORDS_MAX: usize = 125;

/// What is believed about words that could be either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// As the rule has it.
    Guess,
    /// Every word is hex.
    Hex,
}

/// Reads the words; the reason why not, for people.
pub fn read(texts: &[String], notation: Notation) -> Result<Vec<u16>, String> {
    let texts: Vec<&str> = texts.iter().flat_map(|text| text.split([' ', ',', ';', '[', ']'])).collect();
    let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    let hex = notation == Notation::Hex || texts.iter().any(|text| prefixed(text).is_none() && has_letter(text));
    let mut words = Vec::new();
    for text in texts {
        match prefixed(text) {
            Some(digits) => push_hex(&mut words, text, digits)?,
            None if hex => push_hex(&mut words, text, text)?,
            None => words.push(decimal(text)?),
        }
    }
    match words.len() {
        0 => Err("there is no word to decode".to_owned()),
        count if count > WORDS_MAX => Err(format!("{count} registers are more than one read can bring ({WORDS_MAX})")),
        _ => Ok(words),
    }
}

fn prefixed(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

fn has_letter(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn decimal(text: &str) -> Result<u16, String> {
    let number: Option<i32> = text.parse().ok().filter(|number| (-32_768..=65_535).contains(number));
    match number {
        // two's complement, as a tool that takes registers for signed shows them
        Some(number) => Ok((number & 0xFFFF).try_into().unwrap_or_default()),
        None => Err(format!("'{text}' is no register: -32768 ..= 65535, or hex with 0x, such as 0x42F6")),
    }
}

fn push_hex(words: &mut Vec<u16>, text: &str, digits: &str) -> Result<(), String> {
    let wrong = || format!("'{text}' is no hex register: four digits each, such as 42F6 or 0x42F6E979");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    // short is one register; what is longer must be whole ones, or nobody knows where to cut
    if digits.len() > 4 && !digits.len().is_multiple_of(4) {
        return Err(wrong());
    }
    for at in (0..digits.len()).step_by(4) {
        let part = &digits[at..digits.len().min(at + 4)];
        words.push(u16::from_str_radix(part, 16).map_err(|_| wrong())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Result<Vec<u16>, String> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), Notation::Guess)
    }

    #[test]
    fn words_are_decimal_unless_one_of_them_is_plainly_hex() {
        assert_eq!(told("17142 59769"), Ok(vec![0x42F6, 0xE979]));
        assert_eq!(told("-2 65534"), Ok(vec![0xFFFE, 0xFFFE]));
        assert_eq!(told("0x42F6 10"), Ok(vec![0x42F6, 10]), "a prefix speaks for its own word only");
        assert_eq!(told("42F6 0010"), Ok(vec![0x42F6, 0x10]), "a letter speaks for all");
        assert_eq!(told("0x42F6E979"), Ok(vec![0x42F6, 0xE979]));
        assert_eq!(told("[17142, 59769]"), Ok(vec![0x42F6, 0xE979]), "as a list in a log");
        assert_eq!(read(&["4120".into()], Notation::Hex), Ok(vec![0x4120]));
    }

    #[test]
    fn what_is_no_word_is_refused_with_its_text() {
        for line in ["70000", "-40000", "0x", "0x12345", "42G6", "1.5", "ABCDE", "", "日本"] {
            assert!(told(line).is_err(), "{line}");
        }
        assert!(told(&"1 ".repeat(126)).is_err());
        assert!(told("70000").unwrap_err().contains("'70000'"));
    }
}
