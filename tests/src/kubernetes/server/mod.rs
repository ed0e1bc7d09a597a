//! An API server in this process, with faults on demand.
//!
//! It serves VirtualMachines, VirtualMachineInstances, namespaces and Events over HTTPS, as a real server does, with a
//! stand-in for KubeVirt. It does not run admission, and has no schemas.

pub mod access;
pub(crate) mod connection;
pub mod fault;
mod handle;
mod objects;
mod request;
mod selector;
mod store;
pub(crate) mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use hyper::HeaderMap;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch::Sender;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ServerConfig;

use self::access::{Access, Rbac};
use self::connection::{bind, serve, tls};
use self::fault::{Break, Fault, Faults, Gone, Matching, Record};
use self::objects::Stored;
use self::store::Store;
use super::certificates::{Authority, Use};
use super::client::Client;
use super::kind::Kind;
use super::virt::machine::VirtualMachine;
use super::virt::{KubeVirt, Objects, Stage};
use super::write_kubeconfig;
use crate::host::{Host, project};
use crate::wait;

/// The service account of the shipped manifests.
pub const ACCOUNT: &str = "system:serviceaccount:wakevirt:wakevirt";
/// The port on a [`Host`].
const PORT: u16 = 6443;

/// What the connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    virt: KubeVirt,
    breaks: Sender<Break>,
    bookmarks: Sender<()>,
}

#[derive(Debug)]
struct State {
    store: Store,
    /// The users, by their tokens.
    tokens: HashMap<String, String>,
    rbac: Rbac,
    faults: Faults,
    records: Vec<Record>,
    gone: Gone,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, headers: &HeaderMap) -> Option<String> {
        let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.lock().tokens.get(token).cloned()
    }

    fn objects(self: &Arc<Self>) -> Stored {
        Stored(self.clone())
    }
}

impl State {
    fn allows(&self, user: &str, access: &Access) -> bool {
        self.rbac.allows(user, access)
    }
}

/// An API server in this process, until it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    runtime: Runtime,
    authority: Authority,
    tls: Arc<ServerConfig>,
    /// `None` on this machine.
    namespace: Option<PathBuf>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
    tokens: usize,
}

