//! The Cockpit page on a booted Debian system: both packages, a real cockpit-ws for each user, and a real browser.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::path::PathBuf;

use wakevirt_tests::browser::Browser;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::package;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::libvirt::qemu_domain;
use wakevirt_tests::process::Process;
use wakevirt_tests::project::readme;
use wakevirt_tests::scene::cockpit;
use wakevirt_tests::scene::site::{DOMAIN, MAC, MEMBER, Site, UNPRIVILEGED, wait_for_cool_down};
use wakevirt_tests::{privileged, wait};

/// The directory of the screenshots in the documentation.
const IMAGES: &str = "docs/images";
/// A domain that no rule allows.
const DENIED: &str = "archive";
const DENIED_MAC: &str = "52:54:00:12:34:57";
/// A name that consists of markup and a character that reorders the text around it.
const HOSTILE: &str = "<img src=x onerror=document.body.remove()>\u{202e}gpj";
/// Names that are an option, match all names as a glob, or mean something to a shell or in HTML.
const NAMES: [&str; 5] = ["--help", "*", "my server", "<b>a & b", "$(reboot);'`"];
/// A member of the `wakevirt` group, who can list domains, but not wake them.
const READER: &str = "reader";
/// A Cockpit package that turns on administrative access with su(1).
const SU: &str =
    r#"{ "bridges": [{ "privileged": true, "spawn": ["su", "--command", "cockpit-bridge --privileged"] }] }"#;
/// The actor's rules.
const RULES: &str = "[[allow]]\ndomain = \"win11\"\n";
/// The actor's connections for a long list of domains.
const CONNECTIONS: &str = "connections = [\"qemu:///system\", \"test:///etc/wakevirt/many.xml\"]\n";
const MANY: usize = 1000;
/// The longest name for which libvirt can create `NAME.xml` and `NAME.log.0`.
const LONGEST: usize = 240;

/// The XML file for libvirt's test driver, with many domains that are shut off.
fn many_domains() -> String {
    let domain = |number: usize| {
        let mac = format!("52:54:01:00:{:02x}:{:02x}", number / 256, number % 256);
        format!(
            "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
               <test:runstate>5</test:runstate><name>many-{number}</name><memory>8192</memory>
               <os><type>hvm</type></os>
               <devices><interface type='user'><mac address='{mac}'/></interface></devices>
             </domain>"
        )
    };
    format!("<node>{}</node>", (1..=MANY).map(domain).collect::<String>())
}

/// Installs both packages and starts the services.
fn install(site: &Site<'_>) {
    site.install();
    let package = package::cockpit();
    let name = package.file_name().expect("a file name").to_string_lossy().into_owned();
    site.debian.copy(&package, &format!("/root/wakevirt/target/debian/{name}"));
    let commands = readme::commands_of("docs/COCKPIT.md", "Install");
    site.debian.sh(&format!("cd /root/wakevirt\n{}", commands.join("\n")));
    site.debian.write("/etc/wakevirt/actor.toml", RULES);
    define(site, DENIED, DENIED_MAC);
    site.debian.sh("systemctl restart wakevirt-actor; install -d -m 755 /run/cockpit");
}

/// Starts cockpit-ws for this user, and opens the page in a browser.
fn start(host: &Host, site: &Site<'_>, user: &str) -> (Process, Browser) {
    let cockpit = cockpit::start(&site.debian, user, "127.0.0.1");
    let mut browser = Browser::start(host);
    browser.resize(1280, 900);
    open(&mut browser, "127.0.0.1");
    (cockpit, browser)
}

fn define(site: &Site<'_>, name: &str, mac: &str) {
    site.debian.write(
        "/root/domain.xml",
        &qemu_domain(&name.replace('&', "&amp;").replace('<', "&lt;"), mac, "br0"),
    );
    site.virsh("define /root/domain.xml");
}

/// Opens the page that cockpit-ws provides at this address, after a check that the previous page had no problems. The
/// cookie of a session is valid only for one address.
fn open(browser: &mut Browser, address: &str) {
    assert_eq!(browser.problems(), [""; 0]);
    browser.open(&format!("http://{address}:9090/wakevirt"), cockpit::FRAME);
}

