// A button that explains what a packet would do now.

import { element, speak, visible } from "./dom.js";
import { describe, LIST_HINT } from "./notices.js";

/** The details of a packet that `Explain` uses, with their types. */
const TYPES = { interface: "s", "interface-alternatives": "as", vlan: "q", source: "s", "source-mac": "s", secureon: "b" };

/** Returns a button that explains a packet with this MAC address and these details, and the element for the result. */
export function explanation(actor, mac, details) {
    const text = element("span", { class: "result" });
    const button = element("button", { type: "button", "aria-label": `Explain the packet for ${mac}`, onclick: explain }, "Explain");
    async function explain() {
        const used = Object.entries(TYPES).filter(([key]) => details[key] !== undefined);
        const variants = Object.fromEntries(used.map(([key, t]) => [key, { t, v: details[key] }]));
        try {
            const [wakes, reason] = await actor.call("Explain", [mac, variants], "sa{sv}");
            text.textContent = `Such a packet would ${wakes ? "" : "not "}wake a domain now: ${visible(reason)}`;
        } catch (error) {
            text.textContent = describe(error, LIST_HINT);
        }
        speak(text.textContent);
    }
    return [button, text];
}
