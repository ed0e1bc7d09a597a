//! The `wakevirt-sleep` program: puts domains to sleep with the host, and keeps the host awake for them.
//!
//! Each module can use those before it in this list: [`options`], [`libvirt`] is a connection to libvirt, [`guests`]
//! puts domains to sleep and brings them back, and [`nosleep`] keeps the host awake.

mod error;
mod guests;
mod libvirt;
mod nosleep;
mod options;

use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::Runtime;
use wakevirt_host::config::Config;
use wakevirt_libvirt::exit;
use wakevirt_service::{lifecycle, logs, user};

use error::Error;
use options::{Command, Options};

/// The program's own user.
const USER: &str = "wakevirt-sleep";
/// The group with access to libvirt. The units add it, and a drop-in can remove it.
const GROUP: &str = "libvirt";

fn main() -> ! {
    exit::immediately(match run(&Options::parse()) {
        Ok(()) => 0,
        Err(error) => lifecycle::exit_code("wakevirt-sleep", &error, matches!(error, Error::Config(_))),
    })
}

fn run(options: &Options) -> Result<(), Error> {
    // Before the first thread: capabilities belong to threads.
    user::change_to(USER, &[GROUP], &[])?;
    user::drop_capabilities()?;
    let config = Config::load(options.config.as_deref(), USER)?;
    let logs = logs::init(&config.log, options.log_to)?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start);
    match options.command {
        Command::Inhibit => in_runtime(runtime()?, nosleep::run(options, config, &logs)),
        Command::Suspend => guests::suspend(&options.connect, &config),
        Command::Resume => guests::resume(&options.connect, &config),
        Command::Shutdown => {
            let stopping = in_runtime(runtime()?, guests::is_stopping(&options.bus));
            if stopping { guests::shutdown(&options.connect, &config) } else { Ok(()) }
        }
    }
}

/// Does not wait for threads that call libvirt: the daemon completes these calls.
fn in_runtime<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    lifecycle::stopping();
    runtime.shutdown_timeout(Duration::ZERO);
    result
}
