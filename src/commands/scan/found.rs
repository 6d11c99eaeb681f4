//! What a scan has found so far. Pure: filled by the two kinds of scan, printed by `report`, also when it was broken off.

use std::time::Duration;

use super::examine::Portrait;
use super::prober::{Heard, Sign};
use super::units;
use crate::field::stats::Noise;

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its unit id.
    pub unit: u8,
    /// The settings at which it answers; empty on a network.
    pub settings: Vec<String>,
    /// Its answer to the first question.
    pub sign: Sign,
    /// What it was told apart by.
    pub portrait: Portrait,
    /// From the first question to its answer.
    pub took: Duration,
}

/// What was heard at one setting, or on one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The setting; empty on a network.
    pub setting: String,
    /// Questions asked, each to another unit.
    pub asked: usize,
    /// Units that answered.
    pub found: Vec<u8>,
    /// Units to whose question something came that is no frame, or a damaged one.
    pub noisy: Vec<u8>,
    /// Units that a gateway says are not there.
    pub absent: Vec<u8>,
    /// Units at whose question the connection was closed.
    pub hung_up: Vec<u8>,
    /// What was said of the first of them.
    pub hung_up_why: Option<String>,
    /// What came before anything was asked.
    pub unasked: Noise,
    /// Whole frames that answered something else.
    pub late: u64,
}

impl Tally {
    /// Of this setting, nothing yet.
    pub fn new(setting: &str) -> Self {
        Self { setting: setting.to_owned(), ..Self::default() }
    }

    /// Notes what came of a question.
    pub fn count(&mut self, unit: u8, heard: &Heard) {
        self.asked += 1;
        self.late += heard.late;
        match &heard.sign {
            Sign::Noise => self.noisy.push(unit),
            Sign::Absent(_) => self.absent.push(unit),
            Sign::HungUp(why) => {
                self.hung_up.push(unit);
                self.hung_up_why.get_or_insert_with(|| why.clone());
            }
            Sign::Silence => {}
            Sign::Data(_) | Sign::Exception(_) | Sign::Odd | Sign::OtherId => self.found.push(unit),
        }
    }

    /// Nothing at all came back.
    pub fn is_silent(&self) -> bool {
        self.found.is_empty() && self.noisy.is_empty() && self.absent.is_empty() && self.hung_up.is_empty()
    }
}

/// Everything so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Devices, in the order they were found.
    pub devices: Vec<Found>,
    /// By setting, in the order they were tried.
    pub tallies: Vec<Tally>,
    /// What was left out on purpose, and why.
    pub left_out: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Units that answer like the device of this unit: it answers for every id.
    pub alike: Option<Alike>,
    /// The slowest answer, also of a gateway that nobody is behind it.
    pub slowest: Option<Duration>,
    /// Why it ended early.
    pub cut_short: Option<String>,
}

/// Somebody who answers for every unit id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alike {
    /// The id to use.
    pub unit: u8,
    /// All ids that bring the same.
    pub units: Vec<u8>,
    /// An exception: then it may also be a gateway that says this for devices that are not there.
    pub exception: Option<u8>,
}

impl Survey {
    /// Adds a device; one that is the same in every respect at another setting is the same.
    pub fn add(&mut self, found: Found) {
        let same = |one: &&mut Found| one.unit == found.unit && one.portrait == found.portrait;
        match self.devices.iter_mut().find(same) {
            Some(known) => known.settings.extend(found.settings),
            None => self.devices.push(found),
        }
    }

    /// How many questions were asked.
    pub fn asked(&self) -> usize {
        self.tallies.iter().map(|tally| tally.asked).sum()
    }

    /// A device that answers at two baud rates, which no real line lets it: then settings mean nothing here, as on a
    /// pseudo-terminal or a network adapter.
    pub fn settings_mean_nothing(&self) -> bool {
        let baud = |setting: &String| setting.split('-').next().map(str::to_owned);
        self.devices.iter().any(|device| device.settings.iter().any(|one| baud(one) != baud(&device.settings[0])))
    }

    /// Those of the settings at which somebody answers who was not heard at one before.
    pub fn settings_worth_more(&self) -> Vec<String> {
        let mut worth: Vec<String> = Vec::new();
        for device in &self.devices {
            if !device.settings.iter().any(|setting| worth.contains(setting)) {
                worth.extend(device.settings.first().cloned());
            }
        }
        worth
    }

