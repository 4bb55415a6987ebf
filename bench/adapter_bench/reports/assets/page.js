
"use strict";
// Sorting: a press on a heading, missing figures always last, a second press turns the order round.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.v;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true }));
    });
    table.tBodies[0].append(...rows);
  }));
}
// Colours: as the system has them, or as chosen here.
const root = document.documentElement, theme = document.getElementById("theme"), choices = ["auto", "light", "dark"];
const remember = (choice) => { try { localStorage.setItem("adapter-bench-theme", choice); } catch { /* not on disk */ } };
const recall = () => { try { return localStorage.getItem("adapter-bench-theme"); } catch { return null; } };
const show = (choice) => {
  if (choice === "auto") delete root.dataset.theme; else root.dataset.theme = choice;
  theme.querySelector("span").textContent = choice;
};
show(choices.includes(recall()) ? recall() : "auto");
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = choices[(choices.indexOf(root.dataset.theme ?? "auto") + 1) % choices.length];
  remember(next);
  show(next);
});
// What a mark stands for: on hover, on a tap, and by keyboard.
const tip = document.getElementById("tip");
for (const mark of document.querySelectorAll(".tip")) {
  const title = mark.querySelector("title");
  mark.setAttribute("aria-label", mark.dataset.tip);
  mark.setAttribute("role", "img");
  title.remove(); // the browser's own tip would stand beside ours
  const open = () => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(box.left + box.width / 2 - own.width / 2, 6), innerWidth - own.width - 6);
    const above = box.top - own.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  mark.addEventListener("pointerenter", open);
  mark.addEventListener("focus", open);
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; });
}
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
// Paper unfolds nothing by itself.
addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details")) details.open = true; });
