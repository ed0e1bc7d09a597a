//! Shared folders on a booted Debian system, with a real Samba server. docs/NAS.md describes them.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::process::{Command, Output};

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::Peer;
use wakevirt_tests::privileged;
use wakevirt_tests::process::proc;
use wakevirt_tests::project::readme::commands_of;

/// CAP_NET_BIND_SERVICE in a set of capabilities.
const NET_BIND_SERVICE: &str = "0000000000000400";

/// Runs the commands of the page without sudo, because the test is root.
const SUDO: &str = r#"#!/bin/sh
[ "$1" = -u ] || exec "$@"
user=$2
shift 2
exec setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
"#;

/// A booted Debian system with the folders of a user.
fn start(host: &Host) -> Debian<'_> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/usr/local/bin/sudo", SUDO);
    debian.boot();
    debian.sh("chmod +x /usr/local/bin/sudo
         useradd --user-group --create-home alice
         for folder in Games Drop; do
             mkdir /home/alice/$folder
             echo hello >/home/alice/$folder/file
         done
         echo secret >/home/alice/secret
         ln -s ../secret /home/alice/Games/link
         chown -R alice:alice /home/alice");
    debian
}

/// Creates the network of a share, as libvirt would, starts the share, and returns a guest on the network.
fn start_share<'host>(host: &'host Host, debian: &Debian<'_>, share: &str, number: u8) -> Peer<'host> {
    let (bridge, port) = (format!("nas-{share}"), format!("port-{share}"));
    let definition = debian.sh(&format!("cat /etc/wakevirt/nas/{share}.xml"));
    let address = format!("192.168.{number}.1");
    for text in [format!("<bridge name='{bridge}'/>"), format!("<ip address='{address}'")] {
        assert!(definition.contains(&text), "{definition}");
    }
    assert!(!definition.contains("<forward "), "{definition}");
    host.bridge(&bridge);
    let guest = host.veth(&port);
    host.sh(&format!("ip address add {address}/24 dev {bridge} && ip link set {port} master {bridge}"));
    guest.address(&format!("192.168.{number}.2/24"));
    // There is no udev in a container, so there are no units for devices.
    debian.sh(&format!(
        "sed -i '/^BindsTo=/d; /^After=/d' /etc/systemd/system/wakevirt-nas@{share}.service.d/share.conf
         systemctl daemon-reload
         systemctl start wakevirt-nas@{share}"
    ));
    guest
}

/// Runs smbclient(1) on this machine.
fn smbclient(machine: &Peer<'_>, share: &str, options: &[&str], command: &str) -> Output {
    let mut client: Command = machine.command("smbclient");
    client.args(options).args([share, "--command", command]);
    client.output().expect("smbclient runs")
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The contents of a file on the share.
fn read(machine: &Peer<'_>, share: &str, options: &[&str], file: &str) -> Result<String, String> {
    let output = smbclient(machine, share, options, &format!("get {file} /dev/stdout"));
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(text(&output))
    }
}

const ANONYMOUS: &[&str] = &["--no-pass"];
const SMB1: &[&str] = &["--no-pass", "--max-protocol=NT1", "--option=client min protocol=NT1"];

#[test]
fn a_share_is_read_only_and_reachable_only_from_its_network() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    let printed = debian.sh("wakevirtctl host nas new games --path /home/alice/Games");
    for next in ["net-define /etc/wakevirt/nas/games.xml", "--zone=libvirt", r"\\192.168.200.1\games"] {
        assert!(printed.contains(next), "{printed}");
    }
    let guest = start_share(&host, &debian, "games", 200);
    let share = "//192.168.200.1/games";

    assert_eq!(read(&guest, share, ANONYMOUS, "file").as_deref(), Ok("hello\n"));
    let denied = smbclient(&guest, share, ANONYMOUS, "put /etc/hostname new");
    assert!(!denied.status.success() && text(&denied).contains("ACCESS_DENIED"), "{}", text(&denied));
    let outside = read(&guest, share, ANONYMOUS, "link");
    assert!(outside.is_err(), "a symbolic link leads out of the share: {outside:?}");
    let smb1 = read(&guest, share, SMB1, "file");
    assert!(smb1.as_ref().is_err_and(|error| error.contains("negotiation failed")), "{smb1:?}");

    // Another machine can reach the host's address, but not the server.
    let lan = host.veth("lan0");
    host.sh("ip address add 192.0.2.1/24 dev lan0");
    lan.address("192.0.2.2/24");
    lan.sh("ip route add 192.168.200.0/24 via 192.0.2.1");
    let connect = |machine: &Peer<'_>, port| {
        let line = format!("exec 3<>/dev/tcp/192.168.200.1/{port}");
        machine.command("timeout").args(["3", "bash", "-c", &line]).output().expect("timeout runs")
    };
    let closed = connect(&lan, 446);
    assert!(text(&closed).contains("refused"), "{}", text(&closed));
    let server = connect(&lan, 445);
    assert_eq!(server.status.code(), Some(124), "the connection did not time out: {}", text(&server));
    assert!(connect(&guest, 445).status.success());

    assert_confined(&debian);
    assert_nothing_is_replaced(&debian);
}

