//! Prints the results, and writes them to files at the end.

use core::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// The name and the value of a baseline from the same run.
pub type Baseline<'a> = (&'a str, f64);

/// The searches whose speed is part of the table: their keys in the JSON object, and their names.
const SEARCHES: [(&str, &str); 3] = [
    ("random", "random payload"),
    ("ff-runs", "payload of 0xFF bytes"),
    ("near-misses", "almost complete copies"),
];

/// What a result should be. Ratios are those to the first baseline.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtMost(f64),
    AtLeast(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

impl Aim {
    /// Whether a result with this ratio to its first baseline is good enough.
    fn is_met(self, figure: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::AtMost(aim) => figure <= aim,
            Self::AtLeast(aim) => figure >= aim,
            Self::RatioAtMost(aim) => ratio.is_none_or(|ratio| ratio <= aim),
            Self::RatioAtLeast(aim) => ratio.is_some_and(|ratio| ratio >= aim),
        }
    }
}

impl Display for Aim {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(aim) => write!(formatter, "≤ {aim}"),
            Self::AtLeast(aim) => write!(formatter, "≥ {aim}"),
            Self::RatioAtMost(aim) => write!(formatter, "ratio ≤ {aim}"),
            Self::RatioAtLeast(aim) => write!(formatter, "ratio ≥ {aim}"),
        }
    }
}

/// The results of this run.
pub struct Report {
    /// The results of the completed sections.
    figures: Map<String, Value>,
    /// The results of the current section.
    section: Map<String, Value>,
    /// The machine on which this run measures.
    machine: String,
    /// The rows of the table, in Markdown.
    rows: String,
}

