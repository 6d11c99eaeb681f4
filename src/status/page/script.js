// The status page: asks the gateway once a second and shows what it says. Text that came from outside (names of tags,
// devices, clients, users) goes into the page as text only: nothing here writes HTML.
"use strict";

const EVERY_MS = 1000, PATIENCE_MS = 5000, LOST_AFTER_MS = 4000, POINTS_EVERY_MS = 20000, SESSION_EVERY_MS = 60000;
const PAGE = 50, DEVICES_SHOWN = 12, EVENTS_SHOWN = 12, ALARMS_SHOWN = 100, POINTS_MAX = 120;

const at = id => document.getElementById(id);
const board = { status: null, session: { user: null, operate: [], csrf: "" }, heard: 0, waiting: null, device: "", from: 0, points: new Map(), pointsAt: -Infinity, open: null, writing: new Set(), all: new Set(), events: false };

/* ---- small things for building the page ---- */

function make(tag, className, ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tone(element, state) {
  if (element.dataset.state !== state) element.dataset.state = state;
}

function symbol(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  return change(svg, name);
}

function change(svg, name) {
  const use = svg.firstElementChild;
  if (use.getAttribute("href") !== "#s-" + name) use.setAttribute("href", "#s-" + name);
  return svg;
}

// Colour, shape and word together: none of them alone.
function badge() {
  const element = make("span", "state", symbol("idle"), make("span"));
  element.show = (state, word) => { tone(element, state); change(element.firstChild, state); say(element.lastChild, word); };
  return element;
}

// Makes the children of an element those of the list, by key; what is there already stays, and so do focus and clicks.
function list(parent, items, key, build, show) {
  const known = parent.known ??= new Map();
  const wanted = new Set();
  let next = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    if (wanted.has(name)) continue;
    wanted.add(name);
    let child = known.get(name);
    if (!child) known.set(name, child = build(item));
    show(child, item);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const [name, child] of known) if (!wanted.has(name)) { child.remove(); known.delete(name); }
}

// A list of facts: word and what it is.
function facts(parent, pairs) {
  list(parent, pairs.filter(([, text]) => text).flatMap(([word, text]) => [["dt", word, word], ["dd", word, text]]),
    ([kind, word]) => kind + word, ([kind]) => make(kind), (element, [, , text]) => say(element, text));
}

/* ---- figures as words ---- */

