//! The driver with an API server in this process: connection, watch and wakes.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use uuid::Uuid;
use wakevirt_actor::config::Scope;
use wakevirt_actor::engine::attempt::{WakeResult, wake};
use wakevirt_actor::hypervisor::{AttemptRequest, Decisions, Hypervisor, Keeper, Terms, Update};
use wakevirt_actor::model::{Called, Decision, Domain, Outcome, Pause, State, Subject, Trigger};
use wakevirt_actor::policy::rules::{Halted, Handling, Paused};
use wakevirt_kubevirt::KubeVirt;
use wakevirt_tests::kubernetes::kind::Kind;
use wakevirt_tests::kubernetes::server::ApiServer;
use wakevirt_tests::kubernetes::server::fault::{Break, Fault, Gone, Matching};
use wakevirt_tests::kubernetes::status::Failure;
use wakevirt_tests::kubernetes::virt::Stage;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
use wakevirt_tests::wait;

const MAC: &str = "52:54:00:00:00:01";
const START: &str = "virtualmachines/start";

/// An API server, and its directory with a kubeconfig.
struct Server {
    api: ApiServer,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(machines: &[(&str, &str)]) -> Self {
        let server = Self { api: ApiServer::start(), directory: tempfile::tempdir().unwrap() };
        for (name, strategy) in machines {
            server.api.add(&VirtualMachine::new("n", name, MAC).strategy(strategy));
        }
        server.write_kubeconfig();
        server
    }

    fn write_kubeconfig(&self) {
        self.api.write_kubeconfig(self.directory.path(), self.directory.path().to_str().unwrap());
    }

    fn uri(&self) -> String {
        format!("kubevirt://{}/kubeconfig", self.directory.path().display())
    }

    fn connect(&self) -> Node {
        self.connect_with("", &Scope::default())
    }

    fn connect_with(&self, parameters: &str, scope: &Scope) -> Node {
        let mut node = Node::start(&(self.uri() + parameters), scope);
        node.wait_until_up();
        node
    }
}

/// The driver of one node.
struct Node {
    runtime: Runtime,
    updates: mpsc::Receiver<Update>,
    hypervisor: Option<Arc<dyn Hypervisor>>,
    domains: Vec<Domain>,
    decisions: Decisions,
}

