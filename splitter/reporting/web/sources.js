// Where the numbers come from, what was proven, and what this report has no data for.

function tier(role, source, settings) {
  const known = {
    processor: "processor",
    cores: "cores",
    memory_bytes: "memory",
    system: "system",
    onnxruntime: "onnxruntime",
    provider: "provider",
    threads: "threads",
    optimisation: "optimisation",
  };
  return element(
    "div",
    {},
    element("h3", {}, `${role}: ${source.name} `, element("span", { class: "tag" }, source.origin)),
    pairs([
      ["whole model", seconds(source.whole_s)],
      ...Object.entries(known)
        .filter(([key]) => key in source.fingerprint)
        .map(([key, title]) => [
          title,
          key === "memory_bytes" ? size(source.fingerprint[key]) : String(source.fingerprint[key]),
        ]),
      [
        "runs with",
        settings
          ? `${settings.provider}, ${settings.threads} ${settings.threads > 1 ? "threads" : "thread"}, optimisation ${settings.optimisation}`
          : "",
      ],
      ["note", source.note],
    ]),
  );
}

function linkOf(title, link) {
  return element(
    "div",
    {},
    element(
      "h3",
      {},
      `${title}: ${link.name} `,
      element("span", { class: "tag" }, link.source === "given" ? "given" : "described"),
    ),
    pairs([
      ["up", rate(link.up_bytes_per_s)],
      ["down", rate(link.down_bytes_per_s)],
      ["round trip", seconds(link.rtt_s)],
      ["price", link.price_per_gb ? `${link.price_per_gb} a GB` : ""],
      ["source", link.source === "given" ? "typed by whoever planned" : link.source],
    ]),
  );
}

const SAMPLES = {
  random: "noise, which compresses worse than real activations",
  given: "an input that was given",
  calibration: "the data of the calibration",
  none: "nothing: the profiles hold no codec samples",
};

function proof() {
  const { name, status, gap, seconds: took, variables, constraints } = plan.solver;
  if (status === "priced") return "The cut was given, so nothing was proven of it.";
  const words =
    gap <= 1e-9
      ? "Proven best: no other cut and no other codecs cost less"
      : `Within ${percent(gap)} of the best possible`;
  return `${words}, by ${name} (${status}; ${variables} variables, ${constraints} constraints, ${seconds(took)}). The cost model's own sum agrees.`;
}

function drawSources() {
  const between = (plan.relays || []).flatMap((relay, i) => [
    tier(`Relay ${i + 1}`, relay.tier, relay.settings),
    linkOf("Onward", relay.link),
  ]);
  const beside = (plan.sources || []).flatMap((one, i) => [
    tier(`Device ${i + 2}`, one.tier, one.settings),
    linkOf("Its link", one.link),
  ]);
  const model = [
    ["file", plan.model.file],
    ["sha256", plan.model.sha256],
    [
      "dimensions",
      Object.entries(plan.model.dims)
        .map(([name, value]) => `${name}=${value}`)
        .join(", "),
    ],
  ];
  const warnings = plan.warnings.map((warning) => element("p", { class: "warn" }, `Warning: ${warning}.`));
  at("sources-body").replaceChildren(
    ...warnings,
    element(
      "p",
      {},
      "Measured seconds were taken by a clock, estimated ones scaled to a described machine; what a cut takes is predicted from either by arithmetic. Compressed bytes were measured on ",
      SAMPLES[plan.codec_sample] || plan.codec_sample,
      ".",
    ),
    element(
      "div",
      { class: "environment" },
      tier("Device", plan.device, plan.settings),
      linkOf("Link", plan.link),
      ...beside,
      ...between,
      tier("Server", plan.server, plan.server_settings),
    ),
    element("h3", {}, "Model"),
    pairs(model),
    element("h3", {}, "Proof"),
    element("p", {}, proof()),
    ...calibrationText(),
    ...limitsText(),
    ...leftOutText(),
  );
}

function calibrationText() {
  const found = plan.calibration;
  if (!found) return [];
  const left =
    found.answer === null
      ? "What the plan sends is lossless."
      : found.answer.agreement === null
        ? `The plan's codecs leave a relative error of ${Number(found.answer.error).toPrecision(2)}, measured on ${found.answer.samples} samples.`
        : `The plan's codecs leave ${percent(found.answer.agreement)} of the answers as the whole model's, measured on ${found.answer.samples} samples.`;
  return [
    element("h3", {}, "Accuracy"),
    element(
      "p",
      {},
      `${left} What may be lost: ${found.budget.kind} ${found.budget.limit}. Codecs were timed on ${found.tier}.`,
    ),
  ];
}

function limitsText() {
  if (!plan.reasons || !plan.reasons.limits.length) return [];
  return [
    element("h3", {}, "Limits"),
    element(
      "div",
      { class: "wide" },
      table(
        "Limits",
        [["limit", "name"], ["value", "number"], ["used", "number"], ["binds"], ["without it", "name"]],
        plan.reasons.limits.map((one) => ({
          cells: [
            one.name,
            one.limit === null ? "" : String(three(one.limit)),
            one.used === null ? "" : String(three(one.used)),
            one.binds ? "yes" : "no",
            one.without,
          ],
        })),
      ),
    ),
  ];
}

function leftOutText() {
  if (!plan.table) leftOut.unshift("What if the network or the server changes: plan with --envelope.");
  else if (!canMove)
    leftOut.unshift(
      "What if the network or the server changes: its sliders are for plans that minimise seconds alone.",
    );
  if (!nodes.length) leftOut.unshift("The model as a graph: the plan holds no picture of it; plan again.");
  if (!plan.order.length)
    leftOut.push(
      plan.stages.length
        ? "Every place to cut: with more than two tiers there is no single order of cuts."
        : "Every place to cut: the plan holds no prices along the order; plan again.",
    );
  if (!plan.measured.length) leftOut.push("Measured points: give the report what splitter verify -o wrote.");
  if (!plan.reasons) leftOut.push("What each limit costs: plan with --explain.");
  return leftOut.length
    ? [
        element("h3", {}, "Left out of this report"),
        element(
          "ul",
          { id: "left-out" },
          leftOut.map((line) => element("li", {}, line)),
        ),
      ]
    : [];
}
