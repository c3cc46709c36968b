// Sliders over bandwidth, round trip and the server's slowdown: the plan's table says which cut is best where.

const RANGES = {};

function rangeOf(key, low, high) {
  RANGES[key] = { low, high };
  return RANGES[key];
}

const toSlider = (key, value) =>
  Math.round((1000 * Math.log(value / RANGES[key].low)) / Math.log(RANGES[key].high / RANGES[key].low));
const fromSlider = (key, place) => RANGES[key].low * (RANGES[key].high / RANGES[key].low) ** (place / 1000);

function findRanges() {
  const ends = plan.table.up_bytes_per_s.pieces
    .flatMap((piece) => [piece.low, piece.high])
    .filter((end) => end);
  rangeOf(
    "up",
    Math.max(100, Math.min(planned.up / 30, ...ends.map((end) => end / 4))),
    Math.min(1e12, Math.max(planned.up * 30, ...ends.map((end) => end * 4))),
  );
  rangeOf("rtt", Math.min(1e-4, planned.rtt || 1e-4), Math.max(1, planned.rtt * 4));
  const slows = plan.table.server_slowdown.pieces.map((piece) => piece.high).filter((end) => end);
  rangeOf("slow", 0.1, Math.max(20, ...slows.map((end) => end * 2)));
}

const SHOW = { up: rate, rtt: seconds, slow: factor };
const AXES = [
  ["up", "Uplink"],
  ["rtt", "Round trip"],
  ["slow", "Server slowed"],
];

function strip() {
  const { low, high } = RANGES.up;
  const span = Math.log(high / low);
  const pieces = plan.table.up_bytes_per_s.pieces.filter(
    (piece) => (piece.high === null || piece.high > low) && piece.low < high,
  );
  return element(
    "div",
    { class: "strip", role: "img", "aria-label": `Best by uplink: ${pieces.map(pieceText).join("; ")}` },
    pieces.map((piece) => {
      const from = Math.max(piece.low, low);
      const to = Math.min(piece.high === null ? high : piece.high, high);
      const part = Math.log(to / from) / span;
      return element(
        "span",
        {
          style: `flex: ${part} 1 0`,
          title: pieceText(piece),
          class: "piece",
          "data-low": from,
          "data-high": to,
        },
        part > 0.3 ? `${letter(piece.cut)}: ${elided(tableTitle(piece.cut), 34)}` : letter(piece.cut),
      );
    }),
  );
}

function pieceText(piece) {
  const end = piece.high === null ? "up" : `to ${rate(piece.high)}`;
  return `from ${rate(piece.low)} ${end}: ${letter(piece.cut)}, ${tableTitle(piece.cut)}`;
}

// Where one piece ends and the next begins, as far as there is room for the words; the plan's own ends first.
function ends() {
  const { low, high } = RANGES.up;
  const pieces = plan.table.up_bytes_per_s.pieces.filter((piece) => piece.high !== null);
  const own = plan.table.up_bytes_per_s.pieces.find((piece) => piece.cut === 0) || {};
  const isOwn = (piece) => piece.high === own.low || piece.high === own.high;
  const room = 76 / at("policy-body").clientWidth;
  const taken = [];
  const found = [];
  for (const piece of [...pieces.filter(isOwn), ...pieces.filter((piece) => !isOwn(piece))]) {
    const part = Math.log(piece.high / low) / Math.log(high / low);
    if (part > 0.05 && part < 0.95 && taken.every((other) => Math.abs(other - part) > room)) {
      found.push(element("span", { style: `left: ${100 * part}%` }, rate(piece.high)));
      taken.push(part);
    }
  }
  return element("div", { class: "ends", "aria-hidden": "true" }, found);
}

function drawPolicy() {
  for (const [key] of AXES) {
    const input = at(`slide-${key}`);
    input.setAttribute("aria-valuetext", SHOW[key](world[key]));
    at(`out-${key}`).textContent =
      SHOW[key](world[key]) + (world[key] === planned[key] ? " (as planned)" : "");
  }
  const index = bestOfTable();
  const cost = priced(plan.table.cuts[index]);
  const own = priced(plan.table.cuts[0]);
  const same = index === 0 ? "the plan" : `not the plan, which would take ${seconds(own.total)}`;
  at("policy-answer").replaceChildren(
    "Best: ",
    element("b", {}, tableTitle(index)),
    ` (${letter(index)}, ${same}): one request takes `,
    element("b", {}, seconds(cost.total)),
    ".",
  );
  const others = world.rtt === planned.rtt && world.slow === planned.slow;
  document.querySelectorAll("#policy .strip .piece").forEach((piece) => {
    piece.classList.toggle(
      "here",
      others && world.up >= Number(piece.dataset.low) && world.up <= Number(piece.dataset.high),
    );
  });
  at("policy-body").querySelector(".strip").style.opacity = others ? 1 : 0.45;
  if (!moved || isMoved()) show(index === 0 ? planCut() : tableCut(index), false);
  backButton();
}

