//! A configuration file of the actor either is rejected with a readable error, or gives a configuration that is within
//! the limits, and is the same after it is displayed and read again. Both programs read it, the one for libvirt and the
//! one for a cluster.

#![no_main]

mod memory;

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use memory::MemoryFile;
use wakevirt_actor::Options;
use wakevirt_actor::config::Config;
use wakevirt_actor::model::Program;
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
    config_dir: None,
    connect: Vec::new(),
    capture_bus: Address::System,
});

const PROGRAM: Program = Program {
    name: "actor",
    uri: "test:///default",
    check_uri: |_| Ok(()),
    cool_down: Duration::from_secs(5),
    group: None,
    is_cluster: false,
};

/// Like `--check`, which skips passwords that only the service can read.
fn load(text: &[u8], program: &Program) -> Result<Config, String> {
    FILE.set(text);
    Config::check(&OPTIONS, program).map(|(config, _)| config).map_err(|error| error.to_string())
}

fuzz_target!(
    init: { load(b"", &PROGRAM).expect("the file can be read"); },
    |text: &[u8]| {
    for program in [PROGRAM, Program { is_cluster: true, ..PROGRAM }] {
        let config = match load(text, &program) {
            Ok(config) => config,
            Err(error) => {
                assert!(!error.contains(char::is_control), "{error:?}");
                continue;
            }
        };
        let shown = config.to_string();
        let again = load(shown.as_bytes(), &program).expect("the displayed configuration is valid");
        assert_eq!(again.to_string(), shown);

        let policy = &config.policy;
        assert!((1..=16).contains(&config.connections.len()));
        assert!(policy.rules.iter().count() <= 1024 && policy.aliases.len() <= 1024);
        assert!(policy.rules.iter().map(|rule| rule.glob_count()).sum::<usize>() <= 1024);
        assert!(policy.autostart.len() <= 256);
        assert!(policy.timing.hold >= Duration::from_secs(1));
    }
});
