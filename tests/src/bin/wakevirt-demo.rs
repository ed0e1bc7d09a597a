//! Shows the way of a packet, from the wire to a running domain: see [`wakevirt_tests::demo`].

fn main() -> std::process::ExitCode {
    wakevirt_tests::demo::run()
}
