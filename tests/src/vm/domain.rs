//! Domains in the virtual machine. Their guest is a boot sector.

use super::Vm;

/// The directory of the guests' disks.
const IMAGES: &str = "/var/lib/libvirt/images";

/// What the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Waits for interrupts.
    Idles,
    /// Uses all the CPU time that it gets.
    Spins,
    /// Suspends to RAM at its first boot. After a wakeup, it boots again and idles.
    Suspends,
}

impl Code {
    /// The boot sector's code, as octal escapes of printf(1). [`crate::libvirt::machine::Guest`] explains the last one.
    const fn bytes(self) -> &'static str {
        match self {
            Self::Idles => r"\373\364\353\375",
            Self::Spins => r"\353\376",
            Self::Suspends => {
                r"\260\177\346\160\344\161\204\300\165\015\260\177\346\160\346\161\272\004\006\270\000\044\357\373\364\353\375"
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Idles => "idles",
            Self::Spins => "spins",
            Self::Suspends => "suspends",
        }
    }
}

/// A QEMU domain with one CPU and 32 MiB, unless a method changes them.
#[derive(Debug, Clone)]
pub struct Domain {
    name: String,
    code: Code,
    cpus: u32,
    mebibytes: u32,
    settings: String,
    devices: String,
}

impl Domain {
    /// A domain whose guest idles.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (settings, devices) = (String::new(), String::new());
        Self { name: name.to_owned(), code: Code::Idles, cpus: 1, mebibytes: 32, settings, devices }
    }

    /// Sets what the guest does.
    #[must_use]
    pub const fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Sets the number of CPUs.
    #[must_use]
    pub const fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the memory, in MiB.
    #[must_use]
    pub const fn mebibytes(mut self, mebibytes: u32) -> Self {
        self.mebibytes = mebibytes;
        self
    }

    /// Adds elements to `<domain>`.
    #[must_use]
    pub fn settings(mut self, xml: &str) -> Self {
        self.settings.push_str(xml);
        self
    }

    /// Adds elements to `<devices>`.
    #[must_use]
    pub fn devices(mut self, xml: &str) -> Self {
        self.devices.push_str(xml);
        self
    }

    /// Adds huge pages of this size, such as `2` and `M`.
    #[must_use]
    pub fn huge_pages(self, size: u32, unit: &str) -> Self {
        self.settings(&format!(
            "<memoryBacking><hugepages><page size='{size}' unit='{unit}'/></hugepages></memoryBacking>"
        ))
    }

    fn xml(&self) -> String {
        let Self { name, code, cpus, mebibytes, settings, devices } = self;
        format!(
            "<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{mebibytes}</memory><vcpu>{cpus}</vcpu>
  {settings}
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os><features><acpi/></features>
  <pm><suspend-to-mem enabled='yes'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{IMAGES}/{}.img'/>
      <target dev='fda' bus='fdc'/><readonly/></disk>
    {devices}
  </devices>
</domain>",
            code.name()
        )
    }
}

impl Vm {
    /// Defines a domain.
    ///
    /// # Panics
    /// If libvirt rejects it.
    pub fn define(&mut self, domain: &Domain) {
        let (bytes, name) = (domain.code.bytes(), domain.code.name());
        self.write("/run/domain.xml", &domain.xml());
        self.sh(&format!(
            "image={IMAGES}/{name}.img
             printf '{bytes}' >$image
             truncate --size=510 $image
             printf '\\125\\252' >>$image
             truncate --size=1440K $image"
        ));
        self.virsh("define /run/domain.xml");
    }

    /// Runs virsh(1), and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&mut self, line: &str) -> String {
        self.sh(&format!("virsh --quiet --connect qemu:///system {line}"))
    }
}
