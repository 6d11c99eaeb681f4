//! The dictionary: tags as the store knows them, under ids that are stable for the life of the store.
//!
//! A tag is the same tag while device, name and type stay; its topic may change. It stands in `meta.db`, and once more
//! in each chunk whose segments use it, so that chunks can be read without `meta.db`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::disk::chunk::TagRow;
use crate::model::tag::DataType;

use super::{DictionaryTag, TagMeta};

pub(super) fn row(tag: &DictionaryTag) -> TagRow {
    TagRow {
        id: tag.id,
        device: tag.device.clone(),
        name: tag.name.clone(),
        topic: tag.topic.clone(),
        data_type: tag.data_type.to_string(),
    }
}

/// Reads a row back; `None` when its type does not exist.
pub(super) fn tag(row: TagRow) -> Option<DictionaryTag> {
    let data_type = DataType::from_name(&row.data_type)?;
    Some(DictionaryTag { id: row.id, device: row.device, name: row.name, topic: row.topic, data_type })
}

/// Gives every tag of the plan its id, new ones a new one. Returned: ids in plan order, and what is new or changed.
///
/// The new tags of a device get theirs sorted by name: samples are numbered in that order, and columns that ascend like
/// the samples need no list of their order on the wire.
pub(super) fn assign(
    dictionary: &mut HashMap<u32, Arc<DictionaryTag>>,
    plan: &[TagMeta],
) -> (Vec<u32>, Vec<Arc<DictionaryTag>>) {
    let mut known: HashMap<(String, String, DataType), u32> = HashMap::new();
    for tag in dictionary.values() {
        known.insert((tag.device.clone(), tag.name.clone(), tag.data_type), tag.id);
    }
    let mut next = dictionary.keys().max().map_or(1, |id| id + 1);
    let mut places: Vec<usize> = (0..plan.len()).collect();
    let mut devices: HashMap<&str, usize> = HashMap::new();
    for (place, meta) in plan.iter().enumerate() {
        devices.entry(&meta.device).or_insert(place);
    }
    places.sort_by_key(|place| (devices.get(plan[*place].device.as_str()), plan[*place].name.as_bytes()));
    let (mut ids, mut changed) = (vec![0; plan.len()], Vec::new());
    for place in places {
        let meta = &plan[place];
        let key = (meta.device.clone(), meta.name.clone(), meta.data_type);
        let id = *known.entry(key).or_insert_with(|| {
            next += 1;
            next - 1
        });
        if dictionary.get(&id).is_none_or(|tag| tag.topic != *meta.topic) {
            let tag = Arc::new(DictionaryTag {
                id,
                device: meta.device.clone(),
                name: meta.name.clone(),
                topic: meta.topic.to_string(),
                data_type: meta.data_type,
            });
            dictionary.insert(id, Arc::clone(&tag));
            changed.push(tag);
        }
        ids[place] = id;
    }
    (ids, changed)
}

/// Stands in for a tag whose entry was lost; its records are handed out under its id.
pub(super) fn unknown(id: u32) -> Arc<DictionaryTag> {
    let (device, name, topic) = ("lost".to_owned(), format!("tag-{id}"), format!("lost/tag-{id}"));
    Arc::new(DictionaryTag { id, device, name, topic, data_type: DataType::Float64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::Class;

    #[test]
    fn ids_are_stable_and_a_tag_whose_type_changes_is_a_new_tag() {
        let meta = |name: &str, topic: &str, data_type| TagMeta {
            device: "pump".into(),
            name: name.into(),
            topic: topic.into(),
            data_type,
            class: Class::Bulk,
        };
        let mut dictionary = HashMap::new();
        let plan = [meta("b", "t/b", DataType::Bool), meta("a", "t/a", DataType::Text(7))];
        let (ids, new) = assign(&mut dictionary, &plan);
        assert_eq!((ids, new.len()), (vec![2, 1], 2), "sorted by name");
        let plan = [meta("b", "t/b2", DataType::Bool), meta("a", "t/a", DataType::Int16)];
        let (ids, new) = assign(&mut dictionary, &plan);
        assert_eq!((ids, new.len()), (vec![2, 3], 2));
        assert_eq!(dictionary[&2].topic, "t/b2");
        assert_eq!(tag(row(&dictionary[&1])).as_ref(), Some(&*dictionary[&1]));
    }
}