const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function bytes(count) {
  if (count == null) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1000 && unit < 4) { count /= 1024; unit += 1; }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds == null || !isFinite(seconds)) return "";
  seconds = Math.max(0, seconds);
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 119) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60); // once, or 10795 s are 2 h 60 min
  if (minutes < 120) return `${minutes} min`;
  if (seconds < 172800) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(seconds / 86400)} days`;
}

// Ages are by the gateway's clock: that of a phone may be wrong.
function age(time) {
  const then = Date.parse(time), now = Date.parse(board.status?.gateway.time);
  return isNaN(then) || isNaN(now) ? null : Math.max(0, (now - then) / 1000);
}

function ago(time) {
  const seconds = age(time);
  return seconds == null ? "" : seconds < 2 ? "now" : `${span(seconds)} ago`;
}

function figure(value, digits = 7) {
  if (value == null) return "–";
  if (value === true) return "on";
  if (value === false) return "off";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}

// What a float32 knows, and no more: 12.3 is not 12.300000190734863.
const digits = tag => /float(16|32)/.test(tag.data_type) ? 7 : 12;

const milliseconds = ms => ms == null ? "" : `${ms < 10 ? Math.round(ms * 10) / 10 : Math.round(ms)} ms`;

const CAUSES = {
  starting: "not read yet", timeout: "no answer", exception: "refused by device", range: "out of range", nan: "no number",
  stale: "too old", clock: "clock unknown", config: "mapping is wrong", transport: "no connection", protocol: "garbled answer", paused: "paused",
};
const DEVICE = { answering: ["good", "answering"], suspect: ["warn", "not sure"], down: ["bad", "no answer"], starting: ["idle", "starting"], paused: ["paused", "paused"] };
const UPLINK = { connected: "good", connecting: "warn", disabled: "bad", paused: "paused", stopped: "idle" };

/* ---- talking to the gateway ---- */

// Whole numbers that a double would round stay as they were written.
const exact = text => JSON.parse(text.replace(/"(value|read_back|min|max)":(-?\d{16,})(?=[,}])/g, '"$1":"$2"'));

async function ask(path, body) {
  const how = { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(body === undefined ? PATIENCE_MS : 35000) };
  if (body !== undefined) {
    how.method = "POST";
    how.headers = { "Content-Type": "application/json", "X-CSRF-Token": board.session.csrf };
    how.body = body;
  }
  const reply = await fetch(path, how);
  const text = await reply.text();
  let said = {};
  try { said = exact(text); } catch { said = { error: text.slice(0, 200) }; }
  if (reply.status === 401 && body !== undefined) board.knownAt = -Infinity; // the session has ended
  if (!reply.ok) throw Object.assign(new Error(said.error || `the gateway says ${reply.status}`), { status: reply.status, said });
  return said;
}

async function session() {
  board.session = await ask("/api/session");
  board.knownAt = performance.now();
  const { user, may_log_in: may } = board.session;
  say(at("user"), user ? user : "");
  at("login").hidden = !!user || !may;
  at("logout").hidden = !user;
}

async function round() {
  try {
    if (!board.session.csrf || performance.now() - board.knownAt > SESSION_EVERY_MS) await session();
    const status = await ask("/api/status");
    board.heard = performance.now();
    board.status = status;
    document.body.classList.remove("lost");
    show();
    await values();
  } catch (trouble) {
    if (trouble.status === 401 || trouble.status === 403) {
      board.heard = performance.now();
      await session().catch(() => {});
      wanted();
    }
  }
}

function wanted() {
  at("board").hidden = true;
  at("tag-box").close(); // its value is that of somebody who was let in
  turn(board.device); // and so are those of the rows
  tone(at("verdict"), "idle");
  change(at("verdict").firstElementChild, "idle");
  const nobody = !board.session.may_log_in;
  say(at("verdict-title"), nobody ? "This gateway shows nothing to strangers" : "Log in to see this gateway");
  list(at("reasons"), nobody ? ["It has no users yet. Add one with: ironbridge passwd"] : [], String, () => make("li"), say);
  board.status = null;
}

let wake = () => {}; // who looks at the page again does not wait for the rest of the pause

async function live() {
  document.addEventListener("visibilitychange", () => wake());
  for (;;) {
    if (!document.hidden) await round();
    pulse();
    await new Promise(done => { const timer = setTimeout(done, EVERY_MS); wake = () => { clearTimeout(timer); done(); }; });
  }
}

// Says how old the figures are, also while nothing comes.
function pulse() {
  const old = board.heard ? performance.now() - board.heard : null;
  const lost = old == null ? performance.now() > LOST_AFTER_MS : old > LOST_AFTER_MS && !document.hidden;
  if (lost || frozen()) freeze();
  if (!lost) return say(at("pulse"), old == null ? "connecting …" : !board.status ? "" : frozen() ? `no values for ${span((performance.now() - board.waiting) / 1000)}` : "live · updates every second");
  document.body.classList.add("lost");
  say(at("pulse"), old == null ? "no answer yet" : `figures are ${span(old / 1000)} old`);
  tone(at("verdict"), "bad");
  change(at("verdict").firstElementChild, "bad");
  say(at("verdict-title"), "No connection to the gateway");
  list(at("reasons"), [board.status ? "Below is what it said last. Trying again every second." : "Trying again every second."], String, () => make("li"), say);
  if (board.open) refresh(at("write-form").tag);
}

/* ---- the board ---- */

function show() {
  const { gateway } = board.status;
  say(at("name"), gateway.name);
  document.title = `${verdict() ? "✓" : "!"} ${gateway.name} · Ironbridge`;
  at("board").hidden = false;
  say(at("foot"), `Ironbridge ${gateway.version} · running for ${span(gateway.uptime_s)} · gateway's time ${gateway.time ?? "unknown"}${gateway.clock === "fixed" ? "" : " (not set yet)"}`);
  alarms();
  devices();
  uplinks();
  box();
  events();
}

// What is wrong, gravest first, each once.
function wrong() {
  const { gateway, devices, buses, uplinks, alarms_total: alarms } = board.status;
  const found = (findings, state) => (findings ?? []).map(({ part, name, text }) => ({ state, part: name ? `${part} ${name}` : String(part), name, text }));
  const reasons = [...found(gateway.health?.reasons, "bad"), ...found(gateway.health?.notes, "warn")];
  for (const note of reasons) if (/^devices?\b/.test(note.part)) note.state = "bad"; // no fault of the box, but somebody has to go there
  const told = name => reasons.some(reason => reason.name === name || reason.part === "devices" && devices.some(device => device.name === name && device.state === "down"));
  const many = (state, names, one, others) => {
    const left = names.filter(name => !told(name));
    if (left.length > 3) reasons.push({ state, part: plural(left.length, one[0], one[1]), text: others });
    else for (const name of left) reasons.push({ state, part: name, text: others });
  };
  many("bad", buses.filter(bus => bus.state === "down").map(bus => bus.name), ["bus", "buses"], "no connection");
  many("bad", devices.filter(device => device.state === "down").map(device => device.name), ["device", "devices"], "no answer");
  many("warn", devices.filter(device => device.state === "suspect").map(device => device.name), ["device", "devices"], "did not answer the last time, asked again");
  many("bad", uplinks.filter(uplink => UPLINK[uplink.state] === "bad").map(uplink => uplink.name), ["uplink", "uplinks"], "is not connected, values are kept");
  if (alarms) reasons.push({ state: "warn", part: plural(alarms, "alarm", "alarms"), text: "active" });
  many("paused", devices.filter(device => device.state === "paused").map(device => device.name), ["device", "devices"], "paused by hand");
  if (gateway.clock !== "fixed" && !reasons.some(({ part }) => part === "clock")) reasons.push({ state: "warn", part: "clock", text: "the time is not known yet; times are estimates" });
  if (frozen()) reasons.push({ state: "bad", part: "values", text: "not answered, the last ones are shown" });
  const grave = ["bad", "warn", "paused"];
  return reasons.sort((one, other) => grave.indexOf(one.state) - grave.indexOf(other.state));
}

