//! Tags as CSV and back: whatever a configuration says, it says the same after the way through a spreadsheet.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ironbridge::config::exchange::{self, Changes, Decimal, From, Imported, Refused, Source};
use ironbridge::config::plan::Plan;
use ironbridge::config::shipped::SHIPPED;
use ironbridge::config::{self, HostFacts, Problem};
use proptest::prelude::*;
use tempfile::TempDir;

const SHIPPED_CONFIG: &str = include_str!("../../config/ironbridge.toml");
const PLANT: &str = "[gateway]\nname = \"g\"\n[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n";
const DEVICE: &str = "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n";

fn facts() -> HostFacts {
    HostFacts { hostname: "box-7".into(), credentials_dir: None }
}

/// A directory with a configuration in it.
struct Home(TempDir);

impl Home {
    fn new(config: &str) -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        home.write("plant.toml", config);
        home
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plan(&self) -> Plan {
        load(&self.at("plant.toml"))
    }

    fn export(&self, device: &str, decimal: Decimal) -> String {
        let exported = exchange::one_device(From::File(&self.at("plant.toml")), device, decimal, &facts());
        exported.unwrap_or_else(|refused| panic!("{refused}")).csv
    }

    fn export_all(&self) -> String {
        let exported = exchange::all_devices(From::File(&self.at("plant.toml")), Decimal::Point, &facts());
        exported.unwrap_or_else(|refused| panic!("{refused}")).csv
    }

    /// Into a file `out.toml`.
    fn to_file(&self, csv: &str, style: Option<&str>) -> Result<Imported, Refused> {
        let csv = self.write("in.csv", csv);
        let source = Source { path: &csv, decimal: Decimal::Point };
        exchange::to_file(source, style, &self.at("out.toml"), &facts())
    }

    fn import(&self, csv: &str, device: &str, decimal: Decimal) -> Result<Imported, Refused> {
        let csv = self.write("in.csv", csv);
        exchange::into_config(Source { path: &csv, decimal }, &self.at("plant.toml"), device, &facts())
    }
}

