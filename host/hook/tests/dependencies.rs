//! The hook links only the crates that `dependencies.txt` lists.

use wakevirt_tests::project::dependencies;

#[test]
fn dependencies_match_the_committed_list() {
    dependencies::assert_listed(
        "wakevirt-hook",
        "host/hook",
        "Each new crate runs as root whenever a domain starts or stops",
    );
}
