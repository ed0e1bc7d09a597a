//! Converts a reading to metrics. docs/METRICS.md lists them.

use super::family::{Family, Kind, Labels, Value};
use crate::client::{ActorStatus, CaptureStatus, HypervisorConnection, Service, WakeLatency};
use crate::verbs::reading::Reading;

/// The maximum number of outcomes, connections and buckets.
const MAX_NAMED: usize = 64;
/// The maximum number of characters in a label value.
const MAX_NAME: usize = 256;

const TRANSPORTS: [&str; 3] = ["ethernet", "udp4", "udp6"];
const MODES: [&str; 2] = ["raw", "udp"];

/// Returns the metrics. If a service did not reply, only its `wakevirt_up` is among them.
pub fn families(reading: &Reading) -> Vec<Family> {
    let capture = reading.capture.as_ref().ok();
    let actor = reading.actor.as_ref().ok();
    let versions = [capture.map(|capture| &capture.version), actor.map(|actor| &actor.version)]
        .map(Option::<&String>::cloned);
    let mut families = of_both(versions);
    families.extend(capture.into_iter().flat_map(of_capture));
    families.extend(actor.into_iter().flat_map(of_actor));
    families.extend(actor.and_then(|actor| actor.wake_latency.as_ref()).map(of_latency));
    families
}

/// Returns whether each service in [`Service::BOTH`] replied, and its version.
fn of_both(versions: [Option<String>; 2]) -> Vec<Family> {
    let mut up = Family::new(Kind::Gauge, "wakevirt_up", "Whether the service replied on D-Bus.");
    let mut build = Family::new(Kind::Info, "wakevirt_build_info", "The version of the service.");
    for (service, version) in Service::BOTH.into_iter().zip(versions) {
        let label = ("service", short_name(service).to_owned());
        up = up.count(vec![label.clone()], u64::from(version.is_some()));
        if let Some(version) = version {
            build = build.count(vec![label, ("version", limited(&version))], 1);
        }
    }
    [up, build].into_iter().filter(|family| !family.samples.is_empty()).collect()
}

const fn short_name(service: Service) -> &'static str {
    match service {
        Service::Capture => "capture",
        Service::Actor => "actor",
    }
}

fn of_capture(capture: &CaptureStatus) -> Vec<Family> {
    let mut mode = Family::new(
        Kind::Gauge,
        "wakevirt_capture_mode",
        "The mode of capture: 1 for the current one. In udp mode, it does not receive Ethernet frames.",
    );
    for name in MODES {
        mode = mode.count(label("mode", name), u64::from(capture.mode == name));
    }
    let interfaces = u64::try_from(capture.interfaces.len()).unwrap_or(u64::MAX);
    vec![
        mode,
        Family::new(
            Kind::Gauge,
            "wakevirt_capture_interfaces",
            "The number of network interfaces on which capture receives packets.",
        )
        .count(vec![], interfaces),
        packets(capture),
        Family::new(
            Kind::Counter,
            "wakevirt_capture_dropped_packets_total",
            "Packets lost because a buffer was full, in the kernel or between the sniffer and the announcer.",
        )
        .count(label("stage", "kernel"), capture.kernel_dropped)
        .count(label("stage", "sniffer"), capture.channel_dropped),
        Family::new(
            Kind::Counter,
            "wakevirt_capture_malformed_frames_total",
            "Frames and datagrams that passed the kernel's filter but did not contain a magic packet.",
        )
        .count(vec![], capture.malformed),
        Family::new(
            Kind::Counter,
            "wakevirt_capture_truncated_frames_total",
            "Frames and datagrams with a magic packet that were too long to be searched to the end.",
        )
        .count(vec![], capture.truncated),
    ]
}

fn packets(capture: &CaptureStatus) -> Family {
    let mut packets = Family::new(
        Kind::Counter,
        "wakevirt_capture_packets_total",
        "Received magic packets, by transport and by what capture did with them.",
    );
    for transport in TRANSPORTS {
        let counters = capture.transports.get(transport);
        let count = |name| counters.and_then(|counters| counters.get(name)).copied().unwrap_or_default();
        let (duplicates, limited) = (count("duplicates"), count("limited"));
        let announced = count("received").saturating_sub(duplicates).saturating_sub(limited);
        for (verdict, count) in [("announced", announced), ("duplicate", duplicates), ("limited", limited)] {
            let labels = vec![("transport", transport.to_owned()), ("verdict", verdict.to_owned())];
            packets = packets.count(labels, count);
        }
    }
    packets
}

