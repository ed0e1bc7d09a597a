//! Restricted permissions in libvirt: a real libvirtd with its access driver, a real polkitd, the shipped rules, and
//! the actor's user without the `libvirt` group. `states.rs` wakes domains in every state with these permissions.

use std::thread;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::QEMU;
use wakevirt_tests::libvirt::machine::{Emulator, Guest, Machine, open_gate};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::restricted::{Restricted, shipped};
use wakevirt_tests::scene::{ALL_ALLOWED, LibvirtAccess, Scene};

/// The rule that restores the permissions of the `libvirt` group.
const GROUP_RULE: &str = "docs/examples/restricted/50-libvirt-group.rules";
const SECRET: &str = "11111111-1111-4111-8111-111111111111";

/// Creates the domains `off`, `on`, `paused` and `asleep`, in these states.
fn with_domains(host: &Host) -> Restricted<'_> {
    let libvirt = Restricted::new(host);
    for name in ["off", "on", "paused"] {
        Machine::new(name).define(&libvirt.libvirtd);
    }
    Machine::new("asleep").guest(Guest::Suspends).define(&libvirt.libvirtd);
    libvirt.virsh_as_root("start on");
    libvirt.virsh_as_root("start paused --paused");
    libvirt.virsh_as_root("start asleep");
    libvirt.libvirtd.wait_for_state(QEMU, "asleep", "pmsuspended");
    libvirt
}

