// Messages at the top of the page, at most one for each subject.

import { element, replace } from "./dom.js";
import { isDenied } from "./bus.js";

const shown = new Map();

/** Shows a message about a subject; without a text, removes it. */
export function notice(subject, text = null, cure = null) {
    const current = shown.get(subject);
    if (!text) {
        current?.remove();
        shown.delete(subject);
        return;
    }
    const node = current ?? element("p", { class: "notice" });
    replace(node, text, cure && " ", cure && element("span", {}, cure));
    if (!current) {
        shown.set(subject, node);
        document.getElementById("notices").append(node);
    }
}

/** What to do if the user may not use the lists of the actor. */
export const LIST_RIGHTS = "Only root and members of the groups wakevirt and libvirt can see them. Turn on administrative access, or have an administrator run \"usermod --append --groups wakevirt USER\" and log in again.";

/** The message of an error in a sentence, with the permission that is missing. */
export function describe(error, rights) {
    const message = (error.message || error.problem || String(error)).replace(/\.?$/, ".");
    return isDenied(error) ? `Access denied. ${rights}` : message;
}
