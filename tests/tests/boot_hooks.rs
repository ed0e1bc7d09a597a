//! Hooks of one's own on a booted Debian system, with the commands of docs/HOOKS.md; and the unit that switches a
//! monitor.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::fs::read_to_string;
use std::io::Write as _;
use std::process::Stdio;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::privileged;
use wakevirt_tests::project::readme::{blocks_of, commands_of};

/// A domain that a shell, systemd or an option parser could misread.
const AWKWARD: &str = r#"-win "$HOME" ${PATH} %i\x2d'"#;

const PAGE: &str = "docs/HOOKS.md";

/// A booted Debian system, on which the commands of the page need no sudo.
fn boot(host: &Host, prepare: impl FnOnce(&Debian<'_>)) -> Debian<'_> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    prepare(&debian);
    debian.boot();
    debian.sh("chmod +x /usr/local/bin/sudo");
    debian
}

/// The instance of a unit for this domain.
fn escaped(debian: &Debian<'_>, domain: &str) -> String {
    let output = debian.command("systemd-escape").args(["--", domain]).output().expect("systemd-escape runs");
    String::from_utf8(output.stdout).expect("the name is ASCII").trim().to_owned()
}

/// Runs `systemctl VERB` for the instance of a template.
fn systemctl(debian: &Debian<'_>, verb: &str, template: &str, domain: &str) {
    let unit = template.replace('@', &format!("@{}", escaped(debian, domain)));
    let output = debian.command("systemctl").args([verb, &unit]).output().expect("systemctl runs");
    assert!(
        output.status.success(),
        "{verb} {unit}: {output:?}\n{}",
        debian.sh("journalctl --boot --lines=30")
    );
}

/// Replaces the commands in a unit with those of the page.
fn replace_commands(debian: &Debian<'_>, unit: &str, commands: &str) {
    let path = format!("/etc/systemd/system/{unit}");
    let text = debian.sh(&format!("cat {path}"));
    let key = |line: &str| line.split_once('=').map(|(key, _)| key.to_owned());
    let replaced = text.lines().map(|line| {
        let of_page = commands.lines().find(|command| key(command) == key(line));
        of_page.unwrap_or(line).to_owned() + "\n"
    });
    let replaced: String = replaced.collect();
    assert_ne!(replaced, text, "{unit} has none of the commands");
    let mut tee = debian.command("tee");
    let mut tee = tee.arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("tee runs");
    tee.stdin.take().expect("it is piped").write_all(replaced.as_bytes()).expect("tee reads");
    assert!(tee.wait().expect("tee exits").success());
}

#[test]
fn page_stops_a_service_while_a_domain_runs() {
    privileged!();
    let host = Host::new();
    let debian = boot(&host, |debian| {
        debian.write("/etc/systemd/system/backup.timer", "[Timer]\nOnCalendar=yearly\n");
        debian.write("/etc/systemd/system/backup.service", "[Service]\nExecStart=/bin/true\n");
    });
    debian.sh("systemctl start backup.timer");
    let section = "Stop a service while a domain runs";
    let blocks = commands_of(PAGE, section);
    let [new, enable, test] = blocks.as_slice() else { panic!("the section has other blocks: {blocks:?}") };
    let printed = debian.sh(new);
    assert!(printed.contains("systemctl enable pause-backup@.service"), "{printed}");
    replace_commands(&debian, "pause-backup@.service", &blocks_of(PAGE, section, "ini").concat());
    debian.sh(enable);
    assert_eq!(debian.sh(test), "inactive\nactive\n");

    // The pattern does not match this domain.
    systemctl(&debian, "start", "wakevirt-prepare@.target", "linux");
    assert_eq!(debian.sh("systemctl is-active backup.timer"), "active\n");
    let table = debian.sh("cat /etc/wakevirt/host.d/50-pause-backup.toml");
    assert!(table.ends_with("[[domain]]\nmatch = \"win*\"\n"), "{table}");
    let check = debian.sh("wakevirt-host --check");
    assert!(check.contains("match = \"win*\""), "{check}");
    assert_eq!(debian.sh("systemctl --failed --no-legend --plain"), "");
}

#[test]
fn a_hook_receives_the_name_of_its_domain_as_it_is() {
    privileged!();
    let host = Host::new();
    let debian = boot(&host, |_| {});
    for (name, options) in
        [("all", "--all"), ("some", "--for='-win*'"), ("other", "--for 'x*'"), ("late", "--all --running")]
    {
        debian.sh(&format!("wakevirtctl host new {name} {options}; systemctl enable {name}@.service"));
    }
    // journalctl fails if the unit has logged nothing.
    let log = |unit: &str| {
        debian.sh(&format!(
            "journalctl --sync; journalctl --boot --output=cat --identifier=echo --unit='{unit}@*' || true"
        ))
    };
    let (before, after) = (format!("before {AWKWARD}\n"), format!("after {AWKWARD}\n"));
    systemctl(&debian, "start", "wakevirt-prepare@.target", AWKWARD);
    assert_eq!([log("all"), log("some"), log("other"), log("late")], [&before, &before, "", ""]);
    systemctl(&debian, "start", "wakevirt-domain@.target", AWKWARD);
    assert_eq!(log("late"), before);
    systemctl(&debian, "stop", "wakevirt-domain@.target", AWKWARD);
    systemctl(&debian, "stop", "wakevirt-prepare@.target", AWKWARD);
    // The target stops before its units.
    debian.sh("until [ -z \"$(systemctl list-jobs --no-legend)\" ]; do sleep 0.1; done");
    let both = before + &after;
    assert_eq!([log("all"), log("some"), log("other"), log("late")], [&both, &both, "", &both]);
    assert_eq!(debian.sh("systemctl --failed --no-legend --plain"), "");

    // No file is replaced.
    let files = "cat /etc/systemd/system/*@.service /etc/wakevirt/host.d/*; ls -R /etc/wakevirt /etc/systemd";
    let written = debian.sh(files);
    for arguments in
        ["all --all", "wakevirt-nas --all", "none", "braces --for '{a,b}'", "systemd-nspawn --all"]
    {
        let line = format!("wakevirtctl host new {arguments}");
        let output = debian.command("bash").args(["-c", &line]).output().expect("bash runs");
        assert!(!output.status.success(), "{line}");
    }
    assert_eq!(debian.sh(files), written);
}

/// Replaces ddcutil(1): prints its arguments, and fails for one of the monitors.
const DDCUTIL: &str = "#!/bin/sh\nprintf 'ddcutil'\nprintf ' <%s>' \"$@\"\necho\n[ \"$3\" != BAD ]\n";

#[test]
fn a_monitor_is_switched_to_a_domain_and_back() {
    privileged!();
    let host = Host::new();
    let debian = boot(&host, |debian| {
        debian.write("/usr/bin/ddcutil", DDCUTIL);
        debian.write(
            "/etc/wakevirt/host.toml",
            "[[domain]]\nmatch = \"bad\"\nmonitor = { serial = \"BAD\", vm = 1, host = 2 }\n\
             [[domain]]\nmatch = \"plain\"\nprepare = []\n\
             [[domain]]\nmatch = \"-win*\"\nmonitor = { model = \"LG 4K\", vm = 0x11, host = 0x0f }\n",
        );
    });
    debian.sh("chmod +x /usr/bin/ddcutil");
    let unit = "wakevirt-monitor@.service";
    let log = || debian.logged("--identifier=wakevirt-monitor --unit='wakevirt-monitor@*'");
    systemctl(&debian, "start", unit, AWKWARD);
    let to_domain = "ddcutil <--noverify> <--model> <LG 4K> <setvcp> <60> <0x11>\n";
    assert_eq!(log(), to_domain);
    // The monitor is switched back, although the configuration names another one now.
    debian.sh("sed -i 's/LG 4K/Other/' /etc/wakevirt/host.toml");
    systemctl(&debian, "stop", unit, AWKWARD);
    assert_eq!(log(), format!("{to_domain}{}", to_domain.replace("0x11", "0x0f")));

    assert_eq!(debian.sh("ls -A /run/wakevirt-monitor"), "");

    for (domain, reason) in
        [("bad", "failed (exit status: 1)"), ("plain", "names no monitor"), ("none", "names no monitor")]
    {
        let line = format!("systemctl start wakevirt-monitor@{domain}.service");
        let started = debian.command("bash").args(["-c", &line]).status().expect("bash runs");
        assert!(!started.success(), "{domain}");
        assert!(log().contains(reason), "{domain}: {}", log());
    }
}

#[test]
fn the_unit_for_monitors_has_access_to_i2c_buses_only() {
    let unit =
        read_to_string(project().join("systemd/host/wakevirt-monitor@.service")).expect("it can be read");
    let allowed: Vec<&str> = unit.lines().filter(|line| line.starts_with("Device")).collect();
    assert_eq!(allowed, ["DevicePolicy=closed", "DeviceAllow=char-i2c rw"]);
    for line in ["User=wakevirt-ddc", "SupplementaryGroups=i2c", "CapabilityBoundingSet="] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
}
