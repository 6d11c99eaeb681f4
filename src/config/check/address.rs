//! Addresses: `holding:100`, `input:0x64`, `holding:7.3`, `holding:7.0-3`, and modicon numbers such as 40101 and 400101.
//!
//! Also places in SunSpec models, such as `sunspec:103:14`, which are the same in every style ([`crate::model::sunspec`]).
//!
//! The style is declared per device and never guessed: 40001 is a legal zero-based address too (SunSpec maps begin at
//! 40000).

use crate::model::registers::BitField;
use crate::model::sunspec::{ALTERNATIVES_MAX, END, ModelPlace, ModelRef, TABLE};
use crate::model::tag::{Access, Address, DataType, Table};

/// `address_style`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As on the wire.
    ZeroBased,
    /// One more than on the wire.
    OneBased,
    /// Table digit and one-based number in one.
    Modicon,
}

/// The words of the config.
pub const STYLES: [(&str, Style); 3] =
    [("zero-based", Style::ZeroBased), ("one-based", Style::OneBased), ("modicon", Style::Modicon)];

impl Style {
    /// What an address may look like.
    pub const fn allowed(self) -> &'static str {
        match self {
            Self::ZeroBased => {
                "holding: input: coil: or discrete: and 0 ..= 65535 (or 0x0 ..= 0xFFFF); bits as \"holding:7.3\" or \"holding:7.0-3\""
            }
            Self::OneBased => {
                "holding: input: coil: or discrete: and 1 ..= 65536 (one-based); bits as \"holding:7.3\" or \"holding:7.0-3\""
            }
            Self::Modicon => {
                "5 or 6 digits: 00001 coil, 10001 discrete, 30001 input, 40001 holding; bits as \"40008.3\" or \"40008.0-3\""
            }
        }
    }
}

