// What a report's figure looks like, by plotly: panels over one axis, with one cursor over all.
// Text, grid and reference lines are coloured by the style sheet, which follows light and dark.
"use strict";
const $ = (id) => document.getElementById(id);
const PANEL = 200, GAP = 46, TOP = 46, BOTTOM = 48, LEFT = 58, RIGHT = 14;
const BANDS = { climb: "#2f83d6", settle: "#7d8794", trial: "#a05fc4", warmup: "#c2703d", hold: "#16966f", track: "#16966f", frozen: "#ad7d12", observe: "#7d8794" };
const SEARCHING = ["climb", "settle", "trial", "warmup"];
const MARKS = { "roll-back": ["triangle-down", "#d6336c", "▼"], "replica left out": ["x", "#ad7d12", "✕"], "new level": ["diamond", "#a05fc4", "◆"] };
const state = { off: new Set(), choice: 0, range: null, cursor: null };
let figure = JSON.parse($("data").textContent);

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const say = (value, digits = 4) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(digits - 1).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(digits)));
};
const finite = (values) => values.filter((v) => v !== null && v !== undefined);
const shown = () => figure.runs.filter((run) => !state.off.has("run " + run.name));
const curves = (run) => run.curves.filter((c) => (c.choice === undefined || c.choice === state.choice) && !state.off.has(c.kind));
const panels = () => figure.panels.map((p, i) => (i === 0 && figure.choices ? figure.choices[state.choice] : p));
const ends = () => {
  const all = figure.runs.flatMap((run) => (run.x.length ? [run.x[0], run.x[run.x.length - 1]] : []));
  return all.length ? [Math.min(...all), Math.max(...all, Math.min(...all) + 1)] : [0, 1];
};
const view = () => state.range || ends();

// --- what is drawn

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
}

// The ends of a panel's axis, of what is in view. A loss that has diverged must not flatten the
// rest: the axis ends a little above what most of the run has, and above its beginning.
function bounds(index, panel) {
  const [from, to] = view(), values = [], first = [];
  for (const run of shown()) {
    for (const curve of curves(run)) {
      if (curve.panel !== index) continue;
      const seen = (ys) => ys.filter((y, i) => y !== null && run.x[i] >= from && run.x[i] <= to);
      const base = seen(curve.y);
      values.push(...base);
      if (base.length) first.push(base[0]);
      if (!state.off.has("replicas")) curve.replicas.forEach((ys) => { for (const y of seen(ys)) values.push(y); });
      if (index === 0 && curve.written && drawsRates()) values.push(curve.written);
      if (index === 0 && curve.found && drawsRates()) values.push(curve.found);
    }
  }
  const good = values.filter((y) => !panel.log || y > 0).sort((a, b) => a - b);
  if (!good.length) return [0, 1];
  let low = good[0], high = good[good.length - 1];
  if (panel.log) {
    low = Math.log10(Math.max(panel.low || low, high / 1e5));
    high = Math.log10(panel.high || high);
    const room = Math.max(0.07 * (high - low), 0.05);
    return [low - room, high + room];
  }
  if (panel.clip) {
    const most = good[Math.floor(0.8 * (good.length - 1))], begun = Math.max(...first);
    const reach = from <= ends()[0] ? begun + 0.35 * (begun - low) : -Infinity;
    high = Math.min(high, Math.max(reach, most + 2 * (most - low)));
  }
  low = panel.low ?? low; high = panel.high ?? high;
  const room = Math.max(0.06 * (high - low), 1e-6 * Math.abs(high), 1e-12);
  return [low - room, high + room];
}

const drawsRates = () => shown().length === 1 && !state.off.has("reference");