impl ApiServer {
    /// Starts a server on this machine's loopback interface, with the permissions of the shipped manifests.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        Self::listening(None, 0)
    }

    /// Starts a server on a host, at `127.0.0.1:6443`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_on(host: &Host) -> Self {
        Self::listening(Some(host.network()), PORT)
    }

    fn listening(namespace: Option<PathBuf>, port: u16) -> Self {
        let authority = Authority::new("kubernetes");
        let identity = authority.issue(Use::Server, "kube-apiserver", &["127.0.0.1", "localhost"]);
        let state = State {
            store: Store::new(),
            tokens: HashMap::new(),
            rbac: shipped_rbac(),
            faults: Faults::default(),
            records: Vec::new(),
            gone: Gone::Event,
        };
        let mut server = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                virt: KubeVirt::default(),
                breaks: Sender::new(Break::Between),
                bookmarks: Sender::new(()),
            }),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime"),
            tls: tls(&identity, None),
            authority,
            namespace,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            task: None,
            tokens: 0,
        };
        server.rotate_token();
        server.start_again();
        server
    }

    /// Closes all connections and the port. [`Self::start_again`] opens the same port.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            wait::until_true("the API server to stop", || task.is_finished());
        }
    }

    /// Listens again after [`Self::stop`]. Objects and revisions remain.
    ///
    /// # Panics
    /// If the port is in use.
    pub fn start_again(&mut self) {
        let listener = bind(self.namespace.as_deref(), self.address);
        self.address = listener.local_addr().expect("the address of a listener");
        let (tls, shared) = (self.tls.clone(), self.shared.clone());
        let serve = serve(listener, tls, move |request| handle::answer(shared.clone(), request));
        self.task = Some(self.runtime.spawn(serve));
    }

    /// The URL, such as `https://127.0.0.1:6443`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the authority that issued the server's certificate, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// The current token of the service account.
    #[must_use]
    pub fn token(&self) -> String {
        format!("token-{}", self.tokens)
    }

    /// Replaces the token of the service account, and returns the new one. Requests with the old one get 401.
    pub fn rotate_token(&mut self) -> String {
        self.tokens += 1;
        let token = self.token();
        self.shared.lock().tokens = HashMap::from([(token.clone(), ACCOUNT.to_owned())]);
        token
    }

    /// Writes `kubeconfig`, `ca.crt` and `token` for the service account to a directory, which the client sees as
    /// `seen_as`.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn write_kubeconfig(&self, directory: &Path, seen_as: &str) {
        write_kubeconfig(&self.url(), self.authority(), &self.token(), directory, seen_as);
    }

    /// A client with this token.
    #[must_use]
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.address, self.namespace.clone(), self.authority(), token)
    }

    /// Changes the permissions.
    pub fn rbac(&self, change: impl FnOnce(&mut Rbac)) {
        change(&mut self.shared.lock().rbac);
    }

    /// Injects a fault into the next `times` requests that match.
    pub fn fault(&self, matching: Matching, fault: Fault, times: usize) {
        self.shared.lock().faults.add(matching, fault, times);
    }

    /// Removes the faults that no request has taken yet.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Makes all revisions expire. Watches from an old revision get 410 in this form. Open watches get it as well with
    /// [`Gone::Event`], and continue with [`Gone::Status`].
    pub fn expire(&self, gone: Gone) {
        let mut state = self.shared.lock();
        state.gone = gone;
        state.store.expire();
    }

    /// Ends all open watches.
    pub fn break_watches(&self, how: Break) {
        self.shared.breaks.send_replace(how);
    }

    /// Sends a bookmark in all watches that accept bookmarks.
    pub fn send_bookmarks(&self) {
        self.shared.bookmarks.send_replace(());
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Record> {
        self.shared.lock().records.clone()
    }

    /// The number of requests so far with this verb for this resource, such as `update` and `virtualmachines/start`.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.count_if(verb, resource, |_| true)
    }

    fn count_if(&self, verb: &str, resource: &str, matches: impl Fn(&Record) -> bool) -> usize {
        let state = self.shared.lock();
        let of_kind = |record: &&Record| record.access.verb == verb && record.access.resource == resource;
        state.records.iter().filter(of_kind).filter(|record| matches(record)).count()
    }

    /// Waits until the server has answered this number of such requests.
    ///
    /// # Panics
    /// If it does not within the timeout.
    pub fn wait_for(&self, verb: &str, resource: &str, count: usize) {
        wait::until_true(&format!("{count} × {verb} {resource}"), || {
            self.count_if(verb, resource, |record| record.status != 0) >= count
        });
    }

    /// Waits until this number of watches is open.
    ///
    /// # Panics
    /// If they are not open within the timeout.
    pub fn wait_for_watches(&self, count: usize) {
        let open = || self.shared.breaks.receiver_count() >= count;
        wait::until_true(&format!("{count} open watches"), open);
    }

    /// Creates an object. Its namespace, if any, is in its metadata.
    ///
    /// # Panics
    /// If it exists.
    pub fn create(&self, kind: Kind, object: Value) -> Value {
        self.block(self.shared.objects(), |objects| async move { objects.create(kind, object).await })
            .expect("the object is created")
    }

    /// Creates a VirtualMachine. It starts if its run strategy demands it.
    ///
    /// # Panics
    /// If it exists.
    pub fn add(&self, vm: &VirtualMachine) {
        let object = self.create(Kind::VirtualMachine, vm.object().clone());
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name, shared) =
            (text("/metadata/namespace"), text("/metadata/name"), self.shared.clone());
        self.block(self.shared.objects(), |objects| async move {
            shared.virt.reconcile(&objects, &namespace, &name).await;
        });
    }

    /// Creates a namespace with these labels.
    pub fn add_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: HashMap<&str, &str> = labels.iter().copied().collect();
        self.create(Kind::Namespace, json!({"metadata": {"name": name, "labels": labels}}));
    }

    /// Reads an object. `namespace` is empty for a kind without namespaces.
    #[must_use]
    pub fn read(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.shared.lock().store.get(&key).ok().map(|object| (*object).clone())
    }

    /// All objects of a kind.
    #[must_use]
    pub fn list(&self, kind: Kind) -> Vec<Value> {
        self.shared.lock().store.list(kind, None).map(|(_, object)| (**object).clone()).collect()
    }

    /// Changes an object.
    ///
    /// # Panics
    /// If it is missing.
    pub fn edit(&self, kind: Kind, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut state = self.shared.lock();
        let mut object = (*state.store.get(&key).expect("the object exists")).clone();
        edit(&mut object);
        state.store.replace(&key, object).expect("the object is changed");
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// If it is missing.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.shared.lock().store.delete(&key).expect("the object exists");
    }

    /// Makes starts of a VirtualMachine proceed only to this stage, until [`Self::release`].
    pub fn hold(&self, namespace: &str, name: &str, stage: Stage) {
        self.shared.virt.hold(namespace, name, stage);
    }

    /// Lets a held VirtualMachine run.
    pub fn release(&self, namespace: &str, name: &str) {
        self.virt(namespace, name, |shared, namespace, name| async move {
            shared.virt.release(&shared.objects(), &namespace, &name).await;
        });
    }

    /// Sets a VirtualMachine's `printableStatus`, such as `ErrorUnschedulable`.
    pub fn report(&self, namespace: &str, name: &str, status: &str) {
        let status = status.to_owned();
        self.virt(namespace, name, |shared, namespace, name| async move {
            shared.virt.report(&shared.objects(), &namespace, &name, &status).await;
        });
    }

    /// Pauses a running VirtualMachine.
    pub fn pause(&self, namespace: &str, name: &str) {
        self.virt(namespace, name, |shared, namespace, name| async move {
            shared.virt.set_paused(&shared.objects(), &namespace, &name, true).await;
        });
    }

    /// Shuts a VirtualMachine down.
    pub fn shut_down(&self, namespace: &str, name: &str) {
        self.virt(namespace, name, |shared, namespace, name| async move {
            shared.virt.shut_down(&shared.objects(), &namespace, &name).await;
        });
    }

    fn virt<Action: Future<Output = ()> + Send + 'static>(
        &self,
        namespace: &str,
        name: &str,
        action: impl FnOnce(Arc<Shared>, String, String) -> Action,
    ) {
        let action = action(self.shared.clone(), namespace.to_owned(), name.to_owned());
        self.block((), |()| action);
    }

    /// Runs a future on the server's runtime, and waits for it. The caller can be a task of another runtime.
    fn block<Input, Done: Future<Output: Send> + Send + 'static>(
        &self,
        input: Input,
        action: impl FnOnce(Input) -> Done,
    ) -> Done::Output {
        let (sender, receiver) = mpsc::channel();
        let action = action(input);
        self.runtime.spawn(async move {
            let _ = sender.send(action.await);
        });
        receiver.recv().expect("the action does not panic")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// The permissions of the shipped manifests.
fn shipped_rbac() -> Rbac {
    let path = project().join("packaging/kubernetes/base/rbac.yaml");
    let manifest =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Rbac::from_yaml(&manifest)
}
