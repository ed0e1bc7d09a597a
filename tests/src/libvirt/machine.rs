//! QEMU domains whose guest is a boot sector that performs one action.
//!
//! They do not need KVM, and start in 0.25 s.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;

use crate::host::Host;
use crate::libvirt::{Libvirtd, QEMU};

/// The directory of images and emulators on the host.
const DIRECTORY: &str = "/run/machines";
/// The file that opens the gate, on the host.
pub const GATE: &str = "/run/machines/gate";

/// What the guest does. The machine type is `pc`, whose power management registers start at port 0x600 (Intel, "82371AB
/// PCI-to-ISA / IDE Xcelerator (PIIX4)", section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// There is nothing to boot. The firmware waits forever.
    Nothing,
    /// Powers off immediately on request (`virsh shutdown`).
    PowersOff,
    /// Suspends to RAM at its first boot. After a wakeup, it boots again and idles.
    Suspends,
    /// Reports a crash with the panic device at port 0x505.
    Panics,
    /// Writes one sector to its first disk.
    WritesDisk,
    /// Triggers its watchdog, an ib700 at port 0x443.
    TriggersWatchdog,
}

/// `sti` and `hlt`, in a loop.
const IDLE: &[u8] = &[0xfb, 0xf4, 0xeb, 0xfd];

impl Guest {
    /// The code of its boot sector. `None` if there is nothing to boot.
    fn code(self) -> Option<Vec<u8>> {
        let act: &[u8] = match self {
            Self::Nothing => return None,
            Self::PowersOff => &[
                0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // out 602h, 0100h: enable the power button
                0xfb, 0xf4, // sti; hlt: wait for the next timer interrupt
                0xba, 0x00, 0x06, 0xed, // in ax, 600h
                0xf6, 0xc4, 0x01, 0x74, 0xf5, // loop until the power button is pressed
                0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // out 604h, 2000h: S5
            ],
            Self::Suspends => &[
                0xb0, 0x7f, 0xe6, 0x70, 0xe4, 0x71, // read a byte of CMOS, which is 0 at the first boot
                0x84, 0xc0, 0x75, 0x0d, // if it is not 0, idle
                0xb0, 0x7f, 0xe6, 0x70, 0xe6, 0x71, // write another value
                0xba, 0x04, 0x06, 0xb8, 0x00, 0x24, 0xef, // out 604h, 2400h: S3
            ],
            Self::Panics => &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee], // out 505h, 1
            Self::TriggersWatchdog => &[0xba, 0x43, 0x04, 0xb0, 0x0f, 0xee], // out 443h, 15: the timeout is 0
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

    /// The content of its floppy disk. `None` if there is nothing to boot.
    #[must_use]
    pub fn floppy(self) -> Option<Vec<u8>> {
        let mut image = self.code()?;
        image.resize(510, 0);
        image.extend([0x55, 0xaa]);
        image.resize(1440 * 1024, 0);
        Some(image)
    }

    /// Creates its floppy disk image, and returns the path on the host. `None` if there is nothing to boot.
    fn image(self, host: &Host) -> Option<String> {
        let image = format!("{DIRECTORY}/{}.img", self.name());
        std::fs::write(host.path(&image), self.floppy()?).expect("an image in /run");
        Some(image)
    }
}

/// The QEMU program that runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// The installed QEMU.
    Plain,
    /// Starts when the gate is open: [`open_gate`]. Until then, the domain is "paused (starting up)".
    Gated,
    /// Ignores SIGTERM, like a QEMU process that is flushing its disks.
    IgnoresSigterm,
}

impl Emulator {
    /// Creates the program, and returns its path on the host. It behaves like QEMU when libvirt queries
    /// its features, and differs only when it runs a machine.
    fn program(self, host: &Host) -> String {
        let qemu = "/usr/bin/qemu-system-x86_64";
        let (name, first) = match self {
            Self::Plain => return qemu.to_owned(),
            Self::Gated => {
                ("gated".to_owned(), format!("while not os.path.exists('{GATE}'): time.sleep(0.02)"))
            }
            Self::IgnoresSigterm => {
                let block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])";
                ("ignores-sigterm".to_owned(), block.to_owned())
            }
        };
        let program = format!("{DIRECTORY}/{name}");
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
        std::fs::set_permissions(host.path(&program), PermissionsExt::from_mode(0o755))
            .expect("the mode of the program");
        program
    }
}

/// Opens the gate for machines with [`Emulator::Gated`].
pub fn open_gate(host: &Host) {
    host.write(GATE, "");
}

/// Closes the gate for machines that start later.
///
/// # Panics
/// If the gate is not open.
pub fn close_gate(host: &Host) {
    std::fs::remove_file(host.path(GATE)).expect("an open gate");
}

/// A QEMU domain with one interface on `br0`. libvirt chooses the MAC address.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    guest: Guest,
    emulator: Emulator,
    disk: Option<String>,
    devices: String,
}

impl Machine {
    /// A machine without a disk, and with nothing to boot.
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

    /// Sets the guest.
    #[must_use]
    pub fn guest(mut self, guest: Guest) -> Self {
        self.guest = guest;
        self
    }

    /// Sets the QEMU program.
    #[must_use]
    pub fn emulator(mut self, emulator: Emulator) -> Self {
        self.emulator = emulator;
        self
    }

    /// Adds a disk, which is a file on the host. After an I/O error, the machine is paused.
    #[must_use]
    pub fn disk(mut self, on_host: &str) -> Self {
        self.disk = Some(on_host.to_owned());
        self
    }

    /// Adds a device, as XML.
    #[must_use]
    pub fn device(mut self, xml: &str) -> Self {
        self.devices.push_str(xml);
        self
    }

    /// Defines the domain.
    ///
    /// # Panics
    /// If libvirt rejects it.
    pub fn define(&self, libvirtd: &Libvirtd<'_>) {
        libvirtd.define(QEMU, &self.xml(libvirtd.host()));
    }

    fn xml(&self, host: &Host) -> String {
        std::fs::create_dir_all(host.path(DIRECTORY)).expect("a directory in /run");
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
    fn each_guest_fits_into_a_sector() {
        for guest in
            [Guest::PowersOff, Guest::Suspends, Guest::Panics, Guest::WritesDisk, Guest::TriggersWatchdog]
        {
            assert!(guest.code().unwrap().len() <= 510, "{guest:?}");
        }
        assert_eq!(Guest::Nothing.code(), None);
    }
}