function verdict() {
  const reasons = wrong(), { devices } = board.status;
  const starting = devices.filter(device => device.state === "starting").length;
  const state = ["bad", "warn", "paused"].find(state => reasons.some(reason => reason.state === state)) ?? (starting ? "idle" : "good");
  const title = { good: "Everything is working", idle: "Starting: " + plural(starting, "device has", "devices have") + " not been asked yet", paused: plural(reasons.length, "thing is", "things are") + " paused" };
  tone(at("verdict"), state);
  change(at("verdict").firstElementChild, state);
  say(at("verdict-title"), title[state] ?? plural(reasons.length, "thing needs", "things need") + " attention");
  const shown = reasons.slice(0, 6);
  if (reasons.length > 6) shown.push({ part: `and ${reasons.length - 6} more`, text: "see below" });
  list(at("reasons"), shown.map((reason, place) => ({ ...reason, place })), ({ place }) => "reason " + place, () => make("li", "", make("b"), make("span")),
    (row, { part, text }) => { say(row.firstChild, part); say(row.lastChild, `: ${text}`); });
  return state === "good";
}

function alarms() {
  const found = board.status.alarms.slice(0, ALARMS_SHOWN), total = board.status.alarms_total;
  at("alarm-panel").hidden = !found.length;
  say(at("alarm-count"), total > found.length ? `the gravest ${found.length} of ${total.toLocaleString("en")}` : total ? String(total) : "");
  list(at("alarms"), found, alarm => [alarm.device, alarm.tag, alarm.event].join("\n"), () => {
    const row = make("li", "", badge(), make("span"), make("span", "age"));
    return row;
  }, (row, alarm) => {
    const [mark, text, when] = row.children;
    mark.show(/high_high|low_low/.test(alarm.event) ? "bad" : "warn", String(alarm.event).replaceAll("_", " "));
    say(text, `${alarm.device} · ${alarm.tag}${alarm.value == null ? "" : `: ${figure(alarm.value)}`}`);
    say(when, ago(alarm.since));
  });
}

const trouble = device => ["down", "suspect", "paused", "starting", "answering"].indexOf(device.state);

function devices() {
  const { buses, devices } = board.status;
  const answering = devices.filter(device => device.state === "answering").length;
  say(at("device-count"), answering === devices.length ? `all ${devices.length} answering` : `${answering} of ${devices.length} answering`);
  const groups = buses.map(bus => ({ ...bus, devices: devices.filter(device => device.bus === bus.name) }));
  const derived = devices.filter(device => !buses.some(bus => bus.name === device.bus));
  if (derived.length) groups.push({ name: "calculated", devices: derived, plain: true });
  list(at("buses"), groups, bus => bus.name, bus => {
    const group = make("div", "bus", make("div", "bus-head", make("h3", "", bus.name), badge(), make("span", "detail"), make("span", "detail")), make("ul"), make("button"));
    group.lastChild.type = "button";
    group.lastChild.onclick = () => { board.all.has(bus.name) ? board.all.delete(bus.name) : board.all.add(bus.name); show(); };
    return group;
  }, (group, bus) => {
    const [, mark, where, load] = group.firstChild.children;
    const states = bus.devices.map(device => device.state);
    const down = bus.state === "down";
    mark.hidden = !!bus.plain;
    const some = states.some(state => state === "down" || state === "suspect");
    mark.show(down ? "bad" : some ? "warn" : states.includes("starting") ? "idle" : "good", down ? "no connection" : some ? "in part" : states.includes("starting") ? "starting" : "working");
    say(where, bus.plain ? "worked out here, not read" : `${bus.type} · ${bus.endpoint}`);
    say(load, bus.plain || bus.load == null ? "" : `${Math.round(bus.load)} % busy${bus.late ? ` · ${plural(bus.late, "late poll", "late polls")}` : ""}`);
    const all = board.all.has(bus.name), many = bus.devices.length > DEVICES_SHOWN;
    const shown = many && !all ? [...bus.devices].sort((one, other) => trouble(one) - trouble(other)).slice(0, DEVICES_SHOWN) : bus.devices;
    list(group.children[1], shown.slice(0, 500), device => device.name, deviceRow, showDevice);
    group.lastChild.hidden = !many;
    say(group.lastChild, all ? "Show fewer" : `Show all ${bus.devices.length}`);
  });
  choice(devices);
}