function traces(limits) {
  const made = [], names = panels();
  const add = (run, panel, x, y, more) => made.push({
    type: "scatter", mode: "lines", hoverinfo: "skip", x, y, xaxis: "x", yaxis: panel ? "y" + (panel + 1) : "y", ...more,
  });
  for (const run of shown()) {
    for (const curve of curves(run)) {
      const dash = curve.kind === "probe loss" ? "dot" : run.dash;
      const y = names[curve.panel].log ? (ys) => ys.map((v) => (v > 0 ? v : null)) : (ys) => ys;
      if (!state.off.has("replicas")) {
        for (const ys of curve.replicas) add(run, curve.panel, run.x, y(ys), { opacity: 0.55, line: { color: run.colour, width: 1, dash } });
      }
      add(run, curve.panel, run.x, y(curve.y), { line: { color: run.colour, width: curve.kind === "probe loss" ? 1.6 : 2.4, dash } });
    }
    if (!state.off.has("events")) events(run, limits, names, add);
  }
  return made;
}

function events(run, limits, names, add) {
  for (const [kind, [symbol, color]] of Object.entries(MARKS)) {
    const steps = (run.events || []).filter((e) => e.kind === kind).map((e) => e.step);
    if (!steps.length) continue;
    for (const curve of curves(run)) {
      if (curve.kind === "probe loss") continue;
      const [low, high] = limits[curve.panel], log = names[curve.panel].log;
      const y = steps.map((step) => {
        const value = curve.y[nearest(run.x, step)];
        if (value === null) return log ? null : high;
        return log ? value : Math.min(value, high);
      });
      add(run, curve.panel, steps, y, { mode: "markers", cliponaxis: false, marker: { symbol, color, size: 10, line: { width: 1, color: "#fff" } } });
    }
  }
  // What lies beyond the axis is marked at its end, unless an event is marked there.
  const marked = new Set((run.events || []).map((e) => e.step));
  for (const curve of curves(run)) {
    if (names[curve.panel].log) continue;
    const high = limits[curve.panel][1];
    const over = run.x.filter((step, i) => curve.y[i] > high && !marked.has(step));
    if (over.length) add(run, curve.panel, over, over.map(() => high), { mode: "markers", cliponaxis: false, marker: { symbol: "triangle-up", color: run.colour, size: 8 } });
  }
}

function shapes() {
  const runs = shown(), made = [];
  if (runs.length !== 1) return made;
  const run = runs[0], steps = run.x, spans = run.spans || [];
  spans.forEach(([phase, from, to], i) => {
    const end = i + 1 < spans.length ? spans[i + 1][1] : to;
    made.push({ type: "rect", layer: "below", xref: "x", yref: "paper", x0: from, x1: end, y0: 0, y1: 1, line: { width: 0 }, fillcolor: BANDS[phase] || "#7d8794", opacity: 0.09 });
  });
  if (!state.off.has("events")) {
    for (const step of run.resumed || []) made.push({ type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1, line: { width: 1.4, dash: "dot", color: "#7d8794" } });
  }
  if (drawsRates()) {
    for (const curve of curves(run)) {
      if (curve.panel !== 0) continue;
      const line = (y, dash) => made.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: y, y1: y, line: { width: 1.4, dash, color: "#7d8794" } });
      if (curve.written) line(curve.written, "dash");
      if (curve.found) line(curve.found, "dot");
    }
  }
  return made;
}

