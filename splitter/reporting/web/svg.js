// Axes and marks as SVG: few enough that they are written here, so that they follow the page's colours and keys.

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const text = (x, y, words, more = {}) => svg("text", { x, y, ...more }, words);

// Round steps: 1, 2 or 5 times a power of ten.
function ticks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const gap = [1, 2, 5, 10].map((n) => n * power).find((n) => span / n <= count) || 10 * power;
  const found = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= high + gap * 1e-9; i++) found.push(i * gap);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const n of [1, 2, 5]) {
      const value = n * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found.length > 9
    ? found.filter((value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9)
    : found;
}

// Points of two quantities. Each axis: { title, show, log }; a point: { x, y, label, chosen, shape }.
function scatter(points, [across, up], name, line) {
  const w = Math.max(300, Math.min(720, document.querySelector("main").clientWidth - 60));
  const [h, left, bottom, top, right] = [330, 78, 46, 16, 24];
  const scale = (axis, values, from, to) => {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (axis.log) {
      if (low === high) {
        low /= 2;
        high *= 2;
      }
      const place = (v) =>
        from + ((Math.log(v) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (to - from);
      return { place, ticks: logTicks(low, high) };
    }
    const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    low = axis.floor === undefined ? low - pad : Math.max(axis.floor, low - pad);
    high = axis.ceiling === undefined ? high + pad : Math.min(axis.ceiling, high + pad);
    return { place: (v) => from + ((v - low) / (high - low || 1)) * (to - from), ticks: ticks(low, high, 6) };
  };
  const x = scale(
    across,
    points.map((p) => p.x),
    left + 14,
    w - right - 14,
  );
  const y = scale(
    up,
    points.map((p) => p.y),
    h - bottom - 10,
    top + 8,
  );
  const made = svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img", "aria-label": name });
  for (const tick of x.ticks)
    made.append(
      svg("line", { class: "grid", x1: x.place(tick), x2: x.place(tick), y1: top, y2: h - bottom }),
      text(x.place(tick), h - bottom + 17, across.show(tick), { "text-anchor": "middle" }),
    );
  for (const tick of y.ticks)
    made.append(
      svg("line", { class: "grid", x1: left, x2: w - right, y1: y.place(tick), y2: y.place(tick) }),
      text(left - 8, y.place(tick) + 4, up.show(tick), { "text-anchor": "end" }),
    );
  made.append(
    text((left + w - right) / 2, h - 8, across.title, { "text-anchor": "middle" }),
    text(14, h / 2, up.title, { "text-anchor": "middle", transform: `rotate(-90 14 ${h / 2})` }),
  );
  if (line)
    made.append(
      svg("path", {
        class: "axis",
        fill: "none",
        d: `M${line.map((p) => `${x.place(p.x)} ${y.place(p.y)}`).join("L")}`,
      }),
    );
  for (const p of points) {
    const mark = p.chosen
      ? svg("path", { class: "plan", d: `M${x.place(p.x)} ${y.place(p.y) - 9}l9 9l-9 9l-9 -9z` })
      : svg("circle", { class: "mark", cx: x.place(p.x), cy: y.place(p.y), r: 5 });
    mark.append(svg("title", {}, p.label));
    made.append(mark);
    if (p.tag)
      made.append(
        text(x.place(p.x) + (x.place(p.x) > w * 0.7 ? -11 : 11), y.place(p.y) - 8, p.tag, {
          class: "label",
          "text-anchor": x.place(p.x) > w * 0.7 ? "end" : "start",
        }),
      );
  }
  return made;
}
