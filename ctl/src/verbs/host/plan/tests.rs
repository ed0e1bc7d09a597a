use wakevirt_host::config::Config;
use wakevirt_host::model::{CpuSet, PageSize, Topology};
use wakevirt_host::records::Needs;

use super::*;

/// A definition with pinned vCPUs and huge pages.
const XML: &str = "<domain type='kvm'><name>win 11</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>
  <memoryBacking><hugepages/></memoryBacking>
  <cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/></cputune></domain>";

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn preview() -> Preview {
    let topology = Topology {
        possible: cpus("0-3"),
        online: cpus("0-3"),
        memory: [(0, 8 << 20)].into(),
        overcommit: [(PageSize(2048), 7)].into(),
        default_page: Some(PageSize(2048)),
        allowed_cpus: ["system.slice", "user.slice", "init.scope"]
            .map(|unit| (unit.to_owned(), cpus("0-3")))
            .into(),
        workqueue: cpus("0-3"),
        ..Topology::default()
    };
    Preview { topology, records: Vec::new() }
}

fn load(toml: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("host.toml");
    std::fs::write(&file, toml).unwrap();
    Config::load(Some(&file), "root").unwrap()
}

fn steps(toml: &str) -> [Vec<String>; 3] {
    let guest = Guest { name: "win 11".to_owned(), uuid: None };
    let preview = preview();
    let needs = preview.needs(&load(toml), &guest, XML).unwrap();
    let steps = preview.steps(&guest, &needs);
    assert_eq!(steps.failures, Vec::<String>::new());
    [steps.prepare, steps.run, steps.stop].map(|steps| steps.iter().map(Step::to_string).collect())
}

#[test]
fn plans_what_the_service_does() {
    let [prepare, run, stop] = steps(
        "[[domain]]\nmatch = \"win*\"\nprepare = [\"hugepages\", \"isolate\", \"compact\"]\nweight = 900\n",
    );
    assert_eq!(
        prepare,
        [
            "systemctl start wakevirt-drop-ins.service",
            r"systemctl start 'wakevirt-prepare@win\x2011.target'",
            "echo 263 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
            "systemctl set-property --runtime init.scope AllowedCPUs=0-1",
            "systemctl set-property --runtime system.slice AllowedCPUs=0-1",
            "systemctl set-property --runtime user.slice AllowedCPUs=0-1",
            "systemctl set-property --runtime machine.slice CPUWeight=900",
            "echo 00000003 > /sys/devices/virtual/workqueue/cpumask",
            "echo 1 | tee /sys/devices/system/node/node*/compact",
        ]
    );
    assert_eq!(run, [r"systemctl start 'wakevirt-domain@win\x2011.target'"]);
    assert_eq!(stop[0], r"systemctl stop 'wakevirt-domain@win\x2011.target'");
    assert!(stop.contains(&"systemctl set-property --runtime system.slice AllowedCPUs=0-3".to_owned()));
    assert!(stop.contains(&"systemctl stop wakevirt-drop-ins.service".to_owned()));
    assert_eq!(stop.len(), 9, "{stop:?}");
}

#[test]
fn a_domain_without_a_table_has_no_plan() {
    let guest = Guest { name: "other".to_owned(), uuid: None };
    assert_eq!(preview().needs(&load("[[domain]]\nmatch = \"win*\"\n"), &guest, XML), None);
}

#[test]
fn names_what_a_domain_does_not_get() {
    let guest = Guest { name: "win 11".to_owned(), uuid: None };
    let preview = preview();
    let config = load("[[domain]]\nmatch = \"*\"\nprepare = [\"isolate\"]\n");
    let xml = "<domain><name>win 11</name><memory>1</memory><cputune><vcpupin vcpu='0' cpuset='0-2'/>\
               <vcpupin vcpu='1' cpuset='3'/></cputune><vcpu>2</vcpu></domain>";
    let needs = preview.needs(&config, &guest, xml).unwrap();
    let failures = preview.steps(&guest, &needs).failures;
    assert!(failures.len() == 1 && failures[0].contains("cannot be isolated"), "{failures:?}");
}

#[test]
fn plans_sleep_and_shutdown() {
    let guest = Guest { name: "win 11".to_owned(), uuid: None };
    let settings = |toml: &str| load(toml).settings_for("win 11", None).unwrap();
    let mut plan = Plan::default();
    plan.add_sleep(
        &guest,
        &settings("[[domain]]\nmatch = \"*\"\nsleep = \"suspend\"\nshutdown = \"save\"\nnosleep = true\nlid = true\n"),
    );
    assert_eq!(
        plan.run,
        ["systemd-inhibit --what=sleep:idle:handle-lid-switch --mode=block-weak sleep infinity"]
    );
    assert_eq!(plan.sleep, ["virsh --connect qemu:///system dompmsuspend 'win 11' mem"]);
    assert_eq!(plan.wake, ["virsh --connect qemu:///system dompmwakeup 'win 11'"]);
    assert_eq!(plan.shutdown, ["virsh --connect qemu:///system managedsave 'win 11'"]);
}

#[test]
fn proposes_elements_that_are_missing() {
    let propose = |xml: &str, toml: &str| -> Vec<String> {
        let settings = load(&format!("[[domain]]\nmatch = \"*\"\n{toml}\n")).settings_for("a", None).unwrap();
        let definition = Definition::read(xml).unwrap();
        let isolated = Needs::new("a", &definition, &settings, &preview().topology).isolated;
        let proposals = proposals(&definition, &settings, &isolated, &cpus("0-3"));
        proposals.into_iter().map(|it| it.element).collect()
    };
    let isolate = "prepare = [\"isolate\"]\nweight = 300";
    assert_eq!(
        propose(XML, isolate),
        [
            "<emulatorpin cpuset='0-1'/>",
            "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>",
            "<shares>300</shares>"
        ]
    );
    let complete = "<emulatorpin cpuset='0'/><vcpusched vcpus='0' scheduler='fifo' priority='1'/>\
                    <shares>300</shares></cputune>";
    assert_eq!(propose(&XML.replace("</cputune>", complete), isolate), Vec::<String>::new());
    let unpinned = "<domain><name>a</name><memory>1</memory><vcpu>2</vcpu></domain>";
    assert_eq!(
        propose(unpinned, "prepare = [\"isolate\"]"),
        ["<vcpupin vcpu='0' cpuset='2'/>", "<vcpupin vcpu='1' cpuset='3'/>", "<emulatorpin cpuset='0-1'/>"]
    );
    assert_eq!(propose(unpinned, ""), Vec::<String>::new());
}
