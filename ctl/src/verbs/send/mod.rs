//! `wakevirtctl send`: sends magic packets without any other tool, and for a MAC address without a bus.

mod interfaces;
mod route;
mod secret;

use std::time::Duration;

use clap_complete::ArgValueCandidates;
use serde::Serialize;
use wakevirt_protocol::{MacAddr, MagicPacket, Password};
use wakevirt_service::config::{BadDuration, HumanDuration};

use super::{PORT, domain};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use route::{NoRoute, PacketSocket, Route, Sent};
use secret::{NoSecret, Secret};

/// The maximum of `--count`.
const MAX_COUNT: i64 = 1000;
/// The range of `--interval`.
const INTERVALS: core::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// The arguments of `send`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The MAC address to wake, or a domain by its name or UUID
    ///
    /// The actor lists the MAC addresses of the domain, and a packet is sent for each.
    #[arg(value_name = "MAC|DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    pub target: String,

    /// Send datagrams to this UDP port
    #[arg(long, value_name = "PORT", default_value_t = PORT, conflicts_with = "raw", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Send Ethernet frames with EtherType 0x0842 instead of datagrams; needs CAP_NET_RAW
    #[arg(long)]
    pub raw: bool,

    /// Send on this interface instead of all interfaces; can be repeated
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Send to this address or host name only; can be repeated
    #[arg(long, value_name = "ADDRESS", conflicts_with = "raw")]
    pub to: Vec<String>,

    /// Add a SecureOn password: this one, the one in a file, or the one on standard input
    ///
    /// The password has 4 or 6 bytes, such as 192.168.1.2, 01:02:03:04:05:06 or 010203040506. Other users can see the
    /// command line, but not the content of the file or standard input.
    #[arg(long, value_name = "PASSWORD|@FILE|-")]
    pub secure_on: Option<Secret>,

    /// Send this many packets to each destination, at most 1000
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,

    /// Wait this long between packets, from 10ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: HumanDuration,
}

fn interval(text: &str) -> Result<HumanDuration, String> {
    let interval: HumanDuration = text.parse().map_err(|error: BadDuration| error.to_string())?;
    if INTERVALS.contains(&interval.into()) {
        return Ok(interval);
    }
    let [least, most] = [INTERVALS.start(), INTERVALS.end()].map(|it| HumanDuration::from(*it));
    Err(format!("{interval} is not within {least} and {most}"))
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No destination.
    #[error(transparent)]
    Route(#[from] NoRoute),
    /// No password.
    #[error(transparent)]
    Secret(#[from] NoSecret),
    /// The kernel does not list the interfaces.
    #[error("cannot list the interfaces: {0}")]
    Interfaces(nix::Error),
    /// The target cannot be woken by a packet.
    #[error(
        "{0} belongs to no network card: it is a multicast, broadcast or zero address, which no packet can wake"
    )]
    NotUnicast(MacAddr),
}

/// What was sent for one MAC address, for `--json`.
#[derive(Debug, Serialize)]
struct Report {
    mac: String,
    sent: Vec<Sent>,
}

/// Sends the packets.
///
/// # Errors
/// If there is no target, destination or password. Otherwise the exit status says whether something was sent.
pub async fn run(
    arguments: &Arguments,
    client: &Client,
    output: &mut Output,
) -> Result<Exit, crate::error::Error> {
    let macs = domain::addresses(&arguments.target, client).await?;
    let password = arguments.secure_on.clone().map(Secret::read).transpose().map_err(Error::from)?;
    let magics: Result<Vec<_>, _> = macs.into_iter().map(|mac| magic(mac, password.clone())).collect();
    let magics = magics?;
    let mut links: Vec<Link> = routes(arguments)?.into_iter().map(Link::open).collect();
    let mut reports: Vec<Report> = Vec::new();
    for magic in &magics {
        let sent = transmit(&mut links, &magic.payload(), arguments).await;
        reports.push(Report { mac: magic.target().to_string(), sent });
    }
    write(&reports, output)?;
    let any = reports.iter().flat_map(|report| &report.sent).any(|sent| sent.packets > 0);
    Ok(if any { Exit::Success } else { Exit::Failure })
}

fn magic(mac: MacAddr, password: Option<Password>) -> Result<MagicPacket, Error> {
    MagicPacket::new(mac, password).ok_or(Error::NotUnicast(mac))
}

fn routes(arguments: &Arguments) -> Result<Vec<Route>, Error> {
    let Arguments { interfaces: names, port, raw, to, .. } = arguments;
    if to.is_empty() {
        let known = interfaces::interfaces().map_err(Error::Interfaces)?;
        return Ok(route::on_interfaces(&known, names, *raw, *port)?);
    }
    let routes: Result<Vec<_>, _> = to.iter().map(|host| route::to_host(host, names, *port)).collect();
    Ok(routes?.into_iter().flatten().collect())
}

/// A destination, and its socket or why there is none.
struct Link {
    route: Route,
    socket: Result<PacketSocket, String>,
}

impl Link {
    fn open(route: Route) -> Self {
        let socket = route.open();
        Self { route, socket }
    }

    fn send(&self, payload: &[u8], sent: &mut Sent) {
        let result = match &self.socket {
            Ok(socket) => socket.send(payload).map_err(|error| error.to_string()),
            Err(reason) => Err(reason.clone()),
        };
        match result {
            Ok(()) => sent.packets += 1,
            Err(reason) => sent.error = Some(reason),
        }
    }
}

/// Sends the payload to each destination, as often as `--count` says.
async fn transmit(links: &mut [Link], payload: &[u8], arguments: &Arguments) -> Vec<Sent> {
    let mut sent: Vec<Sent> = links.iter().map(|link| link.route.result()).collect();
    for number in 0..arguments.count {
        if number > 0 {
            tokio::time::sleep(arguments.interval.into()).await;
        }
        for (link, sent) in links.iter().zip(&mut sent) {
            link.send(payload, sent);
        }
    }
    sent
}

/// Prints the results. The destinations to which nothing was sent are part of the answer, so they are not errors of the
/// program.
fn write(reports: &[Report], output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.json(&reports);
    }
    for Report { mac, sent } in reports {
        for destination in sent {
            output.line(&[Cell::plain(destination.describe(mac))])?;
            if let Some(error) = &destination.error {
                output.line(&[Cell::new(format!("  not sent: {error}"), Style::Bad)])?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_the_interval() {
        for (text, valid) in [("10ms", true), ("1h", true), ("9ms", false), ("61m", false), ("1", false)] {
            assert_eq!(interval(text).is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn refuses_a_group_address() {
        let error = magic("ff:ff:ff:ff:ff:ff".parse().unwrap(), None).unwrap_err().to_string();
        assert!(error.contains("no network card"), "{error}");
    }
}
