//! Kubernetes API servers, and a stand-in for KubeVirt.
//!
//! ```no_run
//! use wakevirt_tests::kubernetes::kind::Kind;
//! use wakevirt_tests::kubernetes::server::ApiServer;
//! use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
//!
//! let api = ApiServer::start();
//! api.add(&VirtualMachine::new("default", "a", "52:54:00:01:02:03").strategy("Manual"));
//! api.write_kubeconfig("/tmp/client".as_ref(), "/tmp/client");
//! // Run a client with /tmp/client/kubeconfig.
//! api.wait_for("update", "virtualmachines/start", 1);
//! assert!(api.read(Kind::Instance, "default", "a").is_some());
//! ```

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod kind;
pub mod node;
pub mod proxy;
pub mod server;
pub mod status;
pub mod virt;

use std::path::Path;

use serde_json::json;

/// Writes the files of a client to a directory: `kubeconfig`, `ca.crt` and `token`. In the kubeconfig, the directory
/// has the path `seen_as`, because the client can have another root directory. The current namespace is `default`.
///
/// # Panics
/// If the files cannot be written.
pub fn write_kubeconfig(url: &str, authority: &str, token: &str, directory: &Path, seen_as: &str) {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": url, "certificate-authority": format!("{seen_as}/ca.crt"),
        }}],
        "users": [{"name": "test", "user": {"tokenFile": format!("{seen_as}/token")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        "current-context": "test",
    });
    std::fs::create_dir_all(directory).expect("the directory can be created");
    // JSON is YAML.
    for (name, text) in [("kubeconfig", config.to_string().as_str()), ("ca.crt", authority), ("token", token)]
    {
        std::fs::write(directory.join(name), text).expect("the file can be written");
    }
}
