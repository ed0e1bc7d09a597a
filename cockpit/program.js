// Runs wakevirtctl, as the user of the page or with administrative access.

/* global cockpit */

import { visible } from "./dom.js";

/**
 * Runs the program with these arguments, and returns its output, which is JSON. Exit status 1 is not an error if there
 * is output: the answer is then negative. `superuser` is Cockpit's option: `try` or `require`.
 */
export async function wakevirtctl(parameters, superuser) {
    let output = "";
    try {
        await cockpit.spawn(["wakevirtctl", "--json=short", ...parameters], { superuser, err: "message" })
            .stream(part => { output += part; });
    } catch (error) {
        if (error.exit_status !== 1 || !output)
            throw error;
    }
    return JSON.parse(output);
}

/** Says in words why the program failed. */
export function failure(verb, error) {
    return `wakevirtctl ${verb} failed: ${visible(String(error.message || error.problem || error).trim())}`;
}