impl Node {
    fn start(uri: &str, scope: &Scope) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, updates) = mpsc::channel(64);
        let decisions = Decisions::new(64);
        let keeper = Keeper::<KubeVirt>::start(uri.into(), scope, &decisions, sender).unwrap();
        runtime.spawn(keeper.run());
        Self { runtime, updates, hypervisor: None, domains: Vec::new(), decisions }
    }

    fn next(&mut self) -> Update {
        let next = async { tokio::time::timeout(Duration::from_secs(30), self.updates.recv()).await };
        self.runtime.block_on(next).expect("no update in time").unwrap()
    }

    fn wait_until_up(&mut self) {
        loop {
            if let Update::Up(_, hypervisor, domains) = self.next() {
                (self.hypervisor, self.domains) = (Some(hypervisor), domains);
                return;
            }
        }
    }

    /// Waits until an update reports the domain with this name as expected.
    fn until(&mut self, name: &str, expected: impl Fn(&Domain) -> bool) -> Domain {
        loop {
            match self.next() {
                Update::Domain(domain) if domain.name == name && expected(&domain) => return domain,
                _ => {}
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.domains.iter().map(|domain| domain.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn uuid(&self, name: &str) -> Uuid {
        self.domains.iter().find(|domain| domain.name == name).expect("the domain is listed").id.uuid
    }

    fn request(&self, name: &str) -> AttemptRequest {
        AttemptRequest {
            uuid: self.uuid(name),
            terms: Terms { trigger: Trigger::Packet, handling: Handling::default(), cool_down: None },
            shutdown_wait: Duration::from_secs(5),
            start_wait: Duration::from_secs(30),
            called: Called::No,
            known_off: false,
            expired: false,
        }
    }

    fn begin(&self, request: AttemptRequest) -> tokio::task::JoinHandle<WakeResult> {
        self.runtime.spawn(wake(Arc::clone(self.hypervisor.as_ref().unwrap()), request))
    }

    fn end(&self, wake: tokio::task::JoinHandle<WakeResult>) -> (Outcome, String) {
        match self.runtime.block_on(wake).unwrap() {
            WakeResult::Done(outcome, reason) => (outcome, reason),
            other => panic!("{other:?}"),
        }
    }

    fn wake_with(&self, request: AttemptRequest) -> (Outcome, String) {
        self.end(self.begin(request))
    }

    fn wake(&self, name: &str) -> (Outcome, String) {
        self.wake_with(self.request(name))
    }
}

#[test]
fn reports_virtual_machines_and_their_changes() {
    let server = Server::start(&[("old", "Halted")]);
    for number in 0..250 {
        server.api.add(&VirtualMachine::new("many", &format!("vm{number}"), "").label("app", "x"));
    }
    let mut node = server.connect();
    assert_eq!(node.domains.len(), 251);
    let old = node.domains.iter().find(|domain| domain.name == "n/old").unwrap();
    assert_eq!((old.state, old.macs.iter().next().unwrap().to_string().as_str()), (State::ShutOff, MAC));
    let new = VirtualMachine::new("n", "new", "52:54:00:00:00:02").annotation("wakevirt.org/wake", "true");
    server.api.add(&new.strategy("Always"));
    assert!(node.until("n/new", |domain| domain.state == State::Running).opt_in);
    server.api.pause("n", "new");
    node.until("n/new", |domain| domain.state == State::Paused(Pause::User));
    server.api.delete(Kind::VirtualMachine, "n", "old");
    let gone = node.uuid("n/old");
    while !matches!(node.next(), Update::Gone(id) if id.uuid == gone) {}
}

#[test]
fn follows_only_the_selected_virtual_machines() {
    let server = Server::start(&[("a", "Halted")]);
    for (namespace, label) in [("web", "1"), ("lab", "1"), ("lab", "2")] {
        server.api.add(&VirtualMachine::new(namespace, &format!("vm{label}"), "").label("set", label));
    }
    server.api.add_namespace("web", &[("wake", "true")]);
    server.api.add_namespace("lab", &[]);
    let scope = |namespaces: Option<&str>, machines: Option<&str>| Scope {
        namespaces: namespaces.map(str::to_owned),
        machines: machines.map(str::to_owned),
    };
    let node = server.connect_with("?namespace=web&namespace=lab", &Scope::default());
    assert_eq!(node.names(), ["lab/vm1", "lab/vm2", "web/vm1"]);
    let node = server.connect_with("?namespace=lab", &scope(None, Some("set in (2,3)")));
    assert_eq!(node.names(), ["lab/vm2"]);

    server.api.rbac(|rbac| rbac.allow_all());
    let mut node = server.connect_with("", &scope(Some("wake=true"), Some("set=1")));
    assert_eq!(node.names(), ["web/vm1"]);
    server.api.edit(Kind::Namespace, "", "lab", |namespace| {
        namespace["metadata"]["labels"] = json!({"wake": "true"});
    });
    node.wait_until_up();
    assert_eq!(node.names(), ["lab/vm1", "web/vm1"]);
}

#[test]
fn survives_interrupted_and_expired_watches() {
    let server = Server::start(&[("a", "Halted")]);
    let mut node = server.connect();
    let faults: [&dyn Fn(); 4] = [
        &|| server.api.break_watches(Break::Between),
        &|| server.api.break_watches(Break::MidEvent),
        &|| server.api.expire(Gone::Event),
        &|| {
            server.api.expire(Gone::Status);
            server.api.break_watches(Break::Between);
        },
    ];
    for (number, fault) in faults.iter().enumerate() {
        server.api.wait_for_watches(1);
        fault();
        let name = format!("new{number}");
        server.api.add(&VirtualMachine::new("n", &name, ""));
        node.until(&format!("n/{name}"), |_| true);
    }
}

#[test]
fn reconnects_when_the_server_is_back_or_the_token_changes() {
    let mut server = Server::start(&[("a", "Halted")]);
    let mut node = server.connect();
    server.api.stop();
    while !matches!(node.next(), Update::Down(..)) {}
    server.api.start_again();
    node.wait_until_up();
    assert_eq!(node.wake("n/a").0, Outcome::Started);

    server.api.rotate_token();
    server.write_kubeconfig();
    server.api.break_watches(Break::Between);
    node.wait_until_up();
    assert_eq!(node.wake("n/a").0, Outcome::AlreadyRunning);
}

#[test]
fn a_missing_permission_is_named() {
    let server = Server::start(&[("a", "Manual")]);
    let node = server.connect();
    server.api.rbac(|rbac| rbac.remove("update", START));
    let (outcome, reason) = node.wake("n/a");
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("cannot update resource \\\"virtualmachines/start\\\""), "{reason}");
    assert!(reason.contains("KUBEVIRT.md"), "{reason}");
}

#[test]
fn starts_each_run_strategy() {
    let strategies = [
        ("halted", "Halted"),
        ("manual", "Manual"),
        ("rerun", "RerunOnFailure"),
        ("receiver", "WaitAsReceiver"),
    ];
    let server = Server::start(&strategies);
    server.api.add(&VirtualMachine::new("n", "old", MAC).with("/spec", json!({"running": false})));
    let node = server.connect();
    let (outcome, reason) = node.wake("n/halted");
    assert_eq!(outcome, Outcome::Started);
    assert!(reason.contains("changed runStrategy Halted to runStrategy Always"), "{reason}");
    let (outcome, reason) = node.wake("n/old");
    assert_eq!(outcome, Outcome::Started);
    assert!(reason.contains("changed running false to running true"), "{reason}");
    for name in ["n/manual", "n/rerun"] {
        let (outcome, reason) = node.wake(name);
        assert_eq!((outcome, without_queue(&reason)), (Outcome::Started, "it was shut off"), "{name}");
        assert_eq!(node.wake(name).0, Outcome::AlreadyRunning);
    }
    let calls = server.api.count("update", START);
    assert_eq!(node.wake("n/receiver").0, Outcome::MigratedAway);
    assert_eq!(server.api.count("update", START), calls, "a receiver is never called");
}

#[test]
fn leaves_halted_and_paused_virtual_machines_if_the_rule_says_so() {
    let server = Server::start(&[("a", "Halted"), ("b", "Always")]);
    server.api.pause("n", "b");
    let node = server.connect();
    for (name, handling) in [
        ("n/a", Handling { halted: Halted::Leave, ..Handling::default() }),
        ("n/b", Handling { paused: Paused::Leave, ..Handling::default() }),
    ] {
        for known_off in [false, name == "n/a"] {
            let request = node.request(name);
            let terms = Terms { handling, ..request.terms };
            let (outcome, reason) = node.wake_with(AttemptRequest { terms, known_off, ..request });
            assert_eq!(outcome, Outcome::NotAllowed, "{reason}");
        }
    }
    assert_eq!(server.api.count("update", START), 0);
    assert_eq!(node.wake("n/b").0, Outcome::Resumed);
    assert_eq!(server.api.count("update", "virtualmachineinstances/unpause"), 1);
}

/// A reason without the time that the wake was queued. The limit of starts applies to all tests of this process.
fn without_queue(reason: &str) -> &str {
    reason.split("; the wake was queued for").next().unwrap_or_default()
}

/// A start is only accepted at first: the virtual machine counts as starting until it runs.
#[test]
fn waits_until_the_virtual_machine_runs() {
    let stages = [Stage::Accepted, Stage::Pending, Stage::Scheduling, Stage::Scheduled];
    let server = Server::start(&[("a", "Manual")]);
    let (node, other) = (server.connect(), server.connect());
    for stage in stages {
        server.api.hold("n", "a", stage);
        let calls = server.api.count("update", START);
        let first = node.begin(node.request("n/a"));
        server.api.wait_for("update", START, calls + 1);
        let second = other.begin(AttemptRequest { known_off: true, ..other.request("n/a") });
        assert!(!first.is_finished(), "{stage:?}");
        server.api.release("n", "a");
        assert_eq!(node.end(first).0, Outcome::Started, "{stage:?}");
        assert_eq!(other.end(second).0, Outcome::AlreadyRunning, "{stage:?}");
        server.api.shut_down("n", "a");
    }
}

#[test]
fn a_status_that_is_an_error_or_too_much_time_ends_the_wake() {
    let server = Server::start(&[("a", "Manual")]);
    let node = server.connect();
    server.api.hold("n", "a", Stage::Scheduling);
    let wake = node.begin(node.request("n/a"));
    // KubeVirt sets the status after it has accepted the start.
    wait::until_true("the virtual machine to start", || {
        let machine = server.api.read(Kind::VirtualMachine, "n", "a");
        machine.is_some_and(|machine| machine["status"]["printableStatus"] == "Starting")
    });
    server.api.report("n", "a", "ErrorUnschedulable");
    let (outcome, reason) = node.end(wake);
    assert_eq!(
        (outcome, without_queue(&reason)),
        (Outcome::Failed, "KubeVirt reports the status \"ErrorUnschedulable\"")
    );

    server.api.report("n", "a", "Starting");
    let request = AttemptRequest { start_wait: Duration::from_secs(1), ..node.request("n/a") };
    let (outcome, reason) = node.wake_with(request);
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.starts_with("it does not run after 1 s: its status is \"Starting\""), "{reason}");
}

#[test]
fn two_nodes_start_a_virtual_machine_once() {
    let machines: Vec<(String, &str)> = (0..20)
        .map(|number| (format!("vm{number}"), ["Halted", "Manual", "RerunOnFailure"][number % 3]))
        .collect();
    let machines: Vec<(&str, &str)> =
        machines.iter().map(|(name, strategy)| (name.as_str(), *strategy)).collect();
    let server = Server::start(&machines);
    let nodes = [server.connect(), server.connect()];
    for (name, _) in machines {
        let name = format!("n/{name}");
        let wakes = nodes
            .each_ref()
            .map(|node| node.begin(AttemptRequest { known_off: true, ..node.request(&name) }));
        let mut outcomes: Vec<Outcome> =
            nodes.iter().zip(wakes).map(|(node, wake)| node.end(wake).0).collect();
        outcomes.sort_by_key(|outcome| outcome.as_str());
        assert_eq!(outcomes, [Outcome::AlreadyRunning, Outcome::Started], "{name}");
    }
}

#[test]
fn continues_a_wake_whose_reply_was_lost() {
    let server = Server::start(&[("a", "Manual")]);
    let mut node = server.connect();
    server.api.fault(Matching::new("update", START), Fault::LoseReply, 1);
    let request = node.request("n/a");
    let lost = node.runtime.block_on(node.begin(request)).unwrap();
    assert!(matches!(lost, WakeResult::Lost { called: true, .. }), "{lost:?}");
    node.wait_until_up();
    let (outcome, reason) = node.wake_with(AttemptRequest { called: Called::Maybe, ..node.request("n/a") });
    assert_eq!(outcome, Outcome::Started, "{reason}");
    assert_eq!(server.api.count("update", START), 1);
}

#[test]
fn repeats_a_call_that_the_server_refuses_for_now() {
    let server = Server::start(&[("a", "Manual")]);
    let node = server.connect();
    server.api.fault(Matching::new("update", START), Fault::Reply(Failure::new(429, "too many requests")), 1);
    assert_eq!(node.wake("n/a").0, Outcome::Started);
    assert_eq!(server.api.count("update", START), 2);
}

#[test]
fn a_flood_starts_at_most_ten_virtual_machines_in_a_second() {
    let names: Vec<String> = (0..25).map(|number| format!("vm{number}")).collect();
    let machines: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "Manual")).collect();
    let server = Server::start(&machines);
    let node = server.connect();
    let begin = Instant::now();
    let wakes: Vec<_> = names.iter().map(|name| node.begin(node.request(&format!("n/{name}")))).collect();
    for wake in wakes {
        assert_eq!(node.end(wake).0, Outcome::Started);
    }
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn decisions_about_the_virtual_machines_of_rules_become_events() {
    let server = Server::start(&[("a", "Manual")]);
    let node = server.connect();
    let domain = node.domains.first().unwrap();
    let decide = |rule: Option<&str>, outcome, reason: &str| {
        let subject = Subject::new(None, Some(domain), rule.map(str::to_owned), None);
        let decision = Decision { subject, outcome, reason: reason.to_owned(), time: 7, latency: None };
        node.decisions.send(Arc::new(decision)).unwrap();
    };
    decide(None, Outcome::NotAllowed, "no rule allows it");
    for _ in 0..3 {
        decide(Some("domain = \"n/a\""), Outcome::CoolingDown, "it is cooling down");
    }
    decide(Some("domain = \"n/a\""), Outcome::Failed, &"x".repeat(5000));
    server.api.wait_for("patch", "events", 1);
    let events = server.api.list(Kind::Event);
    let texts: std::collections::BTreeSet<_> = events
        .iter()
        .map(|event| {
            (
                event["reason"].as_str().unwrap(),
                event["type"].as_str().unwrap(),
                event["series"]["count"].as_i64(),
            )
        })
        .collect();
    assert_eq!(texts, [("CoolingDown", "Normal", Some(3)), ("Failed", "Warning", None)].into());
    for event in events {
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["regarding"]["uid"], domain.id.uuid.to_string());
        assert!(event["note"].as_str().unwrap().len() <= 1024);
    }
    assert_eq!(server.api.count("create", "events"), 2);
}
