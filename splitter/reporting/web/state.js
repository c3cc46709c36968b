// What the page shows: the plan's data, the world that the sliders set, and the cut that is drawn.

const plan = JSON.parse(at("data").textContent);
const TERMS = ["head", "encode", "link", "decode", "tail"];
const TERM_TITLES = {
  head: "head, on the device",
  encode: "encode",
  link: "link",
  decode: "decode",
  tail: "tail, on the server",
};
const nodes = plan.graph ? plan.graph.nodes : [];
const tensors = plan.graph ? plan.graph.tensors : {};
const makerOf = new Map(nodes.flatMap((node, i) => node.makes.map((name) => [name, i])));
const readersOf = new Map();
nodes.forEach((node, i) =>
  node.reads.forEach((name) => {
    if (!readersOf.has(name)) readersOf.set(name, []);
    readersOf.get(name).push(i);
  }),
);
const tierNames = plan.stages.length
  ? plan.stages.map((stage) => stage.tier)
  : [plan.device.name, plan.server.name];
const tierRoles = plan.stages.length ? plan.stages.map((stage) => stage.role) : ["device", "server"];

// The side on which a model input is born: the device, or the further device that has it.
function inputSide(name) {
  const number = (plan.sources || []).findIndex((one) => one.inputs.includes(name));
  const side = tierRoles.indexOf(`device${number + 2}`);
  return number >= 0 && side > 0 ? side : 0;
}

const planned = { up: plan.link.up_bytes_per_s, rtt: plan.link.rtt_s, slow: 1 };
const world = { ...planned };
const changed = { cut: [], world: [] };
const tell = (what) => changed[what].forEach((act) => act());

function sidesOf(runs) {
  const sides = new Array(nodes.length).fill(1);
  for (let i = 0; i < runs.length; i += 2) sides.fill(0, runs[i], runs[i] + runs[i + 1]);
  return sides;
}

function planCut() {
  let sides = sidesOf(plan.cut);
  if (plan.stages.length) {
    plan.stages.forEach((stage, tier) => {
      for (let i = 0; i < stage.nodes.length; i += 2)
        sides.fill(tier, stage.nodes[i], stage.nodes[i] + stage.nodes[i + 1]);
    });
  }
  const crossing = plan.stages.length ? plan.stages.flatMap((stage) => stage.sends) : plan.predicted.crossing;
  return { key: "plan", title: "The plan", sides, crossing, terms: plan.predicted };
}

function orderCut(index) {
  const cut = plan.order[index];
  const title =
    cut.place === 0
      ? "All on the server"
      : cut.place === nodes.length
        ? "All on the device"
        : `The cut after node ${cut.place} of ${nodes.length}`;
  const sides = nodes.map((_, i) => (i < cut.place ? 0 : 1));
  return { key: `order ${cut.place}`, title, sides, crossing: cut.crossing, terms: cut };
}

function tableCut(index) {
  const cut = plan.table.cuts[index];
  return {
    key: `table ${index}`,
    title: `Cut ${letter(index)}: ${tableTitle(index)}`,
    sides: sidesOf(cut.head),
    crossing: cut.crossing,
    terms: cut,
  };
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const letter = (i) =>
  LETTERS[i % LETTERS.length] + (i >= LETTERS.length ? Math.floor(i / LETTERS.length) + 1 : "");

function tableTitle(index) {
  const cut = plan.table.cuts[index];
  if (!cut.head.length) return "input sent to the server";
  const own = plan.table.cuts[0];
  if (index && cut.crossing.length && String(cut.head) === String(own.head))
    return `the plan's cut, sent ${[...new Set(cut.crossing.map((item) => (item.codec === "raw" ? "uncompressed" : `as ${item.codec}`)))].join(", ")}`;
  const names = cut.crossing.map((item) => elided(item.tensor, 40));
  const sent = names.length > 2 ? `${names[0]} and ${names.length - 1} more` : names.join(", ");
  return sent ? `split after ${sent}` : cut.name;
}

let shown = planCut();
let moved = false; // by hand, away from the plan

function show(cut, byHand) {
  moved = byHand;
  const same = cut.key === shown.key;
  shown = cut;
  if (!same) tell("cut");
}

// The terms of a cut in the world that the sliders set: docs/cost-model.md. Its codecs stay what they are.
function priced(cut) {
  const link = plan.link;
  const down = link.down_bytes_per_s * (world.up / planned.up);
  const hasTail = "place" in cut ? cut.place < nodes.length : cut.has_tail;
  const terms = {
    head: cut.head_s,
    encode: cut.encode_s,
    link: hasTail ? cut.up_bytes / world.up + cut.down_bytes / down + world.rtt : 0,
    decode: cut.decode_s * world.slow,
    tail: cut.tail_s * world.slow,
  };
  terms.total = TERMS.reduce((sum, term) => sum + terms[term], 0);
  terms.objective =
    plan.objective.latency * terms.total + plan.bytes_weight * (cut.up_bytes + cut.down_bytes);
  return terms;
}

// Lines can be priced anew where the objective is seconds and bytes, and nothing else.
const canMove =
  plan.table !== null && !plan.objective.throughput && !plan.objective.energy && !plan.objective.money;

function bestOfTable() {
  const costs = plan.table.cuts.map((cut) => priced(cut).objective);
  const least = Math.min(...costs);
  return costs.findIndex((cost) => cost <= least + 1e-9 * Math.abs(least)); // the plan's own where equal
}
