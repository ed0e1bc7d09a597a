// The decisions since the actor was started.

import { describe, LIST_HINT, notice } from "./notices.js";
import { element, name, row, table, visible } from "./dom.js";
import { kind, requester, time } from "./format.js";
import { plain, repeat } from "./bus.js";
import { decision } from "./packets.js";
import { showChart } from "./chart.js";

const COLUMNS = ["Time", "Domain", "Requested by", "Decision"];
const CHUNK = 25;
/** The chart moves even without new decisions. */
const INTERVAL = 60000;

/** The actor's history. The actor stores at most 1000 decisions. */
export class History {
    constructor(actor) {
        this.actor = actor;
        /** The decisions, newest first, and the owner of the bus name that sent them. */
        this.decisions = [];
        this.owner = null;
        this.rows = new Map();
        this.limit = CHUNK;
        this.filter = document.getElementById("history-filter");
        this.chart = document.getElementById("chart");
        this.table = table("History", COLUMNS);
        this.message = element("p");
        this.more = element("button", { type: "button", class: "more", onclick: () => this.showMore() });
        document.getElementById("history").append(this.table.node, this.more, this.message);
        this.filter.addEventListener("change", () => {
            this.limit = CHUNK;
            this.render();
        });
        const refresh = repeat(() => this.load());
        for (const event of ["up", "access", "signal"])
            actor.addEventListener(event, () => refresh());
    }

    async load() {
        try {
            const { owner } = this.actor;
            const decisions = await this.read(owner === this.owner ? this.decisions : []);
            // A new process numbers its decisions from 1 again.
            if (owner !== this.owner)
                this.rows.clear();
            this.owner = owner;
            this.decisions = decisions.slice(0, 1000);
            notice("history");
        } catch (error) {
            notice("history", `The history is unavailable: ${describe(error, LIST_HINT)}`);
        }
        this.render();
        return INTERVAL;
    }

    /** Reads the decisions that are newer than the known ones, and returns all of them. */
    async read(known) {
        const newest = known[0]?.number ?? 0;
        const added = [];
        let [page] = await this.actor.call("History", [known.length ? 100 : 1000], "u");
        while (page.length) {
            const part = page.map(plain);
            added.push(...part.filter(({ number }) => number > newest));
            if (part.at(-1).number <= newest + 1)
                break;
            [page] = await this.actor.call("HistoryBefore", [part.at(-1).number, 1000], "tu");
        }
        return [...added, ...known];
    }

    rowOf(entry) {
        let node = this.rows.get(entry.number);
        if (!node) {
            node = row(COLUMNS, [
                time(entry.time),
                [entry.domain && name(entry.domain), entry.mac && element("code", {}, visible(entry.mac))],
                requester(entry),
                decision(this.actor, entry.mac, entry.outcome, entry),
            ].map(content => element("div", {}, ...[content].flat())));
            this.rows.set(entry.number, node);
        }
        return node;
    }

    render() {
        const wanted = this.filter.value;
        const found = this.decisions.filter(({ outcome }) => !wanted || kind(outcome) === wanted);
        const nodes = found.slice(0, this.limit).map(entry => this.rowOf(entry));
        const { body, node } = this.table;
        if (nodes.length !== body.children.length || nodes.some((entry, index) => entry !== body.children[index]))
            body.replaceChildren(...nodes);
        node.hidden = !nodes.length;
        this.message.textContent = nodes.length ? "" : "There are no decisions to show.";
        const rest = found.length - nodes.length;
        this.more.hidden = !rest;
        this.more.textContent = `Show ${Math.min(rest, CHUNK)} of ${rest} more`;
        showChart(this.chart, this.decisions);
    }

    showMore() {
        this.limit += CHUNK;
        this.render();
    }
}
