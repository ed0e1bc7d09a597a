//! The libvirt driver with libvirt's test driver, which runs inside this process: connection, events and wakes.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::DomainState;
use virt::enumutil::Enum;
use wakevirt_actor::config::Scope;
use wakevirt_actor::engine::attempt::{WakeResult, wake};
use wakevirt_actor::hypervisor::{AttemptRequest, Decisions, Hypervisor, Keeper, Terms, Update};
use wakevirt_actor::model::{Called, Domain, Outcome, Pause, State, Trigger};
use wakevirt_actor::policy::rules::{Handling, Paused};
use wakevirt_actor_libvirt::Libvirt;
use wakevirt_protocol::MacAddr;

const URI: &str = "test:///default";

fn mac(last: u8) -> MacAddr {
    MacAddr::new([0x52, 0x54, 0, 0, 0, last])
}

fn xml(uuid: Uuid, macs: &[u8]) -> String {
    let interface = |last: &u8| format!("<interface type='user'><mac address='{}'/></interface>", mac(*last));
    let interfaces: String = macs.iter().map(interface).collect();
    format!(
        "<domain type='test'><name>vm-{uuid}</name><uuid>{uuid}</uuid><memory>1024</memory>\
         <os><type>hvm</type></os><devices>{interfaces}</devices></domain>"
    )
}

/// A second connection, for the administrator. All connections share the same domains.
struct Administrator(Connect);

impl Administrator {
    fn new() -> Self {
        Self(Connect::open(Some(URI)).unwrap())
    }

    fn define(&self, uuid: Uuid, macs: &[u8]) -> virt::domain::Domain {
        self.0.define_domain_xml(&xml(uuid, macs)).unwrap()
    }
}

/// The updates of a keeper.
struct Updates(mpsc::Receiver<Update>);

impl Updates {
    async fn connect() -> (Self, Arc<dyn Hypervisor>, Vec<Domain>) {
        let (sender, updates) = mpsc::channel(64);
        tokio::spawn(
            Keeper::<Libvirt>::start(URI.into(), &Scope::default(), &Decisions::new(1), sender)
                .unwrap()
                .run(),
        );
        let mut updates = Self(updates);
        match updates.next().await {
            Update::Up(_, hypervisor, domains) => (updates, hypervisor, domains),
            _ => panic!("the first update does not report a connection"),
        }
    }

    async fn next(&mut self) -> Update {
        tokio::time::timeout(Duration::from_secs(10), self.0.recv())
            .await
            .expect("no update in time")
            .unwrap()
    }

    /// Waits until an update reports this domain as expected. Skips the domains of other tests.
    async fn until(&mut self, uuid: Uuid, expected: impl Fn(&Domain) -> bool) {
        loop {
            match self.next().await {
                Update::Domain(domain) if domain.id.uuid == uuid && expected(&domain) => return,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn reports_all_domains_and_their_changes() {
    let administrator = Administrator::new();
    let (old, new) = (Uuid::from_u128(0x11), Uuid::from_u128(0x12));
    let old_domain = administrator.define(old, &[1, 2]);
    let (mut updates, _hypervisor, domains) = Updates::connect().await;
    let listed = domains.iter().find(|domain| domain.id.uuid == old).expect("the domain is listed");
    assert_eq!(listed.name, format!("vm-{old}"));
    assert_eq!(*listed.macs, [mac(1), mac(2)]);
    assert_eq!(listed.state, State::ShutOff);

    let domain = administrator.define(new, &[3]);
    updates.until(new, |domain| *domain.macs == [mac(3)]).await;
    domain.create().unwrap();
    updates.until(new, |domain| domain.state == State::Running).await;
    // The next start uses a different address; the running domain has the old one.
    administrator.define(new, &[4]);
    updates.until(new, |domain| *domain.macs == [mac(3), mac(4)]).await;
    domain.suspend().unwrap();
    updates.until(new, |domain| domain.state == State::Paused(Pause::User)).await;
    domain.destroy().unwrap();
    updates.until(new, |domain| domain.state == State::ShutOff && *domain.macs == [mac(4)]).await;
    domain.undefine().unwrap();
    while !matches!(updates.next().await, Update::Gone(id) if id.uuid == new) {}
    old_domain.undefine().unwrap();
}

/// The state of a domain, as libvirt reports it to an administrator.
fn state(domain: &virt::domain::Domain) -> Enum<DomainState, u32> {
    domain.state().unwrap().0
}

/// The outcome of a wake, and its reason.
async fn outcome(hypervisor: &Arc<dyn Hypervisor>, uuid: Uuid, paused: Paused) -> (Outcome, String) {
    outcome_with(hypervisor, uuid, paused, false).await
}

/// Like [`outcome`]. With `known_off`, the actor assumes that the domain is shut off.
async fn outcome_with(
    hypervisor: &Arc<dyn Hypervisor>,
    uuid: Uuid,
    paused: Paused,
    known_off: bool,
) -> (Outcome, String) {
    let handling = Handling { paused, ..Handling::default() };
    let terms = Terms { trigger: Trigger::Packet, handling, cool_down: None };
    let request = AttemptRequest {
        uuid,
        terms,
        shutdown_wait: Duration::from_secs(1),
        start_wait: Duration::from_secs(1),
        called: Called::No,
        known_off,
        expired: false,
    };
    match wake(Arc::clone(hypervisor), request).await {
        WakeResult::Done(outcome, reason) => (outcome, reason),
        WakeResult::Lost { .. } | WakeResult::Expired | WakeResult::Unready(_) => {
            panic!("libvirt runs in this process")
        }
    }
}

#[tokio::test]
async fn wakes_a_domain_according_to_its_state() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x21);
    let domain = administrator.define(uuid, &[5]);
    let (_updates, hypervisor, _) = Updates::connect().await;
    assert!(hypervisor.is_alive());

    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::Started);
    assert!(domain.is_active().unwrap());
    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::AlreadyRunning);
    domain.suspend().unwrap();
    let (left, reason) = outcome(&hypervisor, uuid, Paused::Leave).await;
    assert_eq!(left, Outcome::NotAllowed);
    assert!(reason.contains("paused (user)"), "{reason}");
    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::Resumed);
    assert_eq!(state(&domain), Enum::Known(DomainState::Running));
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    let (failed, reason) = outcome(&hypervisor, uuid, Paused::Resume).await;
    assert_eq!(failed, Outcome::Failed);
    assert!(reason.contains("Domain not found"), "{reason}");
}

