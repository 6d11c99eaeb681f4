//! What `read` and `write` share: where to ask and for what (`target`), the asking itself (`ask`; in SunSpec models
//! `models`), and what an answer that is none means in plain words (`explain`). On the field room's own driver, so that
//! its gate guards here too.

pub mod ask;
pub mod explain;
pub mod models;
pub mod target;
