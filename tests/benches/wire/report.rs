//! Prints the results, and writes them to a file at the end.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// The name and the value of a baseline from the same run.
pub type Baseline<'a> = (&'a str, f64);

/// The results of this run.
pub struct Report {
    /// The results of the completed sections.
    figures: Map<String, Value>,
    /// The results of the current section.
    section: Map<String, Value>,
}

impl Report {
    /// Creates a report, and prints the properties of the machine.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok());
        println!("Linux {kernel}, {cores} cores, load average {:.1} at the start", load.unwrap_or_default());
        let machine = json!({ "kernel": kernel, "cores": cores, "load": load });
        Self { figures: Map::from_iter([("machine".to_owned(), machine)]), section: Map::new() }
    }

    /// Runs the measurements of a section. `title` is printed, and `name` is the key in the JSON.
    pub fn section(&mut self, name: &str, title: &str, measure: impl FnOnce(&mut Self)) {
        println!("\n{title}");
        measure(self);
        self.figures.insert(name.to_owned(), Value::Object(std::mem::take(&mut self.section)));
    }

    /// Adds a result with its baselines. A ratio is the result divided by the baseline.
    pub fn add(&mut self, name: &str, unit: &str, figure: f64, baselines: &[Baseline<'_>]) {
        println!("  {name:42} {:>9} {unit}", round(figure));
        let mut against = Map::new();
        for (what, baseline) in baselines {
            let ratio = (*baseline > 0.0).then(|| figure / baseline);
            let shown = ratio.map_or(String::new(), |ratio| format!("{ratio:7.3}x"));
            println!("  {:42} {:>9} {unit:5} {shown}", format!("  {what}"), round(*baseline));
            against.insert((*what).to_owned(), json!({ "figure": baseline, "ratio": ratio }));
        }
        let entry = json!({ "unit": unit, "figure": figure, "against": against });
        self.section.insert(name.to_owned(), entry);
    }

    /// Adds the results to the file that `WAKEVIRT_BENCH_JSON` names.
    pub fn write(self) {
        let Some(path) = std::env::var_os("WAKEVIRT_BENCH_JSON") else { return };
        let path = Path::new(&path);
        let mut all: Map<String, Value> = match fs::read_to_string(path) {
            Ok(text) => {
                serde_json::from_str(&text).expect("the file in WAKEVIRT_BENCH_JSON contains a JSON object")
            }
            Err(_) => Map::new(),
        };
        all.insert("wire".to_owned(), Value::Object(self.figures));
        let text = serde_json::to_string_pretty(&all).expect("JSON");
        fs::write(path, text + "\n").expect("the file in WAKEVIRT_BENCH_JSON is writable");
    }
}

/// Rounds to three significant digits.
fn round(figure: f64) -> String {
    match figure {
        _ if figure >= 100.0 => format!("{figure:.0}"),
        _ if figure >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
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
