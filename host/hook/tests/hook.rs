//! The hook's exit status, duration and files in each situation, with a stand-in for the service.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};
use wakevirt_protocol::host::{
    MAX_BYTES, MAX_ENTRIES, MAX_NAME, MAX_XML, Operation, Reply, SOCKET, SPOOL, WAIT, entry_operation,
    entry_parts,
};
use wakevirt_tests::hook::{accept, listen_at, reply_to};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::{privileged, wait};

const HOOK: &str = env!("CARGO_BIN_EXE_wakevirt-hook");
const XML: &[u8] = b"<domain type='kvm'><name>a b</name></domain>\n";
/// The bound for a hook that does not have to wait.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The machine can be busy.
const TOO_LONG: Duration = Duration::from_secs(10);

/// A host with the spool, as systemd-tmpfiles creates it.
struct Lab {
    host: Host,
}

/// What the hook did.
struct Run {
    output: Output,
    duration: Duration,
}

impl Run {
    fn of(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        let start = Instant::now();
        let output = command.stdin(stdin).output().unwrap();
        assert!(output.stdout.is_empty(), "the hook printed {:?}", output.stdout);
        Self { output, duration: start.elapsed() }
    }

    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }
}

impl Lab {
    fn new() -> Self {
        let host = Host::new();
        host.sh(&format!("mkdir -p {SPOOL} && chown root:nogroup {SPOOL} && chmod 770 {SPOOL}"));
        Self { host }
    }

    /// The hook with the arguments that libvirt passes.
    fn hook(&self, name: &str, operation: &str) -> Command {
        let mut command = self.host.command(HOOK);
        command.args([name, operation, "begin", "-"]);
        command
    }

    fn run(&self, name: &str, operation: &str) -> Run {
        Run::of(&mut self.hook(name, operation), input(XML))
    }

    /// The paths of the entries in the spool, in the order of their names.
    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.host.path(SPOOL)).unwrap();
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    }

    /// The name and the XML in the only entry, which is removed.
    fn take_entry(&self) -> (Vec<u8>, Vec<u8>) {
        let [path] = self.entries().try_into().unwrap();
        let content = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        let (name, xml) = entry_parts(&content).unwrap();
        (name.to_vec(), xml.to_vec())
    }

    /// The listening socket of a service, with a queue for this many connections.
    fn listen(&self, backlog: i32) -> OwnedFd {
        let path = self.host.path(SOCKET);
        let _ = fs::remove_file(&path);
        listen_at(&path, backlog)
    }

    /// Runs the hook while a service answers its message with these messages and then closes the connection.
    fn answered(&self, operation: &str, messages: &[Vec<u8>]) -> Run {
        let socket = self.listen(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (connection, entry) = accept(&socket).unwrap();
                assert_eq!(entry_operation(&entry).unwrap().name(), operation);
                assert!(self.host.path(SPOOL).join(&entry).exists());
                for message in messages {
                    reply_to(&connection, message);
                }
            });
            self.run("a b", operation)
        })
    }
}

/// A pipe from which these bytes can be read.
fn input(bytes: &[u8]) -> Stdio {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = bytes.to_vec();
    // The hook does not always read everything.
    thread::spawn(move || drop(writer.write_all(&bytes)));
    reader.into()
}