/// Reads an address; the reason why not, for people.
pub fn parse(text: &str, style: Style) -> Result<Address, String> {
    let (place, bit) = match text.split_once('.') {
        Some((place, bit)) => (place, Some(bit)),
        None => (text, None),
    };
    let (table, start) = match style {
        Style::Modicon => parse_modicon(place)?,
        Style::ZeroBased | Style::OneBased => named(place, style)?,
    };
    let bit = match bit {
        None => None,
        Some(_) if table.is_bits() => return Err(format!("a {} is one bit already", table.as_str())),
        Some(bit) => Some(
            bit.parse::<u8>()
                .ok()
                .filter(|number| *number <= 15 && bit.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or("a register has the bits 0 (least significant) ..= 15")?,
        ),
    };
    Ok(Address { table, start, bit })
}

/// Reads an address that may name several bits of a register: `holding:7.0-3`, which is a field of that register.
pub fn parse_field(text: &str, style: Style) -> Result<(Address, Option<BitField>), String> {
    let Some((place, (low, high))) =
        text.split_once('.').and_then(|(place, bits)| Some((place, bits.split_once('-')?)))
    else {
        return parse(text, style).map(|address| (address, None));
    };
    let bit = |bit: &str| parse(&format!("{place}.{bit}"), style).map(|address| (address, address.bit.unwrap_or(0)));
    let ((address, low), (_, high)) = (bit(low)?, bit(high)?);
    if low >= high {
        return Err("the bits count upwards, such as \"holding:7.0-3\"".to_owned());
    }
    let mask = (u64::MAX >> (63 - (high - low))) << low;
    Ok((Address { bit: None, ..address }, Some(BitField { mask, shift: low })))
}

/// How a place in a SunSpec model begins.
const SUNSPEC: &str = "sunspec:";
/// What such a place may look like.
pub const SUNSPEC_ALLOWED: &str = "sunspec:MODEL:OFFSET as in the published tables, offset 0 being the model's number, such as \"sunspec:103:14\"; \
     models 1 ..= 65534, several as \"sunspec:101|102|103:14\", the second of them as \"sunspec:160#2:10\"; bits as \"sunspec:120:7.3\"";

/// Is it meant to be a place in a SunSpec model?
pub fn is_sunspec(text: &str) -> bool {
    text.get(..SUNSPEC.len()).is_some_and(|word| word.eq_ignore_ascii_case(SUNSPEC))
}

/// Reads a place in a SunSpec model; the reason why not, for people.
pub fn parse_sunspec(text: &str) -> Result<(ModelPlace, Option<BitField>), String> {
    let Some(rest) = text.strip_prefix(SUNSPEC) else {
        return Err("is written in lower case".to_owned());
    };
    let Some((model, place)) = rest.split_once(':') else {
        return Err(format!("does not say which point of model {rest}, such as sunspec:{rest}:2"));
    };
    let model = model_ref(model)?;
    // Within its model a point is as within a table: the same bits, the same fields of bits.
    let (Address { start: offset, bit, .. }, field) =
        parse_field(&format!("{}:{place}", TABLE.as_str()), Style::ZeroBased).map_err(|message| {
            match place.split('.').next().unwrap_or(place) {
                offset if offset.parse::<u16>().is_err() => {
                    format!("the offset `{offset}` is no number 0 ..= 65535")
                }
                _ => message,
            }
        })?;
    Ok((ModelPlace { model, offset, bit }, field))
}

/// `101|102|103#2`
fn model_ref(text: &str) -> Result<ModelRef, String> {
    let (numbers, nth) = match text.split_once('#') {
        None => (text, 1),
        Some((numbers, nth)) => {
            let plain = nth.bytes().all(|byte| byte.is_ascii_digit());
            let nth = nth.parse::<u8>().ok().filter(|nth| plain && *nth > 0);
            (
                numbers,
                nth.ok_or("after # comes which of the models with this number is meant: 1 for the first, up to 255")?,
            )
        }
    };
    let mut all: Vec<u16> = Vec::new();
    for number in numbers.split('|') {
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let known = number.parse::<u16>().ok().filter(|known| plain && !matches!(*known, 0 | END));
        let known = known.ok_or_else(|| format!("`{number}` is no number of a model, which is 1 ..= 65534"))?;
        if all.contains(&known) {
            return Err(format!("names model {known} twice"));
        }
        all.push(known);
    }
    ModelRef::new(&all, nth).ok_or_else(|| format!("names {} models, {ALTERNATIVES_MAX} at most", all.len()))
}

fn named(place: &str, style: Style) -> Result<(Table, u16), String> {
    let Some((word, digits)) = place.split_once(':') else {
        return Err(parse_modicon(place).map_or_else(
            |_| format!("does not say which table, such as holding:{place}"),
            |(table, start)| {
                let number = u32::from(start) + u32::from(style == Style::OneBased);
                format!(
                    "does not say which table: if this is the number of a manual (modicon), it is {}:{number} here, or declare \
                     address_style = \"modicon\" on the device (read and write: --style modicon, tags import: --address-style modicon)",
                    table.as_str()
                )
            },
        ));
    };
    let table = Table::from_name(word).ok_or_else(|| format!("there is no table `{word}`"))?;
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
        None if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    };
    let number = number.ok_or("the part behind the colon is no address")?;
    let first = u32::from(style == Style::OneBased);
    let start = number.checked_sub(first).and_then(|start| u16::try_from(start).ok());
    Ok((table, start.ok_or("out of range")?))
}

fn parse_modicon(place: &str) -> Result<(Table, u16), String> {
    if !matches!(place.len(), 5 | 6) || !place.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is no modicon number, and this device's addresses are declared as such".to_owned());
    }
    let (table, number) = place.split_at(1);
    let table = match table {
        "0" => Table::Coil,
        "1" => Table::Discrete,
        "3" => Table::Input,
        "4" => Table::Holding,
        other => return Err(format!("no table has the modicon digit {other}")),
    };
    let start = number.parse::<u32>().ok().and_then(|number| number.checked_sub(1));
    let start = start.and_then(|start| u16::try_from(start).ok());
    Ok((table, start.ok_or("out of range: the number counts from 1 to 65536")?))
}

