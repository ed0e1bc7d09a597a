//! wakevirt with s6 as the init system.

use wakevirt_tests::init::{Init, scenario};
use wakevirt_tests::privileged;

#[test]
#[ignore = "make check-anywhere"]
fn boots_wakes_reloads_and_stops() {
    privileged!();
    println!("tried: {}", scenario::run(Init::S6));
}
