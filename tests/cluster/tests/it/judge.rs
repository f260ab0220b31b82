//! Judges the log of an earlier run again.

use std::path::Path;

use cluster::{check, log};

/// `CHAT_TEST_RUN=file cargo test -p cluster judge`. Without a file there is nothing to judge.
#[test]
fn the_run_that_is_named_lost_nothing() {
    let Some(file) = std::env::var_os("CHAT_TEST_RUN") else { return };
    let wrong = check::check(&log::load(Path::new(&file)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_run_is_read_back_from_its_file_as_it_was() {
    let log = log::Log::create("read_back", rand::random());
    log.add(log::Entry::Fault { fault: "none".to_owned() });
    log.add(log::Entry::Memory { node: 1, bytes: 5 });
    let read = log::load(log.finish());
    assert!(read.len() == 3 && log.read(|entries| entries == read));
}
