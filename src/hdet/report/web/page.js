// What the reader does with the picture (see picture.js): controls, zoom, keys; and news of a run.
"use strict";

function move(step) {
  const all = ends();
  state.cursor = Math.min(Math.max(step, all[0]), all[1]);
  place();
}

function advance(rows) {
  const run = shown().find((one) => one.x.length);
  if (!run) return;
  const [from, to] = view(), i = nearest(run.x, Math.min(Math.max(state.cursor ?? to, from), to));
  move(run.x[Math.min(Math.max(i + rows, 0), run.x.length - 1)]);
}

function zoom(range) {
  const all = ends();
  if (range) {
    range = [Math.max(range[0], all[0]), Math.min(range[1], all[1])];
    if (range[1] - range[0] < 2) range = [Math.max(range[0] - 1, all[0]), Math.min(range[1] + 1, all[1])];
    if (range[0] <= all[0] && range[1] >= all[1]) range = null;
  }
  state.range = range;
  buttons();
  return draw();
}

function zoomBy(factor) {
  const [from, to] = view(), at = Math.min(Math.max(state.cursor ?? to, from), to);
  return zoom([at - (at - from) * factor, at + (to - at) * factor]);
}

function keys(event) {
  const [from, to] = view(), rows = Math.max(1, Math.round((shown()[0]?.x.length || 10) / 20));
  const doing = {
    ArrowLeft: () => advance(-1), ArrowRight: () => advance(1), ArrowDown: () => advance(-1), ArrowUp: () => advance(1),
    PageDown: () => advance(-rows), PageUp: () => advance(rows), Home: () => move(from), End: () => move(to),
    "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2), Escape: () => zoom(null),
  }[event.key];
  if (!doing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  doing();
}

function point(event) {
  const { from, to, width } = scale(), left = $("picture").getBoundingClientRect().left + LEFT;
  const share = (event.clientX - left) / width;
  if (share < -0.02 || share > 1.02) return;
  const at = from + share * (to - from), steps = shown().flatMap((run) => (run.x.length ? [run.x[nearest(run.x, at)]] : []));
  if (steps.length) move(steps.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a)));
}

const swatch = (run, dash) => {
  const name = "http://www.w3.org/2000/svg", svg = document.createElementNS(name, "svg"), line = document.createElementNS(name, "line");
  for (const [key, value] of Object.entries({ width: 26, height: 8, "aria-hidden": true, class: "swatch" })) svg.setAttribute(key, value);
  const strokes = { solid: "", dash: "6 3", dot: "2 3" };
  for (const [key, value] of Object.entries({ x2: 26, y1: 4, y2: 4, stroke: run.colour, "stroke-width": 3, "stroke-dasharray": strokes[dash || run.dash] || "" })) line.setAttribute(key, value);
  svg.append(line);
  return svg;
};

function toggle(key, words, picture) {
  const box = element("input", { type: "checkbox", checked: !state.off.has(key) });
  box.addEventListener("change", () => {
    if (box.checked) state.off.delete(key); else state.off.add(key);
    draw();
  });
  return element("label", {}, box, ...(picture ? [picture] : []), words);
}

// Controls are made anew only where they differ, and the one in use keeps its focus.
let controls = "";
function toggles() {
  const runs = figure.runs, all = runs.flatMap((run) => run.curves), made = [];
  const kinds = new Set(all.map((c) => c.kind)), happened = new Set(runs.flatMap((run) => (run.events || []).map((e) => e.kind)));
  const resumed = runs.some((run) => (run.resumed || []).length), replicas = all.some((c) => c.replicas.length);
  const written = runs.length === 1 && all.some((c) => c.written);
  const now = JSON.stringify([runs.map((r) => [r.name, r.colour, r.dash]), [...kinds], [...happened], resumed, replicas, written, figure.choices]);
  if (now === controls) return;
  controls = now;
  if (runs.length > 1) made.push(...runs.map((run) => toggle("run " + run.name, run.name, swatch(run))));
  if (figure.choices && figure.choices.length > 1) {
    const choose = element("select", { id: "choose", ariaLabel: "Drawn above" }, ...figure.choices.map((c, i) => element("option", { value: i, textContent: c.title, selected: i === state.choice })));
    choose.addEventListener("change", () => { state.choice = Number(choose.value); draw(); });
    made.push(choose);
  }
  const one = runs[0];
  if (kinds.has("training loss") && kinds.has("probe loss")) made.push(toggle("training loss", "training loss"), toggle("probe loss", "probe loss", one && swatch({ colour: "currentColor" }, "dot")));
  if (replicas) made.push(toggle("replicas", "each replica (thin)"));
  if (written) made.push(toggle("reference", "rate you wrote (dashed) and found (dotted)"));
  if (happened.size || resumed) {
    made.push(toggle("events", "events"));
    for (const kind of happened) made.push(key(kind, MARKS[kind][2], MARKS[kind][1]));
    if (resumed) made.push(key("resumed", "┊", "currentColor"));
  }
  const name = (one) => one.id || one.labels?.[0]?.textContent, active = document.activeElement;
  const held = $("toggles").contains(active) && name(active);
  $("toggles").replaceChildren(...made);
  if (held) [...$("toggles").querySelectorAll("input, select")].find((one) => name(one) === held)?.focus();
}

