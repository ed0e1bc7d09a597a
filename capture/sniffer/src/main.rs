//! The sniffer: reads packets, and can do nothing else. `wakevirt-capture` starts it.

fn main() {
    wakevirt_sniffer::run()
}
