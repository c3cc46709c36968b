// The latency of the cut at every place along the node order, term upon term, and what stands beside it.

const BARS = { w: 1080, h: 360, left: 66, right: 14, top: 34, bottom: 46 };
let cursor = null; // index into plan.order

const feasible = () =>
  plan.order.map((cut, i) => [cut, i]).filter(([cut]) => cut.feasible || cut.total_s > 0);

// Where each rival is along the order: by how many nodes it has on the device.
function rivals() {
  const found = [
    { item: plan.predicted, name: plan.solver.name === "none" ? "priced" : "plan", kind: "plan" },
  ];
  for (const item of plan.baselines)
    if (item.feasible && item.name !== plan.predicted.name)
      found.push({ item, name: item.name, kind: "rival" });
  plan.alternatives.forEach((item, i) => {
    if (item.head_nodes && item.tail_nodes) found.push({ item, name: `next best ${i + 1}`, kind: "next" });
  });
  return found;
}

const pricedItem = (item) =>
  canMove ? priced({ has_tail: item.tail_nodes > 0, ...item }).total : item.total_s;
const isMoved = () => Object.keys(planned).some((key) => planned[key] !== world[key]);

function drawBars() {
  BARS.w = Math.max(300, at("bars").clientWidth || 1080);
  const { w, h, left, right, top, bottom } = BARS;
  const costs = plan.order.map((cut) => (cut.total_s > 0 ? priced(cut) : null));
  const known = rivals().map(({ item }) => pricedItem(item));
  const best = Math.min(...known, ...costs.filter(Boolean).map((cost) => cost.total));
  const all = Math.max(...costs.filter(Boolean).map((cost) => cost.total));
  const high = Math.min(all, Math.max(best * 4, Math.min(Math.max(...known) * 1.15, best * 8))) * 1.04;
  const x = (place) => left + 14 + (place / Math.max(nodes.length, 1)) * (w - left - right - 28);
  const y = (s) => h - bottom - (Math.min(s, high) / high) * (h - top - bottom);
  const step = (w - left - right - 28) / Math.max(plan.order.length - 1, 1);
  const wide = Math.max(Math.min(step * 0.8, 26), 0.9);
  const made = svg("svg", {
    viewBox: `0 0 ${w} ${h}`,
    tabindex: 0,
    role: "slider",
    id: "bars-svg",
    "aria-label": "Place of the cut: how many nodes are on the device",
    "aria-valuemin": 0,
    "aria-valuemax": nodes.length,
    "aria-valuenow": cursor === null ? plan.predicted.head_nodes : plan.order[cursor].place,
    "aria-valuetext": cursor === null ? "the plan" : barText(cursor),
  });
  for (const tick of ticks(0, high, 6)) {
    made.append(
      svg("line", { class: "grid", x1: left, x2: w - right, y1: y(tick), y2: y(tick) }),
      text(left - 8, y(tick) + 4, tick ? seconds(tick) : "0", { "text-anchor": "end" }),
    );
  }
  const levels = costs.map(() => 0);
  for (const term of TERMS) {
    let d = "";
    costs.forEach((cost, i) => {
      if (!cost || !cost[term]) return;
      const [from, to] = [y(levels[i]), y(levels[i] + cost[term])];
      levels[i] += cost[term];
      if (from - to > 0.05)
        d += `M${(x(plan.order[i].place) - wide / 2).toFixed(2)} ${from.toFixed(2)}V${to.toFixed(2)}h${wide.toFixed(2)}V${from.toFixed(2)}z`;
    });
    made.append(svg("path", { d, fill: `var(--${term})` }));
  }
  costs.forEach((cost, i) => {
    const px = x(plan.order[i].place);
    if (cost && cost.total > high && step > 5)
      made.append(svg("path", { d: `M${px - 4} ${top - 2}l4 -6l4 6z`, fill: "var(--soft)" }));
    if (!plan.order[i].feasible && step > 3)
      made.append(text(px, h - bottom - 3, "×", { "text-anchor": "middle", class: "label" }));
  });
  for (const tick of ticks(0, nodes.length, w > 600 ? 10 : 5).filter(Number.isInteger))
    made.append(text(x(tick), h - bottom + 17, String(tick), { "text-anchor": "middle" }));
  made.append(
    text(
      (left + w - right) / 2,
      h - 8,
      w > 600
        ? "nodes on the device: none is sending the input, all is sending nothing"
        : "nodes on the device",
      { "text-anchor": "middle" },
    ),
  );
  drawMarks(made, x, y);
  if (cursor !== null)
    made.append(
      svg("line", {
        class: "cursor",
        x1: x(plan.order[cursor].place),
        x2: x(plan.order[cursor].place),
        y1: top,
        y2: h - bottom,
      }),
    );
  const had = document.activeElement && document.activeElement.id === "bars-svg";
  at("bars").replaceChildren(made);
  if (had) made.focus({ preventScroll: true });
  listen(made, x);
  sayBar();
}