    /// Takes together who answers for every id: if each of the unlikely ids that were asked brought an answer, all that
    /// bring the same as the first device are it. Networks only.
    pub fn take_together(&mut self) {
        let asked: Vec<u8> = self.tallies.iter().flat_map(|tally| &tally.found).copied().collect();
        let unlikely: Vec<&Found> = self.devices.iter().filter(|found| units::is_unlikely(found.unit)).collect();
        let Some(base) = unlikely.first().filter(|_| unlikely.len() >= UNLIKELY_MIN).map(|found| (*found).clone())
        else {
            return;
        };
        if !unlikely.iter().all(|found| found.is_like(&base)) || asked.len() < self.asked() / 2 {
            return;
        }
        let alike: Vec<u8> = self.devices.iter().filter(|found| found.is_like(&base)).map(|found| found.unit).collect();
        let unit = units::OWN.into_iter().find(|own| alike.contains(own)).unwrap_or(base.unit);
        let exception = match base.sign {
            Sign::Exception(code) => Some(code),
            _ => None,
        };
        // Beside real devices an exception for every other id is the gateway's way to say that nobody is there.
        let is_nobody = exception.is_some() && alike.len() < self.devices.len();
        self.devices.retain(|found| !found.is_like(&base) || found.unit == unit && !is_nobody);
        self.alike = Some(Alike { unit, units: alike, exception });
    }
}

/// So many ids that nobody has, to believe that somebody answers for all of them.
const UNLIKELY_MIN: usize = 3;

impl Found {
    /// Says the same of itself: identity and tables. Values may have moved from one question to the next.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.sign) == std::mem::discriminant(&other.sign) && self.portrait == other.portrait
    }
}

#[cfg(test)]
mod tests {
    use super::super::examine::{Source, Told};
    use super::*;
    use crate::field::modbus::identity::Identity;
    use crate::field::modbus::session::Reading;
    use crate::model::tag::Table;

    fn found(unit: u8, setting: &str, name: &str) -> Found {
        let identity = Identity { objects: [(1, name.to_owned())].into() };
        Found {
            unit,
            settings: (!setting.is_empty()).then(|| setting.to_owned()).into_iter().collect(),
            sign: Sign::Data(Reading::Registers(vec![u16::from(unit)])),
            portrait: Portrait {
                tables: [(Table::Holding, Told::Data); 4],
                identity: Some((Source::Identification, identity)),
                sunspec_model: None,
            },
            took: Duration::ZERO,
        }
    }

    fn survey(devices: impl IntoIterator<Item = Found>) -> Survey {
        let mut survey = Survey::default();
        let mut tally = Tally::default();
        for device in devices {
            tally.asked += 1;
            tally.found.push(device.unit);
            survey.add(device);
        }
        survey.tallies.push(tally);
        survey
    }

    #[test]
    fn one_device_at_two_settings_is_one_and_two_devices_with_one_id_are_two() {
        let seen = survey([found(1, "9600-8N1", "A"), found(1, "9600-8E1", "A"), found(1, "19200-8E1", "B")]);
        assert_eq!(seen.devices.len(), 2);
        assert_eq!(seen.settings_worth_more(), ["9600-8N1", "19200-8E1"]);
        assert!(!seen.settings_mean_nothing(), "another format may do no harm");
        let pty = survey([found(1, "9600-8N1", "A"), found(1, "19200-8E1", "A")]);
        assert!(pty.settings_mean_nothing());
    }

    #[test]
    fn who_answers_for_every_id_is_one_device_and_others_behind_it_stay() {
        let mut all = survey((0..=255).map(|unit| found(unit, "", if unit == 7 { "B" } else { "A" })));
        all.take_together();
        let alike = all.alike.as_ref().expect("noticed");
        assert_eq!((alike.unit, alike.units.len(), alike.exception), (1, 255, None));
        assert_eq!(all.devices.iter().map(|device| device.unit).collect::<Vec<_>>(), [1, 7]);
        let mut refusing = survey((0..=255).map(|unit| Found {
            sign: if unit == 7 { found(unit, "", "").sign } else { Sign::Exception(4) },
            ..found(unit, "", "")
        }));
        refusing.take_together();
        assert_eq!(refusing.devices.iter().map(|device| device.unit).collect::<Vec<_>>(), [7], "4 means nobody here");
        let mut gateway = survey((1..=30).map(|unit| found(unit, "", "A")));
        gateway.take_together();
        assert!(gateway.alike.is_none() && gateway.devices.len() == 30, "thirty meters of one kind");
    }
}