/// The selector for a domain's row.
fn row(domain: &str) -> String {
    format!("#domains tr:has(.name:text-is(\"{domain}\"))")
}

/// Saves a screenshot for the documentation if the `WAKEVIRT_SCREENSHOTS` environment variable is set.
fn screenshot(browser: &mut Browser, name: &str) {
    if std::env::var_os("WAKEVIRT_SCREENSHOTS").is_some() {
        let path: PathBuf = project().join(IMAGES).join(format!("cockpit-{name}.png"));
        browser.screenshot(&path);
    }
}

/// Checks that the page shows domain names as text, and that a long name without spaces does not make the page wider.
fn shows_hostile_names(browser: &mut Browser, site: &Site<'_>) {
    let long = "n".repeat(LONGEST);
    define(site, HOSTILE, "52:54:00:12:34:58");
    define(site, &long, "52:54:00:12:34:59");
    browser.wait_for_text("#domains .name", "<img src=x onerror=document.body.remove()>\\u202egpj");
    browser.wait(&row(&long));
    assert_eq!(browser.count("#domains img"), 0);
    assert_fits(browser, 320);
    browser.resize(1280, 900);
}

/// Checks that the page shows a long list in parts, and finds one domain in it.
fn shows_long_list(browser: &mut Browser, site: &Site<'_>) {
    site.debian.write("/etc/wakevirt/many.xml", &many_domains());
    site.debian.write("/etc/wakevirt/actor.toml", &format!("{CONNECTIONS}{RULES}"));
    site.debian.sh("systemctl restart wakevirt-actor");
    browser.wait_for_text("#domains-count", &(MANY + 4).to_string());
    assert_eq!(browser.count("#domains tbody tr"), 100);
    browser.fill("role=searchbox[name=/filter/i]", "52:54:01:00:03:E7");
    browser.wait(&row("many-999"));
    assert_eq!(browser.count("#domains tbody tr"), 1);
    browser.fill("role=searchbox[name=/filter/i]", "");
}

/// Wakes a domain with the keyboard.
fn wakes_domain(browser: &mut Browser, site: &Site<'_>) {
    browser.focus(&format!("role=button[name=\"Wake {DOMAIN}\"]"));
    browser.press("Enter");
    browser.wait_for_text(&row(DOMAIN), "started");
    browser.wait_for_text(&row(DOMAIN), "running");
    assert_eq!(site.state(), "running");
    browser.wait_for_text("#history tr", "call by user ID 0");
    let focused = browser.evaluate("document.activeElement.getAttribute('aria-label')");
    assert_eq!(focused, format!("Wake {DOMAIN}"), "the button lost the focus");
}

/// Checks that the page shows packets as they arrive: one that wakes a domain, and one that is denied, with the reason.
fn shows_packets(browser: &mut Browser, site: &Site<'_>) {
    site.switch_off();
    site.lan.etherwake(DENIED_MAC, &["-b"]);
    let live = "#packets tr:has(code:text-is(\"52:54:00:12:34:57\"))";
    browser.wait_for_text(live, "not allowed");
    browser.wait_for_text(live, "no rule");
    browser.click(&format!("{live} >> role=button[name=/Explain/]"));
    browser.wait_for_text(live, "Such a packet would not wake a domain now");
    browser.choose("#history-filter", "denied");
    browser.wait_for_text("#history tr", DENIED);
    browser.choose("#history-filter", "");
    site.lan.etherwake(MAC, &["-b"]);
    browser.wait_for_text(&format!("#packets tr:has(code:text-is(\"{MAC}\"))"), "started");
    browser.wait_for_text(&row(DOMAIN), "running");
    site.lan.etherwake("52:54:00:99:99:99", &["-b"]);
    browser.wait_for_text("#packets tr", "no domain has this address");
    browser.wait("#chart svg[aria-label*=\"2 woken\"]");
    let label = browser.evaluate("document.querySelector('#chart svg').getAttribute('aria-label')");
    let label = label.as_str().unwrap_or_default();
    assert!(label.contains("2 woken") && label.contains("denied or ignored"), "{label}");
}

