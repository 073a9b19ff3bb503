//! Hostile input: damaged files of every kind, kills and errors at every call that changes a file, full disks, storms of
//! signals, and arbitrary bytes for every parser.
//!
//! However it is treated, the program ends with status 0, 1 or 2 and at most one line of error; it neither hangs nor
//! panics; damage is found or does no harm; and nothing is lost: what goes on ends with the bits that it would have had.
//!
//! `cargo test --test hostile` runs a part, by fixed seeds. `HOSTILE=full cargo test --release --test hostile --
//! --nocapture` runs all of it on a quiet machine and prints the counts of each class.

#[path = "../cli/prepare/archives.rs"]
mod archives;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod inputs;
mod interrupted;
mod parsers;
mod program;
