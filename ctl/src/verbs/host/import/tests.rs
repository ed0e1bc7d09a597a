use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

/// Scripts in the format of both projects: their variables and commands.
const ISOLATION: &str = "#!/bin/bash\nHOST_CORES='0,4'\nVIRT_CORES='1-3,5-7'   # for domains\n\
    # echo 1 > /proc/sys/vm/compact_memory\ncset -m shield --kthread on --cpu $VIRT_CORES\n";
const COMPACTION: &str =
    "#!/bin/bash\nsync\necho 3 > /proc/sys/vm/drop_caches\necho 1 > /proc/sys/vm/compact_memory\n";
const PAGES: &str = "#!/bin/bash\nHPG_PATH=\"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages\"\n";
const NICE: &str = "#!/bin/bash\n  TARGET_NICE=\"-1\"\nrenice -n \"$TARGET_NICE\" -p 1\n";
const DISPLAYS: &str = "#!/bin/bash\nVM_DISPLAY=\"2\"\nVM_INPUT=\"12\"  # HDMI\nHOST_INPUT=\"0f\"\n\
    ddcutil -d \"$VM_DISPLAY\" setvcp 60 \"0x$INPUT\"\n";
const SERVICE: &str = "#!/bin/bash\n  SOURCE=\"${DIR}set-service\"\n";
const LIST: &str = "#!/bin/bash\nfunction main\n{\n    \"${DIR}isolcpu\" \"$@\" || return 1\n    \
    # \"${DIR}dohibernate\" \"$@\" || return 1\n    \"${DIR}dosleep\" \"$@\" || return 1\n    \
    \"${DIR}nosleep\" \"$@\" || return 1\n    \"${DIR}set-hooks\" \"$@\" || return 1\n}\n";

fn write(directory: &Path, path: &str, text: &str, mode: u32) {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn import(files: &[(&str, &str)]) -> (Vec<&'static str>, String, toml::Table, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(directory.path(), path, text, 0o755);
    }
    write(directory.path(), "qemu.d/off/prepare/begin/x.sh", COMPACTION, 0o644);
    let hooks = find::hooks(directory.path()).unwrap();
    let content = proposal::content(directory.path(), &hooks);
    let parsed = toml::from_str(&content).unwrap_or_else(|error| panic!("{error}: {content}"));
    (find::projects(&hooks), content, parsed, proposal::without_equivalent(&hooks))
}

/// The keys of the table for this name or glob.
fn domain(parsed: &toml::Table, name: &str) -> toml::Table {
    let domains = parsed["domain"].as_array().unwrap().iter().map(|it| it.as_table().unwrap());
    let mut table = domains.into_iter().find(|it| it["match"].as_str() == Some(name)).unwrap().clone();
    table.remove("match");
    table
}

#[test]
fn proposes_tables_for_vfio_tools() {
    let (projects, content, parsed, unknown) = import(&[
        ("qemu", "#!/bin/bash\nHOOKPATH=\"$BASEDIR/qemu.d/$GUEST_NAME/$HOOK_NAME/$STATE_NAME\"\n"),
        ("qemu.d/win \"10\"/prepare/begin/cset.sh", ISOLATION),
        ("qemu.d/win \"10\"/release/end/cset.sh", ISOLATION),
        ("qemu.d/win \"10\"/prepare/begin/hugepages.sh", PAGES),
        ("qemu.d/win \"10\"/started/begin/nice.sh", NICE),
        ("qemu.d/win \"10\"/started/begin/switch_displays.sh", DISPLAYS),
        ("qemu.d/linux/prepare/begin", COMPACTION),
        ("qemu.d/linux/started/begin/bind\ngpu.sh", "#!/bin/bash\nvirsh nodedev-detach pci_0000_03_00_0\n"),
        ("qemu.d/50-other", COMPACTION),
    ]);
    assert_eq!(projects, ["VFIO-Tools"]);
    let win10: toml::Table = toml::from_str("prepare = [\"hugepages\", \"isolate\"]\nweight = 125").unwrap();
    assert_eq!(domain(&parsed, "win \"10\""), win10);
    assert_eq!(domain(&parsed, "linux"), toml::from_str("prepare = [\"compact\"]").unwrap());
    assert!(domain(&parsed, "off").is_empty());
    assert_eq!(unknown, ["qemu.d/linux/started/begin/bind\ngpu.sh"]);
    for comment in [
        "# isolate: The hook isolates CPUs 1-3,5-7;",
        "# monitor: replace SERIAL with the serial number of display 2 ",
        "# monitor = { serial = \"SERIAL\", vm = 0x12, host = 0x0f }\n",
        "# qemu.d/linux/started/begin/bind\\ngpu.sh: no equivalent.",
        "# qemu.d/off/prepare/begin/x.sh: left out, because it is not executable",
    ] {
        assert!(content.contains(comment), "{comment}: {content}");
    }
}

#[test]
fn proposes_one_table_for_the_hooks_of_all_domains() {
    let (projects, content, parsed, unknown) = import(&[
        ("qemu", LIST),
        ("isolcpu", "#!/bin/bash\nsystemctl set-property --runtime -- system.slice AllowedCPUs=\"${X}\"\n"),
        ("nosleep", SERVICE),
        ("dosleep", SERVICE),
        ("dohibernate", SERVICE),
        ("set-hooks.d/start-and-stop/hugepages", COMPACTION),
        ("set-hooks.d/start-only/audio", "#!/bin/bash\npactl load-module module-loopback\n"),
        ("qemu.d/win10/started/begin/cfscpu", NICE),
    ]);
    assert_eq!(projects, ["VFIO-Tools", "libvirt-hooks"]);
    let all = "prepare = [\"compact\", \"isolate\"]\nsleep = \"suspend\"\nnosleep = true";
    assert_eq!(domain(&parsed, "*"), toml::from_str(all).unwrap());
    assert_eq!(domain(&parsed, "win10"), toml::from_str("weight = 125").unwrap());
    assert_eq!(unknown, ["set-hooks.d/start-only/audio"]);
    assert!(content.find("\"win10\"") < content.find("\"*\""), "{content}");
    assert!(content.contains("The hook computes the CPUs"), "{content}");
}

#[test]
fn reports_directories_without_hooks() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(find::hooks(directory.path()).unwrap(), []);
    assert!(find::hooks(&directory.path().join("absent")).unwrap_err().to_string().contains("No such file"));
}

#[test]
fn reads_values_of_variables() {
    use script::{Action, actions};
    let monitor = |vm| Action::Monitor { display: None, vm, host: None };
    for (value, expected) in [("0x11", Some(0x11)), ("'1b'", Some(0x1b)), ("$X", None), ("", None)] {
        let script = format!("VM_INPUT={value}\nddcutil setvcp 60 1\n");
        assert_eq!(actions("x", &script), [monitor(expected)], "{value:?}");
    }
    assert_eq!(actions("x", "renice -n 1\n"), []);
    assert_eq!(actions("other", SERVICE), []);
}
