// The list of domains, with their state, a switch that allows packets to wake them, and a button that wakes them.

import { ACCESS_HINT, AllowSwitch } from "./allow.js";
import { admin, plain, repeat } from "./bus.js";
import { element, name, replace, row, speak, table, visible } from "./dom.js";
import { describe, LIST_HINT, notice } from "./notices.js";
import { outcomeText, time } from "./format.js";

const COLUMNS = ["Name", "State", "MAC addresses", "Packets can wake it", "Last wake", "Wake"];
/** The index of the column with the switch. */
const ALLOW = COLUMNS.indexOf("Packets can wake it");
const CHUNK = 100;
/** The maximum number of domains in the list. */
const MAX_DOMAINS = 20000;
const WAKE_HINT = "Only root and members of the libvirt group can wake domains, unless a polkit rule authorises other users. Turn on administrative access, or ask an administrator to run \"usermod --append --groups libvirt USER\", and log in again.";

const keyOf = domain => `${domain.connection}\n${domain.uuid}`;

/** A row of the table. Its buttons stay the same elements, so that they keep the focus. */
class DomainRow {
    constructor(list, domain) {
        this.list = list;
        this.domain = domain;
        this.waiting = false;
        this.result = element("span", { class: "result" });
        this.button = element("button", { type: "button", onclick: () => this.wake() }, "Wake");
        this.allow = new AllowSwitch(() => list.reload());
        this.cells = COLUMNS.map(() => element("div"));
        this.cells[ALLOW].append(...this.allow.nodes);
        this.cells.at(-1).append(this.button, this.result);
        this.node = row(COLUMNS, this.cells);
        this.update(domain);
    }

    update(domain) {
        this.domain = domain;
        const [title, state, macs, , last] = this.cells;
        replace(title, name(domain.name), this.list.several && element("small", {}, name(domain.connection)));
        replace(state, element("span", { class: `badge state-${domain.state.replaceAll(" ", "-")}` }, visible(domain.state)));
        replace(macs, domain.macs.map(mac => element("code", {}, visible(mac))));
        this.allow.update(domain);
        replace(last, domain["last-wake"] ? time(domain["last-wake"]) : "–");
        this.button.setAttribute("aria-label", `Wake ${visible(domain.name)}`);
    }

    show(text, waiting = false) {
        this.waiting = waiting;
        // `disabled` would drop the focus.
        this.button.setAttribute("aria-disabled", waiting);
        this.button.textContent = waiting ? "Waking…" : "Wake";
        this.result.textContent = text;
        if (text)
            speak(`${visible(this.domain.name)}: ${text}`);
    }

    async wake() {
        if (this.waiting)
            return;
        this.show("", true);
        try {
            const [outcome] = await this.list.actor.call("WakeDomain", [this.domain.uuid], "s");
            if (outcome === "held")
                this.show("held until the hypervisor or the domain is ready…", true);
            else
                this.show(outcomeText(outcome));
        } catch (error) {
            this.show(describe(error, WAKE_HINT));
        }
        this.list.refresh();
    }

    /** Shows the outcome of a wake that was held. */
    finished(outcome, reason) {
        if (this.waiting && this.button.textContent !== "Wake")
            this.show(`${outcomeText(outcome)}: ${visible(reason ?? "")}`);
    }
}

/** The list of domains. Other parts of the page use it to find the domain that has a MAC address. */
export class Domains {
    constructor(actor) {
        this.actor = actor;
        this.rows = new Map();
        this.byMac = new Map();
        this.known = false;
        this.waiting = [];
        this.several = false;
        this.limit = CHUNK;
        this.node = document.getElementById("domains");
        this.count = document.getElementById("domains-count");
        this.filter = document.getElementById("domains-filter");
        this.table = table("Domains", COLUMNS);
        this.table.node.hidden = true;
        this.message = element("p", {}, "Loading…");
        this.more = element("button", { type: "button", class: "more", onclick: () => this.showMore() });
        this.access = element("p", { id: "domains-access" }, ACCESS_HINT);
        this.node.append(this.access, this.table.node, this.more, this.message);
        this.filter.addEventListener("input", () => {
            this.limit = CHUNK;
            this.render();
        });
        this.refresh = repeat(() => this.load());
        actor.addEventListener("access", () => this.rows.forEach(entry => entry.allow.render()));
        for (const event of ["up", "down", "properties", "access"])
            actor.addEventListener(event, () => this.refresh());
        actor.addEventListener("signal", event => this.signal(event.detail));
    }

