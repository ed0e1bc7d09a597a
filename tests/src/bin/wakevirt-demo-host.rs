//! Demonstrates host preparation: see [`wakevirt_tests::demo::vm`].

fn main() -> std::process::ExitCode {
    wakevirt_tests::demo::vm::run()
}
