// Going about in the drawing: what is seen of it, what is selected, keys and clicks.

function fit() {
  cy.fit(undefined, 24);
  if (cy.zoom() > 1.2) {
    cy.zoom(1.2);
    cy.center();
  }
}

// All of it where it can be read like that, else what is around the cut.
function toCut() {
  fit();
  if (cy.zoom() >= 0.7) return;
  const sent = cy.nodes('[kind = "sent"]');
  cy.zoom(Math.max(0.6, Math.min(0.85, (cy.width() - 40) / cy.elements().boundingBox().w)));
  if (sent.nonempty()) cy.center(sent);
  else {
    cy.center();
    const top = cy.elements().boundingBox().y1;
    cy.pan({ x: cy.pan().x, y: 20 - top * cy.zoom() });
  }
}

function mark() {
  cy.elements().removeClass("selected near");
  if (!selected) return;
  const chosen = cy.getElementById(selected);
  chosen.addClass("selected");
  chosen.connectedEdges().not('[kind = "hidden"]').addClass("near");
}

function select(id, byKeys) {
  selected = id && cy.getElementById(id).nonempty() ? id : null;
  mark();
  describe(selected);
  if (!selected) return;
  const chosen = cy.getElementById(selected);
  if (byKeys) {
    at("said").textContent = chosen.data("label").replaceAll("\n", ", ");
    if (cy.zoom() < 0.5) {
      cy.zoom(0.85);
      cy.center(chosen);
    }
  }
  const seen = chosen.renderedBoundingBox();
  if (seen.x1 < 0 || seen.y1 < 0 || seen.x2 > cy.width() || seen.y2 > cy.height()) cy.center(chosen);
}

function toggle(id) {
  if (!groups.has(id)) return;
  const members = groups.get(id).members;
  if (open.has(id)) open.delete(id);
  else open.add(id);
  redraw(open.has(id) ? unitOf(members[0]).id : id);
  select(cy.getElementById(id).nonempty() ? id : unitOf(members[0]).id, true);
}

// Open what is around a node and go there.
function goTo(i) {
  openAround(i);
  redraw(null);
  const id = unitOf(i).id;
  if (cy.zoom() < 0.7) cy.zoom(0.9);
  cy.center(cy.getElementById(id));
  select(id, true);
}

const leaves = () => cy.nodes().filter((n) => n.data("kind") !== "cut" && !n.data("opened"));

function step(direction) {
  if (!selected || cy.getElementById(selected).data("opened")) {
    const first = leaves().min((n) => n.position("y")).ele;
    if (first) select(first.id(), true);
    return;
  }
  const from = cy.getElementById(selected);
  const place = from.position();
  let others;
  if (direction === "ArrowDown") others = from.outgoers("node");
  else if (direction === "ArrowUp") others = from.incomers("node");
  else {
    const right = direction === "ArrowRight";
    others = leaves().filter(
      (n) =>
        Math.abs(n.position("y") - place.y) < 60 &&
        (right ? n.position("x") > place.x : n.position("x") < place.x),
    );
  }
  others = others.filter((n) => n.data("kind") !== "cut");
  if (others.empty()) return;
  const near = others.min((n) => Math.hypot(n.position("x") - place.x, (n.position("y") - place.y) * 2)).ele;
  select(near.id(), true);
}

function zoomBy(by) {
  cy.zoom({ level: cy.zoom() * by, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

function onKey(event) {
  const acts = {
    "+": () => zoomBy(1.25),
    "=": () => zoomBy(1.25),
    "-": () => zoomBy(0.8),
    0: fit,
    Escape: () => select(null),
    Enter: () => selected && toggle(selected),
    " ": () => selected && toggle(selected),
  };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow")) step(event.key);
  else if (acts[event.key]) acts[event.key]();
  else return;
  event.preventDefault();
}

function startGraph() {
  if (!nodes.length) return;
  at("model").hidden = false;
  openFew();
  cy = cytoscape({
    container: at("graph"),
    elements: [],
    style: style(),
    minZoom: 0.03,
    maxZoom: 3,
    boxSelectionEnabled: false,
    autounselectify: true,
  });
  // the wheel scrolls the page, as it does everywhere else on it
  at("graph").addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
    },
    { capture: true },
  );
  redraw(null);
  cy.on("tap", "node", (event) => {
    const id = event.target.id();
    if (groups.has(id)) toggle(id);
    else select(id);
  });
  cy.on("tap", (event) => {
    if (event.target === cy) select(null);
  });
  cy.on("pan zoom resize", placeBand);
  at("graph").addEventListener("keydown", onKey);
  at("zoom-in").addEventListener("click", () => zoomBy(1.25));
  at("zoom-out").addEventListener("click", () => zoomBy(0.8));
  at("fit").addEventListener("click", fit);
  at("to-cut").addEventListener("click", toCut);
  at("reset").addEventListener("click", () => {
    openFew();
    redraw(null);
    select(null);
  });
  at("back").addEventListener("click", backToPlan);
  describe(null);
}
