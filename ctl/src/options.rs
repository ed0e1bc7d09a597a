//! The command line.

use clap::{Parser, Subcommand};
use wakevirt_service::bus::Address;

use crate::output::Format;
use crate::verbs::{
    allow, doctor, explain, forbid, history, host, list, metrics, monitor, read, send, show, status, wake,
};

/// Show what wakevirt does and why, and wake virtual machines
///
/// Without a verb, wakevirtctl shows the status.
///
/// The program has the privileges of its caller. The status, metrics, monitor and read verbs need no permission, and
/// neither does the send verb with a MAC address. Most other verbs list domains or decisions, which only root and members
/// of the libvirt and wakevirt groups are allowed to do. If a permission is missing, the error message names it.
#[derive(Debug, Clone, Parser)]
#[command(name = "wakevirtctl", version, disable_help_subcommand = true, subcommand_value_name = "VERB")]
pub struct Options {
    /// Connect to this message bus: system, session, or an address such as unix:path=/run/dbus/system_bus_socket
    #[arg(long, global = true, value_name = "BUS", default_value = "system")]
    pub bus: Address,

    /// Print JSON, on one line (short, the default) or with line breaks (pretty)
    ///
    /// The JSON OUTPUT section of the man page describes the keys.
    #[arg(long, global = true, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "short")]
    pub json: Option<Format>,

    /// What to do
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show both services, their connections and domains, counters, and the latest decisions
    ///
    /// This is the default verb. Each warning says how to fix the problem. The exit status is 3 if a service is not
    /// running or does not reply. If the caller has no permission to list domains, the number of allowed domains and the
    /// latest decisions are missing.
    Status(status::Arguments),
    /// List the domains with their state, MAC addresses and last wake, and the rules that allow them
    List(list::Arguments),
    /// Show a domain and the latest decisions about it
    ///
    /// If domains of several hypervisors have this name, all of them are shown.
    Show(show::Arguments),
    /// Wake a domain: start it, resume it, or wake up its guest, depending on its state
    ///
    /// The verb calls the actor; it does not send a packet. The domain does not need a rule, but the caller needs
    /// permission to wake domains. Root and members of the libvirt group have this permission. On a terminal, other users
    /// are asked for an administrator's password.
    ///
    /// DOMAIN is read as a MAC address only if no domain has this name or UUID, and as a pattern only with --glob.
    ///
    /// If the --wait time passes or Ctrl-C is pressed before the wake has ended and the guest has answered, the wake
    /// continues, and the exit status is 5. A wake for which the password has not been typed does not continue.
    Wake(wake::Arguments),
    /// Allow packets to wake a domain
    ///
    /// The verb writes a drop-in to /etc/wakevirt/actor.d, and makes the actor read it. The drop-in contains one rule,
    /// which accepts all packets for the domain; wakevirt-actor.toml(5) describes rules that accept only some. Writing the
    /// file requires root. If the actor rejects the change, the change is undone. An existing file with the same name but
    /// different content is not changed.
    ///
    /// With --bus session, the drop-in is in ~/.config/wakevirt/actor.d, which the user's own actor reads. This does not
    /// require root.
    ///
    /// A name, UUID or glob that does not match a known domain is an error.
    Allow(allow::Arguments),
    /// Remove the rule that "wakevirtctl allow" wrote
    ///
    /// The verb removes only the file that "wakevirtctl allow" writes for the same DOMAIN, and only if the file has not been
    /// edited. If other rules or metadata still allow a matching domain, they are printed, and the exit status is 1.
    Forbid(forbid::Arguments),
    /// Explain what a packet would do, rule by rule
    ///
    /// The verb does not wake a domain. If a rule has a condition on a detail that is not given, such as the interface, the
    /// packet does not meet the condition. The exit status is 1 if the packet would not wake a domain.
    Explain(explain::Arguments),
    /// Print packets and decisions as they happen, until Ctrl-C is pressed
    ///
    /// All users can run this verb. The actor does not decide on packets for addresses that no domain has.
    Monitor(monitor::Arguments),
    /// Print the latest decisions or packets, newest first
    ///
    /// The actor stores the latest 1000 decisions. With --packets, the verb prints packets that capture stores, including
    /// those for addresses that no domain has. Capture stores the latest 256 packets, unless the remember key in
    /// wakevirt-capture.toml(5) is set to a different number. Copies of a packet are left out.
    History(history::Arguments),
    /// Find out why a packet does not wake a domain
    ///
    /// The verb checks the services, interfaces, libvirt, rules, domains and recent packets. For each finding, it prints
    /// what it has seen and, if there is one, the command that fixes the problem. The most likely cause comes first: run
    /// its command, and then run doctor again. An error prevents wakes, a warning can prevent some wakes, and a note
    /// explains something. The exit status is 1 if there are errors or warnings.
    ///
    /// The verb does not change anything. It runs virsh, systemctl, journalctl, ip, and the services with --check, all with
    /// the privileges of its caller. It lists what the caller is not allowed to see, with the commands that show it.
    Doctor(doctor::Arguments),
    /// Print the counters of both services in a format that Prometheus reads
    ///
    /// The metrics come from D-Bus properties that every user can read. If a service does not reply within three seconds,
    /// wakevirt_up is 0 for it, its other metrics are missing, and the reason is printed on standard error. The exit status
    /// is still 0. /usr/share/doc/wakevirt/METRICS.md lists the metrics.
    ///
    /// With --http, a client has two seconds to send a request of at most 8 KiB. The only method is GET, and the only path
    /// is /metrics. The connection is closed after the reply. The program calls the services at most once per second.
    Metrics(metrics::Arguments),
    /// Print the magic packets in a packet capture file as JSON, one object per line
    ///
    /// The parser is the one that the service uses for frames from the network. Copies of a packet are not removed. The
    /// verb does not read the configuration of the service, and needs no bus.
    ///
    /// The file format is pcap or pcapng. A file can contain frames from several interfaces, with different link types. If
    /// frames with unsupported link types are skipped, their number is printed on standard error, and the exit status is 1.
    Read(read::Arguments),
    /// Send magic packets from this machine
    ///
    /// With a MAC address, this verb needs neither a bus nor a service. By default, it sends datagrams on each interface
    /// that is up: one to the broadcast address of each IPv4 network of the interface, and one over IPv6 to all nodes on
    /// its link. Bridge ports are left out because packets that are sent on the bridge also leave through its ports. To
    /// wake a domain behind a router or a VPN, send to its host with --to.
    ///
    /// The exit status is 1 if nothing was sent.
    Send(send::Arguments),
    /// Prepare the host for its domains
    ///
    /// wakevirt-host(8) prepares the host for the domains that wakevirt-host.toml(5) names, for example with huge pages or
    /// with CPUs of their own.
    Host(host::Arguments),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Status(status::Arguments::default())
    }
}
