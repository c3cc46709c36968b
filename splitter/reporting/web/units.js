// Seconds, bytes and rates as people read them: as splitter.reporting.units writes them.

function three(value) {
  const text = Number(value).toPrecision(3);
  return text.includes("e") ? String(Math.round(value)) : String(Number(text));
}

function seconds(value) {
  const size = Math.abs(value);
  if (size >= 1) return `${three(value)} s`;
  if (size >= 1e-3) return `${three(value * 1e3)} ms`;
  return value === 0 ? "0" : `${three(value * 1e6)} µs`;
}

function scaled(value, units, last) {
  for (const [unit, scale] of units) if (value >= scale) return `${three(value / scale)} ${unit}`;
  return `${Math.round(value)} ${last}`;
}

const size = (bytes) =>
  scaled(
    bytes,
    [
      ["TB", 1e12],
      ["GB", 1e9],
      ["MB", 1e6],
      ["kB", 1e3],
    ],
    "B",
  );
const rate = (bytes) =>
  scaled(
    bytes * 8,
    [
      ["Gbit/s", 1e9],
      ["Mbit/s", 1e6],
      ["kbit/s", 1e3],
    ],
    "bit/s",
  );
const factor = (value) => `${three(value)}×`;
const percent = (part) => `${three(part * 100)} %`;
const shape = (sizes) => (sizes === null ? "depends on the data" : sizes.join("×") || "scalar");
const bytesOf = (tensor) => (tensor.nbytes === null ? "cannot travel" : size(tensor.nbytes));

// Most names begin alike, so the middle goes.
function elided(name, width) {
  const letters = Array.from(name);
  if (letters.length <= width) return name;
  const end = Math.floor(((width - 1) * 2) / 3);
  return `${letters.slice(0, width - 1 - end).join("")}…${letters.slice(-end).join("")}`;
}
