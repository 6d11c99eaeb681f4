//! `tags export` and `tags import` as processes: what is written, what is left alone, what a script is told.

use std::fs;
use std::path::Path;
use std::process::Command;

const PLANT: &str = "[gateway]\nname = \"g\"\n\n[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n\n[[device]]\n\
                     name = \"pump\"\nbus = \"b\"\nunit_id = 1\n\n# what it is at\n[[device.tag]]\nname = \"pressure\"\n\
                     address = \"holding:100\"\ntype = \"float32\" # of the manual\nunit = \"bar\"\n";

/// Exit code, standard output, standard error.
fn tags(words: &[&str], home: &Path) -> (Option<i32>, String, String) {
    let told = Command::new(env!("CARGO_BIN_EXE_ironbridge")).arg("tags").args(words).current_dir(home).output();
    let told = told.expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (told.status.code(), text(&told.stdout), text(&told.stderr))
}

#[test]
fn tags_go_through_a_spreadsheet_and_come_back() {
    let home = tempfile::tempdir().expect("a directory");
    let (home, read) = (home.path(), |name: &str| fs::read_to_string(home.path().join(name)).expect("readable"));
    fs::write(home.join("plant.toml"), PLANT).expect("written");
    let export = ["export", "--config", "plant.toml", "--device", "pump"];
    let csv = "name,address,type,unit\n# what it is at\npressure,holding:100,float32,bar\n";
    assert_eq!(tags(&export, home), (Some(0), csv.to_owned(), String::new()));

    let to_file = [&export[..], &["--output", "pump.csv"]].concat();
    assert_eq!(tags(&to_file, home).1, "1 tag of 1 device in pump.csv\n");
    let (code, _, told) = tags(&to_file, home);
    assert!(code == Some(64) && told.contains("--force"), "{told}");
    assert_eq!(read("pump.csv"), csv);

    fs::write(home.join("pump.csv"), format!("{csv}speed,holding:102,uint16,rpm\n")).expect("written");
    let import = ["import", "pump.csv", "--config", "plant.toml", "--device", "pump"];
    let (code, _, told) = tags(&import, home);
    assert!(code == Some(64) && told.contains("new: speed") && told.contains("--force"), "{told}");
    assert_eq!(read("plant.toml"), PLANT, "nothing is written without being asked");
    let (code, told, _) = tags(&[&import[..], &["--force", "--json"]].concat(), home);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told["added"][0], &told["tags"]), (Some(0), &"speed".into(), &2.into()), "{told}");
    let speed = "\n[[device.tag]]\nname = \"speed\"\naddress = \"holding:102\"\ntype = \"uint16\"\nunit = \"rpm\"\n";
    assert_eq!(read("plant.toml"), format!("{PLANT}{speed}"));
    assert_eq!(fs::read_dir(home).expect("listed").count(), 2, "no draft is left");
}

#[test]
fn a_script_is_told_row_and_column_and_no_file_is_touched() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("plant.toml"), PLANT).expect("written");
    fs::write(home.join("in.csv"), "name,address,type\na,holding:1,uint17\nb,holding:x,int16\n").expect("written");
    for target in [&["--output", "out.toml"][..], &["--config", "plant.toml", "--device", "pump", "--force"]] {
        let (code, told, error) = tags(&[&["import", "in.csv", "--json"], target].concat(), home);
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((code, &told["ok"]), (Some(78), &false.into()), "{told} {error}");
        let place = |at: usize| (told["problems"][at]["row"].as_u64(), told["problems"][at]["key"].as_str());
        assert_eq!((place(0), place(1)), ((Some(2), Some("type")), (Some(3), Some("address"))), "{told}");
        let (code, _, told) = tags(&[&["import", "in.csv"], target].concat(), home);
        assert!(code == Some(78) && told.contains("nothing is written") && told.contains("in.csv:3:3"), "{told}");
    }
    assert!(!home.join("out.toml").exists());
    assert_eq!(fs::read_to_string(home.join("plant.toml")).expect("readable"), PLANT);
}
