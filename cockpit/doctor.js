// Shows the findings of `wakevirtctl doctor`, which does not change anything. It runs as root if the user has
// administrative access.

import { element, replace, speak, visible } from "./dom.js";
import { failure, wakevirtctl } from "./program.js";

function command(text) {
    return text && element("code", { class: "fix" }, visible(text));
}

function finding({ severity, problem, evidence, cure: fix, advice }) {
    return element("li", {},
                   element("span", { class: `badge ${severity}` }, severity), visible(problem),
                   evidence.map(text => element("small", {}, visible(text))),
                   command(fix), advice && element("p", {}, visible(advice)));
}

function unchecked({ what, reason, command: shows }) {
    return element("li", {}, `Not checked: ${visible(what)} (${visible(reason)})`, command(shows));
}

async function run(result) {
    replace(result, element("p", {}, "Checking…"));
    try {
        const { healthy, works, findings, "not-checked": notChecked } = await wakevirtctl(["doctor"], "try");
        const text = healthy ? "No errors or warnings." : `Findings: ${findings.length}. The most likely cause is first.`;
        replace(result, element("p", {}, text),
                element("ul", {}, findings.map(finding), works.map(text => element("li", {}, `Works: ${visible(text)}`)), notChecked.map(unchecked)));
        speak(text);
    } catch (error) {
        const text = failure("doctor", error);
        replace(result, element("p", {}, element("strong", {}, text)));
        speak(text);
    }
}

/** Runs doctor when the user presses the button. */
export function showDoctor() {
    const result = document.getElementById("doctor");
    const button = document.getElementById("doctor-run");
    button.addEventListener("click", async () => {
        if (button.getAttribute("aria-disabled") === "true")
            return;
        button.setAttribute("aria-disabled", "true");
        await run(result);
        button.removeAttribute("aria-disabled");
    });
}
