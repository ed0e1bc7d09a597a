//! libvirt's test driver, which lives in this process: the link to it, its events, and what it does.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may stop where it stands"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use virt::connect::Connect;
use wakevirt_actor::Error;
use wakevirt_actor::engine::attempt::{End, Order, Terms, wake};
use wakevirt_actor::hypervisor::{self, Hypervisor, Session, Update};
use wakevirt_actor::model::Outcome;
use wakevirt_actor::model::Trigger;
use wakevirt_actor::model::{Domain, Pause, State};
use wakevirt_actor::policy::rules::Paused;
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

/// Another connection, as an administrator has one. The driver's domains are the same in all.
struct Administrator(Connect);

impl Administrator {
    fn new() -> Self {
        Self(Connect::open(Some(URI)).unwrap())
    }

    fn define(&self, uuid: Uuid, macs: &[u8]) -> virt::domain::Domain {
        self.0.define_domain_xml(&xml(uuid, macs)).unwrap()
    }
}

/// The link to the driver, as the actor has it.
struct Link(mpsc::Receiver<Update>);

impl Link {
    async fn up() -> (Self, Arc<dyn Hypervisor>, Vec<Domain>) {
        let (sender, updates) = mpsc::channel(64);
        tokio::spawn(hypervisor::libvirt::Link::start(URI.into(), sender).unwrap().keep());
        let mut link = Self(updates);
        match link.next().await {
            Update::Up(_, hypervisor, domains) => (link, hypervisor, domains),
            _ => panic!("not connected first"),
        }
    }

    async fn next(&mut self) -> Update {
        tokio::time::timeout(Duration::from_secs(10), self.0.recv()).await.expect("no event").unwrap()
    }

    /// Waits until this domain is told as this; other tests' domains pass by.
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
async fn tells_what_there_is_and_what_changes() {
    let administrator = Administrator::new();
    let (old, new) = (Uuid::from_u128(0x11), Uuid::from_u128(0x12));
    let old_domain = administrator.define(old, &[1, 2]);
    let (mut link, _hypervisor, domains) = Link::up().await;
    let listed = domains.iter().find(|domain| domain.id.uuid == old).expect("it is listed");
    assert_eq!(listed.name, format!("vm-{old}"));
    assert_eq!(listed.macs, BTreeSet::from([mac(1), mac(2)]));
    assert_eq!(listed.state, State::ShutOff);

    let domain = administrator.define(new, &[3]);
    link.until(new, |domain| domain.macs == BTreeSet::from([mac(3)])).await;
    domain.create().unwrap();
    link.until(new, |domain| domain.state == State::Running).await;
    // Its next start will have another address; what runs has the old one.
    administrator.define(new, &[4]);
    link.until(new, |domain| domain.macs == BTreeSet::from([mac(3), mac(4)])).await;
    domain.suspend().unwrap();
    link.until(new, |domain| domain.state == State::Paused(Pause::User)).await;
    domain.destroy().unwrap();
    link.until(new, |domain| domain.state == State::ShutOff && domain.macs == BTreeSet::from([mac(4)])).await;
    domain.undefine().unwrap();
    while !matches!(link.next().await, Update::Gone(id) if id.uuid == new) {}
    old_domain.undefine().unwrap();
}

/// What this makes of a session.
async fn session<T: Send + 'static>(
    hypervisor: &Arc<dyn Hypervisor>,
    work: impl FnOnce(&dyn Session) -> T + Send + 'static,
) -> T {
    let (tell, told) = oneshot::channel();
    hypervisor.run(Box::new(move |session| drop(tell.send(work(session)))));
    told.await.unwrap()
}

async fn state(hypervisor: &Arc<dyn Hypervisor>, uuid: Uuid) -> Result<State, Error> {
    session(hypervisor, move |session| session.state(uuid)).await
}

/// The outcome of a wake, and its reason.
async fn outcome(hypervisor: &Arc<dyn Hypervisor>, uuid: Uuid, paused: Paused) -> (Outcome, String) {
    outcome_where(hypervisor, uuid, paused, false).await
}

/// The same, where the domain may be believed to be off.
async fn outcome_where(
    hypervisor: &Arc<dyn Hypervisor>,
    uuid: Uuid,
    paused: Paused,
    known_off: bool,
) -> (Outcome, String) {
    let terms = Terms { trigger: Trigger::Packet, paused, cool_down: None };
    let order = Order {
        uuid,
        terms,
        shutdown_wait: Duration::from_secs(1),
        called: false,
        known_off,
        expired: false,
    };
    match wake(Arc::clone(hypervisor), order).await {
        End::Done(outcome, reason) => (outcome, reason),
        End::Lost { .. } | End::Expired => panic!("the driver is in this process"),
    }
}

