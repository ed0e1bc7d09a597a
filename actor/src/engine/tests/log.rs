//! Log lines about packets and rules.

use core::task::Poll;
use std::io::Read as _;

use super::*;

/// Collects the log lines of this thread.
struct Log {
    reader: std::io::PipeReader,
    subscriber: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let logger = tracing_subscriber::fmt().with_writer(Mutex::new(writer)).with_ansi(false).finish();
        Self { reader, subscriber: tracing::subscriber::set_default(logger) }
    }

    /// The lines that contain this text.
    fn lines_with(self, text: &str) -> Vec<String> {
        let Self { mut reader, subscriber } = self;
        drop(subscriber);
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

/// An engine with one domain that only packets on br0 are allowed to wake, and its log.
async fn start_allowing_only_br0() -> (Log, TestEngine) {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let engine = start(policy("[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br0\"]"));
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    (log, engine)
}

/// Sends this many packets on this interface. All of them are denied.
async fn send_denied(engine: &mut TestEngine, interface: &str, packets: usize) {
    for _ in 0..packets {
        engine.send_packet_on(interface, 1).await;
        assert_eq!(engine.next_decision().await.1, Outcome::NotAllowed);
    }
    // The engine logs a decision before it handles the next input.
    engine.requests.counts().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn counts_suppressed_lines_when_the_interval_ends() {
    let (log, mut engine) = start_allowing_only_br0().await;
    send_denied(&mut engine, "vnet0", 500).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    send_denied(&mut engine, "vnet0", 1).await;
    let lines = log.lines_with("vnet0");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[2].contains("further lines like this are suppressed"), "{lines:#?}");
    assert!(lines[3].contains("vm1") && lines[3].contains("497 more packets on \"vnet0\""), "{lines:#?}");
    assert!(lines[4].contains("packet for 52:54:00:00:00:01"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn limits_each_interface_independently() {
    let (log, mut engine) = start_allowing_only_br0().await;
    send_denied(&mut engine, "vnet0", 50).await;
    send_denied(&mut engine, "eth0", 1).await;
    assert_eq!(log.lines_with("eth0").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_counts_suppressed_lines_and_resets_the_limits() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let other = || policy("[[allow]]\ndomain = \"vm2\"");
    let mut engine = start(other());
    engine.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    send_denied(&mut engine, "br0", 7).await;
    engine.requests.set_policy(other()).await;
    send_denied(&mut engine, "br0", 1).await;
    let lines = log.lines_with("no rule allows it");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[3].contains("4 more packets") && lines[4].contains("packet for"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn counts_suppressed_lines_on_exit() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let mut engine = start(policy("[[allow]]\ndomain = \"vm2\""));
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    send_denied(&mut engine, "br0", 8).await;
    engine.task.abort();
    assert!(engine.task.await.is_err());
    let lines = log.lines_with("5 more packets");
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

/// Sends a packet for an unknown address, and waits until it is counted.
async fn send_unknown(engine: &TestEngine, last: u8) {
    let before = engine.requests.counts().await.unwrap().unknown;
    engine.send_packet(last).await;
    while engine.requests.counts().await.unwrap().unknown == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn logs_the_first_packet_for_an_unknown_address_with_a_remedy() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let engine = start_with(&fake, vec![domain(1, &[1])]).await;
    for last in [8, 8, 9, 8] {
        send_unknown(&engine, last).await;
    }
    engine.requests.set_policy(rules(&["vm*"])).await;
    send_unknown(&engine, 8).await;
    let lines = log.lines_with("no domain has this address");
    let of =
        |last: u8| lines.iter().filter(|line| line.contains(&format!("packet for {}", mac(last)))).count();
    assert_eq!((of(8), of(9), lines.len()), (2, 1, 3), "{lines:#?}");
    assert!(lines[0].contains("fake addresses NAME"), "{lines:#?}");
    assert!(lines[0].contains("[[alias]]") && lines[0].contains("on \"br0\""), "{lines:#?}");
}

/// The log lines about a configuration without a rule. `opt_in` is whether the domain's metadata allows wakes;
/// `metadata` is whether the configuration accepts metadata.
async fn without_a_rule(opt_in: bool, metadata: bool) -> Vec<String> {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let rules = Rules::new(Vec::new(), if metadata { Metadata::Counts } else { Metadata::Ignored });
    let engine = start(Policy { rules, file: "/home/u/actor.toml".into(), ..Policy::default() });
    engine.update(up(&fake, vec![Domain { opt_in, ..domain(1, &[1]) }])).await;
    send_unknown(&engine, 9).await;
    log.lines_with("no rule is configured")
}

#[tokio::test]
async fn warns_if_no_packet_can_wake_a_domain() {
    let lines = without_a_rule(true, true).await;
    assert!(lines.len() == 1 && lines[0].contains("packets can wake 1 domain"), "{lines:#?}");
    for (opt_in, metadata) in [(false, true), (true, false), (false, false)] {
        let lines = without_a_rule(opt_in, metadata).await;
        assert!(lines.len() == 1 && lines[0].contains("no packet can wake a domain"), "{lines:#?}");
        assert!(lines[0].contains("to /home/u/actor.toml"), "{lines:#?}");
        assert_eq!(lines[0].contains("no domain's metadata"), metadata, "{lines:#?}");
    }
}

#[tokio::test]
async fn logs_which_hypervisor_a_held_packet_waits_for() {
    let log = Log::new();
    let engine = start(Policy::default());
    engine.send_packet(1).await;
    // The request below is sent after the packet was received.
    while engine.packets.capacity() < engine.packets.max_capacity() {
        tokio::task::yield_now().await;
    }
    let _ = engine.requests.counts().await;
    let lines = log.lines_with("held: packet for 52:54:00:00:00:01");
    assert!(lines.len() == 1 && lines[0].contains("unavailable: fake:///"), "{lines:#?}");
}

#[tokio::test]
async fn does_not_check_rules_before_the_domains_are_known() {
    let log = Log::new();
    let engine = start(Policy::default());
    engine.send_packet(1).await;
    let _ = engine.requests.counts().await;
    assert!(log.lines_with("no rule is configured").is_empty());
}

#[tokio::test(start_paused = true)]
async fn receivers_get_a_decision_before_it_is_logged() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let logger = tracing_subscriber::fmt().with_writer(Mutex::new(writer)).with_ansi(false).finish();
    let _subscriber = tracing::subscriber::set_default(logger);
    let mut logged = move || {
        let mut log = vec![0; 64 * 1024];
        let length = reader.read(&mut log).unwrap_or(0);
        String::from_utf8_lossy(&log[..length]).contains("packet for 52:54:00:00:00:01")
    };
    let mut engine = start(policy("[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br0\"]"));
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.wait_until_idle().await;
    engine.send_packet_on("vnet0", 1).await;
    // Other inputs must not make the engine log earlier.
    let updates = engine.updates.clone();
    let other_inputs = tokio::spawn(async move {
        for _ in 0..3 {
            // Unlike yield_now, this does not let the receiver of the decision run first.
            let mut is_first = true;
            core::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            assert!(updates.send(up(&fake, vec![domain(1, &[1])])).await.is_ok());
        }
    });
    assert_eq!(engine.next_decision().await.1, Outcome::NotAllowed);
    assert!(!logged(), "it was logged first");
    other_inputs.await.unwrap();
    engine.requests.counts().await.unwrap();
    assert!(logged());
}
