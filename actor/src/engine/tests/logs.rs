//! What the actor logs of packets and of rules.

use std::io::Read as _;

use super::*;

/// The lines that this thread logs until they are taken.
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

    /// The lines with this text in them.
    fn lines_with(self, text: &str) -> Vec<String> {
        let Self { mut reader, subscriber } = self;
        drop(subscriber);
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

/// Sends so many packets by this interface, all of which are refused.
async fn refused(bench: &mut Bench, interface: &str, packets: usize) {
    for _ in 0..packets {
        bench.packet_on(interface, 1).await;
        assert_eq!(bench.finished().await.1, Outcome::NotAllowed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_is_counted_without_a_further_packet() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let mut bench = away(policy("[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br0\"]"));
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    refused(&mut bench, "vnet0", 500).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    refused(&mut bench, "vnet0", 1).await;
    let lines = log.lines_with("vnet0");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[2].contains("more like this are only counted"), "{lines:#?}");
    assert!(lines[3].contains("vm1") && lines[3].contains("497 more packets on \"vnet0\""), "{lines:#?}");
    assert!(lines[4].contains("packet for 52:54:00:00:00:01"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn another_interface_has_its_own_lines() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let mut bench = away(policy("[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br0\"]"));
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    refused(&mut bench, "vnet0", 50).await;
    refused(&mut bench, "eth0", 1).await;
    assert_eq!(log.lines_with("eth0").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_counts_what_was_left_out_and_begins_anew() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let other = || policy("[[allow]]\ndomain = \"vm2\"");
    let mut bench = away(other());
    bench.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    refused(&mut bench, "br0", 7).await;
    bench.requests.set_policy(other()).await;
    refused(&mut bench, "br0", 1).await;
    let lines = log.lines_with("no rule allows it");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[3].contains("4 more packets") && lines[4].contains("packet for"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_left_out_is_counted_when_the_actor_exits() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let mut bench = away(policy("[[allow]]\ndomain = \"vm2\""));
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    refused(&mut bench, "br0", 8).await;
    bench.actor.abort();
    assert!(bench.actor.await.is_err());
    let lines = log.lines_with("5 more packets");
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

/// Sends a packet for an address that no domain has, and waits until it is counted.
async fn unknown(bench: &Bench, last: u8) {
    let before = bench.requests.counts().await.unwrap().unknown;
    bench.packet(last).await;
    while bench.requests.counts().await.unwrap().unknown == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_first_packet_for_an_unknown_address_is_logged_with_the_cure() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let bench = bench(&fake, vec![domain(1, &[1])]).await;
    for last in [8, 8, 9, 8] {
        unknown(&bench, last).await;
    }
    bench.requests.set_policy(rules(&["vm*"])).await;
    unknown(&bench, 8).await;
    let lines = log.lines_with("no domain has this address");
    let of =
        |last: u8| lines.iter().filter(|line| line.contains(&format!("packet for {}", mac(last)))).count();
    assert_eq!((of(8), of(9), lines.len()), (2, 1, 3), "{lines:#?}");
    assert!(lines[0].contains("virsh --connect fake:/// domiflist NAME"), "{lines:#?}");
    assert!(lines[0].contains("[[alias]]") && lines[0].contains("on \"br0\""), "{lines:#?}");
}

/// What is said of a configuration without a rule, where the domain's metadata allow it or not.
async fn without_a_rule(opt_in: bool, metadata: bool) -> Vec<String> {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let log = Log::new();
    let rules = Rules::new(Vec::new(), metadata);
    let bench = away(Policy { rules, file: "/home/u/actor.toml".into(), ..Policy::default() });
    bench.update(up(&fake, vec![Domain { opt_in, ..domain(1, &[1]) }])).await;
    unknown(&bench, 9).await;
    log.lines_with("there is no rule")
}

#[tokio::test]
async fn only_where_nothing_is_allowed_the_log_says_so() {
    let lines = without_a_rule(true, true).await;
    assert!(lines.len() == 1 && lines[0].contains("1 domain may be woken"), "{lines:#?}");
    for (opt_in, metadata) in [(false, true), (true, false), (false, false)] {
        let lines = without_a_rule(opt_in, metadata).await;
        assert!(lines.len() == 1 && lines[0].contains("no packet can wake anything"), "{lines:#?}");
        assert!(lines[0].contains("to /home/u/actor.toml"), "{lines:#?}");
        assert_eq!(lines[0].contains("no domain's metadata"), metadata, "{lines:#?}");
    }
}

#[tokio::test]
async fn a_packet_that_is_held_names_the_hypervisor_that_is_missing() {
    let log = Log::new();
    let bench = away(Policy::default());
    bench.packet(1).await;
    // The next request comes after the packet.
    while bench.packets.capacity() < bench.packets.max_capacity() {
        tokio::task::yield_now().await;
    }
    let _ = bench.requests.counts().await;
    let lines = log.lines_with("held: packet for 52:54:00:00:00:01");
    assert!(lines.len() == 1 && lines[0].contains("fake:/// cannot be reached"), "{lines:#?}");
}

#[tokio::test]
async fn before_the_domains_are_known_nothing_is_said_of_rules() {
    let log = Log::new();
    let bench = away(Policy::default());
    bench.packet(1).await;
    let _ = bench.requests.counts().await;
    assert!(log.lines_with("there is no rule").is_empty());
}
