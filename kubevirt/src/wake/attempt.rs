//! One attempt to wake a virtual machine.
//!
//! The reply to a start says little: 202 means that KubeVirt will start the virtual machine; 409 and 500 can mean that
//! another client has just started it, or that KubeVirt starts it by itself. In all these cases, the virtual machine
//! counts as starting until it runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wakevirt_actor::hypervisor::{AttemptRequest, AttemptResult, Call, HypervisorError, next_call};
use wakevirt_actor::model::{Outcome, Pause, State};
use wakevirt_actor::policy::rules::Halted;
use wakevirt_service::logs::quoted;

use super::call::{self, Answer};
use super::cluster::Cluster;
use super::rate;
use super::run::{self, Run};
use crate::machines::Machine;

/// How long to wait until a virtual machine whose VirtualMachineInstance has ended is reported as off.
const END_WAIT: Duration = Duration::from_secs(10);

/// Attempts a wake; returns how long it was queued, and its result. Sets `called` when the API server may have started
/// the virtual machine.
pub(super) async fn attempt(
    cluster: &Cluster,
    request: AttemptRequest,
    called: &AtomicBool,
) -> (Duration, AttemptResult) {
    let mut queued = Duration::ZERO;
    let attempt = Attempt { cluster, request, called };
    let result = attempt.run(&mut queued).await.unwrap_or_else(|end| end);
    (queued, result)
}

struct Attempt<'a> {
    cluster: &'a Cluster,
    request: AttemptRequest,
    called: &'a AtomicBool,
}