function deviceRow(device) {
  const button = make("button", "device", make("span", "label", device.name), badge(), make("span", "detail"));
  button.type = "button";
  button.onclick = () => { choose(device.name); if (matchMedia("(max-width: 1199px)").matches) at("tags").scrollIntoView(); };
  return make("li", "", button);
}

function showDevice(row, device) {
  const [, mark, detail] = row.firstChild.children;
  mark.show(...(DEVICE[device.state] ?? ["idle", String(device.state)]));
  const ms = device.response_ms, errors = (device.timeouts ?? 0) + (device.exceptions ?? 0) + (device.other_errors ?? 0);
  const parts = [];
  if (ms?.p50 != null) parts.push(`answers in ${milliseconds(ms.p50)}${ms.p99 == null ? "" : `, 99 % within ${milliseconds(ms.p99)}`}`);
  if (device.state !== "answering" && device.last_success) parts.push(`last answer ${ago(device.last_success)}`);
  if (device.state === "down" && !device.last_success) parts.push("never answered");
  if (errors) parts.push(plural(errors, "failed poll", "failed polls"));
  say(detail, parts.join(" · "));
  const pressed = String(device.name === board.device);
  if (row.firstChild.getAttribute("aria-pressed") !== pressed) row.firstChild.setAttribute("aria-pressed", pressed);
}

function choice(devices) {
  const names = devices.map(device => device.name), select = at("device");
  if (!names.includes(board.device) && !(board.device === "*" && names.length > 1)) turn(names[0] ?? "");
  const options = names.length > 1 ? ["*", ...names] : names;
  if (select.names !== (select.names = options.join("\n"))) list(select, options, String, name => { const option = make("option"); option.value = name; option.textContent = name === "*" ? "all devices" : name; return option; }, () => {});
  if (select.value !== board.device) select.value = board.device;
  const may = board.session.operate ?? [], device = devices.find(device => device.name === board.device);
  const allowed = device && (may.includes("*") || may.includes(device.name)) && device.bus;
  at("operate").hidden = !allowed;
  if (!allowed) return;
  for (const button of at("operate").querySelectorAll("button")) {
    const operation = button.dataset.operation, paused = device.state === "paused";
    button.hidden = operation === "pause" && paused || operation === "resume" && !paused;
    button.disabled = operation === "poll" && paused;
  }
}

function uplinks() {
  const found = board.status.uplinks;
  at("uplink-panel").hidden = !found.length;
  list(at("uplinks"), found, uplink => uplink.name, uplink => make("div", "uplink",
    make("div", "bus-head", make("h3", "", uplink.name), badge(), make("span", "detail")), make("dl", "facts"), make("div")),
  (row, uplink) => {
    const [, mark, url] = row.firstChild.children;
    mark.show(UPLINK[uplink.state] ?? "idle", String(uplink.state).replaceAll("_", " "));
    say(url, uplink.url ?? "");
    const waiting = uplink.waiting_records ?? 0;
    facts(row.children[1], [
      ["Backlog", waiting ? `${plural(waiting, "value", "values")}${uplink.waiting_bytes == null ? "" : `, about ${bytes(uplink.waiting_bytes)}`}` : "nothing waits"],
      ["Oldest", waiting && uplink.oldest_age_s != null ? `${span(uplink.oldest_age_s)} old` : ""],
      ["Done in", waiting > 0 ? uplink.drain_s == null ? UPLINK[uplink.state] === "good" ? "still measuring" : "when it is connected" : `about ${span(uplink.drain_s)}` : ""],
      ["Trouble", uplink.error ?? ""],
      ["Path", uplink.path ?? ""],
      ["Since", uplink.since ? ago(uplink.since) : ""],
      ["Sent", uplink.sent_bytes == null ? "" : `${bytes(uplink.sent_bytes)} since start`],
      ["Certificate", uplink.certificate_days_left == null ? "" : uplink.certificate_days_left < 0 ? "expired" : `valid for ${plural(Math.floor(uplink.certificate_days_left), "day", "days")}`],
    ]);
    list(row.lastChild, uplink.budgets ?? [], budget => `${budget.path ?? ""}\n${budget.span}\n${budget.limit_bytes}`, () => make("div", "budget", make("div", "words", make("span"), make("span")), make("div", "bar", make("span"))), (bar, budget) => {
      const part = budget.limit_bytes ? budget.used_bytes / budget.limit_bytes : 0, percent = Math.round(part * 100);
      tone(bar, part >= 1 ? "bad" : part >= .8 ? "warn" : "good");
      say(bar.firstChild.firstChild, `${bytes(budget.used_bytes)} of ${bytes(budget.limit_bytes)} this ${budget.span}${budget.path ? ` on ${budget.path}` : ""}`);
      say(bar.firstChild.lastChild, part >= 1 ? `${percent} %: used up` : `${percent} %`);
      bar.lastChild.firstChild.style.width = `${Math.min(100, percent)}%`;
    });
  });
}