#[test]
fn shipped_rule_allows_what_a_wake_needs() {
    privileged!();
    let host = Host::new();
    let libvirt = with_domains(&host);
    let list = libvirt.virsh(User::Actor, "list --all --name").unwrap();
    let mut names: Vec<_> = list.split_whitespace().collect();
    names.sort_unstable();
    assert_eq!(names, ["asleep", "off", "on", "paused"]);
    assert!(libvirt.virsh(User::Actor, "dumpxml off").unwrap().contains("<mac address="));
    for (line, domain, state) in [
        ("start off", "off", "running (booted)"),
        ("resume paused", "paused", "running (unpaused)"),
        ("dompmwakeup asleep", "asleep", "running (event wakeup)"),
        // The permissions for a wake allow this as well.
        ("suspend on", "on", "paused (user)"),
    ] {
        libvirt.virsh(User::Actor, line).unwrap();
        // After a wakeup, libvirt changes the state when QEMU's event arrives, which follows the reply.
        libvirt.libvirtd.wait_for_state(QEMU, domain, state.split(' ').next().unwrap());
        assert_eq!(libvirt.virsh(User::Actor, &format!("domstate --reason {domain}")).unwrap(), state);
    }
    // A start can discard the saved state instead of restoring it.
    libvirt.virsh_as_root("managedsave off");
    libvirt.virsh(User::Actor, "start off --force-boot").unwrap();
    assert_eq!(libvirt.virsh_as_root("domstate --reason off"), "running (booted)");
    // libvirtd reads the file as root before it asks polkit.
    host.sh("install -m 600 /dev/null /root/private");
    for (file, message) in [("/root/private", "failed to read"), ("/root/missing", "No such file")] {
        let error = libvirt.virsh(User::Actor, &format!("restore {file}")).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

/// virsh(1) commands that libvirt must deny to the actor's user.
const DENIED: &[&str] = &[
    // Definitions. A new one could use the host's disks.
    "define /run/new.xml",
    "create /run/new.xml",
    "undefine off",
    "domrename off other",
    "autostart off",
    "desc off hello",
    "metadata off --uri x:y --key k --set '<a/>'",
    "setmem off 16M --config",
    "setvcpus off 2 --config",
    // Devices.
    "attach-device on /run/nic.xml --live",
    "attach-device off /run/nic.xml --config",
    "detach-device off /run/nic.xml --config",
    "update-device on /run/nic.xml --live",
    "attach-disk on /etc/shadow vdb",
    // The state of a running domain.
    "destroy on",
    "shutdown on",
    "reboot on",
    "reset on",
    "inject-nmi on",
    "send-key on 1",
    "migrate --live --p2p on qemu+unix:///system?socket=/run/missing",
    "domjobabort on",
    // Its memory and its guest.
    "save on /run/save",
    "managedsave on",
    "managedsave-remove kept",
    "restore /run/saved",
    "dump on /run/dump",
    "snapshot-create on",
    "console on",
    "screenshot on /run/screen",
    "qemu-monitor-command on --hmp info",
    "qemu-agent-command on {}",
    "set-user-password on root x",
    "guestinfo on",
    "domfsfreeze on",
    // Secrets.
    "dumpxml off --security-info",
    "secret-list",
    "secret-get-value 11111111-1111-4111-8111-111111111111",
    // Other libvirt objects.
    "pool-list --all",
    "pool-define /run/pool.xml",
    "vol-create-as pool new 1M",
    "vol-download --pool pool volume /dev/null",
    "vol-upload --pool pool volume /etc/hostname",
    "net-list --all",
    "net-define /run/network.xml",
    "net-start network",
    "iface-list",
    "nodedev-list",
    "nwfilter-list",
    // The host.
    "capabilities",
    "nodeinfo",
    "nodesuspend mem 60",
    "allocpages 4K 0 --add",
];

/// Creates what the commands in [`DENIED`] refer to: saved domains, a pool, a network, a secret, and XML files.
fn create_objects(host: &Host, libvirt: &Restricted<'_>) {
    for name in ["kept", "saved"] {
        Machine::new(name).define(&libvirt.libvirtd);
        libvirt.virsh_as_root(&format!("start {name}"));
    }
    libvirt.virsh_as_root("managedsave kept");
    libvirt.virsh_as_root("save saved /run/saved");
    host.sh("mkdir /run/pool");
    host.write("/run/pool.xml", "<pool type='dir'><name>etc</name><target><path>/etc</path></target></pool>");
    host.write("/run/network.xml", "<network><name>network</name><bridge name='br7'/></network>");
    host.write("/run/nic.xml", "<interface type='bridge'><source bridge='br0'/></interface>");
    let new: Vec<_> = libvirt.virsh_as_root("dumpxml off --inactive").lines().map(str::to_owned).collect();
    let new: Vec<_> = new.iter().filter(|line| !line.contains("uuid") && !line.contains("<mac")).collect();
    let new: String = new.iter().map(|line| line.replace("<name>off<", "<name>new<") + "\n").collect();
    host.write("/run/new.xml", &new);
    let usage = "<usage type='volume'><volume>/x</volume></usage>";
    host.write("/run/secret.xml", &format!("<secret><uuid>{SECRET}</uuid>{usage}</secret>"));
    host.write("/run/secret", "c2VjcmV0");
    for line in [
        "secret-define /run/secret.xml",
        &format!("secret-set-value {SECRET} --file /run/secret"),
        "pool-define-as pool dir --target /run/pool",
        "pool-start pool",
        "vol-create-as pool volume 1M",
        "net-define /run/network.xml",
    ] {
        libvirt.virsh_as_root(line);
    }
}

#[test]
fn shipped_rule_allows_nothing_else() {
    privileged!();
    let host = Host::new();
    let libvirt = with_domains(&host);
    create_objects(&host, &libvirt);
    libvirt.assert_denied(User::Actor, DENIED);
    // A sample of the commands succeeds as root: libvirt denied them only because of the missing permissions.
    for line in [
        "define /run/new.xml",
        "attach-device on /run/nic.xml --live",
        "restore /run/saved",
        "dumpxml off --security-info",
        "secret-get-value 11111111-1111-4111-8111-111111111111",
        "pool-define /run/pool.xml",
        "managedsave-remove kept",
        "destroy on",
        "undefine off",
    ] {
        libvirt.virsh_as_root(line);
    }
}

#[test]
fn group_rule_restores_the_permissions_of_the_group() {
    privileged!();
    const LINES: [&str; 3] = ["destroy on", "dumpxml off --security-info", "undefine off"];
    let host = Host::new();
    let mut libvirt = with_domains(&host);
    // The access driver removes the permissions of the group.
    libvirt.virsh(User::LibvirtMember, "list --all").unwrap();
    libvirt.assert_denied(User::LibvirtMember, &LINES);

    libvirt.polkitd.write_rules("50-libvirt-group.rules", &shipped(GROUP_RULE));
    libvirt.restart_polkit();
    // The rule does not apply to the actor's user, even if that user is a member of the group.
    host.sh("usermod --append --groups libvirt wakevirt-actor");
    libvirt.assert_denied(User::Actor, &LINES);
    // The rule does not apply to other users.
    assert!(libvirt.virsh(User::Unprivileged, "list --all").is_err());
    for line in LINES {
        libvirt.virsh(User::LibvirtMember, line).unwrap();
    }
}

#[test]
fn a_wake_waits_while_the_domain_starts() {
    privileged!();
    let host = Host::new();
    let machines = [Machine::new("slow").emulator(Emulator::Gated)];
    let scene = Scene::with_access(LibvirtAccess::Restricted, &host, &machines, ALL_ALLOWED);
    thread::scope(|scope| {
        scope.spawn(|| scene.virsh(&["start", "slow"]));
        scene.wait_for_state("slow", "paused");
        assert_eq!(scene.state("slow"), "paused (starting up)");
        scene.packet("slow", 1);
        scene.wait_until_active("slow");
        assert_eq!((scene.decisions("slow"), scene.state("slow").as_str()), (0, "paused (starting up)"));
        open_gate(&host);
    });
    let (outcome, line) = scene.outcome("slow");
    assert_eq!(outcome, "already-running", "{line}");
    assert_eq!(scene.starts("slow"), 1);
}

#[test]
fn logs_its_permissions_at_each_connection() {
    privileged!();
    for (access, text) in [
        (LibvirtAccess::Group, "not restricted; the actor is allowed to do everything there"),
        (LibvirtAccess::Restricted, "restricted by libvirt's access driver"),
    ] {
        let host = Host::new();
        let mut scene = Scene::with_access(access, &host, &[], ALL_ALLOWED);
        let log = scene.actor.as_ref().unwrap().log().clone();
        let line = format!("permissions on {QEMU}: {text}");
        let _ = log.wait_for(&line);
        // The actor logs the line again at the next connection.
        scene.libvirtd.kill();
        scene.libvirtd.start_again();
        let _ = log.wait_for_nth(&line, 2);
        assert_eq!(log.count("permissions on"), 2, "{access:?}");
        scene.actor.as_mut().unwrap().stop();
    }
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let actor = Daemon::actor(&host).config("connections = [\"test:///default\"]").start();
    let permissions = actor.log().wait_for("permissions on test:///default: ");
    // The test driver has no access driver. Before libvirt 10, it does not answer the query.
    let expected = ["unknown; the check failed: ", "not restricted; "];
    assert!(expected.iter().any(|text| permissions.contains(text)), "{permissions}");
}
