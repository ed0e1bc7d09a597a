//! The command line.

use clap::{Parser, Subcommand};
use wakevirt_service::bus::Address;

use crate::output::Format;
use crate::verbs::{
    allow, doctor, explain, forbid, history, list, metrics, monitor, read, send, show, status, wake,
};

/// Show what wakevirt does and why, and wake virtual machines
///
/// Without a verb, wakevirtctl shows the status.
///
/// The program has the rights of its caller. The status needs none. Other verbs read the names of domains, which the
/// bus shows to root and to members of the groups libvirt and wakevirt. If a right is missing, the error names it.
#[derive(Debug, Clone, Parser)]
#[command(name = "wakevirtctl", version, disable_help_subcommand = true, subcommand_value_name = "VERB")]
pub struct Options {
    /// The message bus of the services: system, session, or an address such as unix:path=/run/dbus/system_bus_socket
    #[arg(long, global = true, value_name = "BUS", default_value = "system")]
    pub bus: Address,

    /// Print JSON: short, on one line, or pretty, with line breaks
    ///
    /// The section JSON OUTPUT of the man page describes the keys.
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
    /// Show both services, their connections and domains, counters and the last wakes
    ///
    /// This is what the program does without a verb. Each warning is followed by its cure. The exit status is 3 if a service
    /// is not running. Without the right to list domains, the number of allowed domains and the last wakes are missing.
    Status(status::Arguments),
    /// List the domains: state, MAC addresses, the rule that allows them, and the last wake
    List(list::Arguments),
    /// Show a domain and its last decisions
    ///
    /// If several connections have a domain with this name, all of them are shown.
    Show(show::Arguments),
    /// Wake a domain: start, resume or wake it up, depending on its state
    ///
    /// This is a call, not a packet: it needs no rule, but the right to wake domains. Root and members of the group libvirt
    /// have it. On a terminal, others are asked for the password of an administrator.
    ///
    /// If no domain has this name or UUID, and it is a MAC address, the domain with this address is woken. Only with --glob
    /// is it a pattern for names.
    ///
    /// If the wait times out or is interrupted with Ctrl-C, the wake continues. The exit status is then 5.
    Wake(wake::Arguments),
    /// Allow packets to wake a domain
    ///
    /// allow writes a drop-in with one rule without further conditions to /etc/wakevirt/actor.d, and lets the actor read it.
    /// This needs root. If the actor rejects the change, it is undone. A file with this name and another content is left as
    /// it is. wakevirt-actor.toml(5) describes rules that accept only some packets.
    ///
    /// A name, UUID or glob that matches no known domain is an error. The actor of a session reads no drop-ins.
    Allow(allow::Arguments),
    /// Remove what allow has written
    ///
    /// forbid removes only the file that allow writes for the same text, and only if it was not edited. If a rule or the
    /// metadata still allows a domain that matches, it is printed, and the exit status is 1.
    Forbid(forbid::Arguments),
    /// Explain what a packet would cause, rule by rule
    ///
    /// Nothing is woken. A condition of a rule on something that is not given, such as the interface, is not fulfilled. The
    /// exit status is 1 if the packet would wake no domain.
    Explain(explain::Arguments),
    /// Print packets and decisions as they happen, until an interrupt from the keyboard
    ///
    /// Everyone may see them. Packets for addresses that no domain has have no decision.
    Monitor(monitor::Arguments),
    /// Print the last decisions, newest first
    History(history::Arguments),
    /// Find out why a packet wakes no domain
    ///
    /// doctor checks the services, the interfaces, libvirt, the rules, the domains and the last packets. It prints each
    /// finding with what it has seen and the command that cures it, the most likely cause first: run the first command, then
    /// doctor again. An error prevents wakes, a warning can prevent some, and a note explains something. The exit status is 1
    /// if there are errors or warnings.
    ///
    /// doctor changes nothing. It also runs virsh, systemctl, journalctl and ip, with the rights of its caller, and lists
    /// what the caller may not see, with the command that shows it.
    Doctor(doctor::Arguments),
    /// Print the counters of both services in a format that Prometheus reads
    ///
    /// The metrics come from D-Bus properties that every user can read. If a service does not reply within three seconds,
    /// wakevirt_up is 0 for it, its other metrics are missing, and the reason is printed on standard error. The exit status
    /// is still 0. /usr/share/doc/wakevirt/METRICS.md lists the metrics.
    ///
    /// With --http, a client has two seconds to send a request of at most 8 KiB. The only method is GET, and the only path is
    /// /metrics. The connection is closed after the reply. The program calls the services at most once per second.
    Metrics(metrics::Arguments),
    /// Print the magic packets in a file of captured packets, one JSON object per line
    ///
    /// The service uses the same parser for frames from the network. Copies of a packet are not removed. The configuration
    /// of the service is not read, and no bus is needed.
    ///
    /// The file format is pcap or pcapng. A file can contain frames of several interfaces and link types. Frames of
    /// unsupported link types are skipped and counted on standard error; the exit status is then 1.
    Read(read::Arguments),
    /// Send magic packets from this machine
    ///
    /// For a MAC address, this needs no bus and no service. By default, a datagram is sent on each interface that is up: to
    /// the broadcast address of each of its IPv4 networks, and to all nodes of its link by IPv6. Ports of a bridge are left
    /// out, because what is sent on the bridge is sent on them, too. To wake a machine behind a router or a VPN, send to its
    /// host with --to.
    ///
    /// The exit status is 1 if nothing was sent.
    Send(send::Arguments),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Status(status::Arguments::default())
    }
}
