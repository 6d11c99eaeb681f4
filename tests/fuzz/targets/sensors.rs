//! Datagrams that may be messages of MQTT-SN.

use ironbridge::broker::sn::{enclose, open, read, write};

/// Any bytes are read without a panic; what is read and written reads as the same, and never longer than its long form.
pub fn run(data: &[u8]) {
    let Ok((node, inner)) = open(data) else { return };
    assert!(inner.len() <= data.len());
    if let Some(node) = node {
        let again = enclose(node, inner);
        assert_eq!(open(&again), Ok((Some(node), inner)));
    }
    let Ok(message) = read(inner) else { return };
    let written = write(&message);
    assert!(written.len() <= inner.len() + 2, "{message:?}");
    assert_eq!(read(&written).as_ref(), Ok(&message));
}
