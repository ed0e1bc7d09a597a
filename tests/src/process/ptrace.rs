//! Makes a system call in the name of another process, as a debugger does: ptrace(2).
//!
//! Whether Landlock holds a running process is written nowhere in `/proc`. It shows when that process
//! opens a file while seccomp looks away.

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// `PTRACE_O_SUSPEND_SECCOMP`, which nix has no name for: for tracers with `CAP_SYS_ADMIN`.
const SUSPEND_SECCOMP: Options = Options::from_bits_retain(1 << 21);

/// The instruction `syscall`, as the process that waits in one has it behind itself.
const SYSCALL: c_long = 0x050f;

/// Lets a process that waits in a system call open a file to read it, and close it again. It waits
/// on as before.
///
/// # Errors
/// What the kernel answered to it.
///
/// # Panics
/// If the process cannot be traced, or does not wait in a system call.
pub fn open_file(pid: Pid, path: &str) -> Result<(), Errno> {
    let intruder = Intruder::attach(pid);
    let address = intruder.write(path);
    // AT_FDCWD is below zero: as all arguments it goes into 64 bits with its sign.
    let here = i64::from(libc::AT_FDCWD).cast_unsigned();
    let flags = u64::try_from(libc::O_RDONLY | libc::O_CLOEXEC).expect("flags are not below zero");
    let opened = intruder.call(libc::SYS_openat, [here, address, flags])?;
    intruder.call(libc::SYS_close, [opened, 0, 0]).map(drop)
}

/// A process that is stopped and traced until the value is dropped.
struct Intruder {
    pid: Pid,
    before: user_regs_struct,
}

impl Intruder {
    fn attach(pid: Pid) -> Self {
        ptrace::attach(pid).unwrap_or_else(|error| panic!("cannot trace process {pid}: {error}"));
        waitpid(pid, None).expect("it stops");
        ptrace::setoptions(pid, SUSPEND_SECCOMP | Options::PTRACE_O_EXITKILL).expect("seccomp looks away");
        let before = ptrace::getregs(pid).expect("it is stopped");
        let behind = ptrace::read(pid, address(before.rip - 2)).expect("its code can be read");
        assert_eq!(behind & 0xffff, SYSCALL, "process {pid} does not wait in a system call");
        Self { pid, before }
    }

    /// Writes a text with its end onto the stack, far below what is in use, and returns where.
    fn write(&self, text: &str) -> u64 {
        let start = (self.before.rsp - 4096) & !7;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(text.len() / 8 * 8 + 8, 0);
        for (word, at) in bytes.chunks_exact(8).zip((start..).step_by(8)) {
            let word = c_long::from_ne_bytes(word.try_into().expect("eight bytes"));
            ptrace::write(self.pid, address(at), word).expect("its stack can be written");
        }
        start
    }

    fn call(&self, number: c_long, arguments: [u64; 3]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx] = arguments;
        let rip = self.before.rip - 2;
        // Not the call it waits in, which the kernel would else begin again.
        let (rax, orig_rax) = (number.cast_unsigned(), u64::MAX);
        let changed = user_regs_struct { rip, rax, orig_rax, rdi, rsi, rdx, ..self.before };
        ptrace::setregs(self.pid, changed).expect("it is stopped");
        ptrace::step(self.pid, None).expect("it is stopped");
        waitpid(self.pid, None).expect("it makes one step");
        let result = ptrace::getregs(self.pid).expect("it is stopped").rax.cast_signed();
        match u64::try_from(result) {
            Ok(result) => Ok(result),
            Err(_) => Err(Errno::from_raw(i32::try_from(-result).expect("an error number"))),
        }
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.pid, self.before);
        let _ = ptrace::detach(self.pid, None);
    }
}

fn address(at: u64) -> ptrace::AddressType {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).expect("an address of this machine"))
}
