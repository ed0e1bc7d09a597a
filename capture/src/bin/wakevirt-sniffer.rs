//! The sniffer: reads packets, and can do nothing else. `wakevirt-capture` starts it.

fn main() {
    let code = wakevirt_capture::sniffer::run();
    wakevirt_capture::sniffer::ffi::exit(code)
}
