//! The runtime drop-ins that systemd writes for the service, and those of the administrator.

use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::{privileged, wait};

use super::{hook, site, state};

const CONFIG: &str =
    "[[domain]]\nmatch = \"vm*\"\nweight = 900\n[[domain]]\nmatch = \"pinned\"\nprepare = [\"isolate\"]\n";

/// All drop-ins that systemd has written, with their content, and the values of the slices.
fn observed(debian: &Debian<'_>) -> String {
    debian.sh("
        find /run/systemd/system.control /run/systemd/transient /etc/systemd/system.control \
            -path '*.d/*' -print -exec cat '{}' + 2>/dev/null || true
        systemctl show --property=CPUWeight --property=AllowedCPUs system.slice user.slice machine.slice init.scope")
}

/// Replaces the cgroup of `machine.slice`, because there is no cpu controller. Its weight changes as the service expects.
const CGROUP: &str = "mkdir /run/machine.slice; mount --bind /run/machine.slice /sys/fs/cgroup/machine.slice";

fn site_with_cgroup(host: &Host) -> Debian<'_> {
    let debian = site(host, CONFIG);
    debian.sh(CGROUP);
    debian
}

/// Starts and stops a domain whose weight is set, and checks the value while it is active. `before` is the weight before.
fn cycle(debian: &Debian<'_>, before: u32) {
    debian.sh("echo 900 >/run/machine.slice/cpu.weight");
    debian.sh(&hook("vm1", "prepare"));
    debian.sh("systemctl is-active wakevirt-drop-ins");
    let weight = debian.sh("cat /run/systemd/system.control/machine.slice.d/50-CPUWeight.conf");
    assert!(weight.contains("CPUWeight=900\n"), "{weight}");
    debian.sh(&format!("echo {before} >/run/machine.slice/cpu.weight"));
    debian.sh(&hook("vm1", "release"));
    wait_for_removal(debian);
}

fn wait_for_removal(debian: &Debian<'_>) {
    wait::until_true("the drop-ins to be removed", || {
        debian.sh("systemctl is-active wakevirt-drop-ins || true") == "inactive\n"
            && state(debian).contains("\"before\": null")
    });
}

#[test]
fn no_drop_in_remains_after_the_last_domain() {
    privileged!();
    let host = Host::new();
    let debian = site_with_cgroup(&host);
    let before = observed(&debian);
    cycle(&debian, 100);
    assert_eq!(observed(&debian), before);

    // A limit without effect: systemd has written drop-ins for all slices, and the scope.
    let pinned = hook("pinned", "prepare")
        .replace("</domain>", "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune></domain>");
    debian.sh(&pinned);
    assert!(state(&debian).contains("AllowedCPUs has no effect on"), "{}", state(&debian));
    debian.sh(&hook("pinned", "release"));
    wait_for_removal(&debian);
    assert_eq!(observed(&debian), before);
}

#[test]
fn the_administrators_drop_ins_survive() {
    privileged!();
    let host = Host::new();
    let debian = site_with_cgroup(&host);
    let set = |line: &str| debian.sh(&format!("systemctl set-property {line}"));
    set("--runtime system.slice AllowedCPUs=0 IOWeight=50");
    set("user.slice AllowedCPUs=0");
    for (option, weight) in [("--runtime", 400), ("", 300)] {
        debian.sh("systemctl revert machine.slice");
        set(&format!("{option} machine.slice CPUWeight={weight}"));
        let before = observed(&debian);
        assert!(before.contains(&format!("CPUWeight={weight}")), "{before}");
        for _ in 0..2 {
            cycle(&debian, weight);
            assert_eq!(observed(&debian), before, "{option}");
        }
    }
}