/// These bytes in a file, which the hook can read at once. Through a pipe, a busy machine needs longer for many bytes
/// than the hook waits for them.
fn file(bytes: &[u8]) -> Stdio {
    let mut file = fs::File::from(memfd_create("xml", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

#[test]
fn exits_with_1_only_if_a_start_is_refused() {
    privileged!();
    let lab = Lab::new();
    let refused = Reply::Refused("not enough\n\x1b[31mhuge pages".to_owned()).encode();
    let wait = Reply::Wait(Duration::from_secs(60)).encode();
    for operation in Operation::ALL.map(Operation::name) {
        let code = if operation == "prepare" { 1 } else { 0 };
        for (messages, code) in [
            (vec![refused.clone()], code),
            (vec![wait.clone(), wait.clone(), refused.clone()], code),
            (vec![Reply::Done.encode()], 0),
            (vec![wait.clone(), Reply::Done.encode()], 0),
            // The service exits without an answer, or its answer is invalid.
            (vec![], 0),
            (vec![wait.clone()], 0),
            (vec![b"R\xff".to_vec()], 0),
            (vec![vec![b'X'; 5000]], 0),
        ] {
            let run = lab.answered(operation, &messages);
            assert_eq!(run.code(), Some(code), "{operation}, {messages:?}: {}", run.stderr());
            assert!(run.duration < TOO_LONG, "{operation}, {messages:?}");
            if code == 1 {
                assert_eq!(run.stderr(), "not enough  [31mhuge pages\n");
            }
        }
    }
}

#[test]
fn passes_on_the_name_and_the_xml_unchanged() {
    privileged!();
    let lab = Lab::new();
    for name in
        [&b"win11"[..], b"a b", b"\"'`$(reboot)", b"\\x2d", b"a\nb\xff", b"../../x", b"-", &[b'n'; MAX_NAME]]
    {
        let mut hook = lab.host.command(HOOK);
        hook.arg(std::ffi::OsString::from_vec(name.to_vec())).args(["started", "begin", "-"]);
        assert_eq!(Run::of(&mut hook, input(XML)).code(), Some(0));
        let [path] = lab.entries().try_into().unwrap();
        assert_eq!(entry_operation(path.file_name().unwrap().to_str().unwrap()), Some(Operation::Started));
        let status = fs::metadata(&path).unwrap();
        let group = fs::metadata(lab.host.path(SPOOL)).unwrap().gid();
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o7777), (0, group, 0o640));
        assert_eq!(lab.take_entry(), (name.to_vec(), XML.to_vec()));
    }
}

#[test]
fn drops_xml_that_is_too_long_or_does_not_end() {
    privileged!();
    let lab = Lab::new();
    let longest = vec![b'x'; MAX_XML];
    assert_eq!(Run::of(&mut lab.hook("a", "prepare"), file(&longest)).code(), Some(0));
    assert_eq!(lab.take_entry(), (b"a".to_vec(), longest));

    let endless = || fs::File::open("/dev/zero").unwrap();
    let (silent, writer) = std::io::pipe().unwrap();
    for stdin in [file(&vec![b'x'; MAX_XML + 1]), endless().into(), silent.into()] {
        let run = Run::of(&mut lab.hook("a", "prepare"), stdin);
        assert_eq!(run.code(), Some(0));
        assert!(run.duration < TOO_LONG);
        assert_eq!(lab.take_entry(), (b"a".to_vec(), Vec::new()));
    }
    drop(writer);
}

#[test]
fn ignores_other_operations_arguments_and_users() {
    privileged!();
    let lab = Lab::new();
    let socket = lab.listen(1);
    let hook = |arguments: &[&str]| {
        let mut command = lab.host.command(HOOK);
        command.args(arguments);
        command
    };
    let mut user = lab.host.command_as(User::Unprivileged, HOOK);
    user.args(["a", "prepare", "begin", "-"]);
    let mut not_utf8 = hook(&["a"]);
    not_utf8.arg(std::ffi::OsString::from_vec(b"prepare\xff".to_vec()));
    let too_long = "n".repeat(MAX_NAME + 1);
    for mut command in [
        hook(&[]),
        hook(&["a"]),
        hook(&["", "prepare"]),
        hook(&[&too_long, "prepare", "begin", "-"]),
        hook(&["a", "start", "begin", "-"]),
        hook(&["a", "restore", "begin", "-"]),
        hook(&["a", "migrate", "begin", "-"]),
        hook(&["a", "attach", "begin", "-"]),
        hook(&["a", "PREPARE", "begin", "-"]),
        not_utf8,
        user,
    ] {
        // Nobody writes the XML, and the hook must not wait for it.
        let (silent, writer) = std::io::pipe().unwrap();
        let mut fastest = Run::of(&mut command, silent);
        assert_eq!(fastest.code(), Some(0), "{command:?}");
        drop(writer);
        for _ in 0..20 {
            let (silent, _writer) = std::io::pipe().unwrap();
            let run = Run::of(&mut command, silent);
            fastest = if run.duration < fastest.duration { run } else { fastest };
        }
        assert!(fastest.duration < AT_ONCE, "{command:?}: {:?}", fastest.duration);
    }
    assert!(lab.entries().is_empty());
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    assert!(accept_with(&socket, SocketFlags::CLOEXEC).is_err(), "the hook connected to the service");
}

#[test]
fn does_not_wait_for_a_service_that_is_not_running() {
    privileged!();
    let lab = Lab::new();
    for what in ["no socket", "a socket that no process listens on"] {
        let runs = (0..20).map(|_| lab.run("a", "prepare"));
        let fastest = runs.inspect(|run| assert_eq!(run.code(), Some(0), "{what}")).map(|run| run.duration);
        let fastest = fastest.min().unwrap();
        assert!(fastest < AT_ONCE, "{what}: {fastest:?}");
        assert_eq!(lab.entries().len(), 20, "the entries remain");
        lab.entries().iter().for_each(|entry| fs::remove_file(entry).unwrap());
        drop(lab.listen(1));
    }
}

#[test]
fn waits_a_limited_time_for_a_service_that_hangs() {
    privileged!();
    let lab = Lab::new();
    let check = |what: &str| {
        let run = lab.run("a", "prepare");
        assert_eq!(run.code(), Some(0), "{what}");
        assert!(run.duration >= WAIT && run.duration < TOO_LONG, "{what}: {:?}", run.duration);
        assert_eq!(lab.take_entry(), (b"a".to_vec(), XML.to_vec()), "{what}");
    };
    let socket = lab.listen(0);
    check("the service does not accept connections");
    let _held = accept(&socket);
    // listen(2) with 0 leaves space for one connection.
    let waiting =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    connect(&waiting, &SocketAddrUnix::new(lab.host.path(SOCKET)).unwrap()).unwrap();
    check("the queue of connections is full");
}

#[test]
fn waits_as_long_as_the_service_asks() {
    privileged!();
    let lab = Lab::new();
    let socket = lab.listen(1);
    let run = thread::scope(|scope| {
        scope.spawn(|| {
            let (connection, _) = accept(&socket).unwrap();
            reply_to(&connection, &Reply::Wait(20 * WAIT).encode());
            // Longer than the hook waits on its own.
            thread::sleep(WAIT + WAIT / 2);
            reply_to(&connection, &Reply::Refused("no".to_owned()).encode());
        });
        lab.run("a", "prepare")
    });
    assert_eq!((run.code(), run.stderr().as_str()), (Some(1), "no\n"));

    // The service asks for little time, and then hangs.
    let run = thread::scope(|scope| {
        let service = scope.spawn(|| {
            let (connection, _) = accept(&socket).unwrap();
            reply_to(&connection, &Reply::Wait(WAIT / 20).encode());
            connection
        });
        let run = lab.run("a", "prepare");
        drop(service.join().unwrap());
        run
    });
    assert_eq!(run.code(), Some(0));
    assert!(run.duration < TOO_LONG);
}

#[test]
fn does_not_add_to_a_full_spool() {
    privileged!();
    let lab = Lab::new();
    let spool = lab.host.path(SPOOL);
    for number in 1..MAX_ENTRIES {
        fs::write(spool.join(number.to_string()), "").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(lab.run("a", "prepare").code(), Some(0));
    }
    assert_eq!(lab.entries().len(), MAX_ENTRIES);

    lab.entries().iter().for_each(|entry| fs::remove_file(entry).unwrap());
    let large = fs::File::create(spool.join("large")).unwrap();
    large.set_len(MAX_BYTES - 1).unwrap();
    assert_eq!(lab.run("a", "prepare").code(), Some(0));
    assert_eq!(lab.entries().len(), 2);
    let run = lab.run("a", "prepare");
    assert!(run.stderr().contains("is full"), "{}", run.stderr());
    assert_eq!((run.code(), lab.entries().len()), (Some(0), 2));
}

#[test]
fn leaves_nothing_behind_if_it_cannot_write_everything() {
    privileged!();
    let lab = Lab::new();
    lab.host.sh(&format!("mount -t tmpfs -o size=1M,mode=770 tmpfs {SPOOL}"));
    let run = Run::of(&mut lab.hook("a", "prepare"), file(&vec![b'x'; 2 << 20]));
    assert_eq!(run.code(), Some(0));
    assert!(run.stderr().contains("No space left"), "{}", run.stderr());
    assert!(lab.entries().is_empty());
    assert_eq!(lab.run("a", "prepare").code(), Some(0));
    assert_eq!(lab.take_entry(), (b"a".to_vec(), XML.to_vec()), "the space was not freed");

    // The hook is killed while it reads the XML. On a busy machine, it can exit before it is killed.
    wait::until_true("the hook to be killed", || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut killed =
            lab.hook("a", "prepare").stdin(reader.as_fd().try_clone_to_owned().unwrap()).spawn().unwrap();
        writer.write_all(XML).unwrap();
        wait::until_true("the hook to read the XML", || rustix::io::ioctl_fionread(&reader).unwrap() == 0);
        lab.host.sh("kill -9 $(pidof wakevirt-hook) || true");
        let was_killed = !killed.wait().unwrap().success();
        if !was_killed {
            let _ = lab.take_entry();
        }
        was_killed
    });
    assert!(lab.entries().is_empty());
}

