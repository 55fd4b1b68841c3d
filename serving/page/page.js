// The page of a served run. Everything from the service is put in as text, and the key never leaves this variable.
"use strict";

const at = (id) => document.getElementById(id);
let served = {};
let asked = 0;

function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function call(path, body) {
  const headers = {};
  const key = at("key").value.trim();
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const options = { headers, credentials: "omit", method: body ? "POST" : "GET" };
  if (body) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) {
    const flaws = (found.errors || []).map((one) => `${one.pointer}: ${one.detail}`);
    throw new Error([found.detail, ...flaws].filter(Boolean).join("\n") || `the service answered ${response.status}`);
  }
  return found;
}

function say(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? error.message : "";
}

const whole = (number) => Number(number).toLocaleString("en");
const short = (number) => (number === null || number === undefined ? "–" : Number(number).toPrecision(3));

async function begin() {
  const told = await call("v1/info");
  served = told.runs;
  const names = Object.keys(served);
  for (const id of ["run", "beside"]) {
    const before = at(id).value;
    const choices = names.map((name) => new Option(name, name));
    at(id).replaceChildren(...(id === "beside" ? [new Option("nothing", "")] : []), ...choices);
    if (names.includes(before)) at(id).value = before;
  }
  const first = served[names[0]];
  at("served").textContent =
    `${names.join(", ")}: ${whole(first.users)} users, ${whole(first.items)} items, ${whole(first.events)} events`;
  at("features").placeholder = features(first.features);
  at("where").placeholder = `columns: ${first.where.join(", ")}`;
}

function features(all) {
  const own = all.filter((one) => one.side === "user" && one.kind !== "sequence").map((one) => one.column);
  return own.length ? `{"${own[own.length > 1 ? 1 : 0]}": ...}, of ${own.join(", ")}` : "{}";
}

function history() {
  return at("history").value.split(/[\s,]+/).filter(Boolean);
}

function request(run) {
  const body = { run, k: 10, explain: true, explore: at("explore").checked, rules: at("rules").checked ? "run" : "none" };
  const user = at("user").value.trim();
  if (user) body.user = user;
  if (history().length) body.history = history();
  if (at("where").value.trim()) body.where = at("where").value.trim();
  const told = at("features").value.trim();
  if (told) {
    try {
      body.features = JSON.parse(told);
    } catch {
      throw new Error('The features are no JSON object; write them as {"age": 31}.');
    }
  }
  return body;
}

async function recommend() {
  const number = ++asked;
  say(null);
  try {
    if (!Object.keys(served).length) await begin();
    const runs = [at("run").value, at("beside").value].filter(Boolean);
    const answers = await Promise.all(runs.map((run) => call("v1/recommend", request(run))));
    if (number !== asked) return; // a later question was asked meanwhile
    at("lists").className = answers.length > 1 ? "two" : "";
    at("lists").replaceChildren(...answers.map((answer, place) => list(answer, answers[1 - place])));
  } catch (error) {
    if (number === asked) say(error);
  }
}

function list(answer, other) {
  const card = element("section", undefined, "list");
  card.append(element("h2", `${answer.run.name}${answer.user === null ? "" : `, user ${answer.user}`}`));
  const rests = { history: "from the history", features: "from the user's features", segment: "popular among users like this one", popular: "popular among everybody" };
  const told = [
    rests[answer.rung] || answer.rung,
    `${whole(answer.candidates)} of ${whole(answer.eligible)} items ranked`,
    `${short(answer.timings_ms.total)} ms`,
    `version ${answer.run.version.slice(0, 8)}`,
  ];
  if (answer.relaxed.length) told.push(`gave way: ${answer.relaxed.join(", ")}`);
  for (const [kind, names] of Object.entries(answer.unknown || {})) told.push(`unknown ${kind}: ${names.join(", ")}`);
  const theirs = other ? other.items.map((one) => one.item) : [];
  if (other) {
    const shared = answer.items.filter((one) => theirs.includes(one.item)).length;
    told.push(`${shared} of ${answer.items.length} in both lists`);
  }
  card.append(element("p", told.join(" · "), "about"));
  if (!answer.items.length) card.append(element("p", "No item passes.", "about"));
  const rows = element("ol");
  answer.items.forEach((one, place) => rows.append(row(one, place, other ? theirs.indexOf(one.item) : undefined)));
  card.append(rows);
  return card;
}

