// How values are shown.

/** The kind of an outcome: the values of the filter of the history, and the classes of badges and bars. */
const KINDS = {
    started: "woken",
    resumed: "woken",
    woken: "woken",
    "already-running": "running",
    "not-allowed": "denied",
    "cooling-down": "denied",
    "bad-password": "denied",
    ambiguous: "denied",
    "migrated-away": "denied",
    expired: "failed",
    failed: "failed",
};

/** The kinds with their names, in the order of the chart. */
export const KIND_NAMES = { woken: "woken", running: "already running", denied: "denied or ignored", failed: "failed" };

/** The kind of this outcome. */
export function kind(outcome) {
    return KINDS[outcome] ?? "failed";
}

/** The outcome in words. */
export function outcomeText(outcome) {
    return outcome.replaceAll("-", " ");
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** A time in microseconds since 1970. Today's times have no date. */
export function time(microseconds) {
    const date = new Date(microseconds / 1000);
    const today = date.toDateString() === new Date().toDateString();
    return (today ? clock : calendar).format(date);
}

/** The sender, the interface and the VLAN of a packet. */
export function origin(details) {
    const parts = [
        details.source ?? details["source-mac"],
        details.interface && `on ${details.interface}`,
        details.vlan && `VLAN ${details.vlan}`,
        details.secureon && "with a password",
    ];
    return parts.filter(part => part).join(", ");
}

/** Who requested a decision. */
export function requester(decision) {
    if (decision.trigger !== "call")
        return origin(decision) || "packet";
    return decision.caller === undefined ? "call" : `call by user ID ${decision.caller}`;
}
