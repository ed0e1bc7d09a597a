// A chart of the decisions in the last 24 hours.

import { element, replace, svg } from "./dom.js";
import { kind, KIND_NAMES } from "./format.js";

const HOURS = 24;
const HOUR = 3600e6;
const WIDTH = 30;
const HEIGHT = 100;
const GAP = 4;

/** Returns the number of decisions of each kind in each hour, oldest first. `now` is in microseconds. */
export function count(decisions, now) {
    const hours = Array.from({ length: HOURS }, () => Object.fromEntries(Object.keys(KIND_NAMES).map(key => [key, 0])));
    for (const { time, outcome } of decisions) {
        const ago = Math.floor((now - time) / HOUR);
        if (ago >= 0 && ago < HOURS)
            hours[HOURS - 1 - ago][kind(outcome)]++;
    }
    return hours;
}

function bars(hours, highest) {
    return hours.flatMap((numbers, index) => {
        let top = HEIGHT;
        return Object.entries(numbers).filter(([, number]) => number).map(([key, number]) => {
            const height = number / highest * HEIGHT;
            top -= height;
            const ago = HOURS - index;
            return svg("rect", { class: key, x: index * WIDTH, y: top, width: WIDTH - GAP, height },
                       svg("title", {}, `${number} ${KIND_NAMES[key]}, ${ago - 1} to ${ago} hours ago`));
        });
    });
}

/** Shows the chart in a figure. The legend contains the numbers, so that the chart does not depend on colour. */
export function showChart(figure, decisions, now = Date.now() * 1000) {
    const hours = count(decisions, now);
    const sums = Object.keys(KIND_NAMES).map(key => [key, hours.reduce((sum, numbers) => sum + numbers[key], 0)]);
    const legend = sums.map(([key, sum]) => `${sum} ${KIND_NAMES[key]}`).join(", ");
    const highest = Math.max(1, ...hours.map(numbers => Object.values(numbers).reduce((sum, number) => sum + number)));
    replace(figure,
            svg("svg", { viewBox: `0 0 ${HOURS * WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `Decisions in the last 24 hours: ${legend}` },
                bars(hours, highest)),
            element("p", { class: "axis", "aria-hidden": "true" },
                    element("span", {}, "24 hours ago"), element("span", {}, `maximum: ${highest} per hour`), element("span", {}, "now")),
            element("figcaption", {}, "Last 24 hours: ",
                    sums.map(([key, sum]) => element("span", { class: `legend ${key}` }, `${sum} ${KIND_NAMES[key]}`))));
}
