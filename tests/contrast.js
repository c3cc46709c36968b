// Texts of a page whose contrast is below the 4.5 of WCAG AA.
() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (rgb) =>
    rgb
      .slice(0, 3)
      .map((c, i) => linear(c / 255) * [0.2126, 0.7152, 0.0722][i])
      .reduce((sum, c) => sum + c);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const found = parse(getComputedStyle(node).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const kinds =
    "h1, h2, h3, p, dt, dd, li, small, b, label, output, button, th, td, summary, .strip span, .ends span";
  const bad = [];
  for (const node of document.querySelectorAll(kinds)) {
    if (!node.innerText || !node.offsetParent) continue;
    const [one, two] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5)
      bad.push(`${node.tagName} ${node.className} ${node.innerText.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return bad;
};
