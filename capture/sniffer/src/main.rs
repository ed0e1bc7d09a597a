//! `wakevirt-sniffer`: parses packets in a sandbox. `wakevirt-capture` starts it.

fn main() {
    wakevirt_sniffer::run()
}
