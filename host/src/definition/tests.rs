use proptest::prelude::*;

use super::*;
use crate::model::PageSize;

fn read(content: &str) -> Definition {
    Definition::read(&format!("<domain>{content}</domain>")).unwrap()
}

fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

const GAMING: &str = r#"<domain type='kvm'>
  <name>win11 &amp; more</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='GiB'>16</memory>
  <memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>
  <vcpu placement='static'>6</vcpu>
  <iothreads>1</iothreads>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/><vcpupin vcpu='2' cpuset='4-7,^5'/>
    <emulatorpin cpuset='0-1'/>
    <iothreadpin iothread='1' cpuset='0'/>
    <vcpusched vcpus='0-2' scheduler='fifo' priority='1'/>
  </cputune>
  <numatune><memory mode='strict' nodeset='1'/></numatune>
</domain>"#;

#[test]
fn reads_a_definition_with_passthrough() {
    let definition = Definition::read(GAMING).unwrap();
    let own = [(0, "2"), (1, "3"), (2, "4,6-7")].map(|(vcpu, text)| (vcpu, cpus(text)));
    let expected = Definition {
        name: "win11 & more".to_owned(),
        uuid: Some(Uuid::from_u128(0x6695_eb01_f6a4_8304_79aa_97f2_502e_193f)),
        memory: 16 << 20,
        huge: vec![Backing {
            memory: 16 << 20,
            page: PageChoice::Size(PageSize(1 << 20)),
            nodes: Some(cpus("1")),
        }],
        vcpus: 6,
        pins: VcpuPins { default: None, own: own.into() },
        emulator: Some(cpus("0-1")),
        io_threads: [(1, cpus("0"))].into(),
        schedulers: vec![Scheduler { vcpus: cpus("0-2"), scheduler: "fifo".to_owned(), priority: Some(1) }],
        shares: Some(2048),
    };
    assert_eq!(definition, expected);
}

#[test]
fn missing_elements_have_libvirts_defaults() {
    let definition = read("");
    assert_eq!(definition, Definition { vcpus: 1, ..Definition::default() });
    let huge = read("<memory>1048576</memory><memoryBacking><hugepages/></memoryBacking>").huge;
    assert_eq!(huge, [Backing { memory: 1 << 20, page: PageChoice::Default, nodes: None }]);
}

#[test]
fn cells_have_pages_and_nodes_of_their_own() {
    let definition = read(
        "<memory unit='GiB'>7</memory>
         <memoryBacking><hugepages>
           <page size='1' unit='GiB' nodeset='0'/><page size='2048' unit='KiB'/>
         </hugepages></memoryBacking>
         <numatune><memory mode='strict' nodeset='0-1'/><memnode cellid='0' mode='strict' nodeset='1'/></numatune>
         <cpu><numa>
           <cell id='0' cpus='0' memory='4' unit='GiB'/><cell id='1' cpus='1' memory='2097152'/>
         </numa></cpu>
         <devices>
           <memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target></memory>
           <memory model='dimm'><source><pagesize unit='KiB'>2048</pagesize></source>
             <target><size unit='MiB'>512</size><node>0</node></target></memory>
           <memory model='nvdimm'><target><size unit='GiB'>1</size><node>0</node></target></memory>
         </devices>",
    );
    assert_eq!(definition.memory, 7 << 20);
    let parts: Vec<_> = definition
        .huge
        .into_iter()
        .map(|it| {
            let PageChoice::Size(size) = it.page else { panic!("a part without a size") };
            (it.memory, size.0, it.nodes.unwrap_or_default().to_string())
        })
        .collect();
    let expected =
        [(4 << 20, 1 << 20, "1"), (2 << 20, 2048, "0-1"), (512 << 10, 1 << 20, "1"), (512 << 10, 2048, "1")];
    assert_eq!(parts, expected.map(|(memory, size, nodes)| (memory, size, nodes.to_owned())));
}

#[test]
fn only_the_named_cells_have_huge_pages() {
    let definition = read(
        "<memoryBacking><hugepages><page size='2' unit='M' nodeset='1'/></hugepages></memoryBacking>
         <cpu><numa><cell memory='4' unit='MiB'/><cell memory='6' unit='MiB'/></numa></cpu>",
    );
    let memory: Vec<u64> = definition.huge.iter().map(|it| it.memory).collect();
    assert_eq!((definition.memory, memory), (10 << 10, vec![6 << 10]));
}

