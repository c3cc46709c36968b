function drawSides() {
  const shapes = [
    ["head", "solid"],
    ["third", "solid"],
    ["tail", "dashed"],
  ];
  const kindOf = (side) => shapes.find(([kind]) => kind === isOf(side));
  const items = tierNames.map((name, side) => [
    `background: var(--${isOf(side)}-fill); border: 2px ${kindOf(side)[1]} var(--${isOf(side)}); border-radius: ${side ? ".3rem" : "0"}`,
    `${tierRoles[side]}: ${name} (${side === 0 ? "square corners" : side === tierNames.length - 1 ? "dashed, round corners" : "cut corners"})`,
  ]);
  legend("sides", [
    ...items,
    [
      "background: var(--cut-fill); border: 2px solid var(--cut)",
      "what is sent: bytes before → after its codec",
    ],
    ["border: 3px double var(--soft)", "a block that can be opened"],
  ]);
}

function drawTitle() {
  const cost = plan.stages.length
    ? shown.terms.total_s
    : priced({ has_tail: shown.sides.includes(1), ...shown.terms }).total;
  const sent = shown.crossing.length
    ? `${size(shown.crossing.reduce((sum, item) => sum + item.wire_bytes, 0))} sent`
    : "nothing sent";
  at("drawn").textContent = `Drawn: ${shown.title}, ${seconds(cost)}, ${sent}.`;
  backButton();
}

function start() {
  startTheme(() => {
    if (cy) {
      cy.style(style());
      placeBand();
    }
  });
  drawFigures();
  startPolicy();
  startGraph();
  startBars();
  drawRivals();
  drawTradeoff();
  drawAccuracy();
  drawSources();
  if (nodes.length) {
    drawSides();
    startSearch();
    changed.cut.push(
      () => {
        openFew();
        redraw(null);
        select(null);
        drawTitle();
      },
      whenOpened("model-table", modelTable),
    );
    changed.world.push(drawTitle, () => {
      if (!selected) describe(null);
    });
  }
  at("footer").textContent =
    `Written by splitter ${plan.version} from a plan of ${plan.created}. This page holds everything it shows and asks for nothing from the network.`;
  if (canMove) drawPolicy();
  drawTitle();
  if (cy) cy.one("render", () => performance.mark("graph-drawn"));
}

start();
