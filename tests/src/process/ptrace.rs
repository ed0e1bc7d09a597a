//! Makes system calls in another process with ptrace(2).
//!
//! `/proc` does not show whether Landlock restricts a process. A test finds out by making that process open a file
//! while its seccomp filter is suspended.

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// `PTRACE_O_SUSPEND_SECCOMP`, which requires CAP_SYS_ADMIN. nix does not define it.
const SUSPEND_SECCOMP: Options = Options::from_bits_retain(1 << 21);

/// The `syscall` instruction. While a process is blocked in a system call, its instruction pointer points just past
/// this instruction.
const SYSCALL: c_long = 0x050f;

/// Opens a file for reading in a process that is blocked in a system call, and closes it. Afterwards, the process is
/// blocked in the same system call again.
///
/// # Errors
/// The error of openat(2).
///
/// # Panics
/// If the process cannot be traced, or is not blocked in a system call.
pub fn open_file(pid: Pid, path: &str) -> Result<(), Errno> {
    let tracee = Tracee::attach(pid);
    let address = tracee.write(path);
    // AT_FDCWD is negative. Arguments are sign-extended to 64 bits.
    let cwd = i64::from(libc::AT_FDCWD).cast_unsigned();
    let flags = u64::try_from(libc::O_RDONLY | libc::O_CLOEXEC).expect("flags are not negative");
    let opened = tracee.call(libc::SYS_openat, [cwd, address, flags])?;
    tracee.call(libc::SYS_close, [opened, 0, 0]).map(drop)
}

/// A process that is stopped and traced until the value is dropped.
struct Tracee {
    pid: Pid,
    before: user_regs_struct,
}

impl Tracee {
    fn attach(pid: Pid) -> Self {
        ptrace::attach(pid).unwrap_or_else(|error| panic!("cannot trace process {pid}: {error}"));
        waitpid(pid, None).expect("the process stops");
        ptrace::setoptions(pid, SUSPEND_SECCOMP | Options::PTRACE_O_EXITKILL)
            .expect("seccomp can be suspended");
        let before = ptrace::getregs(pid).expect("the process is stopped");
        let code = ptrace::read(pid, address(before.rip - 2)).expect("the code is readable");
        assert_eq!(code & 0xffff, SYSCALL, "process {pid} is not blocked in a system call");
        Self { pid, before }
    }

    /// Writes a null-terminated string to the stack, below the used part, and returns its address.
    fn write(&self, text: &str) -> u64 {
        let start = (self.before.rsp - 4096) & !7;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(text.len() / 8 * 8 + 8, 0);
        for (word, at) in bytes.chunks_exact(8).zip((start..).step_by(8)) {
            let word = c_long::from_ne_bytes(word.try_into().expect("eight bytes"));
            ptrace::write(self.pid, address(at), word).expect("the stack is writable");
        }
        start
    }

    fn call(&self, number: c_long, arguments: [u64; 3]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx] = arguments;
        let rip = self.before.rip - 2;
        // With any other value of orig_rax, the kernel would restart the interrupted system call.
        let (rax, orig_rax) = (number.cast_unsigned(), u64::MAX);
        let changed = user_regs_struct { rip, rax, orig_rax, rdi, rsi, rdx, ..self.before };
        ptrace::setregs(self.pid, changed).expect("the process is stopped");
        ptrace::step(self.pid, None).expect("the process is stopped");
        waitpid(self.pid, None).expect("the process makes one step");
        let result = ptrace::getregs(self.pid).expect("the process is stopped").rax.cast_signed();
        match u64::try_from(result) {
            Ok(result) => Ok(result),
            Err(_) => Err(Errno::from_raw(i32::try_from(-result).expect("an error number"))),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.pid, self.before);
        let _ = ptrace::detach(self.pid, None);
    }
}

fn address(at: u64) -> ptrace::AddressType {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).expect("an address has 64 bits"))
}
