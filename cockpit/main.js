// Connects the parts of the page to the services.

import { Domains } from "./domains.js";
import { followTheme } from "./theme.js";
import { History } from "./history.js";
import { Packets } from "./packets.js";
import { Service } from "./bus.js";
import { showDoctor } from "./doctor.js";
import { showHost } from "./host.js";
import { showServices } from "./services.js";

followTheme();
const actor = new Service("org.wakevirt.Actor1");
const capture = new Service("org.wakevirt.Capture1");
showServices(actor, capture);
showDoctor();
const domains = new Domains(actor);
new Packets(actor, capture, domains);
new History(actor);
showHost();
