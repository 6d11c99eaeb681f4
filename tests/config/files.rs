//! Several files become one configuration: fragments, register maps, relative paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ironbridge::config::plan::{Compression, Plan, Source, WriteFunction};
use ironbridge::config::{self, HostFacts, Loaded, Problem, Problems};
use ironbridge::model::alarm::Level;
use ironbridge::model::registers::{BitField, Encoding, TextForm};
use ironbridge::model::tag::{DataType, TagIx};
use rustix::fs::{CWD, FileType, mknodat};
use tempfile::TempDir;

const BUS: &str = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"plc\"\n";
const DEVICE: &str = "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n";

/// A directory with these files in it; `ironbridge.toml` is the main one.
struct Etc {
    directory: TempDir,
}

impl Etc {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("below the directory")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        let facts = HostFacts { hostname: "box".into(), credentials_dir: Some(PathBuf::from("/run/cred")) };
        config::load(&self.path("ironbridge.toml"), &facts)
    }

    fn plan(&self) -> Plan {
        self.load().unwrap_or_else(|problems| panic!("{problems}")).plan
    }

    fn problems(&self) -> Problems {
        self.load().expect_err("this has problems")
    }

    /// File, line, column.
    fn place(&self, problem: &Problem) -> (String, u32, u32) {
        let place = problem.place.as_ref().unwrap_or_else(|| panic!("no place: {problem}"));
        let file = place.file.strip_prefix(self.directory.path()).expect("one of our files");
        (file.display().to_string(), place.line, place.column)
    }
}

#[test]
fn what_was_read_once_means_the_same_to_somebody_who_can_open_none_of_the_files() {
    let tag = "[[tag]]\nname = \"t\"\naddress = \"holding:1\"\ntype = \"uint16\"\n";
    let device = format!("{DEVICE}profile = \"../maps/m.toml\"\n");
    let of_shipped = format!("{}profile = \"xy-md02\"\n", DEVICE.replacen("\"d\"", "\"e\"", 1));
    let etc = Etc::with(&[
        ("ironbridge.toml", BUS),
        ("ironbridge.d/2.toml", &device),
        ("ironbridge.d/1.toml", &of_shipped),
        ("ironbridge.d/.#1.toml", "nonsense"),
        ("maps/m.toml", tag),
    ]);
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let main = etc.path("ironbridge.toml");
    let (loaded, texts) = config::load_with_texts(&main, &facts).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(texts.len(), loaded.files.len());
    drop(etc);
    let of_texts = |texts| config::given(&main, texts, &facts);
    assert_eq!(of_texts(texts.clone()).unwrap_or_else(|problems| panic!("{problems}")), loaded);
    let without = texts.into_iter().filter(|(path, _)| !path.ends_with("m.toml")).collect();
    let problems = of_texts(without).expect_err("a map is missing").to_string();
    assert!(problems.contains("is not among the texts that were sent"), "{problems}");
}

fn place(file: &str, line: u32, column: u32) -> (String, u32, u32) {
    (file.to_owned(), line, column)
}

#[test]
fn fragments_are_appended_in_the_order_of_their_names() {
    let etc = Etc::with(&[
        ("ironbridge.toml", &format!("[gateway]\nname = \"g\"\n{BUS}")),
        ("ironbridge.d/20-b.toml", "[[device]]\nname = \"z\"\nbus = \"b\"\nunit_id = 2\n"),
        ("ironbridge.d/10-a.toml", &format!("[gateway]\ntopic = \"x/{{device}}/{{tag}}\"\n{DEVICE}")),
        ("ironbridge.d/.#20-b.toml", "an editor's leftover"),
        ("ironbridge.d/readme.md", "no TOML"),
    ]);
    let plan = etc.plan();
    assert_eq!(plan.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["d", "z"]);
    assert_eq!(plan.gateway.name, "g");
    let files: Vec<_> = etc.load().expect("still right").files;
    let expected = ["ironbridge.toml", "ironbridge.d/10-a.toml", "ironbridge.d/20-b.toml"].map(|name| etc.path(name));
    assert_eq!(files, expected);
}