function box() {
  const { store, broker } = board.status;
  const dark = (broker?.listeners ?? []).filter(door => !/^(open|up|listening|ok)$/.test(door.state));
  facts(at("box"), [
    ["Store", store ? `${bytes(store.bytes)} of ${bytes(store.max_bytes)}` : ""],
    ["Writes", store?.written_per_day == null ? "" : `${bytes(store.written_per_day)} a day`],
    ["Trouble", typeof store?.trouble === "string" ? store.trouble : store?.trouble ? "the disk does not take values" : ""],
    ["Gaps", store?.gaps ? plural(store.gaps, "gap record", "gap records") : ""],
    ["Clients", broker ? `${broker.connections} connected, ${plural(broker.sessions ?? 0, "session", "sessions")}` : ""],
    ["Messages", broker ? `${(broker.messages_in ?? 0).toLocaleString("en")} in, ${(broker.messages_out ?? 0).toLocaleString("en")} out${broker.dropped ? `, ${broker.dropped.toLocaleString("en")} dropped` : ""}` : ""],
    ["Listening", (broker?.listeners ?? []).map(door => door.listen).join(", ")],
    ["Closed", dark.map(door => `${door.listen} (${door.state})`).join(", ")],
  ]);
}

function events() {
  const found = board.status.events ?? [];
  at("no-events").hidden = found.length > 0;
  const more = at("more-events");
  more.hidden = found.length <= EVENTS_SHOWN;
  say(more, board.events ? "Show fewer" : `Show all ${found.length}`);
  list(at("events"), board.events ? found : found.slice(0, EVENTS_SHOWN), event => [event.time, event.event, event.part, event.text].join("\n"),
    event => make("li", "", symbol(event.state === "cleared" ? "good" : event.state === "active" ? "warn" : "idle"), make("span", "", event.part ? `${event.part}: ` : "", event.text ?? "", make("small", "detail", String(event.event).replaceAll("_", " "))), make("span", "age")),
    (row, event) => { tone(row, event.state === "cleared" ? "good" : event.state === "active" ? "warn" : "idle"); row.firstChild.style.color = "var(--tone)"; say(row.lastChild, ago(event.time)); });
}

/* ---- the values of one device ---- */

const nameOf = tag => `${tag.device}\n${tag.tag}`;

function choose(device) {
  turn(device);
  if (board.status) show();
  values().catch(() => {});
}

// Rows of the device before must not stand under the name of this one, however long its own are on their way, nor what became
// of a command to it.
function turn(device) {
  say(at("operated"), "");
  [board.device, board.from, board.pointsAt, board.waiting] = [device, 0, -Infinity, null];
  list(at("rows"), [], nameOf);
  at("values").hidden = at("pages").hidden = true;
  at("nothing").hidden = false;
  say(at("nothing"), "Asking for the values …");
}

// Values are a question of their own, which may fail while the board is answered; `waiting` is since when.
const frozen = () => board.waiting != null && performance.now() - board.waiting > LOST_AFTER_MS;

// Nobody knows whether the rows are still so. They are as before when values come.
function freeze() {
  const rows = at("rows").children;
  at("values").classList.add("old");
  at("nothing").hidden = true;
  at("values-old").hidden = false;
  say(at("values-old"), `No values from the gateway.${rows.length ? " These are the last ones." : ""}`);
  for (const { children: [, , quality, , when] } of rows) {
    quality.firstChild.show("idle", "unknown");
    say(when, "");
  }
  if (board.open) refresh(at("write-form").tag);
}

