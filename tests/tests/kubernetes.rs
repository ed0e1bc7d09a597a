//! The in-process API server replies like a real one.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use wakevirt_tests::kubernetes::client::{Client, Reply};
use wakevirt_tests::kubernetes::kind::Kind;
use wakevirt_tests::kubernetes::server::fault::{Break, Fault, Gone, Matching};
use wakevirt_tests::kubernetes::server::{ACCOUNT, ApiServer};
use wakevirt_tests::kubernetes::status::Failure;
use wakevirt_tests::kubernetes::virt::Stage;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;

const VMS: &str = "/apis/kubevirt.io/v1/virtualmachines";
const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1/namespaces/n";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/n/events";

/// A server, and a client with the service account's token.
struct Fixture {
    api: ApiServer,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new() -> Self {
        let api = ApiServer::start();
        let client = api.client(&api.token());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { api, client, runtime }
    }

    fn add(&self, name: &str, strategy: &str) {
        self.api.add(&VirtualMachine::new("n", name, "52:54:00:00:00:01").strategy(strategy));
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.runtime.block_on(self.client.request(method, path, body)).unwrap()
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &Value::Null)
    }

    fn start(&self, name: &str) -> Reply {
        self.send("PUT", &format!("{SUBRESOURCES}/virtualmachines/{name}/start"), &json!({}))
    }

    /// The events of a watch until it ends, each as its type and the object's name or error code.
    fn watch(&self, query: &str) -> (u16, Vec<String>) {
        let reply = self.get(&format!("{VMS}?watch=true&{query}"));
        let events = reply.text.lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let text =
                |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let code = event.pointer("/object/code").map(Value::to_string).unwrap_or_default();
            format!("{} {}{code}", text("/type"), text("/object/metadata/name"))
        });
        (reply.status, events.collect())
    }

    fn revision(&self) -> String {
        let list = self.get(VMS).json();
        list.pointer("/metadata/resourceVersion").unwrap().as_str().unwrap().to_owned()
    }

    fn phase(&self, name: &str) -> Option<String> {
        let instance = self.api.read(Kind::Instance, "n", name)?;
        Some(instance.pointer("/status/phase")?.as_str()?.to_owned())
    }

    fn wait_for_phase(&self, name: &str, phase: &str) {
        wakevirt_tests::wait::until_true(phase, || self.phase(name).as_deref() == Some(phase));
    }
}

#[test]
fn requests_need_a_token_and_a_permission() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.get(VMS).status, 200);
    let denied = fixture.get("/api/v1/namespaces/n/secrets");
    let message = format!(
        "secrets is forbidden: User \"{ACCOUNT}\" cannot list resource \"secrets\" in API group \"\" in the \
         namespace \"n\""
    );
    assert_eq!((denied.status, denied.json()["message"].as_str()), (403, Some(message.as_str())));
    let own = json!({"spec": {"resourceAttributes": {"verb": "list", "group": "kubevirt.io", "resource": "virtualmachines"}}});
    let review = |fixture: &Fixture| {
        let reply = fixture.send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &own);
        reply.json()["status"]["allowed"].as_bool()
    };
    assert_eq!(review(&fixture), Some(true));
    fixture.api.rbac(|rbac| rbac.remove("list", "virtualmachines"));
    assert_eq!((fixture.get(VMS).status, review(&fixture)), (403, Some(false)));
    fixture.api.rotate_token();
    let unknown = fixture.get(VMS);
    assert_eq!((unknown.status, unknown.json()["reason"].as_str()), (401, Some("Unauthorized")));
}

