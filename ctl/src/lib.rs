//! `wakevirtctl`, the command-line tool of wakevirt: a client of the D-Bus interfaces, with the privileges of
//! its caller.

pub mod client;
pub mod complete;
pub mod error;
pub mod exit;
pub mod options;
pub mod output;
pub mod program;
pub mod quoting;
pub mod verbs;
pub mod virsh;

use std::process::ExitCode;

use client::Client;
use error::Error;
use exit::Exit;
use options::{Options, Verb};
use output::Output;

/// Runs the verb, and prints an error on standard error.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let mut output = Output::to_stdout(options.json);
    let result = run_verb(options, &mut output).and_then(|exit| {
        output.flush()?;
        Ok(exit)
    });
    match result {
        Ok(exit) => exit.into(),
        // The program that reads the output, such as head(1), has exited.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            error.exit().into()
        }
    }
}

fn run_verb(options: &Options, output: &mut Output) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(options.bus.clone());
    let verb = options.verb.clone().unwrap_or_default();
    let result = runtime.block_on(async {
        match &verb {
            Verb::Status(arguments) => verbs::status::run(arguments, &client, output).await,
            Verb::List(arguments) => verbs::list::run(arguments, &client, output).await,
            Verb::Show(arguments) => verbs::show::run(arguments, &client, output).await,
            Verb::Wake(arguments) => verbs::wake::run(arguments, &client, output).await,
            Verb::Allow(arguments) => verbs::allow::run(arguments, &client, output).await,
            Verb::Forbid(arguments) => verbs::forbid::run(arguments, &client, output).await,
            Verb::Explain(arguments) => verbs::explain::run(arguments, &client, output).await,
            Verb::Monitor(arguments) => verbs::monitor::run(arguments, &client, output).await,
            Verb::History(arguments) => verbs::history::run(arguments, &client, output).await,
            Verb::Doctor(arguments) => verbs::doctor::run(arguments, &client, output).await,
            Verb::Metrics(arguments) => verbs::metrics::run(arguments, &client, output).await,
            Verb::Read(arguments) => verbs::read::run(arguments, output),
            Verb::Send(arguments) => verbs::send::run(arguments, &client, output).await,
            Verb::Host(arguments) => verbs::host::run(arguments, &client, output).await,
        }
    });
    // Do not wait for a thread that reads from a file or a socket.
    runtime.shutdown_background();
    result
}

#[expect(clippy::print_stderr, reason = "a command-line tool reports errors on standard error")]
pub(crate) fn report(error: &dyn std::error::Error) {
    eprintln!("wakevirtctl: {error}");
}
