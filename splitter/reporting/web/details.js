// What is selected, in words; the list that a search finds; the model as a table.

const shareOf = (members, tier) => {
  const whole = nodes.reduce((sum, node) => sum + (node.seconds[tier] || 0), 0);
  const own = secondsOn(members, tier);
  return whole ? `${seconds(own)}, ${percent(own / whole)} of the model` : seconds(own);
};

const tiersOf = () =>
  [
    plan.device,
    ...(plan.sources || []).map((one) => one.tier),
    ...(plan.relays || []).map((one) => one.tier),
    plan.server,
  ].map((tier) => tier.name);

const timesOf = (members) => tiersOf().map((name, tier) => [`on ${name}`, shareOf(members, tier)]);

function tensorText(name) {
  const tensor = tensors[name];
  return tensor ? `${name}: ${tensor.dtype} ${shape(tensor.shape)}, ${bytesOf(tensor)}` : name;
}

const nodesText = (count) => (count === 1 ? "1 node" : `${count} nodes`);

const listOf = (names) =>
  names.length
    ? element(
        "ul",
        {},
        names.map((name) => element("li", {}, tensorText(name))),
      )
    : "nothing";

const runsOn = (side) => `${tierNames[side]} (${tierRoles[side]})`;

function describe(id) {
  const target = at("details");
  if (!id) {
    target.replaceChildren(...describeCut());
    return;
  }
  const group = groups.get(id);
  if (group) {
    target.replaceChildren(
      element("h3", {}, group.path.join(" / ")),
      pairs([
        ["runs on", runsOn(group.side)],
        ["nodes", String(group.members.length)],
        [
          "operators",
          operatorsOf(group.members)
            .map(([kind, count]) => `${kind} ×${count}`)
            .join(", "),
        ],
        ...timesOf(group.members),
      ]),
      element(
        "button",
        { type: "button", on: { click: () => toggle(id) } },
        open.has(id) ? "Close this block" : "Open this block",
      ),
    );
    return;
  }
  if (id[0] === "x") {
    target.replaceChildren(...describeSent(id.slice(1)));
    return;
  }
  if (id[0] === "i" || id[0] === "o") {
    target.replaceChildren(
      element("h3", {}, id[0] === "i" ? "Model input" : "Model output"),
      element("p", {}, tensorText(id.slice(1))),
    );
    return;
  }
  describeNode(Number(id.slice(1)));
}

function describeNode(i) {
  const node = nodes[i];
  const around = groupsAround(i).at(-1);
  const fused = node.kernel
    ? nodes.filter((other) => other.kernel === node.kernel).map((other) => other.op_type)
    : [];
  at("details").replaceChildren(
    element("h3", {}, node.op_type),
    pairs([
      ["name", node.name],
      ["block", node.block.split("/").join(" / ")],
      ["runs on", runsOn(shown.sides[i])],
      ...timesOf([i]),
      ["fused", fused.length ? `one kernel of the device: ${fused.join(" + ")}` : ""],
      ["reads", listOf(node.reads)],
      ["makes", listOf(node.makes)],
    ]),
    around
      ? element(
          "button",
          { type: "button", on: { click: () => toggle(around.id) } },
          `Close ${elided(around.path.at(-1), 24)}`,
        )
      : "",
  );
}

function describeSent(name) {
  const item = shown.crossing.find((one) => one.tensor === name);
  const tensor = tensors[name] || item;
  return [
    element("h3", {}, "Sent over the link"),
    pairs([
      ["tensor", name],
      ["type", tensor.dtype],
      ["shape", shape(tensor.shape)],
      ["bytes", bytesOf(tensor)],
      ["codec", item.codec],
      [
        "on the wire",
        `${size(item.wire_bytes)}${tensor.nbytes ? `, ${percent(item.wire_bytes / tensor.nbytes)}` : ""}`,
      ],
      ["made by", makerOf.has(name) ? nodes[makerOf.get(name)].op_type : "the input"],
      [
        "read by",
        (readersOf.get(name) || [])
          .filter(
            (i) => shown.sides[i] > (makerOf.has(name) ? shown.sides[makerOf.get(name)] : inputSide(name)),
          )
          .map((i) => nodes[i].op_type)
          .join(", "),
      ],
    ]),
  ];
}