#[test]
fn lists_have_pages_and_selectors() {
    let fixture = Fixture::new();
    for number in 0..5 {
        let vm = VirtualMachine::new("n", &format!("vm{number}"), "").label("odd", &(number % 2).to_string());
        fixture.api.add(&vm);
    }
    fixture.api.add(&VirtualMachine::new("other", "vm9", ""));
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = fixture.get(&format!("{VMS}?limit=4")).json();
    assert_eq!(names(&first), ["vm0", "vm1", "vm2", "vm3"]);
    let next = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = fixture.get(&format!("{VMS}?limit=4&continue={next}")).json();
    assert_eq!(names(&second), ["vm4", "vm9"]);
    assert_eq!(second["metadata"].get("continue"), None);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(names(&fixture.get(&format!("{VMS}?labelSelector=odd%3D1")).json()), ["vm1", "vm3"]);
    let namespaced = "/apis/kubevirt.io/v1/namespaces/other/virtualmachines";
    assert_eq!(names(&fixture.get(namespaced).json()), ["vm9"]);
    fixture.api.expire(Gone::Event);
    assert_eq!(fixture.get(&format!("{VMS}?limit=4&continue={next}")).status, 410);
}

#[test]
fn watches_report_changes_bookmarks_and_expired_revisions() {
    let fixture = Fixture::new();
    fixture.add("a", "Halted");
    let revision = fixture.revision();
    fixture.api.add(&VirtualMachine::new("n", "b", "").label("k", "v"));
    fixture.api.edit(Kind::VirtualMachine, "n", "b", |vm| vm["metadata"]["labels"] = json!({}));
    fixture.api.delete(Kind::VirtualMachine, "n", "a");
    let from = |revision: &str| format!("resourceVersion={revision}&timeoutSeconds=1");
    let (_, events) = fixture.watch(&from(&revision));
    assert_eq!(events, ["ADDED b", "MODIFIED b", "DELETED a"]);
    // With a selector, an object that no longer matches is reported as deleted.
    let (_, events) = fixture.watch(&format!("{}&labelSelector=k%3Dv", from(&revision)));
    assert_eq!(events, ["ADDED b", "DELETED b"]);
    assert_eq!(fixture.watch("timeoutSeconds=1").1, ["ADDED b"]);

    let bookmarks = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let other = fixture.api.client(&fixture.api.token());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let path = format!("{VMS}?watch=true&allowWatchBookmarks=true&resourceVersion=0");
            runtime.block_on(other.request("GET", &path, &Value::Null)).unwrap().text
        });
        fixture.api.wait_for_watches(1);
        fixture.api.send_bookmarks();
        fixture.api.break_watches(Break::Between);
        watch.join().unwrap()
    });
    assert!(bookmarks.lines().last().unwrap().contains("BOOKMARK"), "{bookmarks}");

    fixture.api.expire(Gone::Event);
    assert_eq!(fixture.watch(&from(&revision)), (200, vec!["ERROR 410".to_owned()]));
    fixture.api.expire(Gone::Status);
    assert_eq!(fixture.watch(&from(&revision)).0, 410);
}

#[test]
fn faults_lose_replies_and_connections() {
    let mut fixture = Fixture::new();
    fixture.add("a", "Halted");
    let list = Matching::new("list", "virtualmachines");
    fixture.api.fault(list.clone(), Fault::Reply(Failure::new(429, "later").retry_after(7)), 1);
    let busy = fixture.get(VMS);
    assert_eq!((busy.status, busy.retry_after.as_deref()), (429, Some("7")));
    assert_eq!(fixture.get(VMS).status, 200);

    fixture.api.fault(list, Fault::Close, 1);
    assert!(fixture.runtime.block_on(fixture.client.request("GET", VMS, &Value::Null)).is_err());
    fixture.api.fault(Matching::new("update", "virtualmachines/start"), Fault::LoseReply, 1);
    let path = format!("{SUBRESOURCES}/virtualmachines/a/start");
    assert!(fixture.runtime.block_on(fixture.client.request("PUT", &path, &json!({}))).is_err());
    fixture.wait_for_phase("a", "Running");

    let url = fixture.api.url();
    fixture.api.stop();
    assert!(fixture.runtime.block_on(fixture.client.request("GET", VMS, &Value::Null)).is_err());
    fixture.api.start_again();
    assert_eq!((fixture.api.url(), fixture.get(VMS).status), (url, 200));
}