function row(one, place, elsewhere) {
  const line = element("li");
  line.dataset.item = one.item;
  line.append(element("span", String(place + 1), "rank"), named(one), element("span", short(one.score), "score"));
  const more = element("div", undefined, "more");
  const id = one.title === one.item ? "" : `${one.item} · `;
  const tasks = Object.entries(one.tasks || {}).map(([name, value]) => `${name} ${short(value)}`);
  more.append(element("div", id + tasks.join(" · ")));
  const because = one.why && one.why.because_of ? one.why.because_of : [];
  if (because.length) more.append(element("div", `because of ${because.map((b) => b.title || b.item).join(", ")}`));
  more.append(tags(one, place, elsewhere));
  line.append(more);
  return line;
}

function named(one) {
  const button = element("button", one.title || one.item, "name");
  button.type = "button";
  button.title = "items like it";
  button.addEventListener("click", () => similar(one));
  return button;
}

function tags(one, place, elsewhere) {
  const line = element("div", undefined, "tags");
  for (const source of one.sources || []) line.append(element("span", source, "tag"));
  if (one.pinned) line.append(element("span", "pinned", "tag rule"));
  if (one.explored) line.append(element("span", `explored, chance ${short(one.propensity)}`, "tag rule"));
  if (elsewhere !== undefined) line.append(move(elsewhere - place, elsewhere < 0));
  const act = element("button", "as if clicked", "act");
  act.type = "button";
  act.addEventListener("click", () => clicked(one.item));
  line.append(act);
  return line;
}

function move(by, absent) {
  if (absent) return element("span", "only here", "tag");
  if (by === 0) return element("span", "same place", "tag");
  const places = Math.abs(by) === 1 ? "1 place" : `${Math.abs(by)} places`;
  return element("span", `${places} ${by > 0 ? "higher" : "lower"}`, `tag ${by > 0 ? "up" : "down"}`);
}

function clicked(item) {
  at("history").value = [...history(), item].join(" ");
  recommend();
}

async function similar(one) {
  say(null);
  const place = at("similar");
  try {
    const found = await call("v1/similar", { items: [one.item], k: 10, run: at("run").value });
    place.replaceChildren(element("h2", `Like ${one.title || one.item}`));
    const rows = element("ol");
    for (const [rank, like] of (found.seeds[0] ? found.seeds[0].items : []).entries()) {
      const line = element("li");
      line.dataset.item = like.item;
      line.append(element("span", String(rank + 1), "rank"), named(like), element("span", short(like.score), "score"));
      const more = element("div", undefined, "more");
      more.append(tags(like, rank, undefined));
      line.append(more);
      rows.append(line);
    }
    place.append(rows);
    place.hidden = false;
    place.scrollIntoView({ block: "nearest" });
  } catch (error) {
    say(error);
  }
}

let mayLookUp = true; // a key without the scope is not tried at every letter

async function suggest() {
  const prefix = at("user").value.trim();
  if (!prefix || !mayLookUp) return;
  try {
    const query = new URLSearchParams({ prefix, limit: "8", run: at("run").value });
    const found = await call(`v1/users?${query}`);
    if (at("user").value.trim() !== prefix) return; // more letters were typed meanwhile
    at("users").replaceChildren(...found.users.map((user) => new Option(user, user)));
  } catch {
    mayLookUp = false;
    at("users").replaceChildren();
  }
}

at("user").addEventListener("input", suggest);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  recommend();
});
at("key").addEventListener("change", () => {
  mayLookUp = true;
  begin().then(() => say(null), say);
});
begin().catch(say);