#[test]
fn does_not_use_a_spool_that_others_control() {
    privileged!();
    let lab = Lab::new();
    for (change, back) in [
        ("chown nobody spool", "chown root spool"),
        ("chmod o+w spool", "chmod o-w spool"),
        ("mv spool real && ln -s real spool", "rm spool && mv real spool"),
    ] {
        lab.host.sh(&format!("cd /run/wakevirt-host && {change}"));
        let run = lab.run("a", "prepare");
        assert_eq!(run.code(), Some(0), "{change}");
        assert!(!run.stderr().is_empty() && lab.entries().is_empty(), "{change}");
        lab.host.sh(&format!("cd /run/wakevirt-host && {back}"));
    }
    lab.host.sh(&format!("rmdir {SPOOL}"));
    assert_eq!(lab.run("a", "prepare").code(), Some(0), "the package is being removed");
}

#[test]
fn exits_with_0_without_descriptors_and_within_resource_limits() {
    privileged!();
    let lab = Lab::new();
    let limited = |script: &str| {
        let mut command = lab.host.command("sh");
        command.args(["-c", &format!("{script} \"$0\" a prepare begin -"), HOOK]);
        let run = Run::of(&mut command, input(XML));
        assert_eq!(run.code(), Some(0), "{script}: {}", run.stderr());
        lab.entries().len()
    };
    assert_eq!(limited("exec <&- >&- 2>&-; exec"), 1);
    assert_eq!(lab.take_entry(), (b"a".to_vec(), Vec::new()));
    // The hook cannot open the directory.
    assert_eq!(limited("exec prlimit --nofile=4"), 0);
    // A write beyond this limit would kill the hook.
    assert_eq!(limited("exec prlimit --fsize=10:10"), 0);
    assert_eq!(limited("exec prlimit --fsize=10:unlimited"), 1);
    assert_eq!(lab.take_entry(), (b"a".to_vec(), XML.to_vec()));
    assert_eq!(limited("umask 777; exec"), 1);

    // Nobody reads the reason.
    let socket = lab.listen(1);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut hook = lab.hook("a", "prepare").stdin(input(XML)).stderr(writer).spawn().unwrap();
    let (connection, _) = accept(&socket).unwrap();
    reply_to(&connection, &Reply::Refused("no".to_owned()).encode());
    assert_eq!(hook.wait().unwrap().code(), Some(1));
}
