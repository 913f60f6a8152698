"use strict";

// Tables sort by a click on a column's head, or by Enter and space there (heads are buttons). A second time turns the
// order round. Cells without a value stay last.
function valueOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
}

function compare(a, b, numeric) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const numeric = head.dataset.kind === "number";
  const before = head.getAttribute("aria-sort");
  const down = before === "ascending" || (before === null && numeric);
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row, column) }));
  rows.sort((a, b) => {
    const order = compare(a.value, b.value, numeric);
    return down && a.value !== "" && b.value !== "" ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(table, head));
  }
}

// Finding a class among many.
for (const field of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(field.dataset.filters);
  const count = document.getElementById(field.dataset.filters + "-count");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLocaleLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLocaleLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? shown + " found" : "";
  });
}
