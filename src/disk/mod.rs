//! All of SQLite, and nothing about samples: opening database files safely, schemas, the writer threads, the journal.
//!
//! `rusqlite` is used in this room only. SQLite calls block: nobody calls this room from async code but through a
//! thread of its own.
//!
//! `database` opening and layouts · `fault` what can go wrong · `directory` files and bytes of a store ·
//! `image` whether a file is damaged, beyond doubt · `plausible` numbers that nobody can have written ·
//! `patience` how long one is waited for that the medium refuses ·
//! `chunk` segments of one class · `meta` everything else a store must know (`meter` one table of it, `copy` when it is copied) ·
//! `marks` high-water marks, kept apart · `received` the receiver's database · `tail` what is not in a chunk yet ·
//! `journal` commands, before they are acknowledged · `ledger` what the broker keeps · `learned` what was learned about devices ·
//! `whole` a small file beside them.

pub mod chunk;
mod copy;
pub mod database;
pub mod directory;
pub mod fault;
mod image;
pub mod journal;
pub mod learned;
pub mod ledger;
pub mod marks;
pub mod meta;
pub mod meter;
mod patience;
mod plausible;
pub mod received;
pub mod tail;
pub mod whole;