#[test]
fn a_fragment_that_is_no_file_is_told_and_nobody_waits_for_it() {
    let etc = Etc::with(&[("ironbridge.toml", BUS), ("ironbridge.d/a.toml", DEVICE)]);
    let path = etc.path("ironbridge.d/x.toml");
    mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).expect("a named pipe");
    let (told, problems) = mpsc::channel();
    thread::spawn(move || told.send(etc.problems()));
    let problems = problems.recv_timeout(Duration::from_secs(20)).expect("nobody writes into the pipe");
    let [problem] = problems.iter().as_slice() else { panic!("{problems}") };
    assert!(problem.message.contains("is no file") && problem.file == path, "{problem}");
}

#[test]
fn the_same_key_or_name_in_two_files_names_both_places() {
    let etc = Etc::with(&[
        ("ironbridge.toml", &format!("[gateway]\nname = \"g\"\n{BUS}")),
        ("ironbridge.d/a.toml", &format!("[store]\n[gateway]\nname = \"h\"\n{BUS}")),
    ]);
    let problems = etc.problems();
    let [key, name] = problems.iter().as_slice() else { panic!("{problems}") };
    assert_eq!((key.path.as_str(), etc.place(key)), ("gateway.name", place("ironbridge.d/a.toml", 3, 1)));
    assert_eq!(key.also.as_ref().map(|also| (also.file.clone(), also.line)), Some((etc.path("ironbridge.toml"), 2)));
    assert_eq!((name.path.as_str(), etc.place(name)), ("bus[1].name", place("ironbridge.d/a.toml", 5, 8)));
    assert_eq!(name.also.as_ref().map(|also| (also.file.clone(), also.line)), Some((etc.path("ironbridge.toml"), 4)));
}

#[test]
fn a_tag_without_its_device_in_the_same_file_is_explained() {
    let etc = Etc::with(&[
        ("ironbridge.toml", &format!("{BUS}{DEVICE}")),
        ("ironbridge.d/tags.toml", "[[device.tag]]\nname = \"t\"\naddress = \"coil:1\"\n"),
    ]);
    let problems = etc.problems();
    let [problem] = problems.iter().as_slice() else { panic!("{problems}") };
    assert!(problem.message.contains("follows it in the same file"), "{problem}");
    assert_eq!(etc.place(problem).0, "ironbridge.d/tags.toml");
}

#[test]
fn a_file_that_is_no_toml_does_not_hide_problems_of_the_others() {
    let etc = Etc::with(&[
        ("ironbridge.toml", "[[bus]\nname = \"b\"\n"),
        ("ironbridge.d/a.toml", &format!("{DEVICE}poll = 7\n")),
    ]);
    let problems = etc.problems();
    let found: Vec<_> = problems.iter().map(|problem| (etc.place(problem).0, problem.path.as_str())).collect();
    assert!(found.contains(&("ironbridge.toml".into(), "")), "{problems}");
    assert!(found.contains(&("ironbridge.d/a.toml".into(), "device[0].poll")), "{problems}");
    assert!(!problems.to_string().contains("there is no bus"), "the bus may stand in the broken file: {problems}");
}

#[test]
fn files_that_cannot_be_read_are_problems_too() {
    let etc = Etc::with(&[]);
    assert!(etc.problems().to_string().contains("there is no such file"));
    let etc = Etc::with(&[("ironbridge.toml", "")]);
    fs::write(etc.path("ironbridge.toml"), b"a = 1\nb = \"\xff\"\n").expect("written");
    assert!(etc.problems().to_string().contains("not UTF-8 text (line 2)"));
    let etc = Etc::with(&[("ironbridge.toml/x", "")]);
    assert!(etc.problems().to_string().contains("cannot be read"));
    let etc = Etc::with(&[("ironbridge.toml", BUS), ("ironbridge.d", "not a directory")]);
    assert!(etc.problems().to_string().contains("ironbridge.d"));
}

#[test]
fn a_configuration_of_a_comment_is_right_and_does_nothing() {
    for text in ["# nothing yet\n", "[gateway]\n", "\n"] {
        let plan = Etc::with(&[("ironbridge.toml", text)]).plan();
        assert_eq!(
            (plan.gateway.name.as_str(), plan.tags.len(), plan.broker.listeners.len()),
            ("box", 0, 1),
            "{text:?}"
        );
    }
}