/// The other form of an address: the modicon number with six digits, `400101` for `holding:100`.
pub fn modicon(address: Address) -> String {
    let digit = match address.table {
        Table::Coil => 0,
        Table::Discrete => 1,
        Table::Input => 3,
        Table::Holding => 4,
    };
    let bit = address.bit.map_or_else(String::new, |bit| format!(".{bit}"));
    format!("{digit}{:05}{bit}", u32::from(address.start) + 1)
}

/// The same place as another style writes it.
pub fn restyled(address: Address, field: Option<BitField>, style: Style) -> String {
    let place = Address { bit: None, ..address };
    let number = u32::from(address.start) + u32::from(style == Style::OneBased);
    let place = match style {
        Style::Modicon => modicon(place),
        Style::ZeroBased | Style::OneBased => format!("{}:{number}", address.table.as_str()),
    };
    match (address.bit, field) {
        (Some(bit), _) => format!("{place}.{bit}"),
        (None, Some(field)) => {
            let last = u64::BITS - 1 - field.mask.leading_zeros();
            format!("{place}.{}-{last}", field.shift)
        }
        (None, None) => place,
    }
}

/// The type a tag has: declared, or bool where nothing else is possible.
pub fn data_type(declared: Option<&str>, address: Address) -> Result<DataType, String> {
    let only_bool = is_one_bit(address);
    let Some(word) = declared else {
        return if only_bool {
            Ok(DataType::Bool)
        } else {
            Err("is missing: a register can be read in many ways".to_owned())
        };
    };
    let data_type = parse_type(word)?;
    if only_bool && data_type != DataType::Bool {
        return Err("one bit is always a bool".to_owned());
    }
    Ok(data_type)
}

/// The types a place may have, for problems.
pub const fn types_allowed(address: Address) -> &'static str {
    if is_one_bit(address) {
        "bool"
    } else {
        "bool, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32, mod10_2, mod10_3, \
         mod10_4, unix32, unix64, cp56, string(1) ..= string(250), bytes(1) ..= bytes(250)"
    }
}

/// Coils, discrete inputs and bits of registers.
const fn is_one_bit(address: Address) -> bool {
    address.table.is_bits() || address.bit.is_some()
}

/// What IEC 61131-3 and other tools call the types.
const OTHER_NAMES: [(&str, &str); 20] = [
    ("boolean", "bool"),
    ("bit", "bool"),
    ("int", "int16"),
    ("short", "int16"),
    ("uint", "uint16"),
    ("word", "uint16"),
    ("ushort", "uint16"),
    ("dint", "int32"),
    ("long", "int32"),
    ("udint", "uint32"),
    ("dword", "uint32"),
    ("lint", "int64"),
    ("ulint", "uint64"),
    ("lword", "uint64"),
    ("real", "float32"),
    ("float", "float32"),
    ("single", "float32"),
    ("lreal", "float64"),
    ("double", "float64"),
    ("string", "string(16)"),
];

fn parse_type(word: &str) -> Result<DataType, String> {
    if let Some(found) = DataType::from_name(word) {
        return Ok(found);
    }
    for (prefix, what) in [("string(", "string"), ("bytes(", "byte list")] {
        if word.starts_with(prefix) {
            return Err(format!("the length of a {what} is 1 ..= 250 bytes"));
        }
    }
    let names = DataType::SIMPLE.map(|data_type| data_type.to_string());
    let lower = word.to_lowercase();
    let hint = match OTHER_NAMES.iter().find(|(other, _)| *other == lower) {
        Some((_, own)) => format!(", did you mean `{own}`?"),
        None => super::super::nearest::hint(word, names.iter().map(String::as_str)),
    };
    Err(format!("unknown type{hint}"))
}

/// Why a tag at this place cannot be written, if it cannot.
pub fn not_writable(table: Table, access: Access) -> Option<String> {
    let read_only = matches!(table, Table::Input | Table::Discrete);
    (access.writes() && read_only).then(|| format!("{} registers of Modbus can only be read", table.as_str()))
}