impl Report {
    /// Creates a report, and prints the properties of the machine.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let load = load_average();
        let version: Vec<&str> = kernel.split('.').take(2).collect();
        let version = version.join(".");
        let machine = format!("Linux {version}, {cores} cores, load average {load:.1} at the start");
        println!("{machine}");
        let figures = json!({ "kernel": kernel, "cores": cores, "load": load });
        let figures = Map::from_iter([("machine".to_owned(), figures)]);
        Self { figures, section: Map::new(), machine, rows: String::new() }
    }

    /// Runs the measurements of a section. `title` is printed, and `name` is the key in the JSON.
    pub fn section(&mut self, name: &str, title: &str, measure: impl FnOnce(&mut Self)) {
        println!("\n{title}");
        self.rows += &format!("| **{title}** | | | | |\n");
        measure(self);
        self.figures.insert(name.to_owned(), Value::Object(std::mem::take(&mut self.section)));
    }

    /// Adds a result with its baselines. A ratio is the result divided by the baseline.
    pub fn add(&mut self, name: &str, unit: &str, figure: f64, baselines: &[Baseline<'_>]) {
        self.add_with(name, unit, figure, baselines, None);
    }

    /// Adds a result with its baselines and its aim.
    pub fn aim(&mut self, name: &str, unit: &str, figure: f64, baselines: &[Baseline<'_>], aim: Aim) {
        self.add_with(name, unit, figure, baselines, Some(aim));
    }

    fn add_with(
        &mut self,
        name: &str,
        unit: &str,
        figure: f64,
        baselines: &[Baseline<'_>],
        aim: Option<Aim>,
    ) {
        let ratio_to = |baseline: f64| (baseline > 0.0).then(|| figure / baseline);
        let first = baselines.first().and_then(|(_, baseline)| ratio_to(*baseline));
        let met = aim.map(|aim| aim.is_met(figure, first));
        let aim = aim.map(|aim| aim.to_string()).unwrap_or_default();
        let missed = if met == Some(false) { ", missed" } else { "" };
        println!("  {name:58} {:>9} {unit:5} {aim}{missed}", round(figure));
        let mut against = Map::new();
        let mut cells = vec![];
        for (what, baseline) in baselines {
            let ratio = ratio_to(*baseline);
            let shown = ratio.map_or(String::new(), |ratio| format!("{ratio:7.3}x"));
            println!("  {:58} {:>9} {unit:5} {shown}", format!("  {what}"), round(*baseline));
            against.insert((*what).to_owned(), json!({ "figure": baseline, "ratio": ratio }));
            cells.push((format!("{what}: {} {unit}", round(*baseline)), ratio.map_or(String::new(), round)));
        }
        let (baseline, ratio) = cells.first().cloned().unwrap_or_default();
        self.rows +=
            &format!("| {name} | {} {unit} | {baseline} | {ratio} | {aim}{missed} |\n", round(figure));
        for (baseline, ratio) in cells.iter().skip(1) {
            self.rows += &format!("|  |  | {baseline} | {ratio} |  |\n");
        }
        let entry = json!({ "unit": unit, "figure": figure, "against": against, "aim": aim, "met": met });
        self.section.insert(name.to_owned(), entry);
    }

    /// Adds a row whose other cells (figure, baseline, ratio, aim) and whose entry in the JSON do not consist of one
    /// number each.
    pub fn row(&mut self, name: &str, cells: [&str; 4], entry: Value) {
        let [figure, baseline, ratio, aim] = cells;
        println!("  {name}\n    {figure}\n    {baseline}\n    {aim}");
        self.rows += &format!("| {name} | {figure} | {baseline} | {ratio} | {aim} |\n");
        self.section.insert(name.to_owned(), entry);
    }

    /// Adds a result of a long run, which scripts/soak writes into a table.
    #[expect(clippy::unused_self, reason = "results belong to the report")]
    pub fn soak(&self, what: &str, number: usize, result: &str) {
        println!("soak: {what} | {number} | {result}");
    }

    /// Adds the results to the JSON object in the file that `WAKEVIRT_BENCH_JSON` names, and writes the table to the
    /// file that `WAKEVIRT_BENCH_TABLE` names.
    pub fn write(self) {
        let mut all = Map::new();
        if let Some(path) = std::env::var_os("WAKEVIRT_BENCH_JSON") {
            let path = Path::new(&path);
            if let Ok(text) = fs::read_to_string(path) {
                all = serde_json::from_str(&text)
                    .expect("the file in WAKEVIRT_BENCH_JSON contains a JSON object");
            }
            all.insert("wire".to_owned(), Value::Object(self.figures));
            let text = serde_json::to_string_pretty(&all).expect("JSON");
            fs::write(path, text + "\n").expect("the file in WAKEVIRT_BENCH_JSON is writable");
        }
        if let Some(path) = std::env::var_os("WAKEVIRT_BENCH_TABLE") {
            let machine = format!("{}, {:.1} at the end.", self.machine, load_average());
            let table = format!(
                "{machine}\n\n| what | figure | baseline in the same run | ratio | aim |\n| --- | --- | --- | --- | --- |\n{}{}",
                self.rows,
                search_rows(&all)
            );
            fs::write(path, table).expect("the file in WAKEVIRT_BENCH_TABLE is writable");
        }
    }
}

/// The rows for the speed of the packet parser, which another benchmark has written to the JSON object.
fn search_rows(all: &Map<String, Value>) -> String {
    let Some(speeds) = all.get("parser-gigabytes-per-second") else { return String::new() };
    let row = |(key, name): (&str, &str)| {
        let speeds = speeds.get(key)?;
        let [find, bytewise] = [speeds.get("find")?.as_f64()?, speeds.get("bytewise")?.as_f64()?];
        let ratio = round(find / bytewise);
        Some(format!(
            "| {name} | {} GB/s | byte-wise: {} GB/s | {ratio} |  |\n",
            round(find),
            round(bytewise)
        ))
    };
    let rows: String = SEARCHES.into_iter().filter_map(row).collect();
    format!("| **Search in payloads without a magic packet** | | | | |\n{rows}")
}

/// Rounds to three significant digits.
pub fn round(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn load_average() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// A quantile: the proportion `share` of the figures is below it. 0.5 is the median.
pub fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = sorted.len() as f64 * share;
    // This counts up to the index, because a cast from a float to an integer can silently change the value.
    let index = (0..sorted.len()).take_while(|index| (index + 1) as f64 <= below).count();
    sorted.get(index).or(sorted.last()).copied().expect("at least one figure")
}

/// The median.
pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The 99th percentile divided by the median.
pub fn spread(figures: &[f64]) -> f64 {
    quantile(figures, 0.99) / median(figures)
}
