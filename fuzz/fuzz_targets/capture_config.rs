//! A configuration file of capture either is rejected with a readable error, or gives a configuration that is within
//! the limits, and is the same after it is displayed and read again.

#![no_main]

mod memory;

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use memory::MemoryFile;
use wakevirt_capture::Options;
use wakevirt_capture::config::Settings;
use wakevirt_protocol::sniffer::{MAX_MESSAGE, MAX_OUTGOING, MAX_UDP_SOCKETS, ToSniffer};
use wakevirt_service::bus::Address;
use wakevirt_service::logs::LogTo;
use wakevirt_service::options::Common;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::new);
static OPTIONS: LazyLock<Options> = LazyLock::new(|| Options {
    common: Common {
        config: Some(FILE.path()),
        bus: Address::System,
        check: true,
        quiet: true,
        log_to: LogTo::default(),
    },
    mode: None,
    interfaces: Vec::new(),
    listen: Vec::new(),
});

fn load(text: &[u8]) -> Result<Settings, String> {
    FILE.set(text);
    Settings::load(&OPTIONS).map_err(|error| error.to_string())
}

fuzz_target!(
    init: { load(b"").expect("the file can be read"); },
    |text: &[u8]| {
    let settings = match load(text) {
        Ok(settings) => settings,
        Err(error) => return assert!(!error.contains(char::is_control), "{error:?}"),
    };
    let shown = settings.to_string();
    let again = load(shown.as_bytes()).expect("the displayed configuration is valid");
    assert_eq!(again.to_string(), shown);
    assert_eq!(again.keys_that_need_restart(&settings), [""; 0]);

    ToSniffer::Start(settings.start).encode(&mut [0; MAX_MESSAGE]).expect("the sniffer's part is within its limits");
    assert!(settings.outgoing.len() <= MAX_OUTGOING && settings.listen.len() <= MAX_UDP_SOCKETS);
    let ledger = settings.ledger;
    assert!((1..=65_536).contains(&ledger.remember) && (1..=100_000).contains(&ledger.limit));
    assert!(ledger.deduplicate <= Duration::from_secs(3600));
});