/// Checks the server's process.
fn assert_confined(debian: &Debian<'_>) {
    let pid = debian.main_process("wakevirt-nas@games");
    let status = proc::Status::of(pid);
    for field in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(status.field(field), NET_BIND_SERVICE, "{field}");
    }
    assert_eq!(status.field("NoNewPrivs"), "1");
    let alice = debian.sh("id --user alice");
    assert_eq!(status.field("Uid").split(' ').next(), Some(alice.trim()));
    let root = std::path::PathBuf::from(format!("/proc/{pid}/root"));
    assert_eq!(std::fs::read_to_string(root.join("srv/file")).expect("the folder is there"), "hello\n");
    for missing in ["home/alice", "etc/shadow", "etc/wakevirt/actor.d", "run/libvirt", "run/dbus"] {
        assert!(!root.join(missing).exists(), "the server can see /{missing}");
    }
    // Even root cannot write through the server's mount.
    let write = std::fs::write(root.join("srv/new"), "x");
    assert!(write.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
}

/// Checks that the verb does not replace files, and that another share gets another network.
fn assert_nothing_is_replaced(debian: &Debian<'_>) {
    let files =
        "cat /etc/wakevirt/nas/* /etc/systemd/system/wakevirt-nas@*/*; ls -R /etc/wakevirt /etc/systemd";
    let before = debian.sh(files);
    for arguments in [
        "games --path /home/alice/Drop",
        "etc --path /etc",
        "none --path /none",
        "Bad --path /home/alice/Drop",
    ] {
        let line = format!("wakevirtctl host nas new {arguments}");
        let output = debian.command("bash").args(["-c", &line]).output().expect("bash runs");
        assert!(!output.status.success(), "{line}");
    }
    let line = "wakevirtctl host nas new other --path /home/alice/Drop";
    let denied = debian.command_as("alice", "bash").args(["-c", line]).output().expect("bash runs");
    assert_eq!(denied.status.code(), Some(4), "{}", text(&denied));
    assert_eq!(debian.sh(files), before);
}

#[test]
fn a_share_is_writable_and_accepts_smb1_only_if_asked() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    debian.sh("wakevirtctl host nas new drop --path /home/alice/Drop --writable --smb1");
    let guest = start_share(&host, &debian, "drop", 200);
    let share = "//192.168.200.1/drop";
    assert_eq!(read(&guest, share, SMB1, "file").as_deref(), Ok("hello\n"));
    let written = smbclient(&guest, share, ANONYMOUS, "put /etc/hostname new");
    assert!(written.status.success(), "{}", text(&written));
    assert_eq!(debian.sh("stat --format=%U /home/alice/Drop/new"), "alice\n");
    let removed = smbclient(&guest, share, ANONYMOUS, "rm new");
    assert!(removed.status.success(), "{}", text(&removed));
    assert_eq!(debian.sh("ls /home/alice/Drop"), "file\n");
}

#[test]
fn a_share_requires_a_password_after_the_commands_of_the_page() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    // The second block creates the share, the first one installs Samba.
    let blocks = commands_of("docs/NAS.md", "Create a share");
    let create = blocks.get(1).expect("the section creates a share");
    debian.sh(create);
    let guest = start_share(&host, &debian, "games", 200);
    let share = "//192.168.200.1/games";
    assert_eq!(read(&guest, share, ANONYMOUS, "file").as_deref(), Ok("hello\n"));

    let set = commands_of("docs/NAS.md", "Require a password").concat();
    debian.sh(&format!("printf 'pass word\\npass word\\n' | {{\n{set}}}"));
    let denied = read(&guest, share, ANONYMOUS, "file");
    assert!(denied.as_ref().is_err_and(|error| error.contains("ACCESS_DENIED")), "{denied:?}");
    let wrong = read(&guest, share, &["--user=alice%wrong"], "file");
    assert!(wrong.as_ref().is_err_and(|error| error.contains("LOGON_FAILURE")), "{wrong:?}");
    let signed = ["--user=alice%pass word", "--client-protection=sign"];
    assert_eq!(read(&guest, share, &signed, "file").as_deref(), Ok("hello\n"));

    // After the page's last commands, nothing of the share is left.
    let remove = commands_of("docs/NAS.md", "Remove a share").concat();
    let remove: Vec<&str> = remove.lines().filter(|line| !line.starts_with("virsh ")).collect();
    debian.sh(&remove.join("\n"));
    assert_eq!(debian.sh("find / -xdev -name '*games*' -not -path '/proc/*' -not -path '/usr/*'"), "");
    assert_eq!(debian.sh("systemctl list-units --all --no-legend --plain 'wakevirt-nas@*'"), "");
}
