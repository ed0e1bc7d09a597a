//! The sniffer links only the crates that `dependencies.txt` lists.

use wakevirt_tests::project::dependencies;

#[test]
fn dependencies_match_the_committed_list() {
    dependencies::assert_listed(
        "wakevirt-sniffer",
        "capture/sniffer",
        "Each new crate runs in the process that parses untrusted packets",
    );
}
