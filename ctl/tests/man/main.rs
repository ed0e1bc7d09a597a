//! The man page is generated from the command line's definitions and the sections in this directory.
//!
//! `WAKEVIRT_WRITE_MAN=1 cargo test -p wakevirt-ctl --test man` writes it.

mod mdoc;

use std::path::Path;

use clap::CommandFactory as _;
use wakevirt_ctl::options::Options;

#[test]
fn man_page_matches_the_definitions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man/wakevirtctl.1");
    let mut command = Options::command();
    command.build();
    let generated = mdoc::page(&command);
    if std::env::var_os("WAKEVIRT_WRITE_MAN").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let differs = written.lines().zip(generated.lines()).find(|(written, generated)| written != generated);
    assert!(
        written == generated,
        "docs/man/wakevirtctl.1 is not up to date, first at {differs:?}: run \
         `WAKEVIRT_WRITE_MAN=1 cargo test -p wakevirt-ctl --test man`"
    );
}
