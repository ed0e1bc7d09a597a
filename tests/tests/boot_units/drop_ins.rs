//! The drop-ins in docs/examples.

use std::fs::read_to_string;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::ssh::{NAME, SshHost, USER};
use wakevirt_tests::libvirt::{QEMU, qemu_domain};
use wakevirt_tests::{privileged, wait};

use super::*;

/// Installs an example drop-in for this unit.
fn install_drop_in(debian: &Debian<'_>, unit: &str, name: &str) {
    let file = project().join(format!("docs/examples/dropins/{unit}.d/{name}"));
    let text = read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    debian.write(&format!("/etc/systemd/system/{unit}.d/{name}"), &text);
}

#[test]
fn passwords_load_from_plain_and_encrypted_credentials() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    debian.write(
        "/etc/wakevirt/actor.toml",
        "[[allow]]\ndomain = \"win11\"\ninterfaces = [\"port0\"]\nsecure-on = \"credential:win11\"\n",
    );
    debian.boot();
    define_domain(&debian);
    assert!(!run(&debian, &format!("systemctl start {CAPTURE} {ACTOR}")).status.success());
    assert!(
        debian.journal(ACTOR).contains("add LoadCredential=win11:FILE to the unit"),
        "{}",
        debian.journal(ACTOR)
    );

    let plain = "install -m 600 /dev/null /etc/wakevirt/win11.secureon
                 echo 01:02:03:04:05:06 >/etc/wakevirt/win11.secureon";
    let encrypted = "rm /etc/wakevirt/win11.secureon
                     echo 0a:0b:0c:0d:0e:0f |
                         systemd-creds --with-key=host encrypt --name=win11 - /etc/wakevirt/win11.cred";
    let examples = [
        ("credential.conf", "01:02:03:04:05:06", plain),
        ("credential-encrypted.conf", "0a:0b:0c:0d:0e:0f", encrypted),
    ];
    for (index, (example, password, prepare)) in examples.into_iter().enumerate() {
        debian.sh(prepare);
        install_drop_in(&debian, ACTOR, example);
        debian.sh(&format!("systemctl daemon-reload && systemctl restart {ACTOR}"));
        wait_until_connected(&debian, true);
        // A reload reads the password twice: in the check before the reload, and in the service.
        debian.sh(&format!("systemctl reload {ACTOR}"));
        lan.etherwake(MAC, &["-p", &format!("ff:ff:ff:00:00:{index:02x}")]);
        let denials = || debian.journal(ACTOR).matches("bad-password").count();
        wait::until_true("the packet to be denied", || denials() == index + 1);
        lan.etherwake(MAC, &["-p", password]);
        let wakes = || debian.journal(ACTOR).matches("started: domain").count();
        wait::until_true("the domain to be woken", || wakes() == index + 1);
        debian.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));
        debian.sh(&format!("rm /etc/systemd/system/{ACTOR}.d/{example}"));
    }
    // The actor's network namespace is empty, but the actor knows the host's interfaces.
    assert!(
        !debian.journal(ACTOR).contains("on which wakevirt does not capture packets"),
        "{}",
        debian.journal(ACTOR)
    );
}

#[test]
fn capture_drop_ins_open_other_ports() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    debian.write("/etc/wakevirt/capture.toml", "mode = \"udp\"\nlisten = [\"0.0.0.0:40000\"]\n");
    install_drop_in(&debian, SOCKET, "ports.conf");
    boot_with_services(&mut debian);
    send_datagram(&lan, "52:54:00:00:00:01", "192.0.2.1", 7);
    wait_until_captured(&debian, "52:54:00:00:00:01", "udp4");
    send_datagram(&lan, "52:54:00:00:00:02", "192.0.2.1", 9);
    wait_until_captured(&debian, "52:54:00:00:00:02", "udp4");

    debian.sh(&format!("systemctl mask --now {SOCKET}"));
    // Without the socket, capture has nothing to listen on, and needs the drop-in.
    assert!(!run(&debian, &format!("systemctl restart {CAPTURE}")).status.success());
    install_drop_in(&debian, CAPTURE, "listen.conf");
    debian.sh(&format!("systemctl daemon-reload && systemctl restart {CAPTURE}"));
    send_datagram(&lan, "52:54:00:00:00:03", "192.0.2.1", 40000);
    wait_until_captured(&debian, "52:54:00:00:00:03", "udp4");
}