#[test]
fn a_file_that_a_full_disk_or_a_power_cut_has_left_empty_is_no_configuration() {
    for text in ["", "\0\0\0\0"] {
        let etc = Etc::with(&[
            ("ironbridge.toml", text),
            ("ironbridge.d/empty.toml", text),
            ("ironbridge.d/more.toml", BUS),
            ("ironbridge.d/off.toml", "# nothing, for now"),
        ]);
        let problems = etc.problems();
        let empty: Vec<_> = problems.iter().map(|problem| (problem.file.clone(), problem.message.as_str())).collect();
        let [(main, why), (fragment, same)] = &empty[..] else { panic!("{problems}") };
        assert!(why.contains("is empty: was a copy cut short") && why == same, "{problems}");
        assert_eq!((main, fragment), (&etc.path("ironbridge.toml"), &etc.path("ironbridge.d/empty.toml")));
        assert!(!problems.may_pass(), "somebody has to mend it");
    }
}

#[test]
fn paths_start_at_the_file_they_stand_in() {
    let etc = Etc::with(&[
        ("ironbridge.toml", "[gateway]\ndata_dir = \"data\"\n"),
        (
            "ironbridge.d/cloud.toml",
            "[[uplink]]\nname = \"u\"\nurl = \"mqtts://x\"\nca_file = \"ca.pem\"\ncertificate = \"/etc/tls/c\"\n\
             key = \"$CREDENTIALS_DIRECTORY/key\"\nusername = \"me-{gateway}\"\npassword_file = \"../pw\"\n",
        ),
    ]);
    let plan = etc.plan();
    assert_eq!(plan.gateway.data_dir, etc.path("data"));
    let uplink = &plan.uplinks[0];
    let tls = uplink.tls.as_ref().expect("mqtts");
    assert_eq!(tls.ca_file, etc.path("ironbridge.d/ca.pem"));
    assert_eq!(tls.identity, Some((PathBuf::from("/etc/tls/c"), PathBuf::from("/run/cred/key"))));
    assert_eq!(uplink.password_file.as_deref(), Some(etc.path("ironbridge.d/../pw").as_path()));
    assert_eq!((uplink.username.as_deref(), uplink.client_id.as_str()), (Some("me-box"), "box"));
}

#[test]
fn alarms_compression_and_expressions_are_columns_too() {
    let map = "name,address,type,expression,min,max,deadband,compression.swing,stale_after,alarm.high,alarm.delay,alarm.state\n\
               level,input:1,int16,,0,50,2%,,10s,40,5s,\n\
               flow,input:2,int16,,,,,0.5,,,,\n\
               door,coil:1,,,,,,,,,,FALSE\n\
               ratio,,,{level} / {flow},,,,,,0.9,,\n";
    let etc = Etc::with(&[
        ("ironbridge.toml", &format!("{BUS}{DEVICE}profile = \"maps/tank.csv\"\n")),
        ("maps/tank.csv", map),
    ]);
    let plan = etc.plan();
    let [level, flow, door, ratio] = &plan.tags[..] else { panic!("{:?}", plan.tags) };
    let alarm = level.alarm.as_ref().expect("it has one");
    assert_eq!((&alarm.limits[..], alarm.delay), (&[(Level::High, 40.0)][..], Duration::from_secs(5)));
    assert_eq!((level.deadband, level.freshness.stale_after), (Some(1.0), Some(Duration::from_secs(10))));
    assert_eq!(flow.compression, Some(Compression { swing: 0.5, max_gap: Duration::from_secs(600) }));
    assert_eq!(door.alarm.as_ref().and_then(|alarm| alarm.state), Some(false));
    let Source::Derived(derivation) = &ratio.source else { panic!("{ratio:?}") };
    assert_eq!((&derivation.inputs[..], ratio.data_type), (&[TagIx(0), TagIx(1)][..], DataType::Float64));
}

