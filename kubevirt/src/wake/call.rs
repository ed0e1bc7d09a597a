//! Calls to the API server.

use std::time::Duration;

use http::Request;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};
use wakevirt_actor::hypervisor::HypervisorError;

use super::cluster::Cluster;
use crate::client::{code, failed, message};
use crate::machines::Machine;
use crate::machines::object::{Instance, VirtualMachine};

/// How long the API server can take to answer a call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call is repeated while the server refuses it for now.
const RETRY: Duration = Duration::from_secs(20);
/// The delay before a call is repeated, unless the server names one.
const DELAY: Duration = Duration::from_secs(1);
/// The maximum delay that the server can demand.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// The API server's answer to a call.
pub(super) enum Answer {
    /// The call was accepted.
    Accepted,
    /// The virtual machine is in another state than the call requires, or an earlier call is under way.
    Conflict(String),
    /// The virtual machine does not exist.
    Missing,
    /// The call failed.
    Failed(HypervisorError),
    /// There was no answer.
    Silence(String),
}

/// Starts a virtual machine.
pub(super) async fn start(cluster: &Cluster, machine: &Machine) -> Answer {
    update(cluster, machine, "virtualmachines", "start", "start the virtual machine").await
}

/// Resumes a paused virtual machine.
pub(super) async fn unpause(cluster: &Cluster, machine: &Machine) -> Answer {
    update(cluster, machine, "virtualmachineinstances", "unpause", "resume the virtual machine").await
}

/// Updates a subresource. The reply to an accepted call has an empty body.
async fn update(
    cluster: &Cluster,
    machine: &Machine,
    resource: &str,
    subresource: &str,
    action: &'static str,
) -> Answer {
    let Machine { namespace, name, .. } = machine;
    let path =
        format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/{resource}/{name}/{subresource}");
    let begin = Instant::now();
    // Whether an earlier request may have been accepted although a gateway reported an error.
    let mut is_unclear = false;
    loop {
        let request = Request::put(&path).header("content-type", "application/json").body(b"{}".to_vec());
        let request = match request {
            Ok(request) => request,
            Err(error) => return Answer::Failed(failed(action)(kube::Error::HttpError(error))),
        };
        let error = match timeout(TIMEOUT, cluster.clients.call.request_text(request)).await {
            Ok(Ok(_empty)) => return Answer::Accepted,
            Ok(Err(error)) => error,
            Err(_) => return Answer::Silence(format!("it does not answer within {} s", TIMEOUT.as_secs())),
        };
        match code(&error) {
            None => return Answer::Silence(message(&error)),
            Some(401) => return Answer::Silence(message(&error)),
            Some(409 | 500) if is_unclear => return Answer::Accepted,
            Some(409 | 500) => return Answer::Conflict(message(&error)),
            Some(404) if is_about(&error, name) => return Answer::Missing,
            // A server that has just started answers 404 for the subresources until it has found virt-api.
            Some(status @ (404 | 429 | 502..=504)) if begin.elapsed() < RETRY => {
                is_unclear |= matches!(status, 502 | 504);
                tokio::time::sleep(delay(&error)).await;
            }
            Some(_) => return Answer::Failed(failed(action)(error)),
        }
    }
}

/// Whether the error is about the object with this name, not about a missing API.
fn is_about(error: &kube::Error, name: &str) -> bool {
    message(error).contains(&format!("\"{name}\""))
}

/// The delay that the server demands.
fn delay(error: &kube::Error) -> Duration {
    let seconds = match error {
        kube::Error::Api(status) => status.details.as_ref().map_or(0, |details| details.retry_after_seconds),
        _ => 0,
    };
    match seconds {
        0 => DELAY,
        seconds => Duration::from_secs(seconds.into()).min(MAX_DELAY),
    }
}

/// Reads a virtual machine.
///
/// # Errors
/// The answer of the API server, if it is not the virtual machine.
pub(super) async fn read(cluster: &Cluster, machine: &Machine) -> Result<VirtualMachine, Answer> {
    get(&cluster.clients.call, machine, "read the virtual machine").await
}

/// Reads the VirtualMachineInstance of a virtual machine.
///
/// # Errors
/// The answer of the API server, if it is not the VirtualMachineInstance.
pub(super) async fn read_instance(cluster: &Cluster, machine: &Machine) -> Result<Instance, Answer> {
    get(&cluster.clients.call, machine, "read the virtual machine instance").await
}

async fn get<K>(client: &Client, machine: &Machine, action: &'static str) -> Result<K, Answer>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &machine.namespace);
    let begin = Instant::now();
    loop {
        let error = match timeout(TIMEOUT, api.get(&machine.name)).await {
            Ok(Ok(object)) => return Ok(object),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(Answer::Silence(format!("it does not answer within {} s", TIMEOUT.as_secs())));
            }
        };
        match code(&error) {
            None | Some(401) => return Err(Answer::Silence(message(&error))),
            Some(404) if is_about(&error, &machine.name) => return Err(Answer::Missing),
            Some(429 | 502..=504) if begin.elapsed() < RETRY => tokio::time::sleep(delay(&error)).await,
            Some(_) => return Err(Answer::Failed(failed(action)(error))),
        }
    }
}
