//! The SunSpec chain of a simulated device: the models that its tags name, laid out one behind the other. Pure.
//!
//! ```text
//! 40000  "SunS"
//! 40002  model 1, as every device has it
//! 40070  the models of the tags, those without alternatives first, then by number; of several alternatives the last
//! …      0xFFFF 0
//! ```
//!
//! A model is as long as published, or as its tags need; what no tag is about holds 0.

use std::collections::BTreeMap;

use crate::config::plan::{DevicePlan, Plan, Source, TagPlan};
use crate::model::sunspec::{END, HEADER_REGISTERS, ModelRef, TABLE};
use crate::model::tag::Address;

use super::image::Image;

/// Where the chain begins.
pub const BASE: u16 = 40_000;
const SUNS: [u16; 2] = [0x5375, 0x6E53];
const COMMON: u16 = 1;
/// Lengths of models with a fixed one (SunSpec Alliance, github.com/sunspec/models).
const LENGTHS: [(u16, u16); 21] = [
    (1, 66),
    (101, 50),
    (102, 50),
    (103, 50),
    (111, 60),
    (112, 60),
    (113, 60),
    (120, 26),
    (121, 30),
    (122, 44),
    (123, 24),
    (124, 24),
    (201, 105),
    (202, 105),
    (203, 105),
    (204, 105),
    (211, 124),
    (212, 124),
    (213, 124),
    (214, 124),
    (802, 62),
];

/// The models of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    models: Vec<Model>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Model {
    number: u16,
    length: u16,
}

impl Layout {
    /// Of devices that are one unit. Without tags in models there is no chain.
    pub fn of<'a>(plan: &Plan, devices: impl Iterator<Item = &'a DevicePlan>) -> Self {
        let mut needed: BTreeMap<(usize, ModelRef), u16> = BTreeMap::new();
        let tags = devices.flat_map(|device| plan.tags.get(device.tags.clone()).unwrap_or_default());
        for tag in tags {
            let Source::Model(place) = &tag.source else { continue };
            let end = place.offset.saturating_add(tag.data_type.registers()).saturating_sub(HEADER_REGISTERS);
            let most = needed.entry((place.model.numbers().count(), place.model)).or_default();
            *most = end.max(*most);
        }
        let mut layout = Self::default();
        if !needed.is_empty() {
            layout.add(COMMON);
        }
        for ((_, model), length) in needed {
            while layout.nth(model).is_none()
                && let Some(number) = model.numbers().last()
            {
                layout.add(number);
            }
            if let Some(place) = layout.nth(model) {
                let model = &mut layout.models[place];
                model.length = model.length.max(length);
            }
        }
        layout
    }

    fn add(&mut self, number: u16) {
        let published = LENGTHS.iter().find(|(known, _)| *known == number).map_or(1, |(_, length)| *length);
        self.models.push(Model { number, length: published });
    }

    fn nth(&self, model: ModelRef) -> Option<usize> {
        let mut fitting = self.models.iter().enumerate().filter(|(_, known)| model.is(known.number));
        fitting.nth(usize::from(model.nth()).checked_sub(1)?).map(|(place, _)| place)
    }

    /// The register at which the model in this place begins.
    fn start(&self, place: usize) -> Option<u16> {
        let before = self.models.iter().take(place).map(|model| u32::from(model.length) + u32::from(HEADER_REGISTERS));
        u16::try_from(u32::from(BASE) + 2 + before.sum::<u32>()).ok()
    }

    /// Where a tag lies; `None`: nowhere on the wire.
    pub fn address(&self, tag: &TagPlan) -> Option<Address> {
        match &tag.source {
            Source::Model(place) => place.at(self.start(self.nth(place.model)?)?),
            _ => tag.register(),
        }
    }

    /// What a register of a header holds; `None`: the tag is about no such register.
    pub fn header(&self, tag: &TagPlan) -> Option<u16> {
        let Source::Model(place) = &tag.source else { return None };
        let model = self.models.get(self.nth(place.model)?)?;
        match place.offset {
            0 => Some(model.number),
            1 => Some(model.length),
            _ => None,
        }
    }

    /// Maps the whole chain, empty.
    pub(super) fn begin(&self, image: &mut Image) {
        let Some(end) = self.start(self.models.len()).filter(|_| !self.models.is_empty()) else { return };
        image.set_words(TABLE, BASE, &SUNS);
        for (place, model) in self.models.iter().enumerate() {
            if let Some(start) = self.start(place) {
                image.set_words(TABLE, start, &[model.number, model.length]);
                image.set_words(TABLE, start + HEADER_REGISTERS, &vec![0; model.length.into()]);
            }
        }
        image.set_words(TABLE, end, &[END, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sunspec::ModelPlace;
    use crate::model::tag::{BusIx, DataType, DeviceIx};

    fn tag(numbers: &[u16], nth: u8, offset: u16) -> TagPlan {
        let model = ModelRef::new(numbers, nth).expect("a model");
        let place = ModelPlace { model, offset, bit: None };
        TagPlan { source: Source::Model(place), ..TagPlan::plain("t", DeviceIx(0), place.relative(), DataType::Uint32) }
    }

    #[test]
    fn models_lie_one_behind_the_other_as_long_as_published_or_needed() {
        let tags = vec![
            tag(&[101, 102, 103], 1, 14),
            tag(&[160], 2, 30),
            tag(&[102], 1, 2),
            tag(&[1], 1, 2),
            tag(&[160], 1, 8),
        ];
        let device = DevicePlan { tags: 0..tags.len(), ..DevicePlan::plain("d", BusIx(0), 1) };
        let plan = Plan { tags, ..Plan::empty("g") };
        let layout = Layout::of(&plan, std::iter::once(&device));
        let models: Vec<_> = layout.models.iter().map(|model| (model.number, model.length)).collect();
        assert_eq!(models, [(1, 66), (102, 50), (160, 8), (160, 30)], "one inverter serves all that want one");
        let starts: Vec<_> = plan.tags.iter().map(|tag| layout.address(tag).expect("laid out").start).collect();
        assert_eq!(starts, [40_084, 40_162, 40_072, 40_004, 40_130]);
        let mut image = Image::new();
        layout.begin(&mut image);
        assert_eq!(image.words(TABLE, 40_000, 4), Ok(vec![0x5375, 0x6E53, 1, 66]));
        assert_eq!(image.words(TABLE, 40_130 + 32 + 2, 2), Ok(vec![END, 0]));
        assert_eq!(layout.header(&tag(&[160], 2, 1)), Some(30));
    }

    #[test]
    fn a_unit_without_models_has_no_chain() {
        let layout = Layout::of(&Plan::empty("g"), std::iter::empty());
        let mut image = Image::new();
        layout.begin(&mut image);
        assert_eq!(image, Image::new());
    }
}
