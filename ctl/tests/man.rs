//! The man page lists exactly the options of `wakevirtctl`.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

#[test]
fn man_page_lists_all_options() {
    let mut command = wakevirt_ctl::Options::command();
    command.build();
    let read = command.find_subcommand("read").unwrap();
    let options = command.get_arguments().chain(read.get_arguments());
    let options: BTreeSet<_> = options.filter_map(clap::Arg::get_long).collect();
    let page = include_str!("../../docs/man/wakevirtctl.1");
    let entries = page.lines().filter(|line| line.starts_with(".It Fl"));
    let documented: BTreeSet<_> =
        entries.filter_map(|line| line.split_once("Fl -")?.1.split(' ').next()).collect();
    assert_eq!(documented, options);
}
