// The state of both services.

import { element, name, replace, visible } from "./dom.js";
import { BUS_LOST, repeat } from "./bus.js";
import { notice } from "./notices.js";

const INTERVAL = 5000;

/** Capture's counters that are shown unless they are 0, with their meaning. */
const LOSSES = {
    Limited: "Packets not announced because too many arrived",
    KernelDropped: "Packets dropped by the kernel",
    ChannelDropped: "Packets dropped between the sniffer and the announcer",
    Malformed: "Packets that were not magic packets",
};

function term(title, ...description) {
    return [element("dt", {}, title), element("dd", {}, ...description)];
}

function state(service, text) {
    return service.problem ? element("strong", {}, service.problem) : text;
}

function actorText(service, values) {
    if (service.problem || !values)
        return [state(service, "")];
    const connections = values.Connections.map(([uri, connected]) =>
        element("li", {}, name(uri), connected ? ": connected" : element("strong", {}, ": not connected")));
    return [`running, version ${visible(values.Version)}, domains: ${values.Domains}`, element("ul", {}, connections)];
}

function captureText(service, values) {
    if (service.problem || !values)
        return [state(service, "")];
    const names = values.Interfaces.flatMap((text, index) => [index ? ", " : "", name(text)]);
    const losses = Object.entries(LOSSES).filter(([key]) => values[key] > 0);
    return [
        `running, version ${visible(values.Version)}, mode ${values.Mode}`,
        element("ul", {},
                element("li", {}, "Interfaces: ", ...(names.length ? names : ["none"])),
                element("li", {}, `Packets received: ${values.Received}`),
                losses.map(([key, meaning]) => element("li", {}, `${meaning}: ${values[key]}`))),
    ];
}

const BUS_HINT = `${BUS_LOST} The page is trying to reconnect. If this message does not disappear, reload the page or log in to Cockpit again.`;

/** Shows and updates the state of the services. */
export function showServices(actor, capture) {
    const node = document.getElementById("services");
    const read = service => service.properties().catch(() => null);
    const refresh = repeat(async () => {
        const [actorValues, captureValues] = await Promise.all([read(actor), read(capture)]);
        replace(node, ...term("Actor", ...actorText(actor, actorValues)), ...term("Capture", ...captureText(capture, captureValues)));
        return INTERVAL;
    });
    for (const event of ["up", "down"])
        actor.addEventListener(event, () => notice("bus", actor.problem === BUS_LOST ? BUS_HINT : null));
    for (const service of [actor, capture]) {
        for (const event of ["up", "down", "properties"])
            service.addEventListener(event, () => refresh());
    }
}
