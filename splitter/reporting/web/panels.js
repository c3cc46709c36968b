// What stands still: the figures of the first screen, the rivals, trade-offs, and accuracy against bits.

const leftOut = [];

function stack(item) {
  const total = TERMS.reduce((sum, term) => sum + item[`${term}_s`], 0) || 1;
  const words = TERMS.map((term) => `${term} ${seconds(item[`${term}_s`])}`).join(", ");
  return element(
    "div",
    { class: "stack", role: "img", "aria-label": words, title: words },
    TERMS.map((term) =>
      element("i", {
        style: `width: ${((100 * item[`${term}_s`]) / total) * item.scale}%; background: var(--${term})`,
      }),
    ),
  );
}

function drawFigures() {
  const items = [
    { ...plan.predicted, title: "The plan", chosen: true },
    ...plan.baselines
      .filter((item) => item.name !== plan.predicted.name)
      .map((item) => ({
        ...item,
        title: item.name === "all on the device" ? "All on the device" : "Input sent to the server",
      })),
  ];
  const next = plan.alternatives.find((item) => item.head_nodes && item.tail_nodes);
  if (next) items.push({ ...next, title: plan.decision === "split" ? "Next best split" : "Best true split" });
  const most = Math.max(...items.map((item) => item.total_s)) || 1;
  drawTerms("figure-terms");
  at("figures").replaceChildren(
    ...items.map((item) =>
      element(
        "li",
        { class: item.chosen ? "chosen" : null },
        element("span", {}, item.title),
        element("b", {}, item.feasible ? seconds(item.total_s) : "not possible"),
        item.feasible ? stack({ ...item, scale: item.total_s / most }) : null,
        element(
          "small",
          {},
          item.feasible
            ? `${item.up_bytes ? size(item.up_bytes) : "nothing"} sent${
                item.crossing.length
                  ? `: ${item.crossing
                      .slice(0, 2)
                      .map((one) => elided(one.tensor, 30))
                      .join(", ")}${item.crossing.length > 2 ? "…" : ""}`
                  : ""
              }`
            : item.why_not,
        ),
      ),
    ),
  );
}

function drawTerms(id) {
  legend(
    id,
    TERMS.map((term) => [`background: var(--${term})`, TERM_TITLES[term]]),
  );
}

function measuredOf(name) {
  const row = plan.measured.find((one) => one.name === name);
  if (!row) return "";
  return row.low_s === null
    ? seconds(row.measured.total_s)
    : `${seconds(row.measured.total_s)} (${seconds(row.low_s)} to ${seconds(row.high_s)})`;
}

function drawRivals() {
  const seen = new Set();
  const items = [plan.predicted, ...plan.baselines, ...plan.alternatives].filter((item) => {
    const key = `${item.name} ${item.head_nodes}`;
    return !seen.has(key) && seen.add(key);
  });
  const hasMeasured = plan.measured.length > 0;
  const columns = [
    ["cut", "name"],
    ["on the device", "number"],
    ...TERMS.map((term) => [term, "number"]),
    ["total", "number"],
    ...(hasMeasured ? [["measured", "number"]] : []),
    ["sent", "number"],
    ["as"],
  ];
  at("rivals-body").replaceChildren(
    table(
      "The plan, its rivals and the next best cuts",
      columns,
      items.map((item, i) => ({
        chosen: i === 0,
        cells: item.feasible
          ? [
              i === 0 ? `the plan: ${titleOf(item)}` : titleOf(item),
              nodesText(item.head_nodes),
              ...TERMS.map((term) => seconds(item[`${term}_s`])),
              seconds(item.total_s),
              ...(hasMeasured ? [measuredOf(item.name)] : []),
              size(item.up_bytes),
              [...new Set(item.crossing.map((one) => one.codec))].join(", "),
            ]
          : [
              titleOf(item),
              nodesText(item.head_nodes),
              ...TERMS.map(() => "–"),
              "not possible",
              ...(hasMeasured ? [""] : []),
              "–",
              item.why_not,
            ],
      })),
    ),
  );
}

function titleOf(item) {
  if (!item.head_nodes || !item.tail_nodes || !item.crossing.length) return item.name;
  const names = item.crossing.map((one) => elided(one.tensor, 44));
  return `split after ${names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", ")}`;
}

const TERM_AXES = {
  latency: { title: "latency", value: (item) => item.terms.latency_s, show: seconds },
  throughput: {
    title: "seconds a sample of a stream",
    value: (item) => item.terms.bottleneck_s,
    show: seconds,
  },
  energy: {
    title: "energy of the device",
    value: (item) => item.terms.energy_j,
    show: (joules) => `${three(joules)} J`,
  },
  money: {
    title: "money a request",
    value: (item) => item.terms.money,
    show: (money) => (money && money < 1e-3 ? money.toExponential(1) : String(Number(money.toPrecision(3)))),
  },
};

