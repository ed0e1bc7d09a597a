// The switch that allows packets to wake a domain, or forbids it.

import { element, name, replace, speak, visible } from "./dom.js";
import { failure, wakevirtctl } from "./program.js";
import { admin } from "./bus.js";

/** Why the switches are disabled. */
export const ACCESS_HINT = "Administrative access is needed to change which domains packets can wake. Turn it on in Cockpit's top bar.";
/** The value of `rule` if the domain's own metadata allows packets to wake it. */
const METADATA = "metadata of the domain";

/** Says what still allows the domain. */
function remaining({ rule, file, line }) {
    if (rule === METADATA)
        return "Still allowed by the metadata of the domain. \"wakevirtctl forbid --in-domain\" removes it.";
    const location = line ? `${file}:${line}` : file;
    return `Still allowed by ${visible(rule)}${file ? `, ${visible(location)}` : ""}.`;
}

/** Says what the user has to know about the result of `allow` or `forbid`. */
function messages(result) {
    const { outcome, file, applied, "still-allowed": still = [] } = result;
    return [
        outcome === "edited" && `${visible(file)} was edited, so it was left unchanged. Edit or remove it.`,
        ...still.map(remaining),
        applied === false && "The actor is not running. The change takes effect when it starts.",
    ].filter(text => text);
}

/** Changes whether packets can wake the domain with this name. Returns messages for the user. */
async function change(verb, title) {
    try {
        // A name can begin with a dash.
        return messages(await wakevirtctl([verb, "--", title], "require"));
    } catch (error) {
        return [error.problem === "access-denied" ? ACCESS_HINT : failure(verb, error)];
    }
}

/** A switch that always shows what the actor reports. Its button stays the same element, so that it keeps the focus. */
export class AllowSwitch {
    /** `reload` resolves when `update` has been called with the domain from a new list. */
    constructor(reload) {
        this.reload = reload;
        this.domain = null;
        this.changing = false;
        this.button = element("button", { type: "button", role: "switch", class: "switch", onclick: () => this.press() });
        this.state = element("span");
        this.rule = element("small");
        this.result = element("div", { class: "result" });
        this.nodes = [this.button, this.state, this.rule, this.result];
    }

    update(domain) {
        // A message about an earlier state would be wrong.
        if (this.domain && this.domain.allowed !== domain.allowed && !this.changing)
            replace(this.result);
        this.domain = domain;
        this.render();
    }

    render() {
        const { name: title, allowed, rule } = this.domain;
        const { button } = this;
        button.setAttribute("aria-label", `Packets can wake ${visible(title)}`);
        button.setAttribute("aria-checked", allowed);
        // `disabled` would drop the focus.
        button.setAttribute("aria-disabled", this.changing || !admin.allowed);
        if (admin.allowed)
            button.removeAttribute("aria-describedby");
        else
            button.setAttribute("aria-describedby", "domains-access");
        this.state.textContent = this.changing ? "changing…" : (allowed ? "yes" : "no");
        replace(this.rule, rule && name(rule));
    }

    async press() {
        if (this.changing)
            return;
        if (!admin.allowed) {
            this.show([ACCESS_HINT]);
            return;
        }
        const verb = this.domain.allowed ? "forbid" : "allow";
        this.changing = true;
        replace(this.result);
        this.render();
        const texts = await change(verb, this.domain.name);
        await this.reload();
        if (verb === "allow" && !texts.length && !this.domain.macs.length)
            texts.push("The rule was written, but packets cannot wake the domain, because it has no MAC address.");
        this.changing = false;
        this.render();
        this.show(texts);
    }

    show(texts) {
        replace(this.result, texts.map(text => element("p", {}, text)));
        if (texts.length)
            speak(`${visible(this.domain.name)}: ${texts.join(" ")}`);
    }
}
