//! A real API server with etcd, and a stand-in for KubeVirt behind its aggregation layer.

mod manifests;
pub mod virt_api;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::virt_api::{ADDRESS, Forwarded, VirtApi};
use super::certificates::{Authority, Identity, Use, signing_key};
use super::client::{Client, Reply};
use super::kind::Kind;
use super::server::ACCOUNT;
use super::virt::machine::VirtualMachine;
use super::virt::{KubeVirt, Objects as _, Stage};
use super::write_kubeconfig;
use crate::host::{Host, project, succeed};
use crate::process::Process;
use crate::wait;

/// The directory of the server's files on the host.
const DIRECTORY: &str = "/run/kubernetes";
const PORT: u16 = 6443;
/// The token of the administrator.
pub const ADMIN_TOKEN: &str = "token-of-the-administrator";
const ETCD: &str = "http://127.0.0.1:2379";
/// The name in the front proxy's certificate.
const FRONT_PROXY: &str = "front-proxy-client";
/// How long the server takes to start, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// A cluster without nodes on a host.
#[derive(Debug)]
pub struct Cluster<'host> {
    host: &'host Host,
    /// The server stops before etcd.
    api: Option<Process>,
    _etcd: Process,
    programs: PathBuf,
    runtime: Runtime,
    authority: Authority,
    admin: Arc<Client>,
    virt: Arc<KubeVirt>,
    virt_api: VirtApi,
}

impl<'host> Cluster<'host> {
    /// Starts etcd, the API server and the stand-in for KubeVirt, and creates the shipped objects. The server listens
    /// on port 6443 of all addresses of the host; its certificate is valid for `127.0.0.1` and for `addresses`.
    ///
    /// # Panics
    /// If it cannot be built or started.
    #[must_use]
    pub fn start(host: &'host Host, addresses: &[&str]) -> Self {
        let programs = succeed(&mut Command::new(project().join("scripts/kube-apiserver")));
        let programs = PathBuf::from(programs.trim());
        host.sh(&format!("ip address add {ADDRESS}/32 dev lo"));
        let (authority, front_proxy) = (Authority::new("kubernetes"), Authority::new("front-proxy"));
        let names = [&["127.0.0.1", "kubernetes.default.svc"], addresses].concat();
        write_identity(host, "server", &authority.issue(Use::Server, "kube-apiserver", &names));
        write_identity(host, "front-proxy", &front_proxy.issue(Use::Client, FRONT_PROXY, &[]));
        host.write(&format!("{DIRECTORY}/front-proxy-ca.crt"), front_proxy.certificate());
        let (key, public_key) = signing_key();
        host.write(&format!("{DIRECTORY}/accounts.key"), &key);
        host.write(&format!("{DIRECTORY}/accounts.pub"), &public_key);
        host.write(
            &format!("{DIRECTORY}/tokens.csv"),
            &format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n"),
        );
        let etcd = start_etcd(host, &programs);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let client = || Client::new(address, Some(host.network()), authority.certificate(), ADMIN_TOKEN);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let virt = Arc::new(KubeVirt::default());
        let identity = authority.issue(Use::Server, "virt-api", &["virt-api.kubevirt.svc"]);
        let network = host.network();
        let virt_api =
            VirtApi::start(&runtime, &network, &identity, front_proxy.certificate(), virt.clone(), client());
        let admin = Arc::new(client());
        let mut cluster =
            Self { host, api: None, _etcd: etcd, programs, runtime, authority, admin, virt, virt_api };
        cluster.start_again();
        cluster.create_objects();
        cluster
    }

