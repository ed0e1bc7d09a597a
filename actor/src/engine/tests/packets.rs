use super::*;

#[tokio::test]
async fn a_packet_starts_the_domain_with_its_address() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1]), domain(2, &[2, 3])]).await;
    engine.send_packet(9).await;
    engine.send_packet(3).await;
    assert_eq!(
        engine.next_decision().await,
        (3, Outcome::Started),
        "a packet for an unknown address does not cause a decision"
    );
    engine.send_packet(2).await;
    assert_eq!(engine.next_decision().await, (2, Outcome::AlreadyRunning));
    assert_eq!(fake.starts(), [uuid(2)]);
}

#[tokio::test]
async fn a_packet_needs_a_rule_but_a_call_does_not() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::Crashed)], &[]);
    let mut engine =
        start_with(&fake, vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[4]), domain(4, &[4])]).await;
    engine.requests.set_policy(rules(&["other"])).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::NotAllowed));
    assert_eq!(engine.call(1).await, Ok(Outcome::Started));
    assert_eq!(engine.call(2).await, Ok(Outcome::Failed), "it has crashed");
    assert_eq!(engine.call(3).await, Err("unknown"));
    assert_eq!(engine.call(4).await, Ok(Outcome::Ambiguous));
    engine.requests.set_policy(rules(&["vm3"])).await;
    fake.set(3, State::Running);
    assert_eq!(engine.call(4).await, Ok(Outcome::AlreadyRunning), "a rule names one of them");
}

#[tokio::test]
async fn fetches_the_password_that_a_rule_requires() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1.2.3.4").unwrap();
    let mut policy = policy(&format!("[[allow]]\ndomain = \"*\"\nsecure-on = {:?}", file.path()));
    policy.rules.read_passwords().unwrap();
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await.1, Outcome::BadPassword, "the packet has no password");
    for (answer, outcome) in [
        (Ok(Password::Four([1, 2, 3, 5])), Outcome::BadPassword),
        (Err("forgotten".to_owned()), Outcome::BadPassword),
        (Ok(Password::Four([1, 2, 3, 4])), Outcome::Started),
    ] {
        let details = PacketDetails { secure_on: true, ..PacketDetails::default() };
        engine.announce(Packet { mac: mac(1), sequence: 5, details }).await;
        engine.fetches.recv().await.unwrap().reply(answer);
        assert_eq!(engine.next_decision().await, (5, outcome));
    }
}

/// The first rule requires a password; the second one does not.
#[tokio::test]
async fn a_rule_without_password_applies_if_no_password_can_be_fetched() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1.2.3.4").unwrap();
    let secured = format!("[[allow]]\ndomain = \"*\"\nsecure-on = {:?}\n", file.path());
    let mut policy = policy(&format!("{secured}[[allow]]\ndomain = \"vm1\"\n"));
    policy.rules.read_passwords().unwrap();
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    let details = PacketDetails { secure_on: true, ..PacketDetails::default() };
    let explain = async |last| engine.requests.explain(mac(last), details.clone()).await.unwrap().1;
    assert!(
        explain(1).await.contains("if the SecureOn password is correct, otherwise by rule domain = \"vm1\";")
    );
    assert!(explain(2).await.contains("if the SecureOn password is correct;"));
    // No password is returned for these packets.
    let packet = |last, sequence| Packet { mac: mac(last), sequence, details: details.clone() };
    for sequence in 1..=256 {
        engine.announce(packet(2, sequence)).await;
    }
    engine.announce(packet(2, 257)).await;
    assert_eq!(engine.next_decision().await, (257, Outcome::BadPassword));
    engine.announce(packet(1, 258)).await;
    assert_eq!(engine.next_decision().await, (258, Outcome::Started));
    assert_eq!(engine.lost.count(), 0);
}

#[tokio::test]
async fn measures_wakes_and_stores_unknown_addresses() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    let boottime = Some(wakevirt_service::clock::boottime());
    let details = PacketDetails { boottime, ..PacketDetails::default() };
    // Only the first packet starts the domain.
    for sequence in [1, 2] {
        engine.announce(Packet { mac: mac(1), sequence, details: details.clone() }).await;
        let _ = engine.next_decision().await;
    }
    engine.send_packet_on("br1", 8).await;
    engine.send_packet_on("br0", 9).await;
    engine.wait_until_idle().await;
    let counts = engine.requests.counts().await.unwrap();
    let (buckets, sum, count) = counts.latency.cumulative();
    assert_eq!((count, buckets.last().unwrap().1), (1, 1));
    assert!(sum > 0, "the time since the packet was received");
    let unknown: Vec<_> =
        counts.unknown_addresses.iter().map(|it| (it.mac, it.packets, it.interface.as_str())).collect();
    assert_eq!(unknown, [(mac(9), 1, "br0"), (mac(8), 1, "br1")]);
    let history = engine.requests.history(u64::MAX, 10).await.unwrap();
    assert_eq!(history.len(), 2, "a packet for an unknown address is not a decision");
}
