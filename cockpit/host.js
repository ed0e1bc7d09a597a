// Shows for which domains the host is prepared: the output of `wakevirtctl host status`, which every user can run.

import { element, name, replace, row, table, visible } from "./dom.js";
import { failure, wakevirtctl } from "./program.js";
import { repeat } from "./bus.js";

const INTERVAL = 15000;
const DOMAINS = ["Domain", "State", "Huge pages", "CPUs", "Weight", "Problems"];
const VALUES = ["Value", "Before", "Wanted", "Now"];

function size(kibibytes) {
    const units = [[1 << 20, "GiB"], [1 << 10, "MiB"], [1, "KiB"]];
    const [factor, unit] = units.find(([factor]) => kibibytes % factor === 0);
    return `${kibibytes / factor} ${unit}`;
}

function domain({ name: title, phase, pages, isolated, weight, failures }) {
    const problems = failures.map(text => element("strong", {}, visible(text)));
    return row(DOMAINS, [name(title), phase, pages.map(({ size: kib, count }) => `${count} × ${size(kib)}`).join(", "),
                         isolated, weight === undefined ? "" : String(weight), element("span", {}, ...problems)]);
}

function value({ name: title, before, wanted, now }) {
    return row(VALUES, [visible(title), before, wanted, now === wanted ? now : element("strong", {}, now)]);
}

function failed({ domain: title, message }) {
    return element("li", {}, title === undefined ? "The host" : name(title), ": ", visible(message));
}

function filled(label, columns, rows) {
    const { node, body } = table(label, columns);
    body.append(...rows);
    return rows.length ? node : null;
}

/** What remains on isolated CPUs, as one line of text. */
function remaining({ "kernel-threads": threads, interrupts }) {
    const names = [...threads.map(({ name, count }) => count > 1 ? `${count} ${name}` : name),
                   ...interrupts.map(({ irq, name }) => `interrupt ${irq} (${name})`)];
    return names.length ? element("p", {}, `Still on isolated CPUs: ${visible(names.join(", "))}.`) : null;
}

function show(node, status) {
    const changed = status.values.filter(({ before, wanted, now }) => before !== wanted || before !== now);
    const parts = [
        element("p", {}, "wakevirt-host: ", status.service === "active" ? "running" : element("strong", {}, visible(status.service))),
        filled("Active domains", DOMAINS, status.domains.map(domain)) || element("p", {}, "The host is not prepared for any active domain."),
        filled("Changed values of the host", VALUES, changed.map(value)),
        remaining(status),
        status.failures.length ? element("ul", {}, status.failures.toReversed().map(failed)) : null,
    ];
    replace(node, ...parts.filter(part => part));
}

/** Shows and updates the state, if wakevirt-host is installed. */
export function showHost() {
    const section = document.getElementById("host-section");
    const node = document.getElementById("host");
    repeat(async () => {
        try {
            const status = await wakevirtctl(["host", "status"]);
            section.hidden = (status.service ?? "not-found") === "not-found" && !status.domains.length;
            show(node, status);
        } catch (error) {
            replace(node, element("p", {}, element("strong", {}, failure("host status", error))));
        }
        return INTERVAL;
    });
}
