// The model from top to bottom, by Cytoscape.js and dagre. The cut is a band between what is above it and below it.

let cy = null;
let selected = null; // id of a unit, or of a crossing tensor

const isOf = (side) => (side === 0 ? "head" : side === tierNames.length - 1 ? "tail" : "third");

// Which of a node's seconds are those of a side: tiers that run nothing have no side.
function tierOf(side) {
  const role = tierRoles[side];
  const number = Number((role.match(/[0-9]+$/) || [1])[0]);
  if (role.startsWith("device")) return number - 1;
  return role === "server" ? nodes[0].seconds.length - 1 : number;
}

function width(lines) {
  return Math.max(...lines.map((line) => Array.from(line).length)) * 6.9 + 26;
}

function box(id, lines, more) {
  const wider = more.kind === "sent" ? 50 : 0;
  return {
    group: "nodes",
    data: {
      id,
      label: lines.join("\n"),
      width: width(lines) + wider,
      height: lines.length * 16 + 16,
      ...more,
    },
  };
}

function unitBox(id, parent) {
  const group = groups.get(id);
  if (group) {
    const own = secondsOn(group.members, tierOf(group.side));
    const kinds = operatorsOf(group.members)
      .slice(0, 2)
      .map(([kind, count]) => (count > 1 ? `${kind} ×${count}` : kind));
    return box(
      id,
      [
        elided(group.path.at(-1), 30),
        elided(kinds.join(", "), 34),
        `${group.members.length} nodes, ${seconds(own)}`,
      ],
      { parent, kind: isOf(group.side), closed: "yes" },
    );
  }
  const i = Number(id.slice(1));
  const side = shown.sides[i];
  return box(
    id,
    [
      elided(nodes[i].op_type, 30),
      `${elided(nodes[i].name, 26)}${nodes[i].seconds[tierOf(side)] ? `, ${seconds(nodes[i].seconds[tierOf(side)])}` : ""}`,
    ],
    { parent, kind: isOf(side) },
  );
}

function elements() {
  findGroups();
  const made = new Map();
  const edges = new Map();
  const unit = nodes.map((_, i) => unitOf(i));
  const connect = (source, target, tensor, more = {}) => {
    if (source === target) return;
    const id = `e${source}>${target}`;
    if (!edges.has(id)) edges.set(id, { group: "edges", data: { id, source, target, tensors: [], ...more } });
    edges.get(id).data.tensors.push(tensor);
  };
  unit.forEach(({ id, parents }) => {
    parents.forEach((parent, depth) => {
      if (!made.has(parent)) {
        const group = groups.get(parent);
        made.set(
          parent,
          box(parent, [elided(group.path.at(-1), 40)], {
            parent: parents[depth - 1],
            kind: isOf(group.side),
            opened: "yes",
          }),
        );
      }
    });
    if (!made.has(id)) made.set(id, unitBox(id, parents.at(-1)));
  });
  const crossing = new Map(shown.crossing.map((item) => [item.tensor, item]));
  for (const [name, item] of crossing) {
    const raw = tensors[name] ? tensors[name].nbytes : item.nbytes;
    const sent =
      raw === item.wire_bytes ? size(raw) : `${size(raw)} → ${size(item.wire_bytes)}`;
    made.set(
      `x${name}`,
      box(`x${name}`, [elided(name, 34), `${sent} (${elided(item.codec, 24)})`], { kind: "sent" }),
    );
  }
  plan.graph.inputs.forEach((name) =>
    made.set(
      `i${name}`,
      box(`i${name}`, ["input", `${elided(name, 26)} ${shape(tensors[name].shape)}`], { kind: "port" }),
    ),
  );
  plan.graph.outputs.forEach((name) =>
    made.set(
      `o${name}`,
      box(`o${name}`, ["output", `${elided(name, 26)} ${tensors[name] ? shape(tensors[name].shape) : ""}`], {
        kind: "port",
      }),
    ),
  );
  nodes.forEach((node, i) =>
    node.reads.forEach((name) => {
      const maker = makerOf.get(name);
      const source = maker === undefined ? `i${name}` : unit[maker].id;
      const from = maker === undefined ? inputSide(name) : shown.sides[maker];
      if (crossing.has(name) && shown.sides[i] > from) {
        connect(source, `x${name}`, name, { kind: "sent" });
        connect(`x${name}`, unit[i].id, name, { kind: "sent" });
      } else connect(source, unit[i].id, name);
    }),
  );
  plan.graph.outputs.forEach((name) => {
    const maker = makerOf.get(name);
    connect(maker === undefined ? `i${name}` : unit[maker].id, `o${name}`, name);
  });
  return [...made.values(), ...edges.values(), ...separator(made, [...edges.values()])];
}