    fn create_objects(&self) {
        let mut manifests = manifests::definitions();
        manifests.extend(manifests::shipped());
        for name in ["kubevirt", "n"] {
            manifests.push(("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": name}})));
        }
        manifests.extend(manifests::aggregation(self.authority.certificate()));
        for (collection, object) in manifests {
            let reply = self.request("POST", &collection, &object);
            assert_eq!(reply.status, 201, "{collection}: {}", reply.text);
        }
        // A new resource has no paths at first.
        for path in [
            Kind::VirtualMachine.path("", ""),
            Kind::Instance.path("", ""),
            "/apis/subresources.kubevirt.io/v1".to_owned(),
        ] {
            wait::until_true(&path, || self.request("GET", &path, &Value::Null).status == 200);
        }
    }

    /// Kills the API server (SIGKILL). etcd continues.
    pub fn kill(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.kill();
        }
    }

    /// Starts the API server after [`Self::kill`], and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn start_again(&mut self) {
        let api = start_api(self.host, &self.programs);
        let ready = wait::within(START_TIMEOUT, || {
            let reply = self.try_request("GET", "/readyz", &Value::Null)?;
            (reply.status == 200).then_some(())
        });
        assert!(ready.is_some(), "the API server is not ready:\n{}", api.log().last(50));
        self.api = Some(api);
    }

    /// Writes `kubeconfig`, `ca.crt` and `token` for the shipped service account to `/run/wakevirt-cluster` on a host.
    /// The token comes from a TokenRequest. `address` is that of the server or a proxy, with the port.
    ///
    /// # Panics
    /// If the server does not issue a token.
    pub fn install_kubeconfig(&self, node: &Host, address: &str) {
        let path = "/api/v1/namespaces/wakevirt/serviceaccounts/wakevirt/token";
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let reply = self.request("POST", path, &body).json();
        let token = reply.pointer("/status/token").and_then(Value::as_str);
        let token = token.unwrap_or_else(|| panic!("there is no token in {reply}"));
        let (url, directory) = (format!("https://{address}"), "/run/wakevirt-cluster");
        write_kubeconfig(&url, self.authority.certificate(), token, &node.path(directory), directory);
    }

    /// Sends a request as the administrator.
    ///
    /// # Panics
    /// If there is no reply.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.try_request(method, path, body).unwrap_or_else(|| panic!("{method} {path}: no reply"))
    }

    fn try_request(&self, method: &str, path: &str, body: &Value) -> Option<Reply> {
        let (admin, body) = (self.admin.clone(), body.clone());
        let (method, path) = (method.to_owned(), path.to_owned());
        self.block(async move { admin.request(&method, &path, &body).await.ok() })
    }

    /// Creates a namespace.
    ///
    /// # Panics
    /// If it exists.
    pub fn add_namespace(&self, name: &str) {
        let reply = self.request("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}}));
        assert_eq!(reply.status, 201, "{}", reply.text);
    }

    /// Creates a VirtualMachine. It starts if its run strategy demands it.
    ///
    /// # Panics
    /// If it exists.
    pub fn add(&self, vm: &VirtualMachine) {
        let (admin, virt, object) = (self.admin.clone(), self.virt.clone(), vm.object().clone());
        let created = self.block(async move {
            let object = admin.create(Kind::VirtualMachine, object).await?;
            let text =
                |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            virt.reconcile(&*admin, &namespace, &name).await;
            Ok::<_, super::status::Failure>(())
        });
        created.expect("the VirtualMachine is created");
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// If it is missing.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let reply = self.request("DELETE", &kind.path(namespace, name), &Value::Null);
        assert_eq!(reply.status, 200, "{}", reply.text);
    }

    /// Reads an object.
    #[must_use]
    pub fn read(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.request("GET", &kind.path(namespace, name), &Value::Null).object().ok()
    }

    /// All objects of a kind in all namespaces.
    ///
    /// # Panics
    /// If the reply is not a list.
    #[must_use]
    pub fn list(&self, kind: Kind) -> Vec<Value> {
        let list = self.request("GET", &kind.path("", ""), &Value::Null).json();
        list.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| panic!("not a list: {list}"))
    }

    /// The phase of a VirtualMachineInstance. `None` if there is none.
    #[must_use]
    pub fn phase(&self, namespace: &str, name: &str) -> Option<String> {
        let instance = self.read(Kind::Instance, namespace, name)?;
        instance.pointer("/status/phase")?.as_str().map(str::to_owned)
    }

    /// Makes starts of a VirtualMachine proceed only to this stage.
    pub fn hold(&self, namespace: &str, name: &str, stage: Stage) {
        self.virt.hold(namespace, name, stage);
    }

    /// Shuts a VirtualMachine down, as its guest would.
    pub fn shut_down(&self, namespace: &str, name: &str) {
        let (admin, virt) = (self.admin.clone(), self.virt.clone());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.block(async move { virt.shut_down(&*admin, &namespace, &name).await });
    }

    /// The requests for subresources so far.
    #[must_use]
    pub fn forwarded(&self) -> Vec<Forwarded> {
        self.virt_api.forwarded()
    }

    /// The number of starts of a VirtualMachine that KubeVirt accepted.
    #[must_use]
    pub fn starts(&self, name: &str) -> usize {
        let operation = format!("virtualmachines/{name}/start");
        self.forwarded()
            .iter()
            .filter(|request| request.operation == operation && request.status == 202)
            .count()
    }

    /// Replaces the rules of the shipped role.
    ///
    /// # Panics
    /// If the server rejects them.
    pub fn edit_role(&self, edit: impl FnOnce(&mut Value)) {
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wakevirt";
        let mut role = self.request("GET", path, &Value::Null).json();
        edit(&mut role);
        let reply = self.request("PUT", path, &role);
        assert_eq!(reply.status, 200, "{}", reply.text);
    }

    /// Waits until the shipped service account does not have a permission. The server learns of a changed role with a
    /// delay.
    ///
    /// # Panics
    /// If it still has the permission after the timeout.
    pub fn wait_until_denied(&self, verb: &str, group: &str, resource: &str, subresource: &str) {
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": "n"});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "resourceAttributes": attributes},
        });
        wait::until_true(&format!("{verb} of {resource} to be denied"), || {
            let reply = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
            reply.json().pointer("/status/allowed") == Some(&Value::Bool(false))
        });
    }

    /// Discards the history in etcd, so that watches from earlier revisions are no longer possible.
    ///
    /// # Panics
    /// If etcd does not reply.
    pub fn compact(&self) {
        let list = self.request("GET", &Kind::VirtualMachine.path("", ""), &Value::Null).json();
        let revision = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let body = json!({"revision": revision, "physical": true}).to_string();
        let request =
            format!("POST /v3/kv/compaction HTTP/1.0\\r\\nContent-Length: {}\\r\\n\\r\\n{body}", body.len());
        let line = format!("exec 3<>/dev/tcp/127.0.0.1/2379; printf '{request}' >&3; cat <&3");
        let reply = succeed(self.host.command("timeout").args(["10", "bash", "-c", &line]));
        assert!(reply.contains("200 OK"), "{reply}");
    }

    fn block<Done: Future<Output: Send> + Send + 'static>(&self, action: Done) -> Done::Output {
        let (sender, receiver) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = sender.send(action.await);
        });
        receiver.recv().expect("the action does not panic")
    }
}