const key = (words, sign, color) => {
  const mark = element("span", { className: "sign", textContent: sign, ariaHidden: "true" });
  mark.style.cssText = `color:${color};margin-right:.3rem`;
  return element("span", { className: "key" }, mark, words);
};

let offered = "";
function buttons() {
  const spans = figure.runs.length === 1 ? figure.runs[0].spans || [] : [], searched = spans.filter(([phase]) => SEARCHING.includes(phase));
  const all = ends(), end = searched.length && searched[searched.length - 1][2], offer = [["Whole run", null]];
  if (searched.length && end < all[1]) offer.push(["Search", [all[0], end + 1]], ["After the search", [end + 1, all[1]]]);
  $("zooms").hidden = offer.length < 2 && !state.range;
  const pressed = (range) => JSON.stringify(range) === JSON.stringify(state.range);
  const now = JSON.stringify([offer, state.range]);
  if (now === offered) return;
  offered = now;
  const old = [...$("zooms").children];
  if (old.length !== offer.length) $("zooms").replaceChildren(...offer.map(([words]) => element("button", { type: "button", textContent: words })));
  [...$("zooms").children].forEach((button, i) => {
    button.onclick = () => zoom(offer[i][1]);
    button.setAttribute("aria-pressed", pressed(offer[i][1]));
  });
}

function copies() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.onclick = async () => {
      const text = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);  // for the reader's own Ctrl-C
      }
    };
  }
}

// --- beginning, and new data

async function unpack() {
  const packed = $("plotly"), letters = atob(packed.textContent), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  packed.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  document.head.append(element("script", { textContent: code }));
}

function show() {
  const empty = !figure.runs.some((run) => run.x.length);
  $("figure").hidden = $("keys").hidden = empty;
  if (empty) return undefined;
  toggles();
  buttons();
  return draw();
}

// A run under way: the server sends the figure and the words whenever there is more.
function listen() {
  const source = new EventSource("events"), live = $("live");
  source.onmessage = async (event) => {
    const news = JSON.parse(event.data);
    live.textContent = news.live;
    if (!news.figure) return;
    figure = news.figure;
    const open = [...document.querySelectorAll("details[open]")].map((one) => one.dataset.name);
    const active = document.activeElement, within = $("words").contains(active);
    if (!within) {
      $("words").innerHTML = news.words;
      document.querySelectorAll("details").forEach((one) => { one.open ||= open.includes(one.dataset.name); });
      copies();
    }
    document.title = news.title;
    $("status").textContent = figure.status;
    $("status").className = figure.look;
    await show();
  };
  source.onerror = () => {
    live.textContent = "The connection is lost; trying again …";
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
}

async function begin() {
  copies();
  if (!$("plotly").textContent) return;  // a page without a picture
  if (typeof DecompressionStream === "undefined") {
    $("keys").hidden = false;
    $("keys").textContent = "This browser is too old for the picture. The numbers below are complete.";
    return;
  }
  const empty = !figure.runs.some((run) => run.x.length);
  $("figure").hidden = empty;
  if (!empty) {
    preview();
    await new Promise((shown) => setTimeout(shown, 30));  // time to paint it
    document.body.dataset.first = String(Math.round(performance.now()));
  }
  await unpack();
  $("picture").replaceChildren();
  const picture = $("picture");
  await show();
  document.querySelector(".frame").addEventListener("pointermove", point);
  document.querySelector(".frame").addEventListener("pointerdown", (event) => {
    point(event);
    $("cursor").focus({ preventScroll: true });  // for the arrow keys
  });
  picture.parentElement.addEventListener("dblclick", () => zoom(null));
  $("cursor").addEventListener("keydown", keys);
  let width = picture.clientWidth;
  new ResizeObserver(() => {
    if (picture.clientWidth === width || !picture.clientWidth) return;
    width = picture.clientWidth;
    draw();
  }).observe(picture);
  if ($("live")) listen();
  document.body.dataset.ready = String(Math.round(performance.now()));
}
begin();
