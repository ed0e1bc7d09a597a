// Connections to the services on the system bus, as the user of the page. They recover automatically when a service or
// the bus restarts.

/* global cockpit */

const BUS = "org.freedesktop.DBus";
const LONGEST_DELAY = 30000;
/** The address of the system bus in the D-Bus specification. */
const ADDRESS = "unix:path=/run/dbus/system_bus_socket";

/** Why services cannot be used while the page has no connection to the bus. */
export const BUS_LOST = "The connection to the system bus was lost.";

/** Whether the user has administrative access in this session. */
export const admin = cockpit.permission({ admin: true });

/** Returns whether the error says that the caller lacks a permission. */
export function isDenied(error) {
    return ["org.freedesktop.DBus.Error.AccessDenied", "org.wakevirt.Error.NotAuthorized"].includes(error.name);
}

/** Returns the values of a dictionary of variants. */
export function plain(dictionary) {
    return Object.fromEntries(Object.entries(dictionary).map(([key, variant]) => [key, variant.v]));
}

/**
 * Returns whether the error says that the bridge is no longer connected to the bus. In this case, Cockpit's Python bridge
 * does not close its channels, and each call fails with the traceback of an sd-bus(3) error.
 */
function isLost(error) {
    return error.name === "python.error" && /\[Errno \d+\] sd_bus/.test(error.message);
}

/** Tracks which bus names have an owner. */
class Bus {
    constructor() {
        this.services = [];
        this.delay = 500;
        this.options = { bus: "system" };
        this.open();
    }

    open() {
        const client = cockpit.dbus(BUS, this.options);
        this.client = client;
        client.subscribe({ path: "/org/freedesktop/DBus", interface: BUS, member: "NameOwnerChanged" },
                         (_path, _interface, _signal, [changed, , owner]) => {
                             for (const service of this.services) {
                                 if (service.name === changed && owner)
                                     service.open();
                             }
                         });
        client.wait().then(() => {
            this.delay = 500;
            this.services.forEach(service => service.open());
        }, () => {});
        client.addEventListener("close", () => {
            if (this.client === client)
                this.reopen();
        });
    }

    reopen() {
        this.client = null;
        this.services.forEach(service => service.disconnect(BUS_LOST));
        window.setTimeout(() => this.open(), this.delay);
        this.delay = Math.min(2 * this.delay, LONGEST_DELAY);
    }

    /** Opens new connections to the bus. The Python bridge shares one connection for `bus`, and never replaces it. */
    replace() {
        this.options = { bus: "none", address: ADDRESS };
        const { client } = this;
        if (!client)
            return;
        this.reopen();
        client.close();
    }
}

let bus = null;

/**
 * A service with one object and one interface, which have the same name as the service.
 *
 * Events: `up` when the name has a new owner; `down` when it has none; `signal` with the member and the arguments;
 * `properties` when properties have changed; `access` when the user has gained or lost administrative access.
 */
export class Service extends EventTarget {
    constructor(name) {
        super();
        this.name = name;
        this.path = "/" + name.replaceAll(".", "/");
        this.client = null;
        this.privileged = null;
        this.owner = null;
        /** Why the service cannot be used; `null` while it can. */
        this.problem = "Connecting…";
        admin.addEventListener("changed", () => this.emit("access"));
        bus ??= new Bus();
        bus.services.push(this);
    }

    emit(type, detail) {
        this.dispatchEvent(new CustomEvent(type, { detail }));
    }

    /** Connects, unless it is already connected. */
    open() {
        if (this.client)
            return;
        const client = cockpit.dbus(this.name, bus.options);
        this.client = client;
        client.addEventListener("owner", (_event, owner) => this.setOwner(owner));
        client.addEventListener("close", (_event, options) => {
            if (this.client !== client)
                return;
            this.disconnect(options?.problem === "not-found" || !options?.problem ? "" : cockpit.message(options));
        });
        client.subscribe({ path: this.path, interface: this.name }, (_path, _interface, member, values) => {
            this.emit("signal", { member, values });
        });
        client.subscribe({ path: this.path, interface: "org.freedesktop.DBus.Properties" }, () => this.emit("properties"));
    }

    setOwner(owner) {
        if (owner === this.owner)
            return;
        this.owner = owner;
        this.problem = owner ? null : "The service is not running.";
        this.emit(owner ? "up" : "down");
    }

    disconnect(problem) {
        const { client, privileged } = this;
        this.client = this.privileged = this.owner = null;
        client?.close();
        privileged?.close();
        this.problem = problem || "The service is not running.";
        this.emit("down");
    }

    /**
     * Calls a method as the user and, if that is denied, with administrative access if the user has it.
     * `type` is the signature of the arguments.
     */
    async call(method, values = [], type = "", iface = this.name) {
        const { client } = this;
        if (!client)
            throw new Error(this.problem);
        try {
            return await client.call(this.path, iface, method, values, { type });
        } catch (error) {
            if (isLost(error)) {
                bus.replace();
                throw new Error(BUS_LOST);
            }
            if (!this.client)
                throw new Error(this.problem);
            if (!isDenied(error) || !admin.allowed)
                throw error;
        }
        if (!this.privileged) {
            const client = cockpit.dbus(this.name, { ...bus.options, superuser: "require" });
            client.addEventListener("close", () => {
                if (this.privileged === client)
                    this.privileged = null;
            });
            this.privileged = client;
        }
        return this.privileged.call(this.path, iface, method, values, { type });
    }

    /** Returns all properties. */
    async properties() {
        const [values] = await this.call("GetAll", [this.name], "s", "org.freedesktop.DBus.Properties");
        return plain(values);
    }
}

/**
 * Calls `refresh` now and, while the page is visible, again after the number of milliseconds that it returns.
 * Returns a function that starts the next call within `soon` milliseconds. Calls never overlap.
 */
export function repeat(refresh) {
    let timer = null;
    let due = Infinity;
    let running = false;
    const schedule = delay => {
        if (Date.now() + delay >= due)
            return;
        due = Date.now() + delay;
        window.clearTimeout(timer);
        timer = window.setTimeout(run, delay);
    };
    async function run() {
        due = Infinity;
        if (running)
            return schedule(100);
        running = true;
        let delay = 5000;
        try {
            delay = await refresh();
        } finally {
            running = false;
            if (!cockpit.hidden)
                schedule(delay);
        }
    }
    cockpit.addEventListener("visibilitychange", () => cockpit.hidden || schedule(0));
    run();
    return (soon = 200) => schedule(soon);
}
