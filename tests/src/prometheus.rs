//! A real Prometheus on a host, and promtool(1).

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::{Host, project, succeed};
use crate::process::Process;
use crate::wait;

/// The address on which Prometheus listens.
const ADDRESS: &str = "127.0.0.1:9090";
const DIRECTORY: &str = "/run/prometheus";

/// The path of a program: `prometheus`, `promtool` or `prometheus-node-exporter`.
///
/// # Panics
/// If Debian's packages cannot be downloaded.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let directory = succeed(&mut Command::new(project().join("scripts/prometheus")));
    PathBuf::from(directory.trim()).join(name)
}

/// Runs promtool(1) in the project's directory with this standard input, and returns its output.
///
/// # Panics
/// If it fails.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).current_dir(project());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("promtool runs");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("promtool reads its input");
    let output = child.wait_with_output().expect("promtool exits");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {text}\n{input}");
    text
}

/// Requests a path from an HTTP server on the host, with this header field. Returns the head and the body of the reply.
///
/// # Panics
/// If the server does not reply.
#[must_use]
pub fn http_get(host: &Host, address: &str, path: &str, header: &str) -> (String, String) {
    let (name, port) = address.rsplit_once(':').expect("the address has a port");
    let name = name.trim_matches(['[', ']']);
    let request = format!("GET {path} HTTP/1.0\\r\\n{header}\\r\\n\\r\\n");
    let line = format!("exec 3<>/dev/tcp/{name}/{port}; printf '{request}' >&3; cat <&3");
    let reply = succeed(host.command("timeout").args(["10", "bash", "-c", &line]));
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an HTTP reply: {reply}"));
    (head.to_owned(), body.to_owned())
}

/// A Prometheus server on a host. It scrapes other programs on the host every second.
#[derive(Debug)]
pub struct Prometheus<'host> {
    host: &'host Host,
    promtool: PathBuf,
    process: Process,
}

impl<'host> Prometheus<'host> {
    /// Starts Prometheus with the project's alert rules. `jobs` are the names and addresses of what it scrapes.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(host: &'host Host, jobs: &[(&str, &str)]) -> Self {
        let rules = project().join("docs/examples/metrics/wakevirt.rules.yml");
        let jobs = jobs.iter().map(|(name, address)| {
            format!("  - job_name: {name}\n    static_configs: [{{targets: [\"{address}\"]}}]\n")
        });
        let jobs: String = jobs.collect();
        let rules = rules.display();
        host.write(
            &format!("{DIRECTORY}/prometheus.yml"),
            &format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [\"{rules}\"]\nscrape_configs:\n{jobs}"
            ),
        );
        let mut command = host.command(&program("prometheus").to_string_lossy());
        command.args([
            &format!("--config.file={DIRECTORY}/prometheus.yml"),
            &format!("--storage.tsdb.path={DIRECTORY}/data"),
            &format!("--web.listen-address={ADDRESS}"),
        ]);
        let process = Process::start("prometheus", &mut command);
        let prometheus = Self { host, promtool: program("promtool"), process };
        let _ = prometheus.process.log().wait_for("Server is ready to receive web requests");
        prometheus
    }

    /// Returns the result of a query: a list of objects with `metric` and `value`.
    ///
    /// # Panics
    /// If Prometheus rejects the query.
    #[must_use]
    pub fn query(&self, query: &str) -> Vec<Value> {
        let mut promtool = self.host.command(&self.promtool.to_string_lossy());
        let result = succeed(
            promtool.args(["query", "instant", "--format=json"]).args([&format!("http://{ADDRESS}"), query]),
        );
        serde_json::from_str(&result).unwrap_or_else(|error| panic!("{query}: {error}: {result}"))
    }

    /// Waits until a query has a result.
    ///
    /// # Panics
    /// If it has none within the timeout.
    pub fn wait_for(&self, query: &str) -> Vec<Value> {
        wait::until(query, || Some(self.query(query)).filter(|result| !result.is_empty()))
    }

    /// Requests this path from Prometheus's HTTP API, and returns the data in the reply.
    ///
    /// # Panics
    /// If the request fails.
    #[must_use]
    pub fn api(&self, path: &str) -> Value {
        let (_, body) = http_get(self.host, ADDRESS, &format!("/api/v1/{path}"), "Accept: */*");
        let mut reply: Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        assert_eq!(reply.get("status").and_then(Value::as_str), Some("success"), "{path}: {reply}");
        reply.get_mut("data").map(Value::take).unwrap_or_default()
    }
}

/// Reads the project's dashboard.
///
/// # Panics
/// If it is not JSON.
#[must_use]
pub fn dashboard() -> Value {
    let path = project().join("docs/examples/metrics/wakevirt.dashboard.json");
    let text = std::fs::read_to_string(path).expect("the dashboard can be read");
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

/// The queries of the dashboard, each with the title of its panel. Grafana replaces the variables in them; here, they
/// are replaced so that the queries select all hosts and the last ten seconds.
///
/// # Panics
/// If a panel has no query.
#[must_use]
pub fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{key} is missing from {value}"))
            .to_owned()
    };
    let mut queries = Vec::new();
    for panel in list(&dashboard, "panels") {
        let title = text(&panel, "title");
        let targets = list(&panel, "targets");
        assert!(!targets.is_empty(), "{title} has no query");
        for target in targets {
            let query = text(&target, "expr").replace("$__rate_interval", "10s").replace("$__range", "10s");
            queries.push((title.clone(), query.replace("$instance", ".*")));
        }
    }
    queries
}
