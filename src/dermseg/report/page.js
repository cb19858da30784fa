"use strict";
// Sorts and filters tables; without it the page reads the same.
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const heads = [...box.querySelectorAll("th")];
  const text = (row, column) => row.cells[column].textContent.trim();
  const value = (word) => Number.parseFloat(word.replace(/,/g, ""));
  const compare = (a, b, numbers, sign) => {
    if (a === "–" || b === "–") return (a === "–") - (b === "–"); // what is missing comes last
    return sign * (numbers ? value(a) - value(b) : a.localeCompare(b, "en", { numeric: true }));
  };
  heads.forEach((head, column) => {
    if (rows.length < 2 || head.classList.contains("picture")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numbers = head.classList.contains("n");
      rows.sort((one, other) => compare(text(one, column), text(other, column), numbers, down ? -1 : 1));
      body.append(...rows);
    });
  });
  const form = box.querySelector("form");
  if (!form) continue;
  form.hidden = false;
  const words = rows.map((row) => row.textContent.toLowerCase());
  const selects = [...form.querySelectorAll("select")];
  const columns = selects.map((select) => heads.findIndex((head) => head.textContent === select.dataset.name));
  const places = new Map(rows.map((row, place) => [row, place]));
  const filter = () => {
    const search = form.querySelector("input").value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = selects.every((select, k) => !select.value || text(row, columns[k]) === select.value);
      row.hidden = !(fits && words[places.get(row)].includes(search));
      shown += row.hidden ? 0 : 1;
    }
    form.querySelector("output").textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
