// The findings of `wakevirtctl doctor`. It changes nothing, and runs as root if the user has administrative access.

/* global cockpit */

import { element, replace, speak, visible } from "./dom.js";

const COMMAND = ["wakevirtctl", "doctor", "--json=short"];

/** The output of doctor. Exit status 1 means that it found errors or warnings. */
async function diagnose() {
    let output = "";
    try {
        await cockpit.spawn(COMMAND, { superuser: "try", err: "message" }).stream(part => { output += part; });
    } catch (error) {
        if (error.exit_status !== 1 || !output)
            throw error;
    }
    return JSON.parse(output);
}

function command(text) {
    return text && element("code", { class: "cure" }, visible(text));
}

function item({ severity, problem, evidence, cure, advice }) {
    return element("li", {},
                   element("span", { class: `badge ${severity}` }, severity), visible(problem),
                   evidence.map(text => element("small", {}, visible(text))),
                   command(cure), advice && element("p", {}, visible(advice)));
}

function missing({ what, reason, command: shows }) {
    return element("li", {}, `Not checked: ${visible(what)} (${visible(reason)})`, command(shows));
}

async function run(result) {
    replace(result, element("p", {}, "Checking…"));
    try {
        const { healthy, works, findings, "not-checked": hidden } = await diagnose();
        const text = healthy ? "No errors or warnings." : `Findings: ${findings.length}, the most likely cause first.`;
        replace(result, element("p", {}, text),
                element("ul", {}, findings.map(item), works.map(it => element("li", {}, `Works: ${visible(it)}`)), hidden.map(missing)));
        speak(text);
    } catch (error) {
        const text = `${COMMAND.join(" ")} failed: ${visible(error.message || error.problem || error)}`;
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
