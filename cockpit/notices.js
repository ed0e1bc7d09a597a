// Messages at the top of the page, at most one for each subject.

import { element, replace } from "./dom.js";
import { isDenied } from "./bus.js";

const shown = new Map();

/** Shows a message about a subject. Without text, removes the message. */
export function notice(subject, text = null) {
    const current = shown.get(subject);
    if (!text) {
        current?.remove();
        shown.delete(subject);
        return;
    }
    const node = current ?? element("p", { class: "notice" });
    replace(node, text);
    if (!current) {
        shown.set(subject, node);
        document.getElementById("notices").append(node);
    }
}

/** What to do if the user is not allowed to read the actor's lists. */
export const LIST_HINT = "Only root and members of the wakevirt or libvirt group have access. Turn on administrative access, or ask an administrator to run \"usermod --append --groups wakevirt USER\", and log in again.";

/** Returns the message of an error as a sentence. If the call was denied, the hint says which permission is missing. */
export function describe(error, hint) {
    const message = (error.message || error.problem || String(error)).replace(/([^.…])$/, "$1.");
    return isDenied(error) ? `Access denied. ${hint}` : message;
}
