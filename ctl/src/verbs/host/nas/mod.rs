//! `wakevirtctl host nas`: folders that domains can use over the network.

mod network;
mod share;

use std::path::PathBuf;

use clap::ValueHint;

use super::new::NewFiles;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::quoting::quote;
use crate::virsh;

use network::Network;
use share::Share;

/// The hypervisor of the networks.
const URI: &str = "qemu:///system";

/// The options.
#[derive(Debug, Clone, clap::Args)]
#[command(disable_help_subcommand = true, subcommand_value_name = "VERB")]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    verb: NasVerb,
}

/// What to do with shared folders.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum NasVerb {
    /// Write the configuration of a new shared folder
    ///
    /// The verb writes /etc/wakevirt/nas/NAME.conf, which is an smb.conf(5), and a drop-in for
    /// wakevirt-nas@NAME.service. Unless --network is given, it also writes the definition of a new isolated network,
    /// nas-NAME. It changes nothing else, and prints the commands that start the share. It never replaces a file.
    ///
    /// The server runs as the owner of the folder. Domains on the network can read the folder without a password.
    New(NewShare),
}

/// The options of a new share.
#[derive(Debug, Clone, clap::Args)]
pub struct NewShare {
    /// The folder to share
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    path: PathBuf,

    /// Use this isolated network of libvirt instead of a new one; each share needs a network of its own
    #[arg(long, value_name = "NET")]
    network: Option<String>,

    /// Let domains write to the folder
    #[arg(long)]
    writable: bool,

    /// Also accept SMB1, which Windows XP needs; it is not encrypted, and has known weaknesses
    #[arg(long)]
    smb1: bool,

    /// The name of the share: at most 11 lower-case letters, digits and "-"
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the verb.
///
/// # Errors
/// See the verbs.
pub fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let NasVerb::New(new) = &arguments.verb;
    let network = match &new.network {
        Some(name) => Network::existing(name),
        None => Network::new(&new.name),
    };
    let share = Share::new(new)?;
    let network = network?;
    let files = files(&share, &network);
    files.write(&command(new))?;
    files.print(output)?;
    Ok(Exit::Success)
}

/// The command that the caller has run, quoted for a shell.
fn command(new: &NewShare) -> String {
    let mut words = vec!["wakevirtctl host nas new".to_owned(), quote(&new.name)];
    words.push(format!("--path={}", quote(&new.path.to_string_lossy())));
    words.extend(new.network.as_deref().map(|network| format!("--network={}", quote(network))));
    words.extend(new.writable.then(|| "--writable".to_owned()));
    words.extend(new.smb1.then(|| "--smb1".to_owned()));
    words.join(" ")
}

fn files(share: &Share, network: &Network) -> NewFiles {
    let name = share.name();
    let mut files = NewFiles::default();
    files.file(format!("/etc/wakevirt/nas/{name}.conf"), share.configuration(network));
    files.file(
        format!("/etc/systemd/system/wakevirt-nas@{name}.service.d/share.conf"),
        share.drop_in(network),
    );
    if let Some(definition) = network.definition() {
        let path = format!("/etc/wakevirt/nas/{name}.xml");
        let purpose = "create the isolated network";
        files.command(purpose, virsh::command(URI, &["net-define", &path]));
        files.command(purpose, virsh::command(URI, &["net-autostart", network.name()]));
        files.command(purpose, virsh::command(URI, &["net-start", network.name()]));
        files.file(path, definition);
    }
    let purpose = "start the share, now and whenever the network starts";
    files.command(purpose, "systemctl daemon-reload".to_owned());
    files.command(purpose, format!("systemctl enable --now wakevirt-nas@{name}"));
    let rule = format!(
        "rule family=\"ipv4\" source address=\"{}\" destination address=\"{}\" port port=\"445\" protocol=\"tcp\" accept",
        network.subnet(),
        network.address()
    );
    let purpose = "only if firewalld is running: libvirt's zone rejects connections to the host";
    files.command(
        purpose,
        format!("firewall-cmd --permanent --zone=libvirt --add-rich-rule={}", quote(&rule)),
    );
    files.command(purpose, "firewall-cmd --reload".to_owned());
    let purpose = "connect a domain, which then finds the share at the address below";
    let attach = ["attach-interface", "DOMAIN", "network", network.name(), "--model", "virtio", "--config"];
    files.command(purpose, virsh::command(URI, &attach));
    files.address(format!("\\\\{}\\{name}", network.address()));
    files
}