/// Checks that nothing is wider than a window of this width.
fn assert_fits(browser: &mut Browser, width: u32) {
    browser.resize(width, 800);
    let wide = browser.evaluate(
        "[...document.querySelectorAll('main :not(thead, thead *)')].filter(node => \
         node.getBoundingClientRect().right > document.documentElement.clientWidth).map(node => node.outerHTML)",
    );
    assert_eq!(wide, serde_json::json!([]), "at {width} pixels");
}

/// Checks that the page follows the theme, and fits into a narrow window.
fn adapts(browser: &mut Browser) {
    const DARK: &str = "html.pf-v6-theme-dark body";
    const LIGHT: &str = "html:not(.pf-v6-theme-dark) body";
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.evaluate(background);
    screenshot(browser, "light");
    browser.set_colour_scheme("dark");
    browser.wait(DARK);
    assert_ne!(browser.evaluate(background), light);
    screenshot(browser, "dark");
    for (style, selector) in [("light", LIGHT), ("dark", DARK), ("auto", DARK)] {
        // This is what the shell does when the user selects a theme.
        browser.evaluate(&format!(
            "localStorage.setItem('shell:style', '{style}');
             dispatchEvent(new CustomEvent('cockpit-style', {{ detail: {{ style: '{style}' }} }}))"
        ));
        browser.wait(selector);
    }
    browser.set_colour_scheme("light");
    browser.wait(LIGHT);
    assert_fits(browser, 800);
    assert_fits(browser, 320);
    screenshot(browser, "narrow");
    browser.resize(1280, 900);
    let unnamed = browser.evaluate(
        "[...document.querySelectorAll('button, input, select, table, svg')].filter(node => \
         !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML)",
    );
    assert_eq!(unnamed, serde_json::json!([]), "these controls have no name");
}

/// Checks that the page recovers when the services are started again. In the meantime, doctor finds the cause, and the
/// command that fixes it.
fn recovers(browser: &mut Browser, site: &Site<'_>) {
    site.debian.sh("systemctl stop wakevirt-capture wakevirt-actor");
    browser.wait_for_text("#services dd:nth-of-type(2)", "not running");
    site.debian.sh("systemctl mask --runtime wakevirt-actor && systemctl stop wakevirt-actor");
    browser.wait_for_text("#services dd:nth-of-type(1)", "not running");
    browser.click("#doctor-run");
    browser.wait_for_text("#doctor li", "masked");
    browser.wait_for_text("#doctor .fix", "systemctl unmask");
    site.debian
        .sh("systemctl unmask --runtime wakevirt-actor && systemctl start wakevirt-actor wakevirt-capture");
    browser.wait_for_text("#services dd:nth-of-type(1)", "qemu:///system: connected");
    browser.wait_for_text("#services dd:nth-of-type(2)", "br0");
    browser.wait_for_text(&row(DOMAIN), "running");
    wait_for_cool_down();
    site.lan.etherwake(DENIED_MAC, &["-b"]);
    browser.wait_for_text("#history tr", DENIED);
    assert_eq!(browser.count("#notices p"), 0, "{}", browser.text("#notices"));
}