async function values() {
  const asked = [board.device, board.from, at("filter").value.trim()].join("\n");
  if (!board.device) return showValues({ total: 0, tags: [] });
  const query = new URLSearchParams({ from: board.from, count: PAGE });
  if (board.device !== "*") query.set("device", board.device);
  if (at("filter").value.trim()) query.set("find", at("filter").value.trim());
  if (board.asked !== asked) [board.asked, board.pointsAt] = [asked, -Infinity];
  const whole = performance.now() - board.pointsAt > POINTS_EVERY_MS;
  // Noted before the answer: where the large one fails, the next question is for a small one.
  if (whole) { query.set("points", "60"); board.pointsAt = performance.now(); }
  board.waiting ??= performance.now();
  const said = await ask("/api/tags?" + query);
  if (asked !== [board.device, board.from, at("filter").value.trim()].join("\n")) return;
  if (whole) board.points = new Map(said.tags.map(tag => [nameOf(tag), tag.points ?? []]));
  else for (const tag of said.tags) grow(tag);
  showValues(said);
}

function grow(tag) {
  const points = board.points.get(nameOf(tag)), time = Date.parse(tag.time);
  if (!points || isNaN(time) || points.length && points[points.length - 1][0] >= time) return;
  points.push([time, number(tag.value)]);
  if (points.length > POINTS_MAX) points.splice(0, points.length - POINTS_MAX);
}

const number = value => value === true ? 1 : value === false ? 0 : value == null || value === "" || isNaN(value) ? null : Number(value);

function showValues({ total, tags }) {
  board.waiting = null;
  at("values").classList.remove("old");
  at("values-old").hidden = true;
  if (board.from >= total && board.from) { board.from = Math.max(0, Math.floor((total - 1) / PAGE) * PAGE); return; }
  const all = board.device === "*";
  list(at("rows"), tags, nameOf, tag => {
    const button = make("button", "tag", tag.tag, ...(all ? [make("small", "", tag.device)] : []));
    button.type = "button";
    button.onclick = () => detail(row.tag);
    const cell = (name, ...inside) => make("td", name, ...inside);
    const row = make("tr", "", cell("", button), cell("number value", make("span"), " ", make("span", "unit")), cell("quality", badge()), cell("history"), cell("number age when"));
    return row;
  }, (row, tag) => {
    row.tag = tag;
    const [, value, quality, line, when] = row.children;
    say(value.firstChild, figure(tag.value, digits(tag)));
    say(value.lastChild, tag.unit ?? "");
    quality.firstChild.show(...judged(tag));
    draw(line, board.points.get(nameOf(tag)) ?? [], tag, 180, 32);
    const seconds = age(tag.time);
    say(when, seconds == null ? "" : seconds < 2 ? "now" : span(seconds));
  });
  at("values").hidden = !tags.length;
  at("nothing").hidden = tags.length > 0;
  say(at("nothing"), at("filter").value.trim() ? "No tag of this name." : board.device ? "No values that you may see." : "No device is configured.");
  at("pages").hidden = total <= PAGE;
  say(at("where"), `${board.from + 1} to ${Math.min(total, board.from + PAGE)} of ${total.toLocaleString("en")}`);
  at("before").disabled = board.from === 0;
  at("after").disabled = board.from + PAGE >= total;
  if (board.open) refresh(tags.find(tag => nameOf(tag) === board.open));
}

function judged(tag) {
  const why = CAUSES[tag.cause] ?? tag.cause;
  if (tag.quality === "good") return ["good", "good"];
  if (tag.quality === "uncertain") return ["warn", why || "uncertain"];
  return [tag.cause === "paused" ? "paused" : tag.cause === "starting" ? "idle" : "bad", why || "bad"];
}