fn load(path: &Path) -> Plan {
    config::load(path, &facts()).unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// All problems of an import that must be refused.
fn problems(told: Result<Imported, Refused>) -> Vec<Problem> {
    match told {
        Err(Refused::Problems(problems)) => problems.iter().cloned().collect(),
        other => panic!("not refused for problems: {other:?}"),
    }
}

/// Every way there is from this configuration to CSV and back must end in the same plan.
fn round(config: &str) {
    let home = Home::new(config);
    let plan = home.plan();
    for (position, device) in plan.devices.iter().enumerate() {
        for decimal in [Decimal::Point, Decimal::Comma] {
            let csv = home.export(&device.name, decimal);
            let imported =
                home.import(&csv, &device.name, decimal).unwrap_or_else(|refused| panic!("{refused}\n{csv}"));
            assert_eq!(imported.changes, Some(Changes::default()), "{csv}");
            let again = home.write("again.toml", &imported.toml);
            assert_eq!(load(&again), plan, "{csv}\n{}", imported.toml);
            assert_eq!(imported.tags, plan.devices[position].tags.len());
        }
    }
    let csv = home.export_all();
    let whole = home.to_file(&csv, None).unwrap_or_else(|refused| panic!("{refused}\n{csv}"));
    let mut rest: toml::Table = toml::from_str(config).expect("TOML");
    rest.remove("device");
    let text = format!("{}\n{}", toml::to_string(&rest).expect("TOML"), whole.toml);
    assert_eq!(load(&home.write("again.toml", &text)), plan, "{csv}\n{text}");
}

#[test]
fn every_shipped_profile_goes_out_and_comes_back_the_same() {
    for (name, _) in SHIPPED {
        for style in ["zero-based", "one-based", "modicon"] {
            let home = Home::new(&format!("{PLANT}{DEVICE}profile = \"{name}\"\naddress_style = \"{style}\"\n"));
            let (plan, csv) = (home.plan(), home.export("d", Decimal::Point));
            // As a map beside the configuration, as CSV and as TOML, and in the configuration itself.
            let named = |map: &str| {
                let text = format!("{PLANT}{DEVICE}profile = \"{map}\"\naddress_style = \"{style}\"\n");
                load(&home.write("named.toml", &text))
            };
            home.write("map.csv", &csv);
            assert_eq!(named("map.csv"), plan, "{name} {style}");
            let map = home.to_file(&csv, Some(style)).unwrap_or_else(|refused| panic!("{name}: {refused}"));
            home.write("map.toml", &map.toml);
            assert_eq!(named("map.toml"), plan, "{name} {style}");
            let inside = home.import(&csv, "d", Decimal::Point).unwrap_or_else(|refused| panic!("{name}: {refused}"));
            assert!(!inside.toml.contains("profile ="), "{name}");
            assert_eq!(load(&home.write("inside.toml", &inside.toml)), plan, "{name} {style}");
        }
    }
}

#[test]
fn a_shipped_map_keeps_the_sources_at_its_head() {
    let home = Home::new(&format!("{PLANT}{DEVICE}profile = \"eastron-sdm630\"\n"));
    let csv = home.export("d", Decimal::Point);
    let sources = |text: &str| text.lines().filter(|line| line.starts_with("# Source:")).count();
    assert!(sources(&csv) > 0 && csv.starts_with("# Maker: "), "{csv}");
    for toml in
        [home.to_file(&csv, None), home.import(&csv, "d", Decimal::Point)].map(|told| told.expect("imported").toml)
    {
        assert_eq!(sources(&toml), sources(&csv), "{toml}");
    }
    // And they come out again, without growing in number.
    let inside = home.import(&csv, "d", Decimal::Point).expect("imported");
    home.write("plant.toml", &inside.toml);
    assert_eq!(home.export("d", Decimal::Point), csv);
    assert_eq!(home.import(&csv, "d", Decimal::Point).expect("imported").toml, inside.toml);
}

#[test]
fn the_configuration_we_ship_goes_out_and_comes_back_the_same() {
    round(SHIPPED_CONFIG);
    let switched_on = |line: &str| match line.strip_prefix('#') {
        Some(setting)
            if !setting.is_empty()
                && !setting.starts_with([' ', '#'])
                && !["# instead of", "# with preset", "# with format"].iter().any(|not| line.contains(not)) =>
        {
            setting.to_owned()
        }
        _ => line.to_owned(),
    };
    round(&SHIPPED_CONFIG.lines().map(switched_on).collect::<Vec<_>>().join("\n"));
}

#[test]
fn instruments_that_speak_lines_go_out_and_come_back_the_same() {
    round(include_str!("../../config/scale.toml"));
    round(include_str!("../../config/gps.toml"));
    // One pattern, not in a list, with a bar and a backslash in it.
    let scale = include_str!("../../config/scale.toml");
    let (before, rest) = scale.split_once("\nmatch = ").expect("patterns");
    let (_, behind) = rest.split_once('\n').expect("more");
    let behind = behind.replace(", \"S +\"", ""); // an example of the pattern that is left out
    round(&format!(
        r"{before}
match = '(S|\x53) (?P<state>[SD]) +(?P<weight>-?[0-9.]+) g *'
{behind}"
    ));
}

#[test]
fn tags_that_stay_keep_their_text_and_so_does_everything_around_them() {
    let config = format!(
        "# the plant\n{PLANT}\n# the pump\n{DEVICE}profile = \"xy-md02\" # old\n\n# first\n[[device.tag]]\nunit = \"bar\" # why not\nname = \"a\"\n\
         address = \"holding:0x0A\"\ntype = \"uint16\"\nscale = 0.10\n\n[[device.tag]]\nname = \"b\"\naddress = \"coil:1\"\n# note\n\n# last\n[store]\nmax_size = \"64MiB\"\n"
    );
    let home = Home::new(&config);
    let csv = "name,address,type,scale,unit\n# first\na,holding:0x0A,uint16,0.10,bar\n# new\nc,holding:12,int16,1e3,\"m³, \"\"x\"\"\"\n";
    let imported = home.import(csv, "d", Decimal::Point).expect("imported");
    let expected = format!(
        "# the plant\n{PLANT}\n# the pump\n{DEVICE}\n# first\n[[device.tag]]\nunit = \"bar\" # why not\nname = \"a\"\n\
         address = \"holding:0x0A\"\ntype = \"uint16\"\nscale = 0.10\n\n# new\n[[device.tag]]\nname = \"c\"\naddress = \"holding:12\"\n\
         type = \"int16\"\nscale = 1e3\nunit = \"m³, \\\"x\\\"\"\n# note\n\n# last\n[store]\nmax_size = \"64MiB\"\n"
    );
    let changes = imported.changes.clone().expect("it was right before");
    assert_eq!((changes.added, changes.changed), (vec!["c".to_owned()], Vec::new()));
    assert_eq!(changes.removed, ["temperature", "humidity", "b"].map(ToOwned::to_owned).to_vec(), "{imported:?}");
    assert_eq!(imported.toml, expected);
}

#[test]
fn a_tag_that_only_moves_is_not_called_changed() {
    let tag = |name: &str, rest: &str| format!("[[device.tag]]\nname = \"{name}\"\n{rest}");
    let (factor, value) = (
        "address = \"holding:1\"\ntype = \"int16\"\n",
        "address = \"holding:2\"\ntype = \"int16\"\nscale_from = \"sf\"\n",
    );
    let double = "expression = \"{v} * 2\"\ntype = \"float64\"\n";
    let home = Home::new(&format!("{PLANT}{DEVICE}{}{}{}", tag("sf", factor), tag("v", value), tag("w", double)));
    let csv = "name,address,type,scale_from,expression\nnew,coil:1,,,\nv,holding:2,int16,sf,\nsf,holding:1,int16,,\nw,,float64,,{v} * 2\n";
    let imported = home.import(csv, "d", Decimal::Point).unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(imported.changes, Some(Changes { added: vec!["new".to_owned()], ..Changes::default() }));
}

#[test]
fn the_end_of_a_text_that_looks_like_a_comment_is_none() {
    let tag = "[[device.tag]]\nname = \"a\"\naddress = \"coil:1\"\ndescription = \"\"\"\nx\n\n# y\n\n# z\"\"\"\n";
    round(&format!("{PLANT}{DEVICE}{tag}{}", tag.replace("\"a\"", "\"b\"")));
}

#[test]
fn a_device_in_a_fragment_is_changed_in_its_fragment() {
    let home = Home::new(PLANT);
    fs::create_dir(home.at("ironbridge.d")).expect("a directory");
    let text = format!("{}[[device.tag]]\r\nname = \"a\"\r\naddress = \"coil:1\"", DEVICE.replace('\n', "\r\n"));
    let fragment = home.write("ironbridge.d/pump.toml", &text);
    let imported = home.import("name,address\nb,coil:2\n", "d", Decimal::Point).expect("imported");
    assert_eq!(imported.path, Some(fragment));
    assert!(
        imported.toml.ends_with("\r\n[[device.tag]]\r\nname = \"b\"\r\naddress = \"coil:2\"\r\n"),
        "{}",
        imported.toml
    );
    assert!(!imported.toml.contains("\r\r") && !imported.toml.contains("[[bus]]"), "{}", imported.toml);
}

#[test]
fn everything_wrong_is_named_at_once_by_row_and_column() {
    let csv = "# Source: x\nname,address,type,scale,write.min,map\na,holding:1,uint99,0.1,,\na,holding:70000,uint16,0,,\n\n\
               c,holding:3,uint16,\"0,1\",x,\nd,input:1,int16,,,off\n";
    let home = Home::new(&format!("{PLANT}{DEVICE}"));
    for told in [home.to_file(csv, None), home.import(csv, "d", Decimal::Point)] {
        let problems = problems(told);
        let told: Vec<(&str, &str)> = problems.iter().map(|one| (one.path.as_str(), one.message.as_str())).collect();
        let expected = [
            ("row 3, column type", "unknown type, did you mean `uint16`?"),
            ("row 4, column name", "a tag of this name exists already"),
            ("row 4, column address", "out of range"),
            ("row 4, column scale", "a scale of 0 makes every value 0"),
            (
                "row 6, column scale",
                "a decimal comma: write 0.1 (ironbridge tags import --decimal-comma reads such files)",
            ),
            ("row 6, column write.min", "expected a number, found a text"),
            ("row 7, column map", "expected a table such as { 0 = \"off\", 1 = \"on\" }, found a text"),
        ];
        assert_eq!(told, expected);
        assert!(problems[0].allowed.as_deref().is_some_and(|allowed| allowed.contains("float32")));
        assert!(problems.iter().all(|one| one.file.ends_with("in.csv") && one.place.is_some()));
    }
}

#[test]
fn whole_devices_are_checked_by_row_and_column_too() {
    let csv = "device.name,device.bus,device.unit_id,device.readable,name,address,type\n\
               ,,,,lost,coil:1,\np,b,1,holding:0-9|input:1,a,holding:1,int16\np,c,,,b,holding:99,int16\nq,b,300,,,,\n";
    let problems = problems(Home::new(PLANT).to_file(csv, None));
    let told: Vec<(&str, &str)> = problems.iter().map(|one| (one.path.as_str(), one.message.as_str())).collect();
    assert_eq!(told[0], ("row 2, column device.name", "is missing: the first row says which device it belongs to"));
    assert!(told.contains(&("row 4, column device.bus", "another row of this device says something else")), "{told:?}");
    assert!(told.iter().any(|(path, _)| *path == "row 4, column address"), "{told:?}");
    assert!(told.contains(&("row 5, column device.unit_id", "out of range")), "{told:?}");
}

#[test]
fn what_a_spreadsheet_makes_of_a_file_is_read_as_what_it_was() {
    let home = Home::new(&format!("{PLANT}{DEVICE}"));
    let plain = "# Source: a; b\n# more\nname,address,type,scale,description\nx,holding:1,int16,0.5,°C; \"warm\"\n# y is new\ny,coil:1,,,\n";
    let expected = home.import(plain, "d", Decimal::Point).expect("imported").toml;
    let saved = [
        // A byte order mark before a comment with a comma in it, semicolons, CRLF, filled up, quoted comment, blank rows.
        "\u{feff}\"# Source: a; b\";;;;\r\n# more;;;;\r\nname;address;type;scale;description\r\nx;holding:1;int16;0,5;\"°C; \"\"warm\"\"\"\r\n\
         # y is new;;;;\r\ny;coil:1;;;\r\n;;;;\r\n;;;;\r\n",
        "sep=;\r\n\"# Source: a; b\"\r\n# more\r\nname;address;type;scale;description;;\r\nx;holding:1;int16;0,5;\"°C; \"\"warm\"\"\";;\r\n\
         # y is new\r\ny;coil:1;;;;;\r\n",
    ];
    for text in saved {
        let imported = home.import(text, "d", Decimal::Comma).unwrap_or_else(|refused| panic!("{refused}"));
        assert_eq!(imported.toml, expected);
    }
    let marked = "\u{feff}# Source: a, b\nname;address\nx;coil:1\n";
    assert_eq!(home.import(marked, "d", Decimal::Point).expect("imported").tags, 1);
    // A point among commas may be one of thousands: nobody knows.
    let mixed = "name;address;type;scale\nx;holding:1;int16;1.234\n";
    let told = problems(home.import(mixed, "d", Decimal::Comma));
    assert!(
        told.len() == 1 && told[0].path == "row 2, column scale" && told[0].message.contains("decimal point"),
        "{told:?}"
    );
}

#[test]
fn a_bit_of_a_modicon_number_survives_a_spreadsheet_that_takes_it_for_a_fraction() {
    let bits = |bit: &str| format!("[[device.tag]]\nname = \"bit{bit}\"\naddress = \"40008.{bit}\"\n");
    let tags = format!("address_style = \"modicon\"\n{}{}", bits("1"), bits("10"));
    let home = Home::new(&format!("{PLANT}{DEVICE}{tags}"));
    let csv = home.export("d", Decimal::Point);
    assert!(csv.contains("40008.01") && csv.contains("40008.10"), "{csv}");
    let changes = home.import(&csv, "d", Decimal::Point).expect("imported").changes;
    assert_eq!(changes, Some(Changes::default()), "{csv}");
    // As it is saved by one that shows numbers at their shortest.
    let told = problems(home.import(&csv.replace("40008.10", "40008.1"), "d", Decimal::Point));
    assert!(told.len() == 1 && told[0].message.contains("bit 1 or bit 10"), "{told:?}");
    let moved = home.import(&csv.replace("40008.10", "40008.02"), "d", Decimal::Point).expect("imported").changes;
    assert_eq!(moved.map(|changes| changes.moved), Some(vec!["bit10: holding:7.10 -> holding:7.2".to_owned()]));
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_comes_out() {
    let tags = "[[device.tag]]\nname = \"a\"\naddress = \"coil:1\"\n";
    let home = Home::new(&format!("{PLANT}{DEVICE}{tags}"));
    let csv = "name,address\nb,coil:2\n";
    let asked = |told: Result<Imported, Refused>, part: &str| match told {
        Err(Refused::Asked(message) | Refused::Shape(message)) => assert!(message.contains(part), "{message}"),
        other => panic!("{part}: {other:?}"),
    };
    asked(home.import(csv, "e", Decimal::Point), "no device 'e'");
    asked(home.import("device.name,name,address\nd,b,coil:2\n", "d", Decimal::Point), "without --device");
    asked(home.to_file("device.name,name,address\nd,b,coil:2\n", Some("modicon")), "device.address_style");
    let inline = Home::new(&format!("{PLANT}{DEVICE}tag = [{{ name = \"a\", address = \"coil:1\" }}]\n"));
    asked(inline.import(csv, "d", Decimal::Point), "--output");
    let apart =
        Home::new(&format!("{PLANT}{DEVICE}{tags}[store]\nmax_size = \"64MiB\"\n{}", tags.replace("\"a\"", "\"b\"")));
    asked(apart.import(csv, "d", Decimal::Point), "do not stand together");
    assert_eq!(problems(home.import("nothing here", "d", Decimal::Point)).len(), 2);
    let missing = exchange::to_file(
        Source { path: &home.at("none.csv"), decimal: Decimal::Point },
        None,
        &home.at("out.toml"),
        &facts(),
    );
    assert!(problems(missing)[0].message.contains("no such file"));
    let torn = Home::new(&format!("{PLANT}{DEVICE}{tags}]"));
    assert!(problems(torn.import(csv, "d", Decimal::Point))[0].message.contains("not TOML"));
    // A map with device columns is no profile.
    home.write("map.csv", "device.name,name,address\nd,b,coil:2\n");
    let named = home.write("named.toml", &format!("{PLANT}{DEVICE}profile = \"map.csv\"\n"));
    let told = config::load(&named, &facts()).expect_err("no map").to_string();
    assert!(told.contains("tags import"), "{told}");
}

/// Text with everything in it that a format could trip over.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            3 => prop::sample::select(vec![
                "a", "0", ",", ";", "\t", "|", "=", "\"", "\"\"", "'", "\\", "\\|", "\n", "\r\n", "\r", " ", "  ", "#", "°", "€", "𝄞",
                "\u{feff}", "\u{a0}", "{", "]", "-", "0x1", "1,5", "\u{7}", "\u{7f}", "\u{85}",
            ])
            .prop_map(ToOwned::to_owned),
            1 => any::<char>().prop_filter("a text", |c| *c != '\0').prop_map(|c| c.to_string()),
        ],
        0..8,
    )
    .prop_map(|parts| parts.concat())
}