function drawTradeoff() {
  const found = plan.tradeoff;
  if (!found) {
    leftOut.push(
      "What can be traded (latency, throughput, energy, money): plan with --pareto latency,energy.",
    );
    return;
  }
  at("tradeoff").hidden = false;
  const axes = found.terms.map((term) => TERM_AXES[term]);
  if (found.candidates.length === 1) {
    at("tradeoff-body").replaceChildren(
      element(
        "p",
        {},
        `Nothing has to be traded: one plan, ${titleOf(found.candidates[0])}, is best in ${found.terms.join(" and in ")}.`,
      ),
    );
    return;
  }
  const points = found.candidates.map((item, i) => ({
    x: axes[0].value(item),
    y: axes[1].value(item),
    chosen: i === found.knee,
    tag: i === found.knee ? "knee" : "",
    label: `${titleOf(item)}: ${axes.map((axis) => `${axis.title} ${axis.show(axis.value(item))}`).join(", ")}`,
  }));
  at("tradeoff-body").replaceChildren(
    element(
      "p",
      {},
      `Nothing is as good as these ${points.length} plans in ${found.terms.join(" and ")} and better in one. From the knee (◆) on, more of one costs much of another.`,
    ),
    scatter(
      points,
      axes,
      `${axes[1].title} over ${axes[0].title}`,
      [...points].sort((a, b) => a.x - b.x),
    ),
    element(
      "div",
      { class: "wide" },
      table(
        "Plans that nothing beats",
        [["plan", "name"], ...axes.map((axis) => [axis.title, "number"]), ["sent", "number"]],
        found.candidates.map((item, i) => ({
          chosen: i === found.knee,
          cells: [
            `${titleOf(item)}${i === found.knee ? " (knee)" : ""}`,
            ...axes.map((axis) => axis.show(axis.value(item))),
            size(item.up_bytes),
          ],
        })),
      ),
    ),
  );
  if (!found.is_complete)
    at("tradeoff-body").append(
      element("p", { class: "warn" }, "The time limit ended the search: there may be more."),
    );
}

function drawAccuracy() {
  const found = plan.tensors_in_codecs;
  if (!found.length) {
    leftOut.push(
      "Accuracy against bits: give the report the calibration.json that splitter calibrate wrote.",
    );
    return;
  }
  at("accuracy").hidden = false;
  const choice = element(
    "select",
    { id: "tensor" },
    found.map((one, i) => element("option", { value: i }, one.tensor)),
  );
  const sent = found.findIndex((one) => plan.predicted.crossing.some((item) => item.tensor === one.tensor));
  choice.value = String(Math.max(0, sent));
  const body = element("div", {});
  const draw = () => body.replaceChildren(...accuracyOf(found[Number(choice.value)]));
  choice.addEventListener("change", draw);
  at("accuracy-body").replaceChildren(element("label", {}, "Tensor ", choice), body);
  draw();
}

function accuracyOf(one) {
  const top1 = one.answer === "top1";
  const bits = (result) => (8 * result.wire_bytes) / Math.max(1, one.elements);
  const value = (result) => (top1 ? result.agreement : result.error);
  const used = (result) =>
    plan.predicted.crossing.some((item) => item.tensor === one.tensor && item.codec === result.codec);
  const known = one.results.filter((result) => value(result) !== null && value(result) !== undefined);
  const points = known.map((result) => ({
    x: bits(result),
    y: value(result),
    chosen: used(result),
    tag: used(result) ? "the plan" : "",
    label: `${result.codec}: ${three(bits(result))} bits, ${top1 ? percent(value(result)) : three(value(result))}`,
  }));
  const title = top1 ? "answers that are the whole model's" : "relative error of the answer";
  const show = top1 ? percent : (v) => Number(v).toPrecision(2);
  return [
    element(
      "p",
      {},
      `Each codec on ${one.tensor}, measured on ${one.samples} samples: bits an element on the wire, and ${title}.`,
    ),
    points.length
      ? scatter(
          points,
          [
            { title: "bits an element, on the wire", show: (v) => three(v), log: true },
            { title, show, ...(top1 ? { ceiling: 1.01 } : { floor: 0 }) },
          ],
          `${title} over bits`,
        )
      : "",
    element(
      "div",
      { class: "wide" },
      table(
        "Codecs",
        [
          ["codec", "name"],
          ["bits", "number"],
          ["bytes", "number"],
          [title, "number"],
          ["accuracy", "number"],
          ["lossless"],
        ],
        one.results.map((result) => ({
          chosen: used(result),
          cells: [
            result.codec,
            three(bits(result)),
            size(result.wire_bytes),
            value(result) === null ? "" : show(value(result)),
            result.accuracy === null ? "" : percent(result.accuracy),
            result.lossless ? "yes" : "no",
          ],
        })),
      ),
    ),
  ];
}