#[test]
fn starts_follow_the_run_strategy() {
    let fixture = Fixture::new();
    for strategy in ["Halted", "Manual", "RerunOnFailure"] {
        let name = strategy.to_lowercase();
        fixture.add(&name, strategy);
        let started = fixture.start(&name);
        assert_eq!((started.status, started.text.as_str()), (202, ""), "{strategy}");
        fixture.wait_for_phase(&name, "Running");
        assert_eq!(fixture.start(&name).status, 409, "{strategy}");
    }
    let halted = fixture.api.read(Kind::VirtualMachine, "n", "halted").unwrap();
    assert_eq!(halted["spec"]["runStrategy"], "Always");

    fixture.add("always", "Always");
    assert_eq!(fixture.phase("always").as_deref(), Some("Running"));
    fixture.add("twin", "WaitAsReceiver");
    assert_eq!(fixture.start("twin").status, 202);
    assert_eq!(fixture.start("missing").status, 404);

    // A start is under way until there is an instance.
    fixture.add("slow", "Manual");
    fixture.api.hold("n", "slow", Stage::Accepted);
    assert_eq!((fixture.start("slow").status, fixture.start("slow").status), (202, 500));
    assert_eq!(fixture.phase("slow"), None);
    fixture.api.hold("n", "slow", Stage::Scheduling);
    fixture.api.report("n", "slow", "ErrorUnschedulable");
    fixture.api.release("n", "slow");
    assert_eq!(fixture.phase("slow").as_deref(), Some("Running"));
    assert_eq!(fixture.phase("twin"), None);

    let unpause = format!("{SUBRESOURCES}/virtualmachineinstances/slow/unpause");
    assert_eq!(fixture.send("PUT", &unpause, &json!({})).status, 409);
    fixture.api.pause("n", "slow");
    assert_eq!(fixture.send("PUT", &unpause, &json!({})).status, 202);
    assert_eq!(fixture.send("PUT", &unpause, &json!({})).status, 409);
}

#[test]
fn events_can_be_created_and_patched() {
    let fixture = Fixture::new();
    let event = json!({"metadata": {"generateName": "a.", "namespace": "n"}, "reason": "Started", "series": {"count": 2}});
    let created = fixture.send("POST", EVENTS, &event);
    assert_eq!(created.status, 201);
    let name = created.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(fixture.get(EVENTS).status, 403);
    let patch = json!({"series": {"count": 3}});
    let path = format!("{EVENTS}/{name}");
    let patched = fixture.client.request_as("application/merge-patch+json", "PATCH", &path, &patch);
    assert_eq!(fixture.runtime.block_on(patched).unwrap().json()["series"]["count"], 3);
    assert_eq!(fixture.api.list(Kind::Event).len(), 1);
    assert_eq!(fixture.api.count("patch", "events"), 1);
    assert_eq!(fixture.api.requests().last().unwrap().body, patch);
}

#[test]
fn a_stale_update_is_a_conflict() {
    let fixture = Fixture::new();
    fixture.add("a", "Halted");
    // The service account cannot update VirtualMachines.
    let vm = fixture.api.read(Kind::VirtualMachine, "n", "a").unwrap();
    let path = Kind::VirtualMachine.path("n", "a");
    assert_eq!(fixture.send("PUT", &path, &vm).status, 403);
    fixture.api.edit(Kind::VirtualMachine, "n", "a", |vm| vm["spec"]["x"] = json!(1));
    fixture.api.rbac(|rbac| rbac.allow_all());
    let conflict = fixture.send("PUT", &path, &vm);
    assert_eq!((conflict.status, conflict.json()["reason"].as_str()), (409, Some("Conflict")));
}