function layout(limits) {
  const names = panels(), count = names.length;
  const inner = count * PANEL + (count - 1) * GAP;
  const made = {
    width: $("picture").clientWidth, height: TOP + inner + BOTTOM, margin: { l: LEFT, r: RIGHT, t: TOP, b: BOTTOM }, showlegend: false, hovermode: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { size: 12, family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif" }, shapes: shapes(), annotations: [],
    xaxis: { title: { text: figure.x, standoff: 6 }, range: view(), anchor: count > 1 ? "y" + count : "y", showgrid: false, zeroline: false, nticks: 7, tickformat: ",~r", exponentformat: "none" },
  };
  names.forEach((panel, i) => {
    const top = 1 - (i * (PANEL + GAP)) / inner, bottom = top - PANEL / inner;
    const axis = { domain: [Math.max(0, bottom), Math.min(1, top)], range: limits[i], fixedrange: true, zeroline: false, nticks: 6, ticks: "outside", ticklen: 4, tickcolor: "rgba(0,0,0,0)" };
    if (panel.log) {
      const span = limits[i][1] - limits[i][0];
      Object.assign(axis, { type: "log", dtick: span > 2.2 ? 1 : span > 0.9 ? "D2" : undefined, exponentformat: "power", minexponent: 4 });
    }
    made["yaxis" + (i ? i + 1 : "")] = axis;
    made.annotations.push({ text: panel.title, x: 0, xref: "paper", xanchor: "left", xshift: -LEFT + 8, y: top, yref: "paper", yanchor: "bottom", yshift: i ? 8 : 24, showarrow: false, font: { size: 13 } });
  });
  return made;
}

// The curves alone, at once: plotly takes about a second to begin.
function preview() {
  const count = panels().length, limits = panels().map((panel, i) => bounds(i, panel)), { x, from, to } = scale();
  const name = "http://www.w3.org/2000/svg", svg = document.createElementNS(name, "svg");
  svg.setAttribute("width", $("picture").clientWidth);
  svg.setAttribute("height", TOP + count * PANEL + (count - 1) * GAP + BOTTOM);
  for (const trace of traces(limits)) {
    if (trace.mode !== "lines") continue;
    const i = Number(trace.yaxis.slice(1) || 1) - 1, [low, high] = limits[i], log = panels()[i].log, path = document.createElementNS(name, "path");
    const y = (value) => TOP + i * (PANEL + GAP) + PANEL * (1 - ((log ? Math.log10(value) : value) - low) / (high - low));
    let d = "", pen = "M";
    trace.x.forEach((step, row) => {
      const value = trace.y[row];
      if (value === null || step < from || step > to) { pen = "M"; return; }
      d += `${pen}${x(step).toFixed(1)} ${Math.max(y(value), TOP + i * (PANEL + GAP)).toFixed(1)}`;
      pen = "L";
    });
    for (const [key, set] of Object.entries({ d, fill: "none", stroke: trace.line.color, "stroke-width": trace.line.width, "stroke-opacity": trace.opacity || 1 })) path.setAttribute(key, set);
    svg.append(path);
  }
  $("picture").replaceChildren(svg);
}

async function draw() {
  const limits = panels().map((panel, i) => bounds(i, panel));
  await Plotly.react($("picture"), traces(limits), layout(limits), { responsive: false, displayModeBar: false, doubleClick: false });
  if (!$("picture").bound) {
    $("picture").bound = true;
    $("picture").on("plotly_relayout", (change) => {
      if (change["xaxis.range[0]"] !== undefined) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]].map(Math.round));
    });
  }
  label(limits);
  place();
}

// --- what lies over the picture, in HTML: names of the phases, the rates' labels, the cursor

const scale = () => {
  const [from, to] = view(), width = $("picture").clientWidth - LEFT - RIGHT;
  return { from, to, width, x: (step) => LEFT + ((step - from) / (to - from)) * width };
};

