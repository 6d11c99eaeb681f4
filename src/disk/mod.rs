//! All of SQLite, and nothing about samples: opening database files safely, schemas, the writer threads, the journal.
//!
//! `rusqlite` is used in this room only. SQLite calls block: nobody calls this room from async code but through a
//! thread of its own.

pub mod database;
pub mod retained;