/// Checks that the page shows users only what they are allowed to see, and which groups they need.
fn respects_permissions(browser: &mut Browser, site: &Site<'_>) {
    let _unprivileged = cockpit::start(&site.debian, UNPRIVILEGED, "127.0.0.2");
    let _member = cockpit::start(&site.debian, MEMBER, "127.0.0.3");
    open(browser, "127.0.0.2");
    browser.wait_for_text("#notices", "members of the wakevirt or libvirt group");
    browser.wait_for_text("#services dd:nth-of-type(1)", "running, version");
    browser.click("#doctor-run");
    browser.wait_for_text("#doctor li", "Not checked: the domains");
    site.lan.etherwake("52:54:00:99:99:98", &["-b"]);
    browser.wait_for_text("#packets tr", "52:54:00:99:99:98");
    site.virsh(&format!("destroy {DOMAIN}"));
    open(browser, "127.0.0.3");
    browser.fill("role=searchbox[name=/filter/i]", DOMAIN);
    browser.wait_for_text(&row(DOMAIN), "shut off");
    browser.click(&format!("role=button[name=\"Wake {DOMAIN}\"]"));
    browser.wait_for_text(&row(DOMAIN), "started");
    wait::until_true("the domain to start", || site.state() == "running");
    // Check this before the servers stop, because the browser might still be loading fonts.
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn page_lists_and_wakes_domains_and_explains_packets() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusDaemon);
    install(&site);
    let (_root, mut browser) = start(&host, &site, "root");
    browser.wait_for_text(&row(DOMAIN), "shut off");
    browser.wait_for_text(&row(DOMAIN), "yes");
    browser.wait_for_text(&row(DENIED), "no");
    wakes_domain(&mut browser, &site);
    shows_packets(&mut browser, &site);
    adapts(&mut browser);
    recovers(&mut browser, &site);
    shows_hostile_names(&mut browser, &site);
    shows_long_list(&mut browser, &site);
    respects_permissions(&mut browser, &site);
}

/// The selector for a domain's switch in this state.
fn switch(domain: &str, is_on: bool) -> String {
    format!("{} >> [role=switch][aria-checked={is_on}][aria-disabled=false]", row(domain))
}

/// Presses a domain's switch, and waits until it is in this state.
fn press_switch(browser: &mut Browser, domain: &str, is_on: bool) {
    browser.focus(&switch(domain, !is_on));
    browser.press(if is_on { "Space" } else { "Enter" });
    browser.wait(&switch(domain, is_on));
}

/// The files with rules that `wakevirtctl allow` has written.
fn drop_ins(site: &Site<'_>) -> Vec<String> {
    let files = site.debian.sh("ls --literal /etc/wakevirt/actor.d");
    files.lines().map(str::to_owned).collect()
}

/// Allows and forbids a domain with the keyboard, and checks what packets do.
fn allows_and_forbids(browser: &mut Browser, site: &Site<'_>) {
    press_switch(browser, DENIED, true);
    assert_eq!(drop_ins(site), ["50-allow-archive.toml"]);
    browser.wait_for_text(&row(DENIED), "domain = \"archive\"");
    let focused = browser.evaluate("document.activeElement.getAttribute('aria-label')");
    assert_eq!(focused, format!("Packets can wake {DENIED}"), "the switch lost the focus");
    site.lan.etherwake(DENIED_MAC, &["-b"]);
    browser.wait_for_text(&row(DENIED), "running");
    press_switch(browser, DENIED, false);
    assert_eq!(drop_ins(site), [""; 0]);
    assert_eq!(browser.text(&result(DENIED)), "");
    site.virsh(&format!("destroy {DENIED}"));
    wait_for_cool_down();
    site.lan.etherwake(DENIED_MAC, &["-b"]);
    browser.wait_for_text(&format!("#packets tr:has(code:text-is(\"{DENIED_MAC}\"))"), "no rule");
    assert_eq!(site.virsh(&format!("domstate {DENIED}")), "shut off");
}

/// The selector for the messages beside a domain's switch.
fn result(domain: &str) -> String {
    format!("{} >> td[data-label=\"Packets can wake it\"] .result", row(domain))
}