#[test]
fn a_register_map_from_csv_becomes_tags() {
    let map = "# made up\n\
               name,address,type,scale,write.min,write.max,access,description,deadband,write.verify\n\
               \n\
               level,holding:0x10,int16,0.1,0,50,read-write,\"tank 1, \"\"north\"\"\",0.5,FALSE\n\
               # in between\n\
               valve , coil:3 ,,,,,,two words,,\n\
               alarms,holding:20.3,bool,,,,,,,\n";
    let etc = Etc::with(&[
        (
            "ironbridge.toml",
            &format!(
                "{BUS}{DEVICE}profile = \"maps/tank.csv\"\n[[device.tag]]\nname = \"own\"\naddress = \"coil:9\"\n"
            ),
        ),
        ("maps/tank.csv", map),
    ]);
    let plan = etc.plan();
    let names: Vec<_> =
        plan.tags.iter().map(|tag| (tag.name.as_str(), tag.register().expect("polled").to_string())).collect();
    let expected = [("level", "holding:16"), ("valve", "coil:3"), ("alarms", "holding:20.3"), ("own", "coil:9")];
    assert_eq!(names, expected.map(|(name, address)| (name, address.to_owned())));
    let level = &plan.tags[0];
    assert_eq!(level.description, "tank 1, \"north\"");
    assert_eq!((level.scale.factor, level.write.limits.max, level.deadband), (0.1, Some(50.0), Some(0.5)));
    assert_eq!(level.write.verify, config::plan::Verify::TrustReply);
    assert_eq!(plan.tags[1].description, "two words");
}

#[test]
fn every_key_of_raw_words_is_a_column() {
    let map = "name,address,type,nan,scale_from,mask,shift,map,encoding,pad,terminator,write.function,write.retry,access\n\
               power,holding:1,int16,0x8000|0x7FFF,power_sf,,,,,,,,,\n\
               power_sf,holding:2,int16,,,,,,,,,,,\n\
               mode,holding:3,uint16,,,0x0070,4,0=off | 1=by hand,,,,mask,2,read-write\n\
               bits,holding:3.4-6,,,,,,,,,,,,\n\
               label,holding:4,string(6),,,,,,latin-1,space,none,,,\n";
    let plan =
        Etc::with(&[("ironbridge.toml", &format!("{BUS}{DEVICE}profile = \"map.csv\"\n")), ("map.csv", map)]).plan();
    let [power, _, mode, bits, label] = plan.tags.as_slice() else { panic!("{:?}", plan.tags) };
    assert_eq!((power.nan.as_slice(), power.scale_from), (&[0x8000, 0x7FFF][..], Some(TagIx(1))));
    assert_eq!(mode.field, Some(BitField { mask: 0x70, shift: 4 }));
    assert_eq!((bits.field, bits.data_type), (mode.field, DataType::Uint16));
    let words = mode.map.as_ref().expect("a map");
    assert_eq!((words.word(0), words.number("by hand")), (Some("off"), Some(1)));
    assert_eq!((mode.write.function, mode.write.retries), (WriteFunction::Mask, 2));
    let form = TextForm { encoding: Encoding::Latin1, pad: b' ', terminator: None };
    assert_eq!(label.text, form);
}