function drawMarks(made, x, y) {
  const moving = isMoved();
  const labels = [];
  for (const { item, name, kind } of rivals()) {
    const [px, py] = [x(item.head_nodes), y(pricedItem(item))];
    const mark =
      kind === "plan"
        ? svg("path", { class: "plan", d: `M${px} ${py - 3}l8 -13h-16z` })
        : svg("circle", { class: "mark", cx: px, cy: py, r: kind === "next" ? 3.5 : 5 });
    mark.append(svg("title", {}, `${name}: ${seconds(pricedItem(item))}`));
    made.append(mark);
    if (kind === "next") continue;
    labels.push({
      px,
      py: py - (kind === "plan" ? 20 : 9),
      words: kind === "plan" ? `${name}, ${seconds(pricedItem(item))}` : name,
      weight: kind === "plan" ? 700 : 400,
    });
  }
  drawLabels(made, labels);
  if (moving) return; // what was measured was measured over the planned link
  for (const row of plan.measured) {
    if (row.head_nodes === null) continue;
    const px = x(row.head_nodes) + 7;
    const [low, high] = [
      row.low_s === null ? row.measured.total_s : row.low_s,
      row.high_s === null ? row.measured.total_s : row.high_s,
    ];
    const group = svg(
      "g",
      { class: "measured" },
      svg("path", { d: `M${px} ${y(low)}V${y(high)}M${px - 4} ${y(low)}h8M${px - 4} ${y(high)}h8` }),
      svg("rect", { x: px - 3.5, y: y(row.measured.total_s) - 3.5, width: 7, height: 7 }),
      svg(
        "title",
        {},
        `${row.name}, measured: ${seconds(row.measured.total_s)}, half of the rounds from ${seconds(low)} to ${seconds(high)}`,
      ),
    );
    made.append(group);
  }
}

// Words beside their marks, the plan's first; what would lie on another goes above it.
function drawLabels(made, labels) {
  const taken = [];
  for (const { px, py, words, weight } of labels) {
    const long = words.length * 6.6;
    const end = px + long > BARS.w - BARS.right ? "end" : "start";
    const beside = px + (end === "end" ? -11 : 11);
    const left = end === "end" ? beside - long : beside;
    let y = py;
    while (taken.some((one) => left < one.right && one.left < left + long && Math.abs(one.y - y) < 15))
      y -= 15;
    taken.push({ left, right: left + long, y });
    made.append(
      text(beside, y, words, {
        class: "label",
        "text-anchor": end,
        "font-weight": weight,
        "paint-order": "stroke",
        stroke: "var(--card)",
        "stroke-width": 4,
      }),
    );
  }
}