fn of_actor(actor: &ActorStatus) -> Vec<Family> {
    let mut decisions =
        Family::new(Kind::Counter, "wakevirt_decisions_total", "Decisions on packets and calls, by outcome.");
    for (outcome, count) in actor.outcomes.iter().take(MAX_NAMED) {
        decisions = decisions.count(vec![("outcome", limited(outcome))], *count);
    }
    let domains = Family::new(Kind::Gauge, "wakevirt_domains", "The number of domains that the actor knows.");
    let mut families = vec![domains.count(vec![], actor.domains.into())];
    families.extend(of_connections(&actor.connections));
    families.extend([
        Family::new(
            Kind::Gauge,
            "wakevirt_configuration_valid",
            "Whether the actor's configuration was valid when it was last read.",
        )
        .count(vec![], u64::from(actor.configuration_valid)),
        decisions,
        Family::new(
            Kind::Counter,
            "wakevirt_unknown_packets_total",
            "Packets for MAC addresses that do not belong to a domain.",
        )
        .count(vec![], actor.unknown_packets),
        Family::new(
            Kind::Counter,
            "wakevirt_lost_packets_total",
            "Announced packets that were lost before the actor made a decision.",
        )
        .count(vec![], actor.lost_packets),
    ]);
    families
}

fn of_connections(connections: &[HypervisorConnection]) -> [Family; 3] {
    let connections = connections.iter().take(MAX_NAMED);
    let number = |state| connections.clone().filter(|connection| connection.connected == state).count();
    let [connected, disconnected] =
        [true, false].map(|state| u64::try_from(number(state)).unwrap_or(u64::MAX));
    let numbers = Family::new(
        Kind::Gauge,
        "wakevirt_connections",
        "The number of connections to hypervisors, by state.",
    )
    .count(label("state", "connected"), connected)
    .count(label("state", "disconnected"), disconnected);
    let mut up = Family::new(
        Kind::Gauge,
        "wakevirt_connection_up",
        "Whether the actor is connected to the hypervisor with this URI.",
    );
    let mut last_sync = Family::new(
        Kind::Gauge,
        "wakevirt_last_sync_seconds",
        "The last time at which the actor knew all domains of this hypervisor, as Unix time; 0 if never.",
    );
    for HypervisorConnection { uri, connected, last_sync: time, .. } in connections {
        up = up.count(vec![("uri", limited(uri))], u64::from(*connected));
        if let Some(time) = time {
            last_sync = last_sync.with(vec![("uri", limited(uri))], Value::of_microseconds(*time));
        }
    }
    [numbers, up, last_sync]
}

