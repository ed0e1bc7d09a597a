//! A real browser on a host: Debian's Chromium, driven by Playwright.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::host::{Host, project, succeed};

/// The directory of the browser's files on the host.
const HOME: &str = "/run/browser";

/// A browser with one page. Selectors are Playwright selectors: CSS, `text=…` and `role=button[name="…"]`. Except for
/// [`Self::count`], methods wait for their element, and panic after 20 s with the text of the page in the message.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts the browser.
    ///
    /// # Panics
    /// If the driver cannot be installed or started.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let packages = succeed(&mut Command::new(project().join("scripts/browser")));
        host.sh(&format!("mkdir -p {HOME}"));
        let mut node = host.command("node");
        node.arg(project().join("tests/browser/driver.js")).env("NODE_PATH", packages.trim());
        node.env("HOME", HOME).env("TMPDIR", HOME).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut driver = node.spawn().expect("nsenter runs");
        let commands = driver.stdin.take();
        let replies = BufReader::new(driver.stdout.take().expect("it is piped"));
        Self { driver, commands, replies }
    }

    /// Sends a command to the driver, and returns the value of its reply.
    fn command(&mut self, command: &Value) -> Value {
        let input = self.commands.as_mut().expect("the driver is running");
        writeln!(input, "{command}").expect("the driver reads commands");
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("the driver replies");
        let mut reply: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("the driver exited: {line}"));
        if let Some(error) = reply.get("error").and_then(Value::as_str) {
            panic!("{command} failed: {error}");
        }
        reply.get_mut("value").map(Value::take).unwrap_or_default()
    }

    fn act(&mut self, action: &str, selector: &str) -> Value {
        self.command(&json!({ "do": action, "selector": selector }))
    }

    /// Opens a page, and retries until the server provides it. `frame` is the name of the frame on the page that the
    /// other methods use.
    pub fn open(&mut self, url: &str, frame: &str) {
        self.command(&json!({ "do": "open", "url": url, "name": frame }));
    }

    /// Sets the size of the window.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.command(&json!({ "do": "size", "width": width, "height": height }));
    }

    /// Sets the browser's preferred colour scheme: `light` or `dark`.
    pub fn set_colour_scheme(&mut self, scheme: &str) {
        self.command(&json!({ "do": "scheme", "scheme": scheme }));
    }

    /// Waits until an element is visible.
    pub fn wait(&mut self, selector: &str) {
        self.act("wait", selector);
    }

    /// Waits until an element with this text is visible.
    pub fn wait_for_text(&mut self, selector: &str, text: &str) {
        let text = text.replace('\\', r"\\").replace('"', "\\\"");
        self.act("wait", &format!("{selector}:has-text(\"{text}\")"));
    }

    /// The visible text of the first matching element.
    pub fn text(&mut self, selector: &str) -> String {
        self.act("text", selector).as_str().unwrap_or_default().to_owned()
    }

    /// The current number of matching elements.
    pub fn count(&mut self, selector: &str) -> u64 {
        self.act("count", selector).as_u64().unwrap_or_default()
    }

    /// Clicks an element.
    pub fn click(&mut self, selector: &str) {
        self.act("click", selector);
    }

    /// Moves the focus to an element.
    pub fn focus(&mut self, selector: &str) {
        self.act("focus", selector);
    }

    /// Presses a key, such as `Enter`.
    pub fn press(&mut self, key: &str) {
        self.command(&json!({ "do": "press", "key": key }));
    }

    /// Replaces the text of an input field.
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.command(&json!({ "do": "fill", "selector": selector, "text": text }));
    }

    /// Selects an option.
    pub fn choose(&mut self, selector: &str, value: &str) {
        self.command(&json!({ "do": "choose", "selector": selector, "text": value }));
    }

    /// Evaluates a JavaScript expression in the page, and returns its value.
    pub fn evaluate(&mut self, code: &str) -> Value {
        self.command(&json!({ "do": "run", "code": code }))
    }

    /// Saves a screenshot of the window as a PNG file.
    pub fn screenshot(&mut self, path: &Path) {
        self.command(&json!({ "do": "shot", "path": path }));
    }

    /// The errors in the browser's console since the last call: script errors, and violations of the content security
    /// policy.
    pub fn problems(&mut self) -> Vec<String> {
        let problems = self.command(&json!({ "do": "problems" }));
        problems.as_array().into_iter().flatten().map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    /// Closes the input of the driver, which then closes the browser.
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.driver.wait();
    }
}