function label(limits) {
  const box = $("labels"), runs = shown(), { from, to, width, x } = scale();
  box.replaceChildren();
  if (runs.length !== 1) return;
  const spans = (runs[0].spans || []).map(([phase, a, b], i, all) => [phase, a, i + 1 < all.length ? all[i + 1][1] : b]);
  const clamp = (step) => x(Math.min(Math.max(step, from), to));
  const strip = (name, a, b) => {
    if (b < from || a > to) return false;
    const left = clamp(a), room = clamp(b) - left, text = element("span", { textContent: name });
    text.style.cssText = `left:${left}px;top:${TOP - 20}px`;
    box.append(text);
    const fits = text.getBoundingClientRect().width + 4 <= room;
    if (fits) text.style.width = room + "px"; else text.remove();
    return fits;
  };
  for (const [phase, a, b] of spans) {
    if (b < from || a > to) continue;
    const bar = element("i");
    bar.style.cssText = `left:${clamp(a)}px;width:${Math.max(clamp(b) - clamp(a), 1)}px;top:${TOP - 20}px;background:${BANDS[phase] || "#7d8794"}`;
    box.append(bar);
  }
  const searched = spans.filter(([phase]) => SEARCHING.includes(phase));
  const put = searched.map(([phase, a, b]) => strip(phase, a, b));
  if (searched.length > 1 && put.some((fits) => !fits)) {
    [...box.querySelectorAll("span")].forEach((one) => one.remove());
    strip("search", searched[0][1], searched[searched.length - 1][2]);
  }
  spans.filter(([phase]) => !SEARCHING.includes(phase)).forEach(([phase, a, b]) => strip(phase, a, b));
  if (!drawsRates()) return;
  const rates = curves(runs[0]).find((c) => c.panel === 0), [low, high] = limits[0];
  if (!rates || !rates.written) return;
  const y = (rate) => TOP + PANEL * (1 - (Math.log10(rate) - low) / (high - low));
  const note = (words, rate) => {
    if (y(rate) < TOP || y(rate) > TOP + PANEL) return;
    const made = element("span", { textContent: words, className: "note" });
    const above = y(rate) - 18 < TOP ? y(rate) + 3 : y(rate) - 18;
    made.style.cssText = `right:${RIGHT + 4}px;top:${above}px`;
    box.append(made);
  };
  const near = rates.found && Math.abs(y(rates.found) - y(rates.written)) < 34;
  if (near) note(`you wrote ${say(rates.written, 3)}, found ${say(rates.found, 3)}`, Math.max(rates.written, rates.found));
  else {
    note(`you wrote ${say(rates.written, 3)}`, rates.written);
    if (rates.found) note(`found ${say(rates.found, 3)}`, rates.found);
  }
}

function place() {
  const cursor = $("cursor"), { from, to, width, x } = scale(), all = ends();
  cursor.style.cssText = `left:${LEFT}px;top:${TOP}px;width:${width}px;height:${$("picture").clientHeight - TOP - BOTTOM}px`;
  const at = Math.min(Math.max(state.cursor ?? to, from), to);
  cursor.firstElementChild.hidden = state.cursor === null;
  cursor.firstElementChild.style.left = x(at) - LEFT + "px";
  $("readout").replaceChildren(...read(at));
  cursor.setAttribute("aria-valuemin", all[0]);
  cursor.setAttribute("aria-valuemax", all[1]);
  cursor.setAttribute("aria-valuenow", at);
  cursor.setAttribute("aria-valuetext", $("readout").textContent);
}

function read(at) {
  const lines = [element("b", { textContent: `${state.cursor === null ? "Newest: " : ""}${figure.x} ${at.toLocaleString("en")}` })], several = figure.runs.length > 1;
  for (const run of shown()) {
    const slack = 0.01 * (view()[1] - view()[0]);
    if (!run.x.length || at > run.x[run.x.length - 1] + slack || at < run.x[0] - slack) continue;
    const i = nearest(run.x, at), parts = [];
    const phase = (run.spans || []).filter(([, a]) => a <= run.x[i]).pop();
    if (phase && !several) parts.push(phase[0]);
    for (const curve of curves(run)) {
      const name = curve.kind === "base" ? panels()[curve.panel].title : curve.kind;
      const each = finite(curve.replicas.map((ys) => ys[i]));
      if (curve.y[i] === null && !(curve.panel && !SEARCHING.includes(phase && phase[0]))) continue;
      let text = `${name} ${curve.y[i] === null ? "not finite" : say(curve.y[i])}`;
      if (!several && Math.min(...each) < Math.max(...each)) text += ` (replicas ${say(Math.min(...each))} to ${say(Math.max(...each))})`;
      parts.push(text);
    }
    const happened = (run.events || []).filter((e) => e.step === run.x[i]).map((e) => e.kind);
    if (several) lines.push(element("span", { className: "run" }, swatch(run), `${run.name}: ${[...parts, ...happened].join(", ")}`));
    else {
      lines.push(...[...parts, ...happened].map((text) => element("span", { textContent: text })));
      if (run.words && run.words[i]) lines.push(element("br"), element("span", { className: "soft", textContent: run.words[i] }));
    }
  }
  return lines;
}
