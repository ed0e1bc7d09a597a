//! A host with a bus, both services, and two domains of libvirt's test driver.

use serde_json::Value;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};

pub const ALLOWED_MAC: &str = "52:54:00:01:02:03";
pub const OTHER_MAC: &str = "52:54:00:01:02:04";

/// The services and the bus on a host.
pub struct Site<'host> {
    pub host: &'host Host,
    pub actor: Option<Daemon>,
    pub capture: Option<Daemon>,
    pub libvirtd: Libvirtd<'host>,
    _bus: Bus<'host>,
}

/// What the program printed.
#[derive(Debug)]
pub struct Printed {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl<'host> Site<'host> {
    /// Starts everything. A rule allows the `vm1` domain; `vm2` is not allowed.
    pub fn new(host: &'host Host) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let libvirtd = Libvirtd::start(host);
        libvirtd.define(TEST, &test_domain("vm1", ALLOWED_MAC));
        libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
        let capture = Daemon::capture(host).start_on_bus();
        let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm1\"\n");
        let actor = Daemon::actor(host).with_drop_ins().config(&config).start_connected();
        Self { host, actor: Some(actor), capture: Some(capture), libvirtd, _bus: bus }
    }

    /// Runs the program as root, and requires success.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let printed = run(self.host, User::Root, arguments);
        assert!(printed.status == 0 && printed.err.is_empty(), "{arguments:?}: {printed:?}");
        printed.out
    }

    /// Runs the program as root with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[&["--json"], arguments].concat())).unwrap()
    }
}

/// Runs the program on the host.
pub fn run(host: &Host, user: User, arguments: &[&str]) -> Printed {
    let mut command = host.command_as(user, &format!("{PROGRAMS}/wakevirtctl"));
    let output = command.args(arguments).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = output.status.code().expect("it exits");
    Printed { status, out: text(&output.stdout), err: text(&output.stderr) }
}