#[tokio::test]
async fn reads_the_state_if_the_known_state_is_wrong() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x51);
    let domain = administrator.define(uuid, &[8]);
    let (_updates, hypervisor, _) = Updates::connect().await;
    let outcome = async |paused| outcome_with(&hypervisor, uuid, paused, true).await.0;

    assert_eq!(outcome(Paused::Resume).await, Outcome::Started);
    assert_eq!(outcome(Paused::Resume).await, Outcome::AlreadyRunning);
    domain.suspend().unwrap();
    assert_eq!(outcome(Paused::Leave).await, Outcome::NotAllowed);
    assert_eq!(state(&domain), Enum::Known(DomainState::Paused));
    assert_eq!(outcome(Paused::Resume).await, Outcome::Resumed);
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    assert_eq!(outcome(Paused::Resume).await, Outcome::Failed);
}

#[tokio::test]
async fn reports_a_saved_state() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x71);
    let domain = administrator.define(uuid, &[10]);
    let (mut updates, ..) = Updates::connect().await;
    domain.create().unwrap();
    domain.managed_save(0).unwrap();
    updates.until(uuid, |domain| domain.state == State::Saved).await;
    let (mut updates, _hypervisor, domains) = Updates::connect().await;
    let listed = domains.iter().find(|domain| domain.id.uuid == uuid).expect("the domain is listed");
    assert_eq!(listed.state, State::Saved);
    domain.create().unwrap();
    updates.until(uuid, |domain| domain.state == State::Running).await;
    domain.destroy().unwrap();
    updates.until(uuid, |domain| domain.state == State::ShutOff).await;
    domain.undefine().unwrap();
}

#[tokio::test]
async fn reports_a_change_before_it_reads_the_domain() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x61);
    let domain = administrator.define(uuid, &[9]);
    let (mut updates, _hypervisor, _) = Updates::connect().await;
    domain.create().unwrap();
    let next_of_domain = async |updates: &mut Updates| loop {
        match updates.next().await {
            Update::Changing(id) if id.uuid == uuid => return None,
            Update::Domain(domain) if domain.id.uuid == uuid => return Some(domain.state),
            _ => {}
        }
    };
    assert_eq!(next_of_domain(&mut updates).await, None);
    assert_eq!(next_of_domain(&mut updates).await, Some(State::Running));
    domain.destroy().unwrap();
    domain.undefine().unwrap();
}

#[tokio::test]
async fn reads_the_opt_in() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x41);
    let domain = administrator.define(uuid, &[7]);
    let (mut updates, _hypervisor, domains) = Updates::connect().await;
    assert!(domains.iter().any(|domain| domain.id.uuid == uuid && !domain.opt_in));
    let metadata = "<metadata><w:wake xmlns:w='https://wakevirt.org/metadata/1.0'/></metadata></domain>";
    let xml = xml(uuid, &[7]).replace("</domain>", metadata);
    administrator.0.define_domain_xml(&xml).unwrap();
    updates.until(uuid, |domain| domain.opt_in).await;
    domain.undefine().unwrap();
}

#[tokio::test]
async fn retries_a_failed_connection_and_reports_it_once() {
    let (sender, mut updates) = mpsc::channel(1);
    let keeper = Keeper::<Libvirt>::start(
        "test:///no/such/file.xml".into(),
        &Scope::default(),
        &Decisions::new(1),
        sender,
    )
    .unwrap();
    let keeper = tokio::spawn(keeper.run());
    let first = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.expect("no update");
    assert!(matches!(first, Some(Update::Down(_))), "the failure is reported");
    let again = async { while !matches!(updates.recv().await, Some(Update::Down(_))) {} };
    let second = tokio::time::timeout(Duration::from_millis(400), again).await;
    assert!(second.is_err(), "it is reported only once");
    drop(updates);
    tokio::time::timeout(Duration::from_secs(5), keeper)
        .await
        .expect("the keeper exits with the engine")
        .unwrap();
}