function backButton() {
  at("back").hidden = shown.key === "plan" && !isMoved();
}

function backToPlan() {
  Object.assign(world, planned);
  moved = false;
  cursor = null;
  if (canMove)
    AXES.forEach(([key]) => {
      at(`slide-${key}`).value = toSlider(key, world[key] || RANGES[key].low);
    });
  show(planCut(), false);
  tell("world");
  backButton();
}

function piecesTable(found, title, unit) {
  return table(
    title,
    [["from", "number"], ["to", "number"], ["best cut", "name"], ["proven"]],
    found.pieces.map((piece) => ({
      chosen: piece.low <= found.at && (piece.high === null || found.at <= piece.high),
      cells: [
        unit(piece.low),
        piece.high === null ? "any" : unit(piece.high),
        `${letter(piece.cut)}: ${tableTitle(piece.cut)}`,
        piece.proven ? "yes" : "no",
      ],
    })),
  );
}

function startPolicy() {
  if (!canMove) return;
  at("policy").hidden = false;
  findRanges();
  const slider = ([key, title]) => {
    const input = element("input", {
      type: "range",
      min: 0,
      max: 1000,
      step: 1,
      id: `slide-${key}`,
      value: toSlider(key, world[key] || RANGES[key].low),
    });
    input.addEventListener("input", () => {
      const place = Number(input.value);
      // the notch at what was planned is exact
      world[key] =
        place === toSlider(key, planned[key] || RANGES[key].low) ? planned[key] : fromSlider(key, place);
      moved = false;
      tell("world");
    });
    return element(
      "div",
      {},
      element("label", { for: `slide-${key}` }, title, element("output", { id: `out-${key}` })),
      input,
    );
  };
  const { gap } = plan.table.up_bytes_per_s;
  at("policy-body").replaceChildren(
    element("p", { class: "answer", id: "policy-answer", role: "status" }),
    element("div", { class: "sliders wide-one" }, slider(AXES[0])),
    strip(),
    ends(),
    element(
      "ul",
      { class: "pieces" },
      plan.table.up_bytes_per_s.pieces
        .slice(0, 12)
        .map((piece) =>
          element(
            "li",
            {},
            element("b", {}, letter(piece.cut)),
            ` ${tableTitle(piece.cut)}: ${piece.low ? `from ${rate(piece.low)} ` : ""}${piece.high === null ? (piece.low ? "up" : "at any uplink") : `${piece.low ? "" : "up "}to ${rate(piece.high)}`}`,
          ),
        ),
    ),
    element("div", { class: "sliders" }, AXES.slice(1).map(slider)),
    element(
      "p",
      { class: "note" },
      `The strip is for all else as planned; the downlink moves with the uplink. Each slider alone is exact${gap === 0 ? " and proven" : ""}; moved together, it is the best of the ${plan.table.cuts.length} cuts that are best somewhere. A device that follows this table keeps its cut until another is more than ${percent(plan.table.hysteresis)} better.`,
    ),
    element(
      "details",
      {},
      element("summary", {}, "The same as tables"),
      element("h3", {}, "By uplink"),
      element("div", { class: "wide" }, piecesTable(plan.table.up_bytes_per_s, "Best by uplink", rate)),
      element("h3", {}, "By the server's slowdown"),
      element(
        "div",
        { class: "wide" },
        piecesTable(plan.table.server_slowdown, "Best by the server's slowdown", factor),
      ),
      element("h3", {}, "By uplink and round trip"),
      element("div", { class: "wide" }, tripsTable()),
      element("h3", {}, "The cuts"),
      element("div", { class: "wide" }, tableCuts()),
    ),
  );
  changed.world.push(drawPolicy);
}

function tripsTable() {
  const found = plan.table.round_trip;
  return table(
    "Best by uplink and round trip",
    [["round trip"], ...found.up_bytes_per_s.map((up) => [rate(up), "number"])],
    found.rtt_s.map((rtt, i) => ({ cells: [seconds(rtt), ...found.cuts[i].map(letter)] })),
  );
}

function tableCuts() {
  return table(
    "The cuts of the table",
    [
      ["cut"],
      ["what it is", "name"],
      ["head", "number"],
      ["encode", "number"],
      ["decode", "number"],
      ["tail", "number"],
      ["sent", "number"],
    ],
    plan.table.cuts.map((cut, i) => ({
      chosen: i === 0,
      cells: [
        letter(i),
        `${tableTitle(i)}${cut.crossing.length ? ` as ${cut.crossing.map((item) => item.codec).join(", ")}` : ""}`,
        seconds(cut.head_s),
        seconds(cut.encode_s),
        seconds(cut.decode_s),
        seconds(cut.tail_s),
        size(cut.up_bytes),
      ],
    })),
  );
}
