use super::*;
use crate::engine::early_requests::MAX_QUEUED;

/// Waits until the engine has queued the requests that were sent.
async fn wait_until_queued(engine: &TestEngine) {
    // Requests are received in order, and requests for counts are never queued.
    for _ in 0..2 {
        engine.requests.counts().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn queues_early_requests_until_the_first_list() {
    let fake = Fake::new(&[(1, State::Running)], &[]);
    let engine = start(rules(&["vm*"]));
    let requests = engine.requests.clone();
    let replies = tokio::spawn(async move {
        let details = PacketDetails::default();
        tokio::join!(
            requests.list(None),
            requests.explain(mac(1), details),
            requests.wake(WakeTarget::Mac(mac(1)), ROOT)
        )
    });
    wait_until_queued(&engine).await;
    assert!(!replies.is_finished());
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    let (list, explanation, reply) = replies.await.unwrap();
    assert_eq!(list.unwrap().unwrap().len(), 1);
    assert_eq!(
        explanation.unwrap(),
        (false, "\"vm1\" is allowed by rule domain = \"vm*\"; the domain is already running".to_owned())
    );
    assert!(matches!(reply.unwrap(), WakeReply::Decided(it) if it.outcome == Outcome::AlreadyRunning));
}

#[tokio::test(start_paused = true)]
async fn names_the_unavailable_hypervisor() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    for is_reported in [true, false] {
        let engine = start(rules(&["vm*"]));
        if is_reported {
            engine.update(Update::Down(URI.into())).await;
        }
        // If no update reports the failed connection, the request waits for the timeout.
        assert_eq!(engine.requests.list(None).await.unwrap(), Err(URI.to_owned()));
        let explain =
            async |last| engine.requests.explain(mac(last), PacketDetails::default()).await.unwrap();
        let (would_wake, reason) = explain(1).await;
        assert!(!would_wake);
        assert!(reason.contains(URI) && reason.contains("would be held for up to 1m"), "{reason}");
        assert!(matches!(
            engine.requests.wake(WakeTarget::Mac(mac(1)), ROOT).await.unwrap(),
            WakeReply::HypervisorUnavailable(uris) if uris == URI
        ));
        // The engine retains a hypervisor's domains while the hypervisor is unavailable.
        engine.update(up(&fake, vec![domain(1, &[1])])).await;
        engine.update(Update::Down(URI.into())).await;
        let (would_wake, reason) = explain(1).await;
        assert!(would_wake);
        assert!(reason.contains(URI) && reason.contains("would be held for up to 1m"), "{reason}");
        let list = engine.requests.list(None).await.unwrap().unwrap();
        assert_eq!((list.len(), list[0].state), (1, State::Unknown));
    }
}

#[tokio::test]
async fn limits_the_number_of_queued_requests() {
    let engine = start(rules(&["vm*"]));
    let list = || {
        tokio::spawn({
            let requests = engine.requests.clone();
            async move { requests.list(None).await }
        })
    };
    let waiting: Vec<_> = (0..MAX_QUEUED).map(|_| list()).collect();
    wait_until_queued(&engine).await;
    assert_eq!(list().await.unwrap().unwrap(), Err(URI.to_owned()), "one more request is handled at once");
    assert!(waiting.iter().all(|it| !it.is_finished()));
}