fn of_latency(latency: &WakeLatency) -> Family {
    let mut times = Family::new(
        Kind::Histogram,
        "wakevirt_wake_duration_seconds",
        "The duration of successful wakes by packets, from the arrival of the packet to the end of the wake.",
    );
    let count = |times: Family, bound: String, count| {
        times.with_suffix("_bucket", vec![("le", bound)], Value::Count(count))
    };
    for (bound, wakes) in latency.buckets.iter().take(MAX_NAMED) {
        times = count(times, Value::of_microseconds(*bound).to_string(), *wakes);
    }
    count(times, "+Inf".to_owned(), latency.count)
        .with_suffix("_sum", vec![], Value::of_microseconds(latency.sum))
        .with_suffix("_count", vec![], Value::Count(latency.count))
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn limited(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::text::Format;
    use super::*;
    use crate::client::Error;

    fn capture() -> CaptureStatus {
        let counters = |counters: &[(&str, u64)]| {
            counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
        };
        let transports = [
            ("ethernet", counters(&[("received", 10), ("duplicates", 3), ("limited", 2)])),
            ("raw", counters(&[("dropped", 7)])),
        ];
        CaptureStatus {
            version: "1.2.3".into(),
            mode: "raw".into(),
            interfaces: vec!["br0".into(), "lo".into()],
            kernel_dropped: 7,
            channel_dropped: 8,
            malformed: 9,
            truncated: 11,
            transports: transports.into_iter().map(|(name, counters)| (name.to_owned(), counters)).collect(),
            ..CaptureStatus::default()
        }
    }

    fn actor() -> ActorStatus {
        let connection = |(uri, connected, last_sync): (&str, _, _)| HypervisorConnection {
            uri: uri.to_owned(),
            connected,
            last_sync: Some(last_sync),
            error: None,
        };
        let latency = WakeLatency { buckets: vec![(1_000, 0), (60_000_000, 2)], sum: 1_250_000, count: 3 };
        ActorStatus {
            version: "1.2.3".into(),
            connections: [("qemu:///system", true, 1_700_000_000_500_000), ("lxc:///", false, 0)]
                .map(connection)
                .into(),
            configuration_valid: true,
            domains: 5,
            outcomes: [("failed".to_owned(), 1), ("started".to_owned(), 4)].into(),
            unknown_packets: 6,
            unknown_addresses: Vec::new(),
            lost_packets: 0,
            wake_latency: Some(latency),
        }
    }

    fn not_running<T>(service: Service) -> Result<T, Error> {
        let address = Box::new(wakevirt_service::bus::Address::System);
        Err(Error::NoReply { service, address, method: "GetAll".to_owned(), time: std::time::Duration::ZERO })
    }

    /// Returns the samples of a reading as text, without the comments.
    fn samples(reading: &Reading) -> Vec<String> {
        let text = Format::Classic.write(&families(reading));
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn counts_what_the_services_return() {
        let expected = r#"wakevirt_up{service="capture"} 1
wakevirt_up{service="actor"} 1
wakevirt_build_info{service="capture",version="1.2.3"} 1
wakevirt_build_info{service="actor",version="1.2.3"} 1
wakevirt_capture_mode{mode="raw"} 1
wakevirt_capture_mode{mode="udp"} 0
wakevirt_capture_interfaces 2
wakevirt_capture_packets_total{transport="ethernet",verdict="announced"} 5
wakevirt_capture_packets_total{transport="ethernet",verdict="duplicate"} 3
wakevirt_capture_packets_total{transport="ethernet",verdict="limited"} 2
wakevirt_capture_packets_total{transport="udp4",verdict="announced"} 0
wakevirt_capture_packets_total{transport="udp4",verdict="duplicate"} 0
wakevirt_capture_packets_total{transport="udp4",verdict="limited"} 0
wakevirt_capture_packets_total{transport="udp6",verdict="announced"} 0
wakevirt_capture_packets_total{transport="udp6",verdict="duplicate"} 0
wakevirt_capture_packets_total{transport="udp6",verdict="limited"} 0
wakevirt_capture_dropped_packets_total{stage="kernel"} 7
wakevirt_capture_dropped_packets_total{stage="sniffer"} 8
wakevirt_capture_malformed_frames_total 9
wakevirt_capture_truncated_frames_total 11
wakevirt_domains 5
wakevirt_connections{state="connected"} 1
wakevirt_connections{state="disconnected"} 1
wakevirt_connection_up{uri="qemu:///system"} 1
wakevirt_connection_up{uri="lxc:///"} 0
wakevirt_last_sync_seconds{uri="qemu:///system"} 1700000000.5
wakevirt_last_sync_seconds{uri="lxc:///"} 0.0
wakevirt_configuration_valid 1
wakevirt_decisions_total{outcome="failed"} 1
wakevirt_decisions_total{outcome="started"} 4
wakevirt_unknown_packets_total 6
wakevirt_lost_packets_total 0
wakevirt_wake_duration_seconds_bucket{le="0.001"} 0
wakevirt_wake_duration_seconds_bucket{le="60.0"} 2
wakevirt_wake_duration_seconds_bucket{le="+Inf"} 3
wakevirt_wake_duration_seconds_sum 1.25
wakevirt_wake_duration_seconds_count 3"#;
        assert_eq!(samples(&Reading { capture: Ok(capture()), actor: Ok(actor()) }).join("\n"), expected);
    }

    #[test]
    fn omits_a_service_that_does_not_reply() {
        let reading = Reading { capture: not_running(Service::Capture), actor: Ok(actor()) };
        let samples_of = samples(&reading);
        assert_eq!(
            samples_of[..2],
            ["wakevirt_up{service=\"capture\"} 0", "wakevirt_up{service=\"actor\"} 1"]
        );
        assert!(samples_of.contains(&"wakevirt_domains 5".to_owned()), "{samples_of:?}");
        assert!(!samples_of.iter().any(|line| line.starts_with("wakevirt_capture")), "{samples_of:?}");
        let reading = Reading { capture: not_running(Service::Capture), actor: not_running(Service::Actor) };
        assert_eq!(families(&reading).len(), 1);
    }

    #[test]
    fn limits_what_the_actor_names() {
        let connection = |number| HypervisorConnection {
            uri: format!("{number}{}", "ü".repeat(1000)),
            connected: true,
            last_sync: Some(0),
            error: None,
        };
        let actor = ActorStatus {
            connections: (0..1000).map(connection).collect(),
            outcomes: (0..1000).map(|number| (number.to_string(), 1)).collect(),
            wake_latency: Some(WakeLatency { buckets: vec![(1, 1); 1000], sum: u64::MAX, count: 1 }),
            ..ActorStatus::default()
        };
        let reading = Reading { capture: not_running(Service::Capture), actor: Ok(actor) };
        for family in families(&reading) {
            assert!(family.samples.len() <= MAX_NAMED + 3, "{}", family.name);
            let labels = family.samples.iter().flat_map(|sample| &sample.labels);
            labels.for_each(|(_, value)| assert!(value.chars().count() <= MAX_NAME));
        }
    }

    /// Also checks the names, and that no help text needs escaping.
    #[test]
    fn page_lists_all_families() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        let page = std::fs::read_to_string(page).unwrap();
        let row = |family: &Family| {
            let mut labels: Vec<_> =
                family.samples.iter().flat_map(|it| &it.labels).map(|label| label.0).collect();
            labels.sort_unstable();
            labels.dedup();
            let labels: Vec<_> =
                labels.into_iter().filter(|name| *name != "le").map(|name| format!("`{name}`")).collect();
            let kind = format!("{:?}", family.kind).to_lowercase();
            format!("| `{}` | {kind} | {} | {} |", family.name, labels.join(", "), family.help)
        };
        let families = families(&Reading { capture: Ok(capture()), actor: Ok(actor()) });
        for family in &families {
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
            assert!(
                !family.help.contains(['\\', '"', '\n']) && family.help.ends_with('.'),
                "{}",
                family.help
            );
            assert!(page.contains(&row(family)), "docs/METRICS.md has no row\n{}", row(family));
        }
        assert_eq!(page.matches("\n| `wakevirt_").count(), families.len(), "docs/METRICS.md has other rows");
    }
}