/// Numbers as people write them in TOML, all of the same size or so.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "0",
            "1",
            "-1",
            "+7",
            "0.10",
            "1e3",
            "1E-3",
            "0x10",
            "0o17",
            "0b101",
            "1_000.5",
            "-0.0",
            "6.02e+23",
            "0x7FFF_FFFF",
            "12345678901234567",
        ])
        .prop_map(ToOwned::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
    ]
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One tag as TOML; `place` keeps names and numbers of a map apart.
fn tag(place: usize) -> impl Strategy<Value = String> {
    let texts = (text(), text(), text(), prop::collection::vec(text(), 0..4));
    let numbers = (number(), number(), number());
    let choices = (0..8usize, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (texts, numbers, choices).prop_map(move |((unit, description, group, words), numbers, choices)| {
        let (kind, tables, listed, commented, verified) = choices;
        let mut out = String::new();
        if commented {
            let _ = writeln!(out, "\n# {}", description.replace(|c: char| c.is_control(), "_").trim());
        }
        let _ = write!(
            out,
            "[[device.tag]]\nname = \"tag {place}\"\nunit = {}\ndescription = {}\n",
            quoted(&unit),
            quoted(&description)
        );
        let _ = writeln!(out, "group = {}", quoted(&group));
        let address = format!("holding:{}", place * 8);
        match kind {
            0 => {
                let _ = writeln!(out, "address = \"{address}.3\"");
            }
            1 => {
                let _ = writeln!(
                    out,
                    "address = \"{address}\"\ntype = \"string(7)\"\npad = \"space\"\nencoding = \"latin-1\""
                );
            }
            2 if words.iter().any(|word| !word.is_empty()) => {
                let words: std::collections::BTreeSet<String> =
                    words.into_iter().filter(|word| !word.is_empty()).collect();
                let words: Vec<String> =
                    words.iter().zip(0..).map(|(word, key)| format!("{key} = {}", quoted(word))).collect();
                let _ = writeln!(out, "address = \"{address}\"\ntype = \"uint16\"\nmap = {{ {} }}", words.join(", "));
            }
            3 => {
                let _ = writeln!(out, "address = \"{address}\"\ntype = \"uint16\"\nmask = 0x0FF0\nshift = 4");
            }
            _ => {
                let _ = writeln!(
                    out,
                    "address = \"{address}\"\ntype = \"int32\"\norder = \"CDAB\"\noffset = {}",
                    numbers.0
                );
                if listed {
                    let _ = writeln!(out, "nan = [\"0x80000000\", \"-1\"]");
                }
                if tables {
                    let _ = writeln!(
                        out,
                        "access = \"read-write\"\nwrite = {{ min = {}, verify = {verified} }}",
                        numbers.1
                    );
                    let _ = writeln!(
                        out,
                        "deadband = \"1.5%\"\nmin = 0\nmax = 1_000\n[device.tag.alarm]\nhigh = {}",
                        numbers.2
                    );
                }
            }
        }
        out
    })
}

fn table() -> impl Strategy<Value = String> {
    (1..6usize).prop_flat_map(|tags| (0..tags).map(tag).collect::<Vec<_>>()).prop_map(|tags| tags.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_table_of_tags_means_the_same_after_csv_and_back(first in table(), second in table()) {
        // A group stands in no topic here, so it may be any text.
        let second = second.replace("tag ", "other ");
        let config = format!("{PLANT}{DEVICE}{first}\n# the other one\n{}{second}", DEVICE.replace("\"d\"", "\"e\""));
        let home = Home::new(&config);
        if config::load(&home.at("plant.toml"), &facts()).is_ok() {
            round(&config);
        } else {
            prop_assert!(false, "the table is meant to be right: {:?}", config::load(&home.at("plant.toml"), &facts()).err());
        }
    }

    #[test]
    fn no_csv_makes_an_import_write_anything_but_what_it_means(
        cells in prop::collection::vec(prop::collection::vec(text(), 1..5), 0..6),
        head in prop::sample::select(vec!["name,address\n", "name;address;type\n", "address,name,map,nan\n", "device.name,name,address\n", ""]),
    ) {
        let home = Home::new(&format!("{PLANT}{DEVICE}"));
        let rows: Vec<String> = cells.iter().map(|row| row.join(",")).collect();
        let csv = format!("{head}{}", rows.join("\n"));
        for told in [home.to_file(&csv, None), home.import(&csv, "d", Decimal::Point)] {
            match told {
                Err(Refused::Internal(message)) => prop_assert!(false, "{message}\n{csv:?}"),
                Err(Refused::Problems(problems)) => {
                    for problem in &problems {
                        let line = problem.place.as_ref().map_or(1, |place| place.line);
                        prop_assert!((1..=csv.split('\n').count()).contains(&(line as usize)), "{problem}");
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
