//! The connection to an API server, and its errors.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use wakevirt_actor::hypervisor::HypervisorError;

use crate::uri::ClusterUri;

/// How long a connection to the API server can take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The clients for one API server.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For lists and watches. It retries requests that the server refuses for now, after the server's `Retry-After`.
    pub watch: Client,
    /// For calls, which are not repeated.
    pub call: Client,
}

/// Reads the credentials again, and creates clients. They connect when they are used.
///
/// # Errors
/// If there are no usable credentials.
pub(crate) async fn clients(uri: &ClusterUri) -> Result<Clients, HypervisorError> {
    let mut config = match &uri.kubeconfig {
        None => Config::incluster().map_err(|error| HypervisorError::Call {
            action: "use the service account of the pod",
            message: error.to_string(),
            advice: "; outside a cluster, write kubevirt:///PATH/OF/KUBECONFIG",
        })?,
        Some(path) => {
            let unreadable = |error: kube::config::KubeconfigError| HypervisorError::Call {
                action: "use the kubeconfig",
                message: causes(&error),
                advice: "; the service's user must be able to read the file and those that it names",
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unreadable)?;
            let options = KubeConfigOptions { context: uri.context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unreadable)?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let invalid = failed("use the credentials");
    let watch = Client::try_from(config.clone()).map_err(&invalid)?;
    config.default_retry = false;
    let call = Client::try_from(config).map_err(&invalid)?;
    Ok(Clients { watch, call })
}

/// Converts the error of this action.
pub(crate) fn failed(action: &'static str) -> impl Fn(kube::Error) -> HypervisorError {
    move |error| HypervisorError::Call { action, message: message(&error), advice: advice(&error) }
}

/// What the API server says, or why there is no answer.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.trim_end().to_owned(),
        kube::Error::Api(status) => format!("the API server answers with code {}", status.code),
        error => causes(error),
    }
}

/// The HTTP status code, if the API server has answered.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What to do about an error.
fn advice(error: &kube::Error) -> &'static str {
    match code(error) {
        Some(401) => "; the API server does not accept the token of the actor",
        Some(403) => {
            "; grant this permission to the actor: see \"Permissions\" in /usr/share/doc/wakevirt/KUBEVIRT.md"
        }
        Some(404) => "; is KubeVirt installed in this cluster?",
        _ => "",
    }
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
