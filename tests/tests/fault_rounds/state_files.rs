//! The actor's state file is damaged, replaced, or cannot be written.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::scene::saved_state;
use wakevirt_tests::wait;

use crate::round::{Count, Fault, Series};
use crate::seed::{Random, in_rounds};
use crate::system::{Part, RECOVERY, RESTART, System};

const DIRECTORY: &str = "/run/wakevirt-actor";
const FILE: &str = "/run/wakevirt-actor/state";
/// The timeout of the actor's watchdog. The actor looks for its file whenever it sends a message to the watchdog.
const WATCHDOG: Duration = Duration::from_secs(1);

/// What happens to the file while the actor is not running. It is never missing: the actor would assume that the host has
/// booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Some bytes of each record change.
    Bytes,
    /// Its end is missing.
    Truncated,
    /// A newer version has written it.
    Newer,
    /// It contains random bytes.
    Foreign,
    /// Another user owns it.
    Unreadable,
    Directory,
    Link,
    Pipe,
}

const ALL: [Damage; 8] = [
    Damage::Bytes,
    Damage::Truncated,
    Damage::Newer,
    Damage::Foreign,
    Damage::Unreadable,
    Damage::Directory,
    Damage::Link,
    Damage::Pipe,
];

impl Damage {
    fn apply(self, host: &Host, random: &mut Random) {
        let path = host.path(FILE);
        let mut bytes = fs::read(&path).unwrap_or_default();
        let half = bytes.len() / 2;
        let replace = |command: &str| drop(host.sh(&format!("rm -rf {FILE}; {command}")));
        match self {
            Self::Bytes => {
                for slot in bytes.chunks_mut(half.max(1)) {
                    // In the header or the content of a record.
                    if let Some(byte) = slot.get_mut(random.below(100)) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
            Self::Truncated => bytes.truncate(random.below(half.max(1))),
            Self::Newer => {
                for slot in bytes.chunks_mut(half.max(1)) {
                    *slot.first_mut().expect("a chunk is not empty") += 1;
                }
            }
            Self::Foreign => {
                for byte in &mut bytes {
                    *byte = u8::try_from(random.below(256)).expect("below 256");
                }
            }
            Self::Unreadable => return replace(&format!("touch {FILE}; chmod 600 {FILE}")),
            Self::Directory => return replace(&format!("mkdir -p {FILE}/full")),
            Self::Link => return replace(&format!("ln -s /etc/passwd {FILE}")),
            Self::Pipe => return replace(&format!("mkfifo --mode=666 {FILE}")),
        }
        fs::write(&path, bytes).expect("the file of a killed actor");
    }
}

fn damage(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for round in 0..rounds {
        // In `make check`, each run tests other kinds.
        let damage = if rounds < ALL.len() {
            series.random.choose(&ALL)
        } else {
            *ALL.iter().cycle().nth(round).expect("one")
        };
        // The second process is killed before it receives a packet.
        let twice = series.random.below(2) == 0;
        let fault = Fault {
            description: format!("{damage:?}, then killed again: {twice}"),
            forgets: true,
            misses: false,
            interrupts: false,
            begin: &mut |system, random| {
                system.kill(Part::Actor);
                damage.apply(&host, random);
            },
            end: &mut |system, _| {
                sleep(RESTART);
                system.start(Part::Actor);
                if twice {
                    system.wait_until_ready();
                    system.kill(Part::Actor);
                    system.start(Part::Actor);
                }
            },
        };
        series.run(fault);
        host.sh(&format!("rm -rf {FILE}.unread"));
    }
    series.print("the state file is damaged or replaced while the actor is down");
}

/// Mounts a full filesystem on D. A record needs a page, the file at least one more.
const FULL: &str =
    "mount -t tmpfs -o size=72k tmpfs /mnt; cp -a D/. /mnt; chown wakevirt-actor: /mnt; mount --move /mnt D
    dd if=/dev/zero of=D/full bs=4k 2>/dev/null || true";
/// Makes D read-only.
const READ_ONLY: &str = "mount --bind D D; mount -o remount,bind,ro D";

/// Waits until the file contains another state than this one.
fn wait_until_saved(system: &System<'_>, old: &[u8]) {
    let is_saved = || {
        let state = saved_state(system.host);
        (!state.is_empty() && state != old).then_some(())
    };
    assert!(wait::within(RECOVERY, is_saved).is_some(), "the state is not saved:\n{}", system.logs());
}

/// The actor cannot write the file, and is killed. The next one must not repeat the wakes of the previous one, which are
/// not in the file.
fn unwritable(rounds: usize) {
    let mut random = Random::new();
    let host = Host::new();
    let mut system = System::new(&host, 2);
    let mut count = Count::default();
    for _ in 0..rounds {
        let is_full = random.below(2) == 0;
        // The actor that could not write is killed before or after it can.
        let (is_writable, killed_first) = (random.below(2) == 0, random.below(2) == 0);
        system.kill(Part::Actor);
        host.sh(&if is_full { FULL } else { READ_ONLY }.replace('D', DIRECTORY));
        let old = saved_state(&host);
        system.start(Part::Actor);
        system.wait_until_ready();
        let starts = system.starts(0);
        system.wake(0);
        system.destroy(0);
        if killed_first {
            system.kill(Part::Actor);
        }
        // If a file system is read-only until the actor is killed, the next one reads the old file.
        if is_writable && is_full {
            host.sh(&format!("rm {DIRECTORY}/full"));
        } else if is_writable && !killed_first {
            host.sh(&format!("mount -o remount,bind,rw {DIRECTORY}"));
        }
        if !killed_first {
            if is_writable {
                wait_until_saved(&system, &old);
            }
            system.kill(Part::Actor);
        }
        system.start(Part::Actor);
        system.wait_until_ready();
        system.wake(1);
        let repeated = system.starts(0) - starts - 1;
        let context = || {
            format!(
                "full: {is_full}, writable: {is_writable}, killed first: {killed_first}:\n{}",
                system.logs()
            )
        };
        assert_eq!(repeated, 0, "{}", context());
        count.add(if is_full { "full" } else { "read-only" });
        system.destroy(1);
        system.kill(Part::Actor);
        // The file below the mount is from before the wakes. An empty one is like one that could be emptied.
        host.sh(&format!("umount {DIRECTORY}; : >{FILE}"));
        system.start(Part::Actor);
        system.wait_until_ready();
    }
    count.print("the actor cannot write its state file, and is killed");
}

/// Someone removes the file while the actor is idle.
fn remove(rounds: usize) {
    let host = Host::new();
    let mut system = System::new(&host, 2);
    for _ in 0..rounds {
        system.kill(Part::Actor);
        let actor = Daemon::actor(&host).config(&system.config).watchdog(WATCHDOG);
        system.actor = Some(actor.start());
        system.wait_until_ready();
        let starts = system.starts(0);
        system.wake(0);
        system.destroy(0);
        fs::remove_file(host.path(FILE)).expect("the file of the actor");
        wait_until_saved(&system, &[]);
        system.kill(Part::Actor);
        system.start(Part::Actor);
        system.wait_until_ready();
        system.wake(1);
        assert_eq!(system.starts(0) - starts, 1, "{}", system.logs());
        system.destroy(1);
    }
    println!(
        "soak: the state file is removed while the actor is idle, and the actor is killed | {rounds} rounds | each \
         domain started once"
    );
}

in_rounds! {
    fn damaged(1, 80) { damage }
    fn not_writable(1, 20) { unwritable }
    fn removed(1, 10) { remove }
}
