// Buttons in the headers of tables sort the rows by their column: figures by size, largest first.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const body = table.tBodies[0];
    const figures = head.classList.contains("figure");
    const order = head.getAttribute("aria-sort");
    const down = order === "none" ? figures : order === "ascending";
    const text = (row) => row.cells[head.cellIndex].textContent;
    const number = (row) => parseFloat(text(row).replaceAll(",", ""));
    const compare = (a, b) => {
      if (!figures) return text(a).localeCompare(text(b), undefined, { numeric: true });
      return number(a) - number(b);
    };
    // What has no figure stays below what has one, whichever way the others go.
    const known = (row) => !figures || !Number.isNaN(number(row));
    const rows = [...body.rows];
    const sorted = rows.filter(known).sort((a, b) => (down ? compare(b, a) : compare(a, b)));
    body.append(...sorted, ...rows.filter((row) => !known(row)));
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