#[test]
fn a_default_cpuset_pins_the_vcpus_without_their_own() {
    let pins = read("<vcpu cpuset='2-3'>4</vcpu><cputune><vcpupin vcpu='1' cpuset='5'/></cputune>").pins;
    assert_eq!(
        [0, 1, 2].map(|vcpu| pins.of(vcpu).map(ToString::to_string)),
        ["2-3", "5", "2-3"].map(|it| Some(it.to_owned()))
    );
    let pins = read("<vcpu>4</vcpu><cputune><vcpupin vcpu='1' cpuset='5'/></cputune>").pins;
    assert_eq!(pins.of(0), None);
}

#[test]
fn elements_elsewhere_do_not_count() {
    let definition = read(
        "<metadata><x:memory xmlns:x='urn:x'>7</x:memory><vcpu>9</vcpu><hugepages/></metadata>
         <x:vcpu xmlns:x='urn:x'>9</x:vcpu><devices><memory/></devices>",
    );
    assert_eq!((definition.memory, definition.vcpus, definition.huge.len()), (0, 1, 0));
}

#[test]
fn rejects_what_is_not_a_definition() {
    let error = |xml: &str| Definition::read(xml).unwrap_err().to_string();
    assert!(error("").contains("empty"));
    assert!(error(&" ".repeat(MAX_XML + 1)).contains("longer than 8388608 bytes"));
    assert!(error("<domain>").contains("not well-formed"));
    assert!(error("<network/>").contains("not <domain>"));
    assert!(error("<domain xmlns='urn:x'/>").contains("not <domain>"));
    // Entities need a document type.
    let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>";
    assert!(error(bomb).contains("not well-formed"));
}

#[test]
fn rejects_absurd_values() {
    for (content, element) in [
        ("<memory>x</memory>", "<memory>"),
        ("<memory>-1</memory>", "<memory>"),
        ("<memory unit='EiB'>18446744073709551615</memory>", "<memory>"),
        ("<memory unit='PiB'>5</memory>", "<memory>"),
        ("<memory unit='parsec'>1</memory>", "<memory>"),
        ("<vcpu>0</vcpu>", "<vcpu>"),
        ("<vcpu>99999999999999999999</vcpu>", "<vcpu>"),
        ("<cputune><vcpupin vcpu='x' cpuset='1'/></cputune>", "<vcpupin>"),
        ("<cputune><vcpupin vcpu='0' cpuset='0-99999999'/></cputune>", "<vcpupin>"),
        ("<cputune><emulatorpin cpuset='all'/></cputune>", "<emulatorpin>"),
        ("<memoryBacking><hugepages><page size='0'/></hugepages></memoryBacking>", "<page>"),
        ("<memoryBacking><hugepages><page size='big'/></hugepages></memoryBacking>", "<page>"),
        ("<cpu><numa><cell id='0' memory='many'/></numa></cpu>", "<cell>"),
    ] {
        let error = Definition::read(&format!("<domain>{content}</domain>")).unwrap_err();
        assert!(error.to_string().starts_with(element), "{content}: {error}");
    }
}

#[test]
fn large_definitions_are_limited() {
    let nested = "<a>".repeat(1_000_000);
    assert!(Definition::read(&format!("<domain>{nested}")).is_err());
    let many =
        |element: &str, count| format!("<domain><cputune>{}</cputune></domain>", element.repeat(count));
    // One megabyte that libvirt could pass.
    let pins = many("<vcpupin vcpu='1' cpuset='0-8191'/>", 16_000);
    assert_eq!(Definition::read(&pins).unwrap().pins.own.len(), 1);
    let pins = many("<vcpupin vcpu='1' cpuset='0'/>", 16_385);
    assert!(Definition::read(&pins).unwrap_err().to_string().contains("more than 16384"));
    let list = format!("<domain><vcpu cpuset='{}'>1</vcpu></domain>", "0-8191,".repeat(100_000));
    assert_eq!(Definition::read(&list).unwrap().pins.default.unwrap().len(), 8192);
    let error = Definition::read(&format!("<domain>{}</domain>", "<a/>".repeat(600_000))).unwrap_err();
    assert!(matches!(error, DefinitionError::Syntax(_)), "{error}");
}

proptest! {
    /// Any text is read or rejected, and values stay within their limits.
    #[test]
    fn never_panics(xml in r#"<domain>(<(memory|vcpu|page|cell|/?cputune|/?numa)( (unit|size|cpuset|id)='[0-9a-zA-Z,^-]{0,6}')?>[0-9]{0,20}){0,6}.{0,30}</domain>"#) {
        if let Ok(definition) = Definition::read(&xml) {
            prop_assert!(definition.vcpus <= 8192);
        }
    }
}
