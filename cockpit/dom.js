// Creates elements. Text from other programs becomes text nodes only, never markup.

/** Characters that are invisible or reorder the text around them, such as control and bidirectional characters. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Returns the text with such characters escaped, as in `\u202e`. */
export function visible(text) {
    return String(text).replace(HIDDEN, character => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}

function build(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on"))
            node.addEventListener(name.slice(2), value);
        else if (value !== null && value !== undefined && value !== false)
            node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false && child !== ""));
    return node;
}

/** Creates an element with these attributes and children. Attributes with the prefix `on` are event listeners. */
export function element(tag, attributes = {}, ...children) {
    return build(document.createElement(tag), attributes, children);
}

/** Creates an SVG element. */
export function svg(tag, attributes = {}, ...children) {
    return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Creates an element for a name from another program. The name cannot reorder or hide the text around it. */
export function name(text) {
    return element("bdi", { class: "name" }, visible(text));
}

/** Replaces the children of a node only if they differ, so that focus and selection are preserved. */
export function replace(node, ...children) {
    const next = element("div", {}, ...children);
    if (node.innerHTML !== next.innerHTML)
        node.replaceChildren(...next.childNodes);
}

/**
 * Creates a table whose rows become blocks on a narrow screen. The roles are explicit, because browsers drop the
 * implicit roles of a table that is displayed as blocks.
 */
export function table(label, columns) {
    const body = element("tbody", { role: "rowgroup" });
    const head = columns.map(column => element("th", { role: "columnheader", scope: "col" }, column));
    const node = element("table", { role: "table", "aria-label": label },
                         element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head)), body);
    return { node, body };
}

/** Creates a row with one cell for each column. */
export function row(columns, cells) {
    return element("tr", { role: "row" },
                   columns.map((column, index) => element("td", { role: "cell", "data-label": column }, cells[index])));
}

/** Makes a screen reader read the text. */
export function speak(text) {
    document.getElementById("spoken").textContent = text;
}
