//! The layout `device` needs topics for whole devices; where the template gives none, or one that belongs to something
//! else, the configuration is refused.

use crate::support;

use std::fmt::Write;

use support::assert_refused;

fn devices(topic: &str, names: &[(&str, &str)]) -> String {
    let mut text = format!("[gateway]\nname = \"gw\"\ntopic = \"{topic}\"\n");
    text += "[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:502\"\n";
    for (unit, (device, tag)) in (1..).zip(names) {
        let _ = write!(text, "[[device]]\nname = \"{device}\"\nbus = \"net\"\nunit_id = {unit}\npoll = \"1s\"\n");
        let _ = write!(text, "[[device.tag]]\nname = \"{tag}\"\naddress = \"holding:1\"\ntype = \"uint16\"\n");
    }
    text + "[[uplink]]\nname = \"u\"\nurl = \"mqtt://x\"\n"
}

#[test]
fn a_device_without_a_topic_of_its_own_is_refused() {
    let cases = [
        (devices("a/{device}", &[("pump", "flow")]), "needs {tag}"),
        (devices("{tag}", &[("pump", "flow")]), "needs {tag}"),
        (devices("a/{tag}", &[("pump", "flow"), ("fan", "speed")]), "would both have the topic"),
        (devices("a/{device}{tag}", &[("x", "y"), ("xy", "z")]), "that is a tag's"),
        (devices("{tag}/ironbridge/{device}", &[("pump", "flow")]), "must not begin"),
    ];
    for (text, message) in &cases {
        assert_refused(text, &[("layout = «\"device\"", "uplink[0].layout", message)]);
    }
}