#[tokio::test]
async fn wakes_by_the_state() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x21);
    let domain = administrator.define(uuid, &[5]);
    let (_link, hypervisor, _) = Link::up().await;
    assert!(hypervisor.is_alive());

    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::Started);
    assert!(domain.is_active().unwrap());
    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::AlreadyRunning);
    domain.suspend().unwrap();
    let (left, reason) = outcome(&hypervisor, uuid, Paused::Leave).await;
    assert_eq!(left, Outcome::NotAllowed);
    assert!(reason.contains("paused (user)"), "{reason}");
    assert_eq!(outcome(&hypervisor, uuid, Paused::Resume).await.0, Outcome::Resumed);
    assert_eq!(state(&hypervisor, uuid).await.unwrap(), State::Running);
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    let (failed, reason) = outcome(&hypervisor, uuid, Paused::Resume).await;
    assert_eq!(failed, Outcome::Failed);
    assert!(reason.contains("Domain not found"), "{reason}");
}

#[tokio::test]
async fn is_not_deceived_by_an_old_state() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x51);
    let domain = administrator.define(uuid, &[8]);
    let (_link, hypervisor, _) = Link::up().await;
    let outcome = async |paused| outcome_where(&hypervisor, uuid, paused, true).await.0;

    assert_eq!(outcome(Paused::Resume).await, Outcome::Started);
    assert_eq!(outcome(Paused::Resume).await, Outcome::AlreadyRunning);
    domain.suspend().unwrap();
    assert_eq!(outcome(Paused::Leave).await, Outcome::NotAllowed);
    assert_eq!(state(&hypervisor, uuid).await.unwrap(), State::Paused(Pause::User));
    assert_eq!(outcome(Paused::Resume).await, Outcome::Resumed);
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    assert_eq!(outcome(Paused::Resume).await, Outcome::Failed);
}

#[tokio::test]
async fn tells_where_something_is_saved() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x71);
    let domain = administrator.define(uuid, &[10]);
    let (mut link, ..) = Link::up().await;
    domain.create().unwrap();
    domain.managed_save(0).unwrap();
    link.until(uuid, |domain| domain.state == State::Saved).await;
    let (mut link, _hypervisor, domains) = Link::up().await;
    let listed = domains.iter().find(|domain| domain.id.uuid == uuid).expect("it is listed");
    assert_eq!(listed.state, State::Saved);
    domain.create().unwrap();
    link.until(uuid, |domain| domain.state == State::Running).await;
    domain.destroy().unwrap();
    link.until(uuid, |domain| domain.state == State::ShutOff).await;
    domain.undefine().unwrap();
}

#[tokio::test]
async fn tells_that_a_domain_changes_before_it_is_read() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x61);
    let domain = administrator.define(uuid, &[9]);
    let (mut link, _hypervisor, _) = Link::up().await;
    domain.create().unwrap();
    let of_it = async |link: &mut Link| loop {
        match link.next().await {
            Update::Changing(id) if id.uuid == uuid => return None,
            Update::Domain(domain) if domain.id.uuid == uuid => return Some(domain.state),
            _ => {}
        }
    };
    assert_eq!(of_it(&mut link).await, None);
    assert_eq!(of_it(&mut link).await, Some(State::Running));
    domain.destroy().unwrap();
    domain.undefine().unwrap();
}

#[tokio::test]
async fn reads_the_opt_in() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x41);
    let domain = administrator.define(uuid, &[7]);
    let (mut link, _hypervisor, domains) = Link::up().await;
    assert!(domains.iter().any(|domain| domain.id.uuid == uuid && !domain.opt_in));
    let metadata = "<metadata><w:wake xmlns:w='https://wakevirt.org/metadata/1.0'/></metadata></domain>";
    let xml = xml(uuid, &[7]).replace("</domain>", metadata);
    administrator.0.define_domain_xml(&xml).unwrap();
    link.until(uuid, |domain| domain.opt_in).await;
    domain.undefine().unwrap();
}

#[tokio::test]
async fn a_start_of_what_runs_is_an_error_of_the_driver() {
    let administrator = Administrator::new();
    let uuid = Uuid::from_u128(0x31);
    let domain = administrator.define(uuid, &[6]);
    let (_link, hypervisor, _) = Link::up().await;
    for is_ok in [true, false] {
        assert_eq!(session(&hypervisor, move |session| session.start(uuid).is_ok()).await, is_ok);
    }
    assert_eq!(state(&hypervisor, uuid).await.unwrap(), State::Running, "so the state is looked at again");
    assert!(state(&hypervisor, Uuid::from_u128(0x32)).await.is_err());
    domain.destroy().unwrap();
    domain.undefine().unwrap();
}

#[tokio::test]
async fn no_connection_is_tried_again_and_ends_nothing() {
    let (sender, mut updates) = mpsc::channel(1);
    let link = hypervisor::libvirt::Link::start("test:///no/such/file.xml".into(), sender).unwrap();
    let link = tokio::spawn(link.keep());
    let first = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.expect("no update");
    assert!(matches!(first, Some(Update::Down(_))), "that there is none is told");
    let nothing = tokio::time::timeout(Duration::from_millis(400), updates.recv()).await;
    assert!(nothing.is_err(), "once");
    drop(updates);
    tokio::time::timeout(Duration::from_secs(5), link).await.expect("it ends with the actor").unwrap();
}
