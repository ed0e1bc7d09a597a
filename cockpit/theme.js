// The light or dark theme. Each Cockpit page applies it to itself: the shell stores the user's choice in the browser,
// and sends an event when it changes.

const CLASSES = ["pf-theme-dark", "pf-v5-theme-dark", "pf-v6-theme-dark"];
const KEY = "shell:style";
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

function apply(style) {
    const dark = style === "dark" || (style !== "light" && prefersDark.matches);
    for (const name of CLASSES)
        document.documentElement.classList.toggle(name, dark);
}

/** Follows the shell's theme: `light`, `dark`, or `auto` for the browser's theme. */
export function followTheme() {
    const stored = () => apply(window.localStorage.getItem(KEY));
    window.addEventListener("storage", event => {
        if (event.key === KEY)
            stored();
    });
    window.addEventListener("cockpit-style", event => apply(event.detail?.style));
    prefersDark.addEventListener("change", stored);
    stored();
}
