//! `wakevirtctl send`: sends magic packets. For a MAC address, it does not need a bus.

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

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The MAC address to wake, or the name or UUID of a domain
    ///
    /// For a domain, a packet is sent for each of its MAC addresses, which the actor lists.
    #[arg(value_name = "MAC|DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    pub target: String,

    /// Send datagrams to this UDP port
    #[arg(long, value_name = "PORT", default_value_t = PORT, conflicts_with = "raw", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Send Ethernet frames with EtherType 0x0842 instead of datagrams; requires CAP_NET_RAW
    #[arg(long)]
    pub raw: bool,

    /// Send on this interface instead of all interfaces; can be repeated
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Send only to this address or host name; can be repeated
    #[arg(long, value_name = "ADDRESS", conflicts_with = "raw")]
    pub to: Vec<String>,

    /// Add a SecureOn password, which is given here, in a file, or on standard input
    ///
    /// The password has 4 or 6 bytes, for example 192.168.1.2, 01:02:03:04:05:06 or 010203040506. Other users can see
    /// the command line, but not the content of the file or of standard input.
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
    Err(format!("{interval} is not between {least} and {most}"))
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no destination.
    #[error(transparent)]
    Route(#[from] NoRoute),
    /// There is no password.
    #[error(transparent)]
    Secret(#[from] NoSecret),
    /// The kernel does not list the interfaces.
    #[error("cannot list the interfaces: {0}")]
    Interfaces(nix::Error),
    /// The address is not a unicast address.
    #[error("no network card can have the address {0}, because it is a multicast, broadcast or zero address")]
    NotUnicast(MacAddr),
}

/// What was sent for one MAC address, as JSON.
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
    let routes: Vec<OpenRoute> = routes(arguments)?.into_iter().map(OpenRoute::open).collect();
    let mut reports: Vec<Report> = Vec::new();
    for magic in &magics {
        let sent = transmit(&routes, &magic.payload(), arguments).await;
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

/// A route, and its socket or why there is none.
struct OpenRoute {
    route: Route,
    socket: Result<PacketSocket, String>,
}

impl OpenRoute {
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

/// Sends the payload to each destination `--count` times.
async fn transmit(routes: &[OpenRoute], payload: &[u8], arguments: &Arguments) -> Vec<Sent> {
    let mut sent: Vec<Sent> = routes.iter().map(|open| open.route.result()).collect();
    for number in 0..arguments.count {
        if number > 0 {
            tokio::time::sleep(arguments.interval.into()).await;
        }
        for (open, sent) in routes.iter().zip(&mut sent) {
            open.send(payload, sent);
        }
    }
    sent
}

/// Prints the results. A destination to which nothing was sent is part of the output, and not an error of the program.
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
    fn rejects_a_group_address() {
        let error = magic("ff:ff:ff:ff:ff:ff".parse().unwrap(), None).unwrap_err().to_string();
        assert!(error.contains("no network card"), "{error}");
    }
}
