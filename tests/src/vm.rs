//! A Debian host in QEMU, with its own kernel and all of that kernel's modules: `scripts/vm`. It needs no KVM. Without it,
//! the host boots in about 30 s.
//!
//! Tests use it for what the kernel of the machine that runs the tests might not have, such as VLANs.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::host::{Host, PROGRAMS, project, succeed};
use crate::process::{Process, print_on_failure};
use crate::wait;

/// The directory of its files, as a path on the [`Host`].
const DIRECTORY: &str = "/run/vm";
/// The maximum time for the boot, and for each command.
const TIMEOUT: Duration = Duration::from_secs(240);

/// QEMU. `$1` is the directory that `scripts/vm` prints. Writes to the disk go to a temporary file.
const QEMU: &str = r#"
cd /run/vm
export TMPDIR=/run/vm
exec qemu-system-x86_64 -machine pc,accel=tcg,smm=off -cpu max -smp 2 -m 1024 -nodefaults -no-reboot -display none \
    -monitor none -serial stdio -kernel "$1/kernel" -initrd "$1/initramfs" \
    -append "console=ttyS0 quiet systemd.show_status=0" \
    -drive "file=$1/disk,format=raw,if=virtio,snapshot=on" -drive file=files.tar,format=raw,if=virtio,readonly=on \
    -chardev socket,id=commands,path=commands,server=on,wait=off \
    -device virtio-serial -device virtserialport,chardev=commands
"#;

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status.
    pub status: i32,
    /// Its standard output and standard error.
    pub output: String,
}

/// A Debian host in QEMU, which ends with the value.
#[derive(Debug)]
pub struct Vm {
    commands: BufReader<UnixStream>,
    qemu: Process,
}

impl Vm {
    /// Boots it, with the programs of this build installed as by `make install PREFIX=/usr`. Their units are disabled.
    /// QEMU runs on `host`.
    ///
    /// # Panics
    /// If it does not boot.
    #[must_use]
    pub fn boot(host: &Host) -> Self {
        let vm = succeed(&mut Command::new(project().join("scripts/vm")));
        let files = format!("{DIRECTORY}/files");
        let mut install = host.command(&project().join("scripts/install").to_string_lossy());
        install.arg("install").env("DESTDIR", &files).env("PREFIX", "/usr");
        // The script finds the programs in CARGO_TARGET_DIR/PROFILE.
        let (target, profile) = PROGRAMS.rsplit_once('/').expect("a path");
        succeed(install.env("CARGO_TARGET_DIR", target).env("PROFILE", profile));
        host.sh(&format!("tar --create --file={DIRECTORY}/files.tar --directory={files} ."));
        let qemu = Process::start("QEMU", host.command("sh").args(["-euc", QEMU, "qemu"]).arg(vm.trim()));
        let socket = host.path(&format!("{DIRECTORY}/commands"));
        let commands = wait::until("QEMU's socket", || UnixStream::connect(&socket).ok());
        commands.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut vm = Self { commands: BufReader::new(commands), qemu };
        let ready = vm.read_line().unwrap_or_else(|error| vm.fail(&error));
        assert_eq!(ready, "ready\n");
        vm.sh("systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; systemctl reload dbus");
        vm
    }

    /// Runs a bash script as root, and returns its exit status and its output.
    ///
    /// # Panics
    /// If the host does not reply in time, with the console in the message.
    pub fn run(&mut self, script: &str) -> Finished {
        self.exchange(script).unwrap_or_else(|error| self.fail(&error))
    }

    /// Runs a bash script as root, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its output in the message.
    pub fn sh(&mut self, script: &str) -> String {
        let Finished { status, output } = self.run(script);
        assert_eq!(status, 0, "`{script}` failed:\n{output}");
        output
    }

    /// Writes a file (owner root, mode 0644). The parent directory must exist.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&mut self, path: &str, text: &str) {
        self.sh(&format!("cat >{path} <<'END OF FILE'\n{text}\nEND OF FILE"));
    }

    fn exchange(&mut self, script: &str) -> io::Result<Finished> {
        let command = format!("{}\n{script}", script.len());
        self.commands.get_mut().write_all(command.as_bytes())?;
        let line = self.read_line()?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(status)), Some(Ok(length))) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other(format!("unexpected reply {line:?}")));
        };
        let mut output = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.commands.read_exact(&mut output)?;
        Ok(Finished { status, output: String::from_utf8_lossy(&output).into_owned() })
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.commands.read_line(&mut line)? {
            0 => Err(io::Error::other("QEMU has exited")),
            _ => Ok(line),
        }
    }

    fn fail(&self, error: &io::Error) -> ! {
        panic!("no reply from the virtual machine: {error}\n{}", self.qemu.log().all().join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        print_on_failure("the virtual machine's journal", || {
            let _ = self.commands.get_ref().set_read_timeout(Some(wait::TIMEOUT));
            let journal = self.exchange("journalctl --no-pager --lines=200");
            journal.map_or_else(|error| error.to_string(), |journal| journal.output)
        });
    }
}
