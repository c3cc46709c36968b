// Nodes in the blocks that hold them. A block that the cut goes through is two groups, one on each side, so that
// what is drawn together is on one tier. A group is closed (one box) or open (what is in it is drawn).

const FEW = 26; // boxes that can be read at once
const paths = nodes.map((node) => (node.block ? node.block.split("/") : []));
const open = new Set();

const groupId = (side, path, depth) => `g${side}|${path.slice(0, depth).join("/")}`;

// All groups of the drawn cut: id -> { id, side, path, members, children: ids of the groups and nodes inside }.
let groups = new Map();

function findGroups() {
  groups = new Map();
  shown.sides.forEach((side, i) => {
    const path = paths[i];
    for (let depth = 1; depth <= path.length; depth++) {
      const id = groupId(side, path, depth);
      if (!groups.has(id))
        groups.set(id, { id, side, path: path.slice(0, depth), members: [], children: new Set() });
      const group = groups.get(id);
      group.members.push(i);
      group.children.add(depth < path.length ? groupId(side, path, depth + 1) : `n${i}`);
    }
  });
}

// The groups around a node, outermost first; one that holds a single node is drawn as that node.
function groupsAround(i) {
  return paths[i]
    .map((_, depth) => groups.get(groupId(shown.sides[i], paths[i], depth + 1)))
    .filter((group) => group.members.length > 1);
}

// What stands for a node in the drawing: the outermost closed group around it, or itself; and the open ones around.
function unitOf(i) {
  const around = groupsAround(i);
  const closed = around.findIndex((group) => !open.has(group.id));
  const inside = closed < 0 ? around : around.slice(0, closed);
  return { id: closed < 0 ? `n${i}` : around[closed].id, parents: inside.map((group) => group.id) };
}

// Open the largest blocks while the whole stays readable; a model of a few nodes is drawn as it is.
function openFew() {
  open.clear();
  findGroups();
  let count = new Set(nodes.map((_, i) => unitOf(i).id)).size;
  const waiting = [...groups.values()].filter((g) => g.path.length === 1);
  while (waiting.length) {
    waiting.sort((a, b) => b.members.length - a.members.length);
    const group = waiting.shift();
    if (group.members.length < 2) continue;
    const more = group.children.size - 1;
    if (count + more > FEW) continue;
    open.add(group.id);
    count += more;
    for (const id of group.children) if (groups.has(id)) waiting.push(groups.get(id));
  }
}

function openAround(i) {
  groupsAround(i).forEach((group) => open.add(group.id));
}

function operatorsOf(members) {
  const counts = new Map();
  for (const i of members) counts.set(nodes[i].op_type, (counts.get(nodes[i].op_type) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

const secondsOn = (members, tier) => members.reduce((sum, i) => sum + (nodes[i].seconds[tier] || 0), 0);