    signal({ member, values }) {
        if (member !== "WakeFinished")
            return;
        const [, , outcome, variants] = values;
        const details = plain(variants);
        this.rows.get(keyOf(details))?.finished(outcome, details.reason);
        this.refresh();
    }

    /**
     * Loads the list, and returns the delay before the next load. Polls, because most state changes do not cause a
     * signal.
     */
    async load() {
        const waiting = this.waiting.splice(0);
        try {
            this.update(await this.list());
            notice("domains");
        } catch (error) {
            this.known = false;
            notice("domains", `The list of domains is unavailable: ${describe(error, LIST_HINT)}`);
            if (!this.rows.size)
                this.message.textContent = "The list of domains is unavailable.";
        } finally {
            waiting.forEach(resolve => resolve());
        }
        return 5000 + 10 * this.rows.size;
    }

    /** Loads the list. Resolves when the page shows a list that was read after this call. */
    reload() {
        return new Promise(resolve => {
            this.waiting.push(resolve);
            this.refresh(0);
        });
    }

    async list() {
        const domains = [];
        let last = { connection: "", uuid: "" };
        while (domains.length < MAX_DOMAINS) {
            const [page] = await this.actor.call("ListDomainsAfter", [last.connection, last.uuid], "ss");
            if (!page.length)
                break;
            domains.push(...page.map(plain));
            last = domains.at(-1);
        }
        return domains;
    }

    update(domains) {
        this.known = true;
        this.several = new Set(domains.map(domain => domain.connection)).size > 1;
        this.byMac = new Map(domains.flatMap(domain => domain.macs.map(mac => [mac, domain])));
        const keys = new Set(domains.map(keyOf));
        for (const key of this.rows.keys()) {
            if (!keys.has(key))
                this.rows.delete(key);
        }
        for (const domain of domains) {
            const key = keyOf(domain);
            const current = this.rows.get(key);
            if (current)
                current.update(domain);
            else
                this.rows.set(key, new DomainRow(this, domain));
        }
        this.render();
    }

    render() {
        const wanted = this.filter.value.trim().toLowerCase();
        const matches = ({ domain }) => [domain.name, domain.state, domain.uuid, ...domain.macs]
            .some(text => text.toLowerCase().includes(wanted));
        const found = [...this.rows.values()].filter(matches)
            .sort((one, other) => one.domain.name.localeCompare(other.domain.name, undefined, { numeric: true }));
        const nodes = found.slice(0, this.limit).map(entry => entry.node);
        const { body, node } = this.table;
        // Moving a node drops the focus, so nothing is moved if the order is the same.
        if (nodes.length !== body.children.length || nodes.some((entry, index) => entry !== body.children[index]))
            body.replaceChildren(...nodes);
        node.hidden = !nodes.length;
        this.access.hidden = !nodes.length || admin.allowed !== false;
        this.message.textContent = nodes.length ? "" : (this.rows.size ? "No domain matches the filter." : "There are no domains.");
        const rest = found.length - nodes.length;
        this.more.hidden = !rest;
        this.more.textContent = `Show ${Math.min(rest, CHUNK)} of ${rest} more`;
        this.count.textContent = found.length === this.rows.size ? `${found.length}` : `${found.length} of ${this.rows.size}`;
    }

    showMore() {
        const next = this.limit;
        this.limit += CHUNK;
        this.render();
        this.table.body.children[next]?.querySelector("button")?.focus();
    }

    /** Returns the domain with this MAC address, `null` if there is none, or `undefined` if the list is unavailable. */
    find(mac) {
        return this.known ? this.byMac.get(mac) ?? null : undefined;
    }
}