// An invisible node between the sides, below all of the head and above all that is sent and the whole tail, so that
// the cut is one level of the drawing. Without a cut, or with more than two tiers, there is none.
function separator(made, edges) {
  if (tierNames.length > 2 || !shown.crossing.length) return [];
  const kindOf = (id) => {
    const kind = made.get(id).data.kind;
    return kind === "port" ? (id[0] === "i" ? "head" : "output") : kind;
  };
  const leaves = [...made.keys()].filter((id) => !made.get(id).data.opened);
  const hidden = [{ group: "nodes", data: { id: "cut", kind: "cut", label: "", width: 1, height: 1 } }];
  const join = (source, target, weight, length) =>
    hidden.push({
      group: "edges",
      data: { id: `h${source}>${target}`, source, target, kind: "hidden", weight, length, tensors: [] },
    });
  const goesOn = new Set(edges.filter((e) => kindOf(e.data.target) === "head").map((e) => e.data.source));
  const comesFrom = new Set(
    edges
      .filter((e) => kindOf(e.data.source) === "tail" || kindOf(e.data.source) === "sent")
      .map((e) => e.data.target),
  );
  for (const id of leaves) {
    if (kindOf(id) === "head" && !goesOn.has(id)) join(id, "cut", 1, 1);
    if (kindOf(id) === "sent") join("cut", id, 30, 1);
    if (kindOf(id) === "tail" && !comesFrom.has(id)) join("cut", id, 1, 2);
  }
  return hidden;
}

function style() {
  const text = colour("text");
  const kinds = ["head", "tail", "third"].flatMap((kind) => [
    {
      selector: `node[kind = "${kind}"]`,
      style: { "background-color": colour(`${kind}-fill`), "border-color": colour(kind) },
    },
  ]);
  return [
    {
      selector: "node",
      style: {
        shape: "rectangle",
        width: "data(width)",
        height: "data(height)",
        label: "data(label)",
        "text-wrap": "wrap",
        "text-valign": "center",
        "text-halign": "center",
        "font-size": 12,
        "line-height": 1.25,
        color: text,
        "font-family": 'system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif',
        "border-width": 1.5,
        "background-color": colour("card"),
        "border-color": colour("edge"),
        "overlay-opacity": 0,
      },
    },
    ...kinds,
    { selector: 'node[kind = "tail"]', style: { shape: "round-rectangle", "border-style": "dashed" } },
    { selector: 'node[kind = "third"]', style: { shape: "cut-rectangle" } },
    { selector: "node[closed]", style: { "border-width": 3, "border-style": "double" } },
    {
      selector: "node:parent",
      style: {
        "background-opacity": 0.35,
        "text-valign": "top",
        "text-halign": "left",
        "text-margin-y": 16,
        "text-margin-x": -4,
        "border-width": 1,
        padding: 12,
        "font-weight": 700,
      },
    },
    {
      selector: 'node[kind = "sent"]',
      style: {
        shape: "hexagon",
        "background-color": colour("cut-fill"),
        "border-color": colour("cut"),
        "border-width": 2.5,
        "font-weight": 700,
      },
    },
    { selector: 'node[kind = "port"]', style: { shape: "ellipse", "border-style": "dotted" } },
    { selector: 'node[kind = "cut"]', style: { opacity: 0, events: "no" } },
    {
      selector: "edge",
      style: {
        width: 1.4,
        "line-color": colour("edge"),
        "target-arrow-color": colour("edge"),
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.8,
        "curve-style": "bezier",
        "overlay-opacity": 0,
      },
    },
    {
      selector: 'edge[kind = "sent"]',
      style: { width: 3.5, "line-color": colour("cut"), "target-arrow-color": colour("cut") },
    },
    { selector: 'edge[kind = "hidden"]', style: { opacity: 0, events: "no" } },
    {
      selector: ".selected",
      style: { "border-color": colour("focus"), "border-width": 4, "border-style": "solid" },
    },
    {
      selector: "edge.near",
      style: { width: 3, "line-color": colour("focus"), "target-arrow-color": colour("focus") },
    },
  ];
}

function layOut() {
  cy.layout({
    name: "dagre",
    rankDir: "TB",
    nodeSep: 22,
    rankSep: 34,
    edgeSep: 10,
    fit: false,
    animate: false,
    minLen: (edge) => edge.data("length") || 1,
    edgeWeight: (edge) => edge.data("weight") || 2,
  }).run();
}

// Draw again; what `keep` names stays where it is on the screen.
function redraw(keep) {
  const before =
    keep && cy.getElementById(keep).nonempty() ? cy.getElementById(keep).renderedPosition() : null;
  const zoom = cy.zoom();
  cy.batch(() => {
    cy.elements().remove();
    cy.add(elements());
  });
  layOut();
  if (selected && cy.getElementById(selected).empty()) selected = null;
  mark();
  if (before && cy.getElementById(keep).nonempty()) {
    const after = cy.getElementById(keep).renderedPosition();
    cy.zoom(zoom);
    cy.panBy({ x: before.x - after.x, y: before.y - after.y });
  } else toCut();
  placeBand();
}

function placeBand() {
  const sent = cy.nodes('[kind = "sent"]');
  const hasLine = cy.getElementById("cut").nonempty();
  at("band").hidden = !hasLine;
  if (!hasLine) return;
  const around = sent.renderedBoundingBox({ includeLabels: false });
  at("band").style.top = `${around.y1 - 8 * cy.zoom()}px`;
  at("band").style.height = `${around.h + 16 * cy.zoom()}px`;
  const bytes = shown.crossing.reduce((sum, item) => sum + item.wire_bytes, 0);
  at("band").firstElementChild.textContent = `the cut: ${size(bytes)} over ${elided(plan.link.name, 24)}`;
}
