// Packets as capture announces them, with the actor's decisions.

import { element, name, replace, row, table, visible } from "./dom.js";
import { kind, origin, outcomeText, time } from "./format.js";
import { explanation } from "./explain.js";
import { plain } from "./bus.js";

const COLUMNS = ["Time", "MAC address", "Sender", "Decision"];
const MAX_ENTRIES = 50;

const keyOf = details => `${details.epoch}/${details.sequence}`;

function badge(outcome) {
    return element("span", { class: `badge ${kind(outcome)}` }, outcomeText(outcome));
}

/** Returns the outcome, its reason and, if the packet did not wake a domain, a button that explains the packet. */
export function decision(actor, mac, outcome, details) {
    const explains = details.trigger === "packet" && mac && ["denied", "failed"].includes(kind(outcome));
    return [
        badge(outcome),
        details.reason && element("span", {}, visible(details.reason)),
        explains && explanation(actor, mac, details),
    ].filter(part => part);
}

/** The most recent packets and decisions. */
export class Packets {
    constructor(actor, capture, domains) {
        this.actor = actor;
        this.domains = domains;
        /** The displayed entries by packet, newest last. */
        this.entries = new Map();
        /** The most recent events that are not displayed yet. */
        this.arrived = [];
        this.total = 0;
        this.paused = false;
        this.table = table("Live packets and decisions", COLUMNS);
        this.table.node.hidden = true;
        this.message = element("p", {}, "Packets appear here as they arrive.");
        this.count = document.getElementById("packets-count");
        document.getElementById("packets").append(this.table.node, this.message);
        this.pause = document.getElementById("packets-pause");
        this.pause.addEventListener("click", () => {
            this.paused = !this.paused;
            this.pause.setAttribute("aria-pressed", this.paused);
            this.schedule();
        });
        capture.addEventListener("signal", event => this.packet(event.detail));
        actor.addEventListener("signal", event => this.decided(event.detail));
    }

    packet({ member, values }) {
        if (member !== "MagicPacket")
            return;
        const [sequence, mac, variants] = values;
        this.total++;
        this.add({ mac, details: { ...plain(variants), sequence } });
    }

    decided({ member, values }) {
        if (member !== "WakeFinished")
            return;
        const [mac, domain, outcome, variants] = values;
        this.add({ mac, domain, outcome, details: plain(variants) });
    }

    add(event) {
        this.arrived.push(event);
        if (this.arrived.length > 2 * MAX_ENTRIES)
            this.arrived.splice(0, this.arrived.length - MAX_ENTRIES);
        this.schedule();
    }

    /** Displays the events in the next animation frame. During a flood, the table changes only once per frame. */
    schedule() {
        if (this.scheduled)
            return;
        this.scheduled = true;
        window.requestAnimationFrame(() => {
            this.scheduled = false;
            this.count.textContent = this.total ? `${this.total} since this page was opened` : "";
            if (!this.paused)
                this.arrived.splice(0).forEach(event => this.show(event));
        });
    }

    show(event) {
        const { details } = event;
        const key = details.epoch === undefined ? `call ${Math.random()}` : keyOf(details);
        const entry = this.entries.get(key);
        if (entry) {
            if (event.outcome)
                this.fill(entry, event);
            return;
        }
        const cells = COLUMNS.map(() => element("div"));
        const added = { cells, node: row(COLUMNS, cells) };
        this.entries.set(key, added);
        this.fill(added, event);
        this.table.body.prepend(added.node);
        for (const [old, { node }] of this.entries) {
            if (this.entries.size <= MAX_ENTRIES)
                break;
            node.remove();
            this.entries.delete(old);
        }
        this.table.node.hidden = false;
        this.message.hidden = true;
    }

    fill({ cells }, { mac, domain, outcome, details }) {
        const [at, address, sender, decided] = cells;
        const found = domain || this.domains.find(mac)?.name;
        if (!at.textContent)
            replace(at, time(details.timestamp ?? Date.now() * 1000));
        replace(address, mac && element("code", {}, visible(mac)), found && element("small", {}, name(found)));
        if (!sender.textContent)
            replace(sender, ["call", "autostart"].includes(details.trigger) ? details.trigger : origin(details),
                    details.transport && element("small", {}, details.transport));
        if (outcome)
            decided.replaceChildren(...decision(this.actor, mac, outcome, details).flat());
        else if (this.domains.find(mac) === null)
            replace(decided, "no domain has this address");
    }
}