fn write_identity(host: &Host, name: &str, identity: &Identity) {
    host.write(&format!("{DIRECTORY}/{name}.crt"), &identity.certificate);
    host.write(&format!("{DIRECTORY}/{name}.key"), &identity.key);
}

fn start_etcd(host: &Host, programs: &std::path::Path) -> Process {
    let mut command = host.command(&programs.join("etcd").to_string_lossy());
    command.args([
        &format!("--data-dir={DIRECTORY}/etcd"),
        &format!("--listen-client-urls={ETCD}"),
        &format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--logger=zap",
        "--log-level=error",
    ]);
    Process::start("etcd", &mut command)
}

fn start_api(host: &Host, programs: &std::path::Path) -> Process {
    let mut command = host.command(&programs.join("kube-apiserver").to_string_lossy());
    let file = |option: &str, name: &str| format!("--{option}={DIRECTORY}/{name}");
    command.args([
        format!("--etcd-servers={ETCD}"),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={PORT}"),
        format!("--advertise-address={ADDRESS}"),
        file("cert-dir", "generated"),
        file("tls-cert-file", "server.crt"),
        file("tls-private-key-file", "server.key"),
        file("token-auth-file", "tokens.csv"),
        "--authorization-mode=RBAC".to_owned(),
        file("service-account-key-file", "accounts.pub"),
        file("service-account-signing-key-file", "accounts.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        // No controller creates the tokens that this plugin demands.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        file("proxy-client-cert-file", "front-proxy.crt"),
        file("proxy-client-key-file", "front-proxy.key"),
        "--enable-aggregator-routing=true".to_owned(),
    ]);
    Process::start("kube-apiserver", &mut command)
}
