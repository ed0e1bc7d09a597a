//! Domains of QEMU with a guest of a few bytes, which does what a test needs of a guest.
//!
//! They are emulated, which every machine can, and start in a quarter of a second.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use crate::host::Host;
use crate::libvirt::{Libvirtd, QEMU};

/// Where images and emulators are on the host.
const FOLDER: &str = "/run/machines";

/// What a machine boots. The machine type is `pc`: its power management registers begin at port
/// 0x600 (Intel, "82371AB PCI-to-ISA / IDE Xcelerator (PIIX4)", section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Nothing: the firmware waits for ever.
    Nothing,
    /// Powers off when it is asked to (`virsh shutdown`), at once.
    PowersOff,
    /// Suspends itself to RAM at its first boot; woken, it boots again, and idles.
    Suspends,
    /// Tells that it has crashed, by the panic device at port 0x505.
    Panics,
    /// Writes one sector to its first disk.
    WritesDisk,
    /// Lets its watchdog go off, at port 0x443 (the ib700).
    TriggersWatchdog,
}

/// `sti`, `hlt`, and again.
const IDLE: &[u8] = &[0xfb, 0xf4, 0xeb, 0xfd];

impl Guest {
    /// Its boot sector, without what fills it; none if it boots nothing.
    fn code(self) -> Option<Vec<u8>> {
        let act: &[u8] = match self {
            Self::Nothing => return None,
            Self::PowersOff => &[
                0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // out 602h, 0100h: let the power button count
                0xfb, 0xf4, // sti; hlt: until the next tick of the clock
                0xba, 0x00, 0x06, 0xed, // in ax, 600h
                0xf6, 0xc4, 0x01, 0x74, 0xf5, // until it was pressed
                0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // out 604h, 2000h: S5
            ],
            Self::Suspends => &[
                0xb0, 0x7f, 0xe6, 0x70, 0xe4, 0x71, // a byte of CMOS, which is 0 at first
                0x84, 0xc0, 0x75, 0x0d, // if it is not, idle
                0xb0, 0x7f, 0xe6, 0x70, 0xe6, 0x71, // make it so
                0xba, 0x04, 0x06, 0xb8, 0x00, 0x24, 0xef, // out 604h, 2400h: S3
            ],
            Self::Panics => &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee], // out 505h, 1
            Self::TriggersWatchdog => &[0xba, 0x43, 0x04, 0xb0, 0x0f, 0xee], // out 443h, 15: in no time
            Self::WritesDisk => &[
                0xb8, 0x01, 0x03, // write one sector,
                0xb9, 0x01, 0x00, 0xba, 0x80, 0x00, // the first of the first disk,
                0xbb, 0x00, 0x7c, 0x31, 0xf6, 0x8e, 0xc6, // from 0:7c00h
                0xcd, 0x13, // by the firmware
            ],
        };
        Some([act, IDLE].concat())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::PowersOff => "powers-off",
            Self::Suspends => "suspends",
            Self::Panics => "panics",
            Self::WritesDisk => "writes-disk",
            Self::TriggersWatchdog => "triggers-watchdog",
        }
    }

    /// Writes its floppy disk, and returns where it is on the host.
    fn image(self, host: &Host) -> Option<String> {
        let mut sector = self.code()?;
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        let image = format!("{FOLDER}/{}.img", self.name());
        let mut file = File::create(host.path(&image)).expect("an image in /run");
        file.write_all(&sector).and_then(|()| file.set_len(1440 * 1024)).expect("an image in /run");
        Some(image)
    }
}

/// Which QEMU runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// The one that is installed.
    Plain,
    /// It takes this many seconds before it begins.
    Slow(u32),
    /// It does not heed a request to end (SIGTERM), as one that still flushes its disks.
    IgnoresSigterm,
}

impl Emulator {
    /// Writes the program that it is, and returns where it is on the host. libvirt asks an emulator
    /// for its features before it starts machines: that is neither slow nor stubborn.
    fn program(self, host: &Host) -> String {
        let qemu = "/usr/bin/qemu-system-x86_64";
        let (name, first) = match self {
            Self::Plain => return qemu.to_owned(),
            Self::Slow(seconds) => (format!("slow-{seconds}"), format!("time.sleep({seconds})")),
            Self::IgnoresSigterm => {
                let block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])";
                ("ignores-sigterm".to_owned(), block.to_owned())
            }
        };
        let program = format!("{FOLDER}/{name}");
        host.write(
            &program,
            &format!(
                "#!/usr/bin/python3 -I
import os, signal, sys, time
if any(argument.startswith('guest=') for argument in sys.argv):
    {first}
os.execv('{qemu}', ['{qemu}'] + sys.argv[1:])
"
            ),
        );
        std::fs::set_permissions(host.path(&program), PermissionsExt::from_mode(0o755)).expect("its mode");
        program
    }
}

/// A domain of QEMU, with one interface on `br0`; libvirt gives it its MAC address.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    guest: Guest,
    emulator: Emulator,
    disk: Option<String>,
    devices: String,
}

impl Machine {
    /// A machine without disks that boots nothing.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            guest: Guest::Nothing,
            emulator: Emulator::Plain,
            disk: None,
            devices: String::new(),
        }
    }

    /// What it boots.
    #[must_use]
    pub fn guest(mut self, guest: Guest) -> Self {
        self.guest = guest;
        self
    }

    /// Which QEMU runs it.
    #[must_use]
    pub fn emulator(mut self, emulator: Emulator) -> Self {
        self.emulator = emulator;
        self
    }

    /// Its disk: a file on the host. The machine stops when the disk fails.
    #[must_use]
    pub fn disk(mut self, on_host: &str) -> Self {
        self.disk = Some(on_host.to_owned());
        self
    }

    /// One more device, as libvirt's XML.
    #[must_use]
    pub fn device(mut self, xml: &str) -> Self {
        self.devices.push_str(xml);
        self
    }

    /// Defines the domain.
    ///
    /// # Panics
    /// If libvirt refuses it.
    pub fn define(&self, libvirtd: &Libvirtd<'_>) {
        libvirtd.define(QEMU, &self.xml(libvirtd.host()));
    }

    fn xml(&self, host: &Host) -> String {
        std::fs::create_dir_all(host.path(FOLDER)).expect("a folder in /run");
        let name = &self.name;
        let emulator = self.emulator.program(host);
        let devices = &self.devices;
        let mut disks = String::new();
        if let Some(image) = self.guest.image(host) {
            let _ = write!(
                disks,
                "<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{image}'/>
    <target dev='fda' bus='fdc'/><readonly/></disk>"
            );
        }
        if let Some(file) = &self.disk {
            let _ = write!(
                disks,
                "<disk type='file' device='disk'><driver name='qemu' type='raw' error_policy='stop'/>
    <source file='{file}'/><target dev='hda' bus='ide'/></disk>"
            );
        }
        format!(
            "<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os><features><acpi/></features>
  <on_crash>preserve</on_crash><pm><suspend-to-mem enabled='yes'/></pm>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    {disks}
    <panic model='isa'><address type='isa' iobase='0x505'/></panic>
    <watchdog model='ib700' action='pause'/>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    {devices}
  </devices>
</domain>
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_fits_into_a_sector() {
        for guest in
            [Guest::PowersOff, Guest::Suspends, Guest::Panics, Guest::WritesDisk, Guest::TriggersWatchdog]
        {
            assert!(guest.code().unwrap().len() <= 510, "{guest:?}");
        }
        assert_eq!(Guest::Nothing.code(), None);
    }
}