function describeCut() {
  const counts = tierNames.map((_, side) => shown.sides.filter((one) => one === side).length);
  const cost =
    canMove || "place" in shown.terms
      ? priced({ has_tail: counts[0] < nodes.length, ...shown.terms }).total
      : shown.terms.total_s;
  return [
    element("h3", {}, shown.title),
    pairs([
      ...counts.map((count, side) => [tierNames[side], nodesText(count)]),
      [
        "sent",
        shown.crossing.length
          ? `${shown.crossing.length} ${shown.crossing.length > 1 ? "tensors" : "tensor"}, ${size(shown.crossing.reduce((sum, item) => sum + item.wire_bytes, 0))}`
          : "nothing",
      ],
      ["one request", seconds(plan.stages.length ? shown.terms.total_s : cost)],
    ]),
    element("p", { class: "note" }, "Select a box to see what is in it."),
  ];
}

function search(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const found = [];
  const score = (name) => {
    const place = name.toLowerCase().indexOf(wanted);
    return place < 0 ? Infinity : place + name.length / 1000;
  };
  nodes.forEach((node, i) => {
    const best = Math.min(
      score(node.name),
      score(node.op_type) + 0.5,
      ...node.makes.map(score),
      score(node.block) + 1,
    );
    if (best < Infinity) found.push([best, i]);
  });
  plan.graph.inputs.forEach((name) => {
    if (score(name) < Infinity && readersOf.has(name)) found.push([score(name), readersOf.get(name)[0]]);
  });
  return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, i]) => i);
}

function startSearch() {
  const input = at("search");
  const list = at("found");
  const hide = () => {
    list.hidden = true;
  };
  const go = (i) => {
    hide();
    goTo(i);
    at("graph").focus({ preventScroll: true });
  };
  input.addEventListener("input", () => {
    const found = search(input.value);
    list.replaceChildren(
      ...found
        .slice(0, 8)
        .map((i) =>
          element(
            "li",
            {},
            element(
              "button",
              { type: "button", on: { click: () => go(i) } },
              `${nodes[i].op_type}  ${elided(nodes[i].name, 60)}${nodes[i].block ? `  (${nodes[i].block})` : ""}`,
            ),
          ),
        ),
    );
    if (!found.length) list.replaceChildren(element("li", {}, "Nothing is called that."));
    if (found.length > 8) list.append(element("li", { class: "note" }, `and ${found.length - 8} more`));
    list.hidden = !input.value.trim();
  });
  input.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    if (event.key === "Enter" && buttons.length) {
      buttons[0].click();
      event.preventDefault();
    }
    if (event.key === "ArrowDown" && buttons.length) {
      buttons[0].focus();
      event.preventDefault();
    }
    if (event.key === "Escape") hide();
  });
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const to =
      buttons.indexOf(document.activeElement) +
      (event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0);
    if (event.key === "Escape") {
      hide();
      input.focus();
    } else if (event.key.startsWith("Arrow")) {
      (to < 0 ? input : buttons[Math.min(to, buttons.length - 1)]).focus();
      event.preventDefault();
    }
  });
  document.addEventListener("click", (event) => {
    if (!list.contains(event.target) && event.target !== input) hide();
  });
}

function modelTable() {
  const columns = [
    ["node", "name"],
    ["operator"],
    ["block"],
    ["runs on"],
    ...tiersOf().map((name) => [name, "number"]),
    ["makes", "name"],
    ["bytes", "number"],
  ];
  return table(
    "The model, node by node",
    columns,
    nodes.map((node, i) => ({
      cells: [
        node.name,
        node.op_type,
        node.block,
        tierNames[shown.sides[i]],
        ...tiersOf().map((_, tier) => seconds(node.seconds[tier])),
        node.makes.map((name) => (tensors[name] ? shape(tensors[name].shape) : name)).join(", "),
        node.makes.map((name) => (tensors[name] ? bytesOf(tensors[name]) : "")).join(", "),
      ],
    })),
  );
}