/// Checks that the page names what still allows a domain, and shows its real state.
fn names_what_still_allows(browser: &mut Browser, site: &Site<'_>) {
    let press = |browser: &mut Browser, domain: &str, message: &str| {
        browser.click(&switch(domain, true));
        browser.wait_for_text(&result(domain), message);
        browser.wait(&switch(domain, true));
    };
    press(browser, DOMAIN, "/etc/wakevirt/actor.toml:1");
    site.virsh(&format!(
        "metadata {DENIED} https://wakevirt.org/metadata/1.0 --config --key wakevirt --set '<wake/>'"
    ));
    press(browser, DENIED, "Still allowed by the metadata of the domain");
    site.virsh(&format!("metadata {DENIED} https://wakevirt.org/metadata/1.0 --config --remove"));
    browser.wait(&switch(DENIED, false));
    assert_eq!(browser.text(&result(DENIED)), "", "the message is outdated");
    press_switch(browser, DENIED, true);
    site.debian.sh("echo '# mine' >>/etc/wakevirt/actor.d/50-allow-archive.toml");
    press(browser, DENIED, "was edited");
    site.debian.sh("rm /etc/wakevirt/actor.d/50-allow-archive.toml && systemctl reload wakevirt-actor");
    browser.wait(&switch(DENIED, false));
}

/// Checks that a switch changes only its own domain, whatever the name of the domain is.
fn switches_any_name(browser: &mut Browser, site: &Site<'_>) {
    for (index, name) in NAMES.into_iter().enumerate() {
        define(site, name, &format!("52:54:00:12:35:{index:02x}"));
        browser.wait(&switch(name, false));
        let on = browser.count("#domains [role=switch][aria-checked=true]");
        press_switch(browser, name, true);
        assert_eq!(drop_ins(site).len(), 1, "{:?}", drop_ins(site));
        assert_eq!(browser.count("#domains [role=switch][aria-checked=true]"), on + 1, "{name}");
        press_switch(browser, name, false);
        assert_eq!(drop_ins(site), [""; 0], "{name}");
    }
}

/// Checks that the switch is disabled without administrative access, and says why.
fn needs_access(browser: &mut Browser) {
    let disabled = format!("{} >> [role=switch][aria-disabled=true]", row(DENIED));
    browser.wait(&disabled);
    browser.wait_for_text("#domains-access", "Administrative access is needed");
    browser.focus(&disabled);
    browser.press("Space");
    browser.wait_for_text(&result(DENIED), "Administrative access is needed");
    // The access can end while the page still shows the switch as enabled.
    browser.evaluate("import('./bus.js').then(bus => { bus.admin.allowed = true; })");
    browser.click(&switch(DENIED, false));
    browser.wait_for_text(&result(DENIED), "Administrative access is needed");
    browser.wait(&switch(DENIED, false));
}

#[test]
fn switch_allows_and_forbids_domains() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusDaemon);
    install(&site);
    let (_root, mut browser) = start(&host, &site, "root");
    allows_and_forbids(&mut browser, &site);
    names_what_still_allows(&mut browser, &site);
    switches_any_name(&mut browser, &site);
    let _member = cockpit::start(&site.debian, MEMBER, "127.0.0.3");
    open(&mut browser, "127.0.0.3");
    needs_access(&mut browser);
    assert_eq!(drop_ins(&site), [""; 0]);
    assert_eq!(browser.problems(), [""; 0]);
}

/// Turns administrative access on (`Start`) or off (`Stop`). Cockpit then reloads the page.
fn change_access(browser: &mut Browser, method: &str, arguments: &str) {
    browser.evaluate("document.body.classList.add('old')");
    browser.evaluate(&format!(
        "void cockpit.dbus(null, {{ bus: 'internal' }})
             .call('/superuser', 'cockpit.Superuser', '{method}', {arguments})"
    ));
    browser.wait("body:not(.old)");
}