function barText(i) {
  const cut = plan.order[i];
  const where =
    cut.place === 0
      ? "all on the server"
      : cut.place === nodes.length
        ? "all on the device"
        : `${cut.place} nodes on the device, the last one ${nodes[cut.place - 1].op_type} ${elided(nodes[cut.place - 1].name, 40)}`;
  if (!cut.feasible && !cut.total_s) return `${where}: not possible, ${cut.why_not}`;
  const cost = priced(cut);
  const terms = TERMS.filter((term) => cost[term])
    .map((term) => `${term} ${seconds(cost[term])}`)
    .join(", ");
  return `${where}: ${seconds(cost.total)} (${terms}); ${size(cut.up_bytes)} sent${cut.feasible ? "" : `; not possible: ${cut.why_not}`}`;
}

function sayBar() {
  at("bar").textContent =
    cursor === null
      ? "Point at a bar, or focus the chart and use the arrow keys, to read it; click or press Enter to draw that cut in the model."
      : barText(cursor);
}

function moveTo(i) {
  cursor = Math.max(0, Math.min(plan.order.length - 1, i));
  drawBars();
}

function listen(made, x) {
  const nearest = (event) => {
    const around = made.getBoundingClientRect();
    const px = ((event.clientX - around.left) / around.width) * BARS.w;
    let best = 0;
    plan.order.forEach((cut, i) => {
      if (Math.abs(x(cut.place) - px) < Math.abs(x(plan.order[best].place) - px)) best = i;
    });
    return best;
  };
  made.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    if (i !== cursor) moveTo(i);
  });
  made.addEventListener("click", (event) => {
    moveTo(nearest(event));
    show(orderCut(cursor), true);
  });
  made.addEventListener("keydown", (event) => {
    const start =
      cursor === null ? plan.order.findIndex((cut) => cut.place >= plan.predicted.head_nodes) : cursor;
    const far = Math.max(1, Math.round(plan.order.length / 10));
    const to = {
      ArrowRight: start + 1,
      ArrowUp: start + 1,
      ArrowLeft: start - 1,
      ArrowDown: start - 1,
      PageUp: start + far,
      PageDown: start - far,
      Home: 0,
      End: plan.order.length - 1,
    }[event.key];
    if (to !== undefined) {
      moveTo(to);
      event.preventDefault();
    }
    if (event.key === "Enter" && cursor !== null) {
      show(orderCut(cursor), true);
      event.preventDefault();
    }
  });
}

function cutsTable() {
  const columns = [
    ["nodes on the device", "number"],
    ...TERMS.map((term) => [term, "number"]),
    ["total", "number"],
    ["sent", "number"],
    ["uncompressed", "number"],
    ["what is sent", "name"],
  ];
  return table(
    "Every place to cut",
    columns,
    plan.order.map((cut) => {
      const cost = priced(cut);
      const sent = cut.feasible
        ? cut.crossing.map((item) => `${item.tensor} as ${item.codec}`).join(", ") || "nothing"
        : `not possible: ${cut.why_not}`;
      return {
        chosen: cut.place === plan.predicted.head_nodes,
        cells: [
          String(cut.place),
          ...TERMS.map((term) => seconds(cost[term])),
          seconds(cost.total),
          size(cut.up_bytes),
          size(cut.raw_bytes),
          sent,
        ],
      };
    }),
  );
}

function startBars() {
  if (!plan.order.length) return;
  at("cuts").hidden = false;
  drawTerms("terms");
  const marks = ["▼ is the plan, ○ its rivals and the next best cuts"];
  if (plan.measured.length)
    marks.push("□ is what splitter verify measured, with the middle half of its rounds");
  if (plan.order.some((cut) => !cut.feasible)) marks.push("× is a cut that cannot be carried out");
  const steps = plan.order.length < nodes.length + 1 ? " Places inside a fused kernel are no cuts." : "";
  at("cuts-note").textContent =
    `What one request would take if the model were cut after each node, in the order in which they run. ${marks.join("; ")}.${steps}`;
  drawBars();
  changed.world.push(drawBars, whenOpened("cuts-table", cutsTable));
  let width = at("bars").clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(at("bars").clientWidth - width) < 2) return;
    width = at("bars").clientWidth;
    drawBars();
  }).observe(at("bars"));
}
