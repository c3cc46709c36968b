// Elements made of text: names in a plan are a model file's, and none of them ever becomes markup.

const at = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

function pairs(entries) {
  const shown = entries.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return element(
    "dl",
    {},
    shown.map(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]),
  );
}

// Columns: [title, kind]; kind is "number", "name" or nothing. Rows: cells, and whether the row is the plan's.
function table(caption, columns, rows) {
  const cells = (row) =>
    row.cells.map((cell, i) =>
      element(i === 0 ? "th" : "td", { class: columns[i][1], scope: i === 0 ? "row" : null }, cell),
    );
  return element(
    "table",
    {},
    element("caption", { class: "hidden" }, caption),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        columns.map(([title, kind]) => element("th", { class: kind, scope: "col" }, title)),
      ),
    ),
    element(
      "tbody",
      {},
      rows.map((row) => element("tr", { class: row.chosen ? "chosen" : null }, cells(row))),
    ),
  );
}

// A table of a thousand rows is made when somebody wants to see it; gives what makes it again while it is seen.
function whenOpened(id, make) {
  const details = at(id);
  const body = details.querySelector(".wide");
  const refresh = () => {
    if (details.open) body.replaceChildren(make());
  };
  details.addEventListener("toggle", refresh);
  return refresh;
}

function legend(id, items) {
  at(id).replaceChildren(...items.map(([style, text]) => element("li", {}, element("i", { style }), text)));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", `Use ${theme === "dark" ? "light" : "dark"} colours`);
}

function startTheme(changed) {
  const wish = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(wish.matches ? "dark" : "light");
  const change = (theme) => {
    setTheme(theme);
    changed();
  };
  wish.addEventListener("change", () => change(wish.matches ? "dark" : "light"));
  at("theme").addEventListener("click", () =>
    change(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  );
}