/// Waits until the actor has logged this text.
fn wait_for_log(debian: &Debian<'_>, text: &str) {
    let logged = wait::within(wait::TIMEOUT, || debian.journal(ACTOR).contains(text).then_some(()));
    assert!(logged.is_some(), "{text:?} is not in:\n{}", debian.journal(ACTOR));
}

#[test]
fn actor_connects_to_another_host_over_ssh() {
    privileged!();
    let (host, other) = (Host::new(), Host::new());
    let mut remote = SshHost::start(&other, &host);
    Machine::new("vm1").define(&remote.libvirtd);
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    let uri = format!("qemu+ssh://{USER}@{NAME}/system?keyfile=/etc/wakevirt/ssh/key&no_tty=1");
    debian.write(
        "/etc/wakevirt/actor.toml",
        &format!("connections = [\"{uri}\"]\n[[allow]]\ndomain = \"vm1\"\n"),
    );
    debian.boot();
    debian.sh(&format!(
        "echo 192.0.2.2 {NAME} >>/etc/hosts
         install -d -m 700 -o wakevirt-actor -g wakevirt-actor /etc/wakevirt/ssh
         setpriv --reuid wakevirt-actor --regid wakevirt-actor --clear-groups \
             ssh-keygen -q -t ed25519 -N '' -f /etc/wakevirt/ssh/key
         ssh-keyscan {NAME} >>/etc/ssh/ssh_known_hosts 2>/dev/null"
    ));
    remote.authorize(&debian.sh("cat /etc/wakevirt/ssh/key.pub"));
    debian.sh(&format!("systemctl enable --now {CAPTURE} {ACTOR}"));
    // Without the drop-in, the unit's sandbox blocks ssh.
    wait_for_log(&debian, "no connection to");

    install_drop_in(&debian, ACTOR, "ssh.conf");
    debian.sh(&format!("systemctl daemon-reload && systemctl restart {ACTOR}"));
    wait_for_log(&debian, &format!("connected to {uri}: 1 domain"));
    lan.etherwake(&remote.libvirtd.mac("vm1"), &["-b"]);
    wait_for_log(&debian, "started: domain \"vm1\"");
    assert_eq!(remote.libvirtd.state(QEMU, "vm1"), "running");
    remote.kill();
}

/// Starts a session of this user without a login, and defines one domain in it.
fn session_with_domain(debian: &Debian<'_>, user: &str) {
    debian
        .sh(&format!("install -d -m 700 -o {user} -g {user} /home/{user} && loginctl enable-linger {user}"));
    let xml = qemu_domain(DOMAIN, MAC, "br0")
        .replace("type='bridge'", "type='user'")
        .replace("<source bridge='br0'/>", "");
    debian.write("/root/own.xml", &xml);
    debian.sh(&format!("install -m 644 /root/own.xml /home/{user}/own.xml"));
    let bus = format!("test -S /run/user/$(id -u {user})/bus");
    wait::until_true("the user's session to start", || run(debian, &bus).status.success());
    debian.in_session(user, &format!("virsh --quiet --connect qemu:///session define /home/{user}/own.xml"));
}

fn session_state(debian: &Debian<'_>, user: &str) -> String {
    let state =
        debian.in_session(user, &format!("virsh --quiet --connect qemu:///session domstate {DOMAIN}"));
    state.trim().to_owned()
}

#[test]
fn actor_connects_to_a_session_of_its_own_user() {
    privileged!();
    const USER: &str = "wakevirt-actor";
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    debian.boot();
    session_with_domain(&debian, USER);
    let socket = format!("/run/user/{}/libvirt/libvirt-sock", debian.sh(&format!("id -u {USER}")).trim());
    debian.write(
        "/etc/wakevirt/actor.toml",
        &format!("connections = [\"qemu:///session?socket={socket}\"]\n[[allow]]\ndomain = \"{DOMAIN}\"\n"),
    );
    debian.sh(&format!("systemctl enable --now {CAPTURE} {ACTOR}"));
    // Without the drop-in, the unit's sandbox hides the session.
    wait_for_log(&debian, "no connection to");
    install_drop_in(&debian, ACTOR, "session.conf");
    debian.sh(&format!("systemctl daemon-reload && systemctl restart {ACTOR}"));
    wait_for_log(&debian, "connected to");
    lan.etherwake(MAC, &["-b"]);
    wait_for_log(&debian, "started: domain");
    assert_eq!(session_state(&debian, USER), "running");
}