#[test]
fn semicolons_tabs_byte_order_marks_and_crlf_are_read_too() {
    for separator in [";", "\t", ","] {
        let map = ["name,address,type", "a,input:1,int16", "b,input:2,string(4)"].join("\r\n").replace(',', separator);
        let etc = Etc::with(&[
            ("ironbridge.toml", &format!("{BUS}{DEVICE}profile = \"map.csv\"\n")),
            ("map.csv", &format!("\u{feff}{map}\r\n")),
        ]);
        assert_eq!(etc.plan().tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}

#[test]
fn csv_problems_name_row_and_column() {
    let header = "# source\nname,address,type,scale\n";
    let cases = [
        ("a,input:70000,int16,1\n", place("map.csv", 3, 3), "row 3, column address", "out of range"),
        ("# c\n\na,input:7,int61,1\n", place("map.csv", 5, 11), "row 5, column type", "did you mean `int16`?"),
        ("a,input:7,int16,\"0,1\"\n", place("map.csv", 3, 17), "row 3, column scale", "a decimal comma: write 0.1"),
        ("a,input:7,int16,1,2\n", place("map.csv", 3, 1), "row 3", "5 cells under 4 columns"),
        (",input:7,int16,1\n", place("map.csv", 3, 1), "row 3, column name", "is missing"),
        ("a,input:7\n", place("map.csv", 3, 1), "row 3, column type", "is missing"),
        ("a,coil:7\na,coil:8\n", place("map.csv", 4, 1), "row 4, column name", "exists already"),
        ("a,\"input:7,int16\n", place("map.csv", 3, 3), "row 3", "never closed"),
        ("a,\"coil:7\"x,,\n", place("map.csv", 3, 3), "row 3", "behind the closing quote"),
        ("\"a\nb\",coil:7\nc,input:7,int61,1\n", place("map.csv", 3, 1), "row 3, column name", "control characters"),
    ];
    for (rows, expected, path, words) in cases {
        let etc = Etc::with(&[
            ("ironbridge.toml", &format!("{BUS}{DEVICE}profile = \"map.csv\"\n")),
            ("map.csv", &format!("{header}{rows}")),
        ]);
        let problems = etc.problems();
        let problem = problems.iter().next().expect("at least one");
        assert_eq!((etc.place(problem), problem.path.as_str()), (expected, path), "{rows}\n{problems}");
        assert!(problem.message.contains(words), "`{words}` in {problem}");
    }
}

#[test]
fn csv_headers_are_checked_once() {
    let cases = [
        ("nam,address,type\na,coil:1,\n", "did you mean `name`?", 2),
        ("name,type\na,bool\nb,bool\n", "no column `address`", 1),
        ("name,address,name\na,coil:1,b\n", "the same column twice", 1),
        ("name,address,colour\na,coil:1,red\nb,coil:2,red\n", "unknown column", 1),
        ("name,address,write\na,coil:1,x\n", "unknown column", 1),
        ("name,address,alarm.high\na,coil:1,\n", "", 0),
        ("name,address,alarm.high\na,coil:1,5\n", "that is for numbers", 2),
        ("name,address,alarm.hi\na,coil:1,5\n", "unknown column", 1),
        ("# nothing\n", "begins with a header row", 1),
    ];
    for (map, words, count) in cases {
        let etc = Etc::with(&[("ironbridge.toml", &format!("{BUS}{DEVICE}profile = \"m.csv\"\n")), ("m.csv", map)]);
        let shown = etc.load().err().map(|problems| (problems.count(), problems.to_string())).unwrap_or_default();
        assert_eq!(shown.0, count, "{map}\n{}", shown.1);
        assert!(shown.1.contains(words), "{}", shown.1);
    }
}

#[test]
fn a_register_map_from_toml_has_its_own_style() {
    let etc = Etc::with(&[
        (
            "ironbridge.toml",
            &format!("{BUS}{DEVICE}profile = \"./m.toml\"\n[[device.tag]]\nname = \"own\"\naddress = \"coil:9\"\n"),
        ),
        ("m.toml", "address_style = \"modicon\"\n[[tag]]\nname = \"t\"\naddress = 40101\ntype = \"int16\"\n"),
    ]);
    let addresses: Vec<_> = etc.plan().tags.iter().map(|tag| tag.register().expect("polled").to_string()).collect();
    assert_eq!(addresses, ["holding:100", "coil:9"]);
}

#[test]
fn a_wrong_map_is_reported_once_however_many_devices_use_it() {
    let device =
        |name: &str| format!("[[device]]\nname = \"{name}\"\nbus = \"b\"\nunit_id = 1\nprofile = \"m.toml\"\n");
    let etc = Etc::with(&[
        ("ironbridge.toml", &format!("{BUS}{}{}", device("d"), device("e"))),
        ("m.toml", "colour = 1\n[[tag]]\nname = \"t\"\naddress = \"coil:1\"\nclass = \"x\"\n"),
    ]);
    let problems = etc.problems();
    let found: Vec<_> = problems.iter().map(|problem| (etc.place(problem), problem.path.as_str())).collect();
    assert_eq!(found, [(place("m.toml", 1, 1), "colour"), (place("m.toml", 5, 9), "tag[0].class")], "{problems}");
}

#[test]
fn a_tag_of_the_device_may_not_repeat_one_of_its_profile() {
    let text =
        format!("{BUS}{DEVICE}profile = \"eastron-sdm630\"\n[[device.tag]]\nname = \"power\"\naddress = \"coil:1\"\n");
    let etc = Etc::with(&[("ironbridge.toml", &text)]);
    let problems = etc.problems();
    let [problem] = problems.iter().as_slice() else { panic!("{problems}") };
    assert_eq!((problem.path.as_str(), etc.place(problem)), ("device[0].tag[0].name", place("ironbridge.toml", 11, 8)));
    let also = problem.also.as_ref().expect("both places");
    assert!(also.file.ends_with(Path::new("eastron-sdm630.csv")) && also.line > 1, "{problem}");
}
