//! `ironbridge profiles`: the register maps in the binary, as a list or one of them as CSV.
//!
//! Reads nothing but the binary. The list is for a person who looks for a device; the CSV is for one who wants to see what is
//! read, or to change it.

use serde_json::{Value, json};

use super::{self as commands, Failed};
use crate::config::shipped::{self, About, SHIPPED};

/// Arguments of `ironbridge profiles`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Print the register map of this name as CSV; without it, the list of all
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON: a list of objects, or one object with the map in `csv`
    #[arg(long)]
    pub json: bool,
}

/// Prints what was asked for.
pub fn run(args: &Args) -> Result<(), Failed> {
    let text = report(args)?;
    commands::print(format!("{}\n", text.trim_end()))
}

/// What [`run()`] prints.
pub fn report(args: &Args) -> Result<String, Failed> {
    let Some(name) = &args.name else {
        return Ok(if args.json { all_json().to_string() } else { all_text() });
    };
    let text = shipped::find(name)
        .map_err(|message| Failed::Usage(format!("{name}: {message}; `ironbridge profiles` lists them")))?;
    if !args.json {
        return Ok(text.to_owned());
    }
    let mut object = json(name, &shipped::about(text));
    object["csv"] = Value::from(text);
    Ok(object.to_string())
}

fn json(name: &str, about: &About<'_>) -> Value {
    let About { maker, model, what, sources, tags } = about;
    json!({ "name": name, "maker": maker, "model": model, "what": what, "tags": tags, "sources": sources })
}

fn all_json() -> Value {
    SHIPPED.iter().map(|(name, text)| json(name, &shipped::about(text))).collect()
}

fn all_text() -> String {
    let wide = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
    let heads: Vec<_> = SHIPPED.iter().map(|(name, text)| (*name, shipped::about(text))).collect();
    let name_wide = wide(&mut heads.iter().map(|(name, _)| name.chars().count()));
    let what_wide = wide(&mut heads.iter().map(|(_, about)| about.what.chars().count()));
    let mut lines = vec![format!("{:name_wide$}  {:>4}  {:what_wide$}  maker and model", "name", "tags", "what")];
    for (name, About { maker, model, what, sources, tags }) in heads {
        lines.push(format!("{name:name_wide$}  {tags:>4}  {what:what_wide$}  {maker} {model}"));
        lines.extend(sources.iter().map(|source| format!("{:name_wide$}        from {source}", "")));
    }
    lines.push("\nA device takes one with profile = \"NAME\"; `ironbridge profiles NAME` prints the map.".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: Option<&str>, json: bool) -> Args {
        Args { name: name.map(ToOwned::to_owned), json }
    }

    #[test]
    fn the_list_has_a_line_for_each_map_and_names_its_sources() {
        let list = report(&args(None, false)).expect("a list");
        for (name, text) in SHIPPED {
            let about = shipped::about(text);
            let line = list.lines().find(|line| line.split_whitespace().next() == Some(name)).expect("a line");
            assert!(line.contains(about.maker) && line.contains(about.model), "{line}");
            assert!(about.sources.iter().all(|source| list.contains(source)), "{name}");
        }
    }

    #[test]
    fn the_list_as_json_has_the_same_maps() {
        let list: Value = serde_json::from_str(&report(&args(None, true)).expect("a list")).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(SHIPPED.len()));
        assert!(list[0]["tags"].as_u64().is_some_and(|tags| tags > 0) && list[0]["sources"][0].is_string());
    }

    #[test]
    fn a_name_prints_the_map_as_it_is_shipped() {
        let (name, text) = SHIPPED[0];
        assert_eq!(report(&args(Some(name), false)).expect("a map"), text);
        let object: Value = serde_json::from_str(&report(&args(Some(name), true)).expect("a map")).expect("JSON");
        assert_eq!((object["name"].as_str(), object["csv"].as_str()), (Some(name), Some(text)));
    }

    #[test]
    fn a_name_that_is_not_shipped_is_a_fault_of_the_caller() {
        let failed = report(&args(Some("eastron-sdm631"), false)).expect_err("refused");
        assert_eq!(failed.code(), 64);
        assert!(failed.to_string().contains("did you mean `eastron-sdm630`"), "{failed}");
    }
}
