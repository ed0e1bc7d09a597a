//! The verbs about the preparation of the host that need no service.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use wakevirt_tests::project::json::{assert_documented, documented};

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
