// The state of both services.

import { element, name, replace, visible } from "./dom.js";
import { repeat } from "./bus.js";

const INTERVAL = 5000;

/** Counters of capture that are shown unless they are 0, with their meaning. */
const LOSSES = {
    Limited: "not announced because there were too many",
    KernelDropped: "dropped by the kernel",
    ChannelDropped: "dropped between sniffer and announcer",
    Malformed: "frames without a magic packet",
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
    return [`running, version ${visible(values.Version)}, ${values.Domains} domains`, element("ul", {}, connections)];
}

function captureText(service, values) {
    if (service.problem || !values)
        return [state(service, "")];
    const names = values.Interfaces.flatMap((text, at) => [at ? ", " : "", name(text)]);
    const losses = Object.entries(LOSSES).filter(([key]) => values[key] > 0);
    return [
        `running, version ${visible(values.Version)}, mode ${values.Mode}`,
        element("ul", {},
                element("li", {}, "Interfaces: ", ...(names.length ? names : ["none"])),
                element("li", {}, `Packets received: ${values.Received}`),
                losses.map(([key, meaning]) => element("li", {}, `${values[key]} ${meaning}`))),
    ];
}

/** Shows and updates the state of the services. */
export function showServices(actor, capture) {
    const node = document.getElementById("services");
    const read = service => service.properties().catch(() => null);
    const again = repeat(async () => {
        const [ofActor, ofCapture] = await Promise.all([read(actor), read(capture)]);
        replace(node, ...term("Actor", ...actorText(actor, ofActor)), ...term("Capture", ...captureText(capture, ofCapture)));
        return INTERVAL;
    });
    for (const service of [actor, capture]) {
        for (const event of ["up", "down", "properties"])
            service.addEventListener(event, () => again());
    }
}