// A line of points, as wide as the time they cover; where there was no value there is no line.
function draw(parent, points, tag, width, height) {
  const known = points.filter(([, value]) => value != null);
  const key = `${points.length} ${points[0]?.[0]} ${points[points.length - 1]?.[0]}`;
  if (parent.drawn === key) return null;
  parent.drawn = key;
  if (known.length < 2) { parent.replaceChildren(); return null; }
  let [low, high] = known.reduce(([low, high], [, value]) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const range = [low, high];
  if (low === high) { const room = Math.max(1, Math.abs(low) * 1e-9); [low, high] = [low - room, high + room]; }
  const from = points[0][0], to = Math.max(points[points.length - 1][0], from + 1);
  const x = time => ((time - from) / (to - from) * width).toFixed(1), y = value => (height - 2 - (value - low) / (high - low) * (height - 4)).toFixed(1);
  const steps = tag.type === "bool";
  let path = "", pen = false;
  for (const [time, value] of points) {
    if (value == null) { pen = false; continue; }
    path += pen ? steps ? `H${x(time)}V${y(value)}` : `L${x(time)} ${y(value)}` : `M${x(time)} ${y(value)}`;
    pen = true;
  }
  const space = "http://www.w3.org/2000/svg";
  let svg = parent.querySelector("svg");
  if (!svg) {
    svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", "line");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(document.createElementNS(space, "path"));
    parent.replaceChildren(svg);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `${figure(range[0])} to ${figure(range[1])} in ${span((to - from) / 1000)}`);
  svg.firstChild.setAttribute("d", path);
  return { range, seconds: (to - from) / 1000 };
}

/* ---- one tag ---- */

async function detail(tag) {
  board.open = nameOf(tag);
  say(at("h-tag"), `${tag.device} · ${tag.tag}`);
  at("write-send").disabled = board.writing.has(board.open);
  say(at("write-result"), at("write-send").disabled ? WRITING : "");
  at("write-value").value = "";
  at("tag-chart").replaceChildren(make("div"), make("div", "scale", make("span"), make("span")));
  refresh(tag);
  at("tag-box").showModal();
  try {
    const { points } = await ask("/api/history?" + new URLSearchParams({ device: tag.device, tag: tag.tag }));
    if (board.open !== nameOf(tag)) return;
    board.line = points;
    refresh(tag);
  } catch { /* the next one comes with the next round */ }
}

// Without a tag: there is none of this name any more, and what is shown is what it was.
function refresh(tag) {
  const gone = !tag, trouble = document.body.classList.contains("lost") ? "No connection to the gateway. This is what it said last." : frozen() ? "The gateway does not answer with values. This is what it said last." : gone ? "This tag is not in the list of values any more. This is what it was." : "";
  tag ??= at("write-form").tag;
  say(at("tag-trouble"), trouble);
  at("tag-trouble").hidden = !trouble;
  at("tag-box").classList.toggle("old", !!trouble);
  say(at("tag-value"), tag.value == null ? "no value" : figure(tag.value, digits(tag)));
  say(at("tag-unit"), tag.unit ?? "");
  const line = board.line, time = Date.parse(tag.time), drawn = at("tag-chart");
  if (line && line[line.length - 1]?.[0] < time) line.push([time, number(tag.value)]);
  const seen = line && draw(drawn.firstChild, line, tag, 520, 150);
  if (seen) {
    say(drawn.lastChild.firstChild, `${figure(seen.range[0])} … ${figure(seen.range[1])} ${tag.unit ?? ""}`);
    say(drawn.lastChild.lastChild, `the last ${span(seen.seconds)}`);
  }
  const limits = tag.min == null && tag.max == null ? "" : `${tag.min == null ? "…" : figure(tag.min)} to ${tag.max == null ? "…" : figure(tag.max)} ${tag.unit ?? ""}`;
  facts(at("tag-facts"), [["Exactly", typeof tag.value === "number" && String(tag.value) !== figure(tag.value, digits(tag)) ? String(tag.value) : ""], ["Quality", trouble ? "unknown" : judged(tag)[1]], ["Read", !tag.time ? "" : trouble ? tag.time : `${ago(tag.time)} (${tag.time})`], ["Topic", tag.topic], ["Means", tag.description ?? ""], ["Normal", limits]]);
  at("write-form").hidden = !tag.may_write || gone;
  say(at("write-label"), `New value${tag.unit ? ` in ${tag.unit}` : ""}${tag.write_min != null || tag.write_max != null ? `, ${tag.write_min ?? "…"} to ${tag.write_max ?? "…"}` : ""}`);
  at("write-form").tag = tag;
}

const REFUSED = {
  range: "it is outside the limits of this tag", access: "this tag may not be written", expired: "it came too late", payload: "this is no value for this tag",
  busy: "too many commands are waiting, try again", paused: "the device is paused", clock: "the gateway does not know the time", journal: "the gateway's disk does not take it", stopping: "the gateway is stopping", absent: "the device does not have this part",
};

// A comma before three digits: 1,500 is one and a half to one reader, and a thousand times that to the next.
const ambiguous = text => /^\s*-?(?!0+,)\d+,\d{3}\s*$/.test(text);

// What is typed as the JSON that the tag's type asks for; null: it is none.
function typed(text, type) {
  if (type === "text") return JSON.stringify(text);
  text = text.trim().replace(/^(-?\d+),(\d+)$/, "$1.$2");
  if (type === "bool") return { on: "true", true: "true", 1: "true", off: "false", false: "false", 0: "false" }[text.toLowerCase()] ?? null;
  return /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/.test(text) ? text : null;
}

const WRITING = "Writing …";

async function write() {
  const { tag } = at("write-form"), name = nameOf(tag), result = at("write-result"), value = typed(at("write-value").value, tag.type);
  if (tag.type !== "text" && ambiguous(at("write-value").value)) return say(result, "A comma before three digits can mean two things. Type 1500 or 1.5, without a comma.");
  if (value == null) return say(result, tag.type === "bool" ? "Type on or off." : "Type a number.");
  if (!await sure(`Write ${value} ${tag.unit ?? ""} to ${tag.device} · ${tag.tag}?`)) return;
  say(result, WRITING);
  at("write-send").disabled = true;
  board.writing.add(name);
  // Another tag may be open by the time of the answer, and must not be given this one's.
  const tell = text => { if (board.open === name) say(result, text); };
  try {
    const said = await ask("/api/command/write", `{"device":${JSON.stringify(tag.device)},"tag":${JSON.stringify(tag.tag)},"value":${value},"id":"${identity()}"}`);
    if (said.outcome === "done") tell(said.read_back == null ? "Done." : `Done. The device now says ${figure(said.read_back)} ${tag.unit ?? ""}.`);
    else if (said.outcome === "refused") tell(`Not written: ${REFUSED[said.reason] ?? said.reason}.`);
    else if (said.outcome === "pending") tell("Sent, and not answered yet. Look at the value before you try again.");
    else tell(`It did not work: ${said.reason ?? "unknown"}.`);
  } catch (trouble) {
    // A gateway that breaks off has perhaps done it all the same.
    const refused = trouble.said && trouble.status < 500;
    tell(refused ? `Not written: ${trouble.message}.` : "No clear answer from the gateway. Look at the value before you try again.");
  }
  board.writing.delete(name);
  if (board.open === name) at("write-send").disabled = false;
  values().catch(() => {});
}

// A browser may send a request again whose answer it lost: by its name the gateway knows that it is the same.
const identity = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, "0")).join("");

