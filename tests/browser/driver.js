// Drives Chromium with Playwright. Each line of standard input is a command as JSON, and each line of standard output
// is its reply: {"value": …} or {"error": "…"}. Exits at the end of standard input. NODE_PATH names the installed
// packages.

"use strict";

const readline = require("node:readline");
const { chromium } = require("playwright-core");

/** The timeout of a command, in milliseconds. On a busy machine, cockpit-ws takes a while to reply. */
const TIMEOUT = 60000;
const FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
];

let page;
/** The frame of the page in Cockpit's shell. */
let frame;
/** Script errors, and violations of the content security policy, since the last `problems` command. */
let problems = [];

const commands = {
    async open({ url, name }) {
        const deadline = Date.now() + 3 * TIMEOUT;
        let node = null;
        frame = null;
        // Until its session is open, cockpit-ws refuses connections or shows the login form. Each attempt waits longer than
        // the one before, because it interrupts a page that loads slowly.
        for (let timeout = TIMEOUT / 12; !node; timeout += TIMEOUT / 12) {
            try {
                await page.goto(url, { timeout: 2 * timeout });
                node = await page.waitForSelector(`iframe[name="${name}"]`, { state: "attached", timeout });
            } catch (error) {
                if (Date.now() > deadline)
                    throw error;
            }
        }
        frame = await node.contentFrame();
        await frame.waitForLoadState();
        problems = [];
    },
    size: ({ width, height }) => page.setViewportSize({ width, height }),
    scheme: ({ scheme }) => page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" }),
    wait: ({ selector }) => frame.locator(selector).first().waitFor(),
    text: ({ selector }) => frame.locator(selector).first().innerText(),
    count: ({ selector }) => frame.locator(selector).count(),
    click: ({ selector }) => frame.locator(selector).first().click(),
    focus: ({ selector }) => frame.locator(selector).first().focus(),
    press: ({ key }) => page.keyboard.press(key),
    fill: ({ selector, text }) => frame.locator(selector).first().fill(text),
    choose: ({ selector, text }) => frame.locator(selector).first().selectOption(text),
    run: ({ code }) => frame.evaluate(code),
    shot: ({ path }) => page.screenshot({ path, animations: "disabled" }).then(() => null),
    problems: () => problems.splice(0),
};

async function main() {
    const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", chromiumSandbox: false, args: FLAGS });
    page = await browser.newPage();
    page.setDefaultTimeout(TIMEOUT);
    page.on("console", message => {
        const { url } = message.location();
        // Cockpit's shell around the page, and Cockpit's own pages, are not under test. In Debian, they lack fonts, which the
        // browser can load at any time.
        if (message.type() === "error" && !/\/(shell|system)\//.test(url))
            problems.push(`${message.text()} (${url})`);
    });
    page.on("pageerror", error => problems.push(`${error}`));
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const command = JSON.parse(line);
        let reply;
        try {
            reply = { value: await commands[command.do](command) ?? null };
        } catch (error) {
            const shown = await (frame || page).locator("body").innerText().catch(() => "");
            reply = { error: `${error}\nthe page:\n${shown}` };
        }
        process.stdout.write(JSON.stringify(reply) + "\n");
    }
    await browser.close();
}

main();
