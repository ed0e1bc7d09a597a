//! Single packets during floods: whether each of them wakes its domain, and how fast.

mod rows;
mod scene;
mod wakes;

use serde_json::json;
use wakevirt_tests::host::Host;

use crate::report::{Report, quantile, round};
use rows::{Aims, Capture, Row, Target};
use scene::{Measured, Scene, Size};

/// The number of wakes in each flood in `make bench`.
const BENCH: Size = Size { others: 200, same: 50 };
/// The number of wakes in each flood in `make soak`.
const SOAK: Size = Size { others: 1000, same: 1000 };

/// Measures the wakes in each flood.
pub fn measure(report: &mut Report) {
    measure_with(report, BENCH);
}

/// Measures more wakes in each flood.
pub fn soak(report: &mut Report) {
    measure_with(report, SOAK);
}

fn measure_with(report: &mut Report, size: Size) {
    let host = Host::new();
    let mut scene = Scene::new(&host, size);
    for capture in Capture::ALL {
        scene.start_capture(capture);
        // The times without a flood, without and beside processes that compete for the CPUs.
        let unflooded = [false, true].map(|hogs| {
            let needed = rows::all().iter().any(|row| row.capture == capture && row.hogs == hogs);
            needed.then(|| scene.unflooded(capture, hogs))
        });
        for row in rows::all().iter().filter(|row| row.capture == capture) {
            let [quiet, beside_hogs] = &unflooded;
            let baseline = if row.hogs { beside_hogs } else { quiet };
            let baseline = baseline.as_ref().map_or(0.0, |measured| quantile(&measured.times, 0.99));
            let measured = scene.flooded(row);
            add(report, row, &measured, baseline);
        }
        scene.stop_capture();
    }
}

/// Adds a row with its results. `baseline` is the 99th percentile without a flood, in ms.
fn add(report: &mut Report, row: &Row, measured: &Measured, baseline: f64) {
    let Measured { times, wakes, sniffer, announcer, sent, rate, lost } = measured;
    let late = if times.is_empty() { f64::INFINITY } else { quantile(times, 0.99) - baseline };
    let lost = if *sent > 0.0 { lost / sent * 100.0 } else { 0.0 };
    let done = times.len() == *wakes;
    let (aim, met) = match row.aims {
        Aims::None => ("", true),
        Aims::Done => ("all", done),
        Aims::All => ("all, + 20 ms, announcer < 5%", done && late <= 20.0 && *announcer < 5.0),
        Aims::Bound => ("all, sniffer < 0.5%", done && *sniffer < 0.5),
    };
    let missed = if met { "" } else { ", missed" };
    let beside = if row.hogs { ", beside two busy processes" } else { "" };
    let about = if row.target == Target::Same { " of this domain" } else { "" };
    let figure = format!(
        "{} of {wakes} wakes{about}, 99th percentile + {} ms; announcer {}%, sniffer {}%; lost {}%",
        times.len(),
        if late.is_finite() { round(late.max(0.0)) } else { "∞".to_owned() },
        round(*announcer),
        round(*sniffer),
        round(lost),
    );
    let name = format!("{}{beside}", row.name);
    let sent = format!("{} k/s", round(rate / 1e3));
    report.soak(&name, *wakes, &format!("{sent}: {figure}"));
    let json = json!({
        "wakes": wakes, "done": times.len(), "p99": quantile_or_null(times), "unflooded p99": baseline,
        "announcer percent": announcer, "sniffer percent": sniffer, "lost percent": lost, "frames per second": rate,
        "aim": aim, "met": met,
    });
    let baseline = format!("99th percentile without a flood: {} ms; the flood: {sent}", round(baseline));
    report.row(&name, [&figure, &baseline, "", &format!("{aim}{missed}")], json);
}

fn quantile_or_null(times: &[f64]) -> Option<f64> {
    (!times.is_empty()).then(|| quantile(times, 0.99))
}
