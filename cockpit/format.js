// Formats values for display.

/** The kind of each outcome. Kinds are the values of the history filter, and the classes of badges and bars. */
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

/** The name of each kind, in the order of the chart. */
export const KIND_NAMES = { woken: "woken", running: "already running", denied: "denied or ignored", failed: "failed" };

/** Returns the kind of this outcome. */
export function kind(outcome) {
    return KINDS[outcome] ?? "failed";
}

/** Returns the outcome in words. */
export function outcomeText(outcome) {
    return outcome.replaceAll("-", " ");
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** Formats a time in microseconds since 1970. Omits the date if it is today. */
export function time(microseconds) {
    const date = new Date(microseconds / 1000);
    const today = date.toDateString() === new Date().toDateString();
    return (today ? clock : calendar).format(date);
}

/** Describes the sender, the interface and the VLAN of a packet, and whether it has a password. */
export function origin(details) {
    const parts = [
        details.source ?? details["source-mac"],
        details.interface && `on ${details.interface}`,
        details.vlan && `VLAN ${details.vlan}`,
        details.secureon && "with a password",
    ];
    return parts.filter(part => part).join(", ");
}

/** Describes what caused a decision. */
export function requester(decision) {
    if (decision.trigger === "autostart")
        return "autostart";
    if (decision.trigger !== "call")
        return origin(decision) || "packet";
    return decision.caller === undefined ? "call" : `call by user ID ${decision.caller}`;
}