impl Attempt<'_> {
    /// # Errors
    /// The result, if the attempt ends early.
    async fn run(&self, queued: &mut Duration) -> Result<AttemptResult, AttemptResult> {
        let known = self.cluster.machines.get(self.request.uuid).ok_or_else(gone)?;
        let leaves_halted = self.request.terms.handling.halted == Halted::Leave;
        // The strategy decides whether a halted virtual machine is left alone, and the watch can be late.
        let is_known = self.request.known_off && !leaves_halted;
        let mut machine = if is_known { known } else { self.read(&known).await? };
        let call = loop {
            if machine.state() == State::Paused(Pause::StartingUp) {
                let accepted = self.request.called.is_possible();
                return Ok(self.await_run(&machine, accepted, None).await);
            }
            let call = next_call(&self.request, machine.state())?;
            if call != Call::Start {
                break call;
            }
            self.check_halted(&machine)?;
            let waited = rate::wait().await;
            *queued += waited;
            if !self.request.after(waited).known_off && self.request.known_off
                || waited > Duration::from_millis(100)
            {
                // The state may have changed in the meantime.
                machine = self.read(&machine).await?;
                if machine.state() != State::ShutOff {
                    continue;
                }
                self.check_halted(&machine)?;
            }
            break call;
        };
        Ok(match call {
            Call::Start => self.start(&machine).await,
            Call::Resume | Call::WakeUp => self.resume(&machine).await,
        })
    }

    /// # Errors
    /// The result, if the rule leaves a virtual machine with this strategy alone.
    fn check_halted(&self, machine: &Machine) -> Result<(), AttemptResult> {
        if !machine.strategy.is_halted() || self.request.terms.handling.halted != Halted::Leave {
            return Ok(());
        }
        let reason =
            format!("the virtual machine has {}, and the rule contains halted = \"leave\"", machine.strategy);
        Err(AttemptResult::Done(Outcome::NotAllowed, reason))
    }

    async fn start(&self, machine: &Machine) -> AttemptResult {
        self.called.store(true, Ordering::Relaxed);
        match call::start(self.cluster, machine).await {
            Answer::Accepted => self.await_run(machine, true, None).await,
            Answer::Conflict(message) => {
                self.await_run(machine, self.request.called.is_possible(), Some(message)).await
            }
            answer => self.end(answer),
        }
    }

    /// Waits until the virtual machine runs. `accepted` is whether KubeVirt has accepted a start for this wake; otherwise,
    /// `refusal` is its reply.
    async fn await_run(&self, before: &Machine, accepted: bool, refusal: Option<String>) -> AttemptResult {
        let refusal = refusal.map(|message| format!("; its reply to the start: {}", quoted(&message)));
        let refusal = refusal.unwrap_or_default();
        match run::wait(self.cluster, before, self.request.start_wait).await {
            Run::Running if accepted => AttemptResult::Done(Outcome::Started, self.started(before).await),
            Run::Running => {
                AttemptResult::Done(Outcome::AlreadyRunning, "another client has just started it".to_owned())
            }
            Run::Error(status) => {
                let reason = format!("KubeVirt reports the status {}{refusal}", quoted(&status));
                AttemptResult::Done(Outcome::Failed, reason)
            }
            Run::TooLong(status) => {
                let limit = self.request.start_wait.as_secs();
                let reason =
                    format!("it does not run after {limit} s: its status is {}{refusal}", quoted(&status));
                AttemptResult::Done(Outcome::Failed, reason)
            }
            Run::Gone => gone(),
        }
    }

    /// The reason for the outcome `started`.
    async fn started(&self, before: &Machine) -> String {
        let after = if before.strategy.is_halted() { self.read(before).await.ok() } else { None };
        let after = after.map(|machine| machine.strategy);
        match after {
            Some(after) if before.strategy.is_halted() && after != before.strategy => format!(
                "it was {}; KubeVirt has changed {} to {}, so that it also starts it again when it shuts down",
                State::ShutOff,
                before.strategy,
                after
            ),
            _ => format!("it was {}", before.state()),
        }
    }

    async fn resume(&self, machine: &Machine) -> AttemptResult {
        self.called.store(true, Ordering::Relaxed);
        let conflict = match call::unpause(self.cluster, machine).await {
            Answer::Accepted => {
                return AttemptResult::Done(Outcome::Resumed, format!("it was {}", machine.state()));
            }
            Answer::Conflict(message) => message,
            // The VirtualMachineInstance has just ended; the virtual machine can be started.
            Answer::Missing => {
                return AttemptResult::Again { state: machine.state(), wait: END_WAIT, called: false };
            }
            answer => return self.end(answer),
        };
        match call::read_instance(self.cluster, machine).await {
            Ok(instance) if instance.is_running() && !instance.is_paused() => {
                AttemptResult::Done(Outcome::AlreadyRunning, "another client has just resumed it".to_owned())
            }
            Ok(_) => {
                let action = "resume the virtual machine";
                let error = HypervisorError::Call { action, message: conflict, advice: "" };
                AttemptResult::Done(Outcome::Failed, error.to_string())
            }
            Err(answer) => self.end(answer),
        }
    }

    /// Reads the virtual machine, because the watch can be late.
    ///
    /// # Errors
    /// The result of the attempt, if it cannot be read.
    async fn read(&self, known: &Machine) -> Result<Machine, AttemptResult> {
        let object = call::read(self.cluster, known).await.map_err(|answer| self.end(answer))?;
        match Machine::read(&object) {
            Ok(machine) if machine.uuid == known.uuid => Ok(machine),
            // It was deleted, and another one has its name.
            _ => Err(gone()),
        }
    }

    /// The result of an attempt that an answer ends.
    fn end(&self, answer: Answer) -> AttemptResult {
        match answer {
            Answer::Failed(error) => AttemptResult::Done(Outcome::Failed, error.to_string()),
            Answer::Silence(reason) => {
                self.cluster.lose(&reason);
                AttemptResult::Lost { called: self.called.load(Ordering::Relaxed) }
            }
            Answer::Missing | Answer::Accepted | Answer::Conflict(_) => gone(),
        }
    }
}

/// The result if the virtual machine no longer exists.
fn gone() -> AttemptResult {
    AttemptResult::Done(Outcome::Failed, "the virtual machine no longer exists".to_owned())
}