async function operate(operation) {
  const device = board.device; // the one that is asked about: another may be chosen, or take its place, before the answer
  const words = { pause: `Pause ${device}? Its values are bad until it is resumed, and it cannot be written.`, reset: `Reset ${device}? Its counters begin at zero and what was learned of it is forgotten.` };
  if (words[operation] && !await sure(words[operation])) return;
  const tell = text => { if (board.device === device) say(at("operated"), text); };
  try {
    tell({ pause: "Pausing …", resume: "Resuming …", reset: "Resetting …" }[operation] ?? "");
    const { outcome } = await ask("/api/command/" + operation, JSON.stringify({ device }));
    const done = { pause: "Paused.", resume: "Resumed.", reset: "Reset." };
    const asked = { poll: "Asked.", pause: "Pausing …: not yet, the bus is still busy. Look at the device's state." };
    tell((outcome === "done" && done[operation]) || asked[operation] || "Asked. The bus is still busy.");
  } catch (trouble) {
    tell(trouble.said && trouble.status < 500 ? `Not done: ${trouble.message}.` : "No clear answer from the gateway. Look before you try again.");
  }
}

function sure(text) {
  const box = at("ask-box");
  say(at("ask-text"), text);
  box.returnValue = "no";
  box.showModal();
  return new Promise(done => box.addEventListener("close", () => done(box.returnValue === "yes"), { once: true }));
}

/* ---- who is there ---- */

async function login() {
  say(at("login-error"), "");
  try {
    await ask("/api/login", JSON.stringify({ user: at("login-user").value, password: at("login-password").value }));
    at("login-box").close();
    board.pointsAt = -Infinity;
    await session();
    await round();
  } catch (trouble) {
    say(at("login-error"), trouble.said ? `Not logged in: ${trouble.message}.` : "No answer from the gateway.");
    await session().catch(() => {});
  }
  at("login-password").value = "";
}

async function logout() {
  await ask("/api/logout", "{}").catch(() => {});
  await session().catch(() => {});
  await round();
}

at("login").onclick = () => { say(at("login-error"), ""); at("login-box").showModal(); };
at("login-cancel").onclick = () => at("login-box").close();
at("login-form").onsubmit = event => { event.preventDefault(); login(); };
at("logout").onclick = logout;
at("tag-close").onclick = () => at("tag-box").close();
at("tag-box").onclose = () => { board.open = board.line = null; };
at("write-form").onsubmit = event => { event.preventDefault(); write(); };
at("operate").onclick = event => { const operation = event.target.dataset?.operation; if (operation) operate(operation); };
at("choose").onsubmit = event => event.preventDefault();
at("device").onchange = event => choose(event.target.value);
at("filter").oninput = () => { board.from = 0; clearTimeout(board.typing); board.typing = setTimeout(() => values().catch(() => {}), 200); };
at("before").onclick = () => { board.from = Math.max(0, board.from - PAGE); values().catch(() => {}); };
at("after").onclick = () => { board.from += PAGE; values().catch(() => {}); };
at("more-events").onclick = () => { board.events = !board.events; if (board.status) events(); };
setInterval(pulse, 1000);
live();