#[test]
fn administrative_access_extends_permissions() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusDaemon);
    install(&site);
    site.debian.sh(&format!("useradd --user-group --groups wakevirt {READER}"));
    // Instead of sudo, which would ask for a password: root has none.
    site.debian.sh("passwd --delete root");
    site.debian.write("/usr/share/cockpit/su/manifest.json", SU);
    let (_reader, mut browser) = start(&host, &site, READER);
    browser.wait_for_text("#domains-access", "Administrative access is needed");
    let wake = format!("role=button[name=\"Wake {DOMAIN}\"]");
    // Cockpit tries to turn on the access when the session starts, and can load the page again meanwhile.
    wait::until_true("the explanation why the call was denied", || {
        browser.click(&wake);
        browser.wait(&wake);
        browser.text(&row(DOMAIN)).contains("Only root and members of the libvirt group can wake domains")
    });
    browser.click("#doctor-run");
    browser.wait_for_text("#doctor li", "Not checked");
    assert_eq!(site.state(), "shut off");

    change_access(&mut browser, "Start", "['su']");
    browser.wait(&switch(DENIED, false));
    assert_eq!(browser.count("#domains-access:visible"), 0);
    browser.click(&wake);
    browser.wait_for_text(&row(DOMAIN), "started");
    browser.wait_for_text("#history tr", "call by user ID 0");
    browser.click("#doctor-run");
    browser.wait_for_text("#doctor li", "Works");
    let doctor = browser.text("#doctor");
    assert!(!doctor.contains("Not checked: the domains"), "{doctor}");
    press_switch(&mut browser, DENIED, true);
    assert_eq!(drop_ins(&site), ["50-allow-archive.toml"]);

    change_access(&mut browser, "Stop", "[]");
    browser.wait(&format!("{} >> [role=switch][aria-checked=true][aria-disabled=true]", row(DENIED)));
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn page_handles_a_restart_of_dbus_daemon() {
    privileged!();
    handles_a_restart_of(Kind::DbusDaemon);
}

#[test]
fn page_handles_a_restart_of_dbus_broker() {
    privileged!();
    handles_a_restart_of(Kind::DbusBroker);
}

/// Checks that the page reports that the bus has restarted, and recovers.
fn handles_a_restart_of(bus: Kind) {
    let host = Host::new();
    let site = Site::new(&host, bus);
    install(&site);
    let (_root, mut browser) = start(&host, &site, "root");
    browser.wait_for_text(&row(DOMAIN), "shut off");
    browser.evaluate(
        "window.reports = [];
         new MutationObserver(() => reports.push(document.getElementById('notices').textContent))
             .observe(document.getElementById('notices'), { childList: true, subtree: true })",
    );
    let earlier = site.debian.main_process("dbus.service");
    site.debian.sh("systemctl restart dbus.service");
    assert_ne!(site.debian.main_process("dbus.service"), earlier);
    let is_over = "reports.some(text => text.includes('system bus was lost')) && reports.at(-1) === ''";
    wait::until_true("a report that the bus was lost, and its removal", || browser.evaluate(is_over) == true);
    browser.wait_for_text("#services dd:nth-of-type(1)", "qemu:///system: connected");
    browser.wait_for_text("#services dd:nth-of-type(2)", "br0");
    // Signals arrive, and calls are answered. A packet that starts a domain would have to wait for logind.
    site.lan.etherwake(DENIED_MAC, &["-b"]);
    browser.wait_for_text(&format!("#packets tr:has(code:text-is(\"{DENIED_MAC}\"))"), "no rule");
    press_switch(&mut browser, DENIED, true);
    assert_eq!(browser.count("#notices p"), 0, "{}", browser.text("#notices"));
    site.debian.sh("systemctl restart wakevirt-capture");
    browser.wait_for_text("#services dd:nth-of-type(2)", "Packets received: 0");
    assert_eq!(browser.problems(), [""; 0]);
}

/// The content security policy of the page allows nothing inline. Cockpit 287 serves `.mjs` files without a content
/// type.
#[test]
fn page_has_no_inline_code_and_a_small_stylesheet() {
    let read = |name: &str| std::fs::read_to_string(project().join(name)).expect("the file exists");
    let page = read("cockpit/index.html");
    assert_eq!(
        page.matches("<script").count(),
        page.matches("<script src=").count() + page.matches("<script type=\"module\" src=").count()
    );
    assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" onclick"), "{page}");
    assert!(read("cockpit/wakevirt.css").len() < 20_000);
    let files = std::fs::read_dir(project().join("cockpit")).expect("the directory exists").flatten();
    assert!(files.map(|file| file.path()).all(|path| path.extension().is_some_and(|suffix| suffix != "mjs")));
    assert!(!read("tests/browser/package-lock.json").contains("resolved"), "the lock file names a registry");
}
