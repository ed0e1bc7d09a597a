//! The verbs about the preparation of the host that need no service.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::privileged;
use wakevirt_tests::project::json::{assert_documented, documented};

use crate::site::run;

fn host(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakevirtctl"));
    command.args(["--json", "host"]).args(arguments).arg(directory).output().unwrap()
}

#[test]
fn man_page_describes_the_json_of_import() {
    let directory = tempfile::tempdir().unwrap();
    let output = host(&["import"], directory.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("contains neither the hooks of"), "{error}");

    let hooks = directory.path().join("qemu.d/win10/prepare/begin");
    fs::create_dir_all(&hooks).unwrap();
    for (name, script) in [("a", "echo 1 >/proc/sys/vm/compact_memory"), ("b", "true")] {
        fs::write(hooks.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(hooks.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let output = host(&["import"], directory.path());
    let imported = serde_json::from_slice(&output.stdout).unwrap();
    assert_documented(&imported, &documented("host import"), &[]);
    assert_eq!(imported["without-equivalent"], json!(["qemu.d/win10/prepare/begin/b"]));
}

#[test]
fn man_page_describes_the_json_of_new_files() {
    privileged!();
    let site = Host::new();
    site.sh("mkdir -p /run/systemd/system");
    site.sh("install -d -o wakevirt-test-libvirt /var/tmp/share");
    let new = ["--json", "host", "new", "gpu", "--for", "win*"];
    let share = ["--json", "host", "nas", "new", "games", "--path", "/var/tmp/share"];
    for (line, not_printed) in [(&new[..], &["address"][..]), (&share, &[])] {
        let denied = run(&site, User::Unprivileged, line);
        assert!(denied.status == 4 && denied.err.contains("run: sudo wakevirtctl host n"), "{}", denied.err);
        let printed = run(&site, User::Root, line);
        let json = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{}", printed.err));
        assert_documented(&json, &documented("host new"), not_printed);
        let again = run(&site, User::Root, line);
        assert!(again.status == 1 && again.err.contains("exists, and was left unchanged"), "{}", again.err);
    }
    let unit = site.read("/etc/systemd/system/gpu@.service");
    assert!(unit.contains("exit 1' \"win*\" %I\n"), "{unit}");
}

#[test]
fn writes_an_executable_without_systemd() {
    privileged!();
    let site = Host::new();
    let printed = run(&site, User::Root, &["--json", "host", "new", "gpu", "--for", "win*"]);
    let json: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_documented(&json, &documented("host new"), &["address"]);
    assert_eq!(json["files"].as_array().map(Vec::len), Some(1));
    assert_eq!(site.sh("stat --format '%A %U' /etc/wakevirt/host.d/gpu"), "-rwxr-xr-x root\n");
    let denied = run(&site, User::Root, &["--json", "host", "new", "gpu.sh", "--all"]);
    assert!(denied.status == 2 && denied.err.contains("is not a name for an executable"), "{}", denied.err);
}
