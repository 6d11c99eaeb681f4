//! A unit that answered, looked at more closely: which tables it has, and who it says it is. Nothing is written.

use super::prober::{Prober, Sign};
use crate::field::modbus::identity::{self, Category, Identity};
use crate::field::modbus::session::{Reading, Trouble};
use crate::model::tag::{Address, Table};

/// Where the common model of SunSpec begins: "SunS", model 1, its length, then texts (SunSpec Device Information Model
/// Specification 1.1, section 6).
const SUNSPEC: Address = Address { table: Table::Holding, start: 40_000, bit: None };
const SUNSPEC_MARK: [u16; 3] = [0x5375, 0x6E53, 1];
/// Mark, model 1 with its head, head of the next model.
const SUNSPEC_WORDS: u16 = 72;
/// Maker, model, version: as which object of FC 43, where in those words, and how many.
const SUNSPEC_TEXTS: [(u8, usize, usize); 3] = [(0, 4, 16), (1, 20, 16), (2, 44, 8)];

/// What a device knows of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It answered.
    Data,
    /// With this exception.
    Exception(u8),
    /// Not as the standard says.
    Odd,
    /// Not at all.
    Nothing,
}

/// How a device said who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// FC 43/14.
    Identification,
    /// FC 17.
    ServerId,
    /// The common model at register 40000.
    SunSpec,
}

impl Source {
    /// For people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identification => "FC 43/14",
            Self::ServerId => "FC 17",
            Self::SunSpec => "SunSpec",
        }
    }
}

/// All that is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portrait {
    /// Its tables, in the order of their functions: 1 to 4.
    pub tables: [(Table, Told); 4],
    /// Who it says it is.
    pub identity: Option<(Source, Identity)>,
    /// The SunSpec model behind the common one, if that has 65 registers.
    pub sunspec_model: Option<u16>,
}

/// Looks closer at a unit whose answer to `place` was `sign`. An error: the connection is gone for good.
pub async fn examine(prober: &mut Prober, unit: u8, place: Address, sign: &Sign) -> Result<Portrait, String> {
    let mut tables = [Table::Coil, Table::Discrete, Table::Holding, Table::Input].map(|table| (table, Told::Nothing));
    for (table, told) in &mut tables {
        let sign = if *table == place.table {
            sign.clone()
        } else {
            reopen(prober).await?;
            prober.ask(unit, Address { table: *table, start: 0, bit: None }).await.sign
        };
        *told = match sign {
            Sign::Data(_) => Told::Data,
            Sign::Exception(code) | Sign::Absent(code) => Told::Exception(code),
            Sign::Odd | Sign::OtherId => Told::Odd,
            Sign::Noise | Sign::Silence | Sign::HungUp(_) => Told::Nothing,
        };
    }
    let mut portrait = Portrait { tables, identity: None, sunspec_model: None };
    if *sign == Sign::OtherId {
        return Ok(portrait); // its other answers would not be taken either
    }
    portrait.identity = identify(prober, unit).await?;
    if portrait.identity.as_ref().is_none_or(|(source, _)| *source == Source::ServerId)
        && matches!(tables[2].1, Told::Data | Told::Exception(2..))
    {
        sunspec(prober, unit, &mut portrait).await?;
    }
    Ok(portrait)
}

async fn identify(prober: &mut Prober, unit: u8) -> Result<Option<(Source, Identity)>, String> {
    reopen(prober).await?;
    let Some(session) = prober.session() else { return Ok(None) };
    match identity::read(session, unit, Category::Regular).await {
        Ok(identity) if identity.objects.values().any(|text| !text.is_empty()) => {
            return Ok(Some((Source::Identification, identity)));
        }
        Err(lost @ Trouble::Lost { .. }) => drop(prober.lost(&lost)),
        _ => {}
    }
    reopen(prober).await?;
    let Some(session) = prober.session() else { return Ok(None) };
    match identity::report(session, unit).await {
        Ok(text) if text.chars().any(char::is_alphanumeric) => {
            let objects = [(1, text)].into();
            Ok(Some((Source::ServerId, Identity { objects })))
        }
        Err(lost @ Trouble::Lost { .. }) => {
            prober.lost(&lost);
            Ok(None)
        }
        _ => Ok(None),
    }
}

async fn sunspec(prober: &mut Prober, unit: u8, portrait: &mut Portrait) -> Result<(), String> {
    reopen(prober).await?;
    let Sign::Data(Reading::Registers(mark)) = prober.ask_for(unit, SUNSPEC, 3).await.sign else { return Ok(()) };
    if mark != SUNSPEC_MARK {
        return Ok(());
    }
    reopen(prober).await?;
    let all = prober.ask_for(unit, SUNSPEC, SUNSPEC_WORDS).await.sign;
    if let Sign::Data(Reading::Registers(words)) = all {
        let (identity, model) = common_model(&words);
        portrait.identity = Some((Source::SunSpec, identity));
        portrait.sunspec_model = model;
    }
    Ok(())
}

/// The texts of the common model, and the id of the model behind it.
fn common_model(words: &[u16]) -> (Identity, Option<u16>) {
    let text = |start: usize, count: usize| {
        let bytes: Vec<u8> = words.iter().skip(start).take(count).flat_map(|word| word.to_be_bytes()).collect();
        identity::printable(&bytes)
    };
    let objects = SUNSPEC_TEXTS.iter().map(|(object, start, count)| (*object, text(*start, *count)));
    let next = (words.get(3) == Some(&65)).then(|| words.get(69).copied()).flatten();
    (Identity { objects: objects.filter(|(_, text)| !text.is_empty()).collect() }, next)
}

/// Opens what a device closed: some do that after a question they do not like.
async fn reopen(prober: &mut Prober) -> Result<(), String> {
    prober.open().await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_model_of_sunspec_says_who_an_inverter_is() {
        let mut words = vec![0u16; usize::from(SUNSPEC_WORDS)];
        words[..4].copy_from_slice(&[0x5375, 0x6E53, 1, 65]);
        words[4..6].copy_from_slice(&[0x5375, 0x6E21]); // "Sun!"
        words[20..22].copy_from_slice(&[0x4D31, 0]); // "M1"
        words[44] = 0x3234; // "24"
        words[69] = 103;
        let (identity, model) = common_model(&words);
        assert_eq!(
            (identity.vendor(), identity.product(), identity.revision()),
            (Some("Sun!"), Some("M1"), Some("24"))
        );
        assert_eq!(model, Some(103));
        words[3] = 66;
        assert_eq!(common_model(&words).1, None, "elsewhere");
        assert_eq!(common_model(&[]), (Identity::default(), None));
    }
}
