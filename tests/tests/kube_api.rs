//! A real API server, the shipped permissions, and the stand-in for KubeVirt behind the aggregation layer. The in-process
//! server of `kubernetes.rs` must reply in the same way.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use wakevirt_tests::host::Host;
use wakevirt_tests::kubernetes::client::Client;
use wakevirt_tests::kubernetes::cluster::Cluster;
use wakevirt_tests::kubernetes::kind::Kind;
use wakevirt_tests::kubernetes::server::ACCOUNT;
use wakevirt_tests::kubernetes::virt::Stage;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
use wakevirt_tests::wait;

const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1/namespaces/n";

/// The service account's client, with the token from the kubeconfig's file.
fn account(host: &Host, token: &str) -> Client {
    let authority = host.read("/run/wakevirt-cluster/ca.crt");
    Client::new("127.0.0.1:6443".parse().unwrap(), Some(host.network()), &authority, token)
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn the_shipped_role_grants_what_the_actor_needs() {
    wakevirt_tests::privileged!();
    let host = Host::new();
    let cluster = Cluster::start(&host, &[]);
    cluster.install_kubeconfig(&host, "127.0.0.1:6443");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = account(&host, &host.read("/run/wakevirt-cluster/token"));
    let send = |method: &str, path: &str, body: &Value| {
        runtime.block_on(client.request(method, path, body)).unwrap()
    };
    let get = |path: &str| send("GET", path, &Value::Null);
    let vms = Kind::VirtualMachine.path("", "");

    let wrong = account(&host, "wrong");
    let unauthorized = runtime.block_on(wrong.request("GET", &vms, &Value::Null)).unwrap();
    assert_eq!((unauthorized.status, unauthorized.json()["reason"].as_str()), (401, Some("Unauthorized")));
    assert_eq!(get(&vms).status, 200);
    let denied = get("/api/v1/namespaces/n/secrets");
    let message = format!(
        "secrets is forbidden: User \"{ACCOUNT}\" cannot list resource \"secrets\" in API group \"\" in the \
         namespace \"n\""
    );
    assert_eq!((denied.status, denied.json()["message"].as_str()), (403, Some(message.as_str())));

    for strategy in ["Halted", "Manual", "RerunOnFailure"] {
        let name = strategy.to_lowercase();
        cluster.add(&VirtualMachine::new("n", &name, "").strategy(strategy));
        let path = format!("{SUBRESOURCES}/virtualmachines/{name}/start");
        let started = send("PUT", &path, &json!({}));
        assert_eq!((started.status, started.text.as_str()), (202, ""), "{strategy}");
        wait::until_true("an instance", || cluster.phase("n", &name).as_deref() == Some("Running"));
        assert_eq!(send("PUT", &path, &json!({})).status, 409, "{strategy}");
        assert_eq!(cluster.starts(&name), 1);
    }
    assert!(cluster.forwarded().iter().all(|request| request.user == ACCOUNT), "{:?}", cluster.forwarded());
    cluster.hold("n", "slow", Stage::Accepted);
    cluster.add(&VirtualMachine::new("n", "slow", "").strategy("Manual"));
    let slow = format!("{SUBRESOURCES}/virtualmachines/slow/start");
    assert_eq!([(), ()].map(|()| send("PUT", &slow, &json!({})).status), [202, 500]);
    assert_eq!(send("PUT", &format!("{SUBRESOURCES}/virtualmachines/slow/stop"), &json!({})).status, 403);
    assert_eq!(send("PUT", &format!("{SUBRESOURCES}/virtualmachines/missing/start"), &json!({})).status, 404);
    let unpause = format!("{SUBRESOURCES}/virtualmachineinstances/manual/unpause");
    assert_eq!(send("PUT", &unpause, &json!({})).status, 409);

    let update = send("PUT", &Kind::VirtualMachine.path("n", "slow"), &json!({}));
    assert_eq!((update.status, update.json()["reason"].as_str()), (403, Some("Forbidden")));
    let watch = get(&format!("{vms}?watch=true&resourceVersion=1&timeoutSeconds=2"));
    assert!(
        watch.status == 200 && watch.text.contains("\"ERROR\"") && watch.text.contains("410"),
        "{}",
        watch.text
    );
}
