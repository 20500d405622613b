// Shows only the rows that hold what is typed into the field with the class "filter", none before that, and counts them.
const filter = (field) => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll("article tbody tr:has(code)")];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.length || !words.every((word) => text.includes(word));
  }
  for (const table of new Set(rows.map((row) => row.closest("table")))) {
    table.hidden = !table.querySelector("tbody tr:not([hidden])");
  }
  for (const heading of document.querySelectorAll("article :is(h2, h3)")) {
    const tables = [];
    let next = heading.nextElementSibling;
    for (; next && !next.matches("h2, h3"); next = next.nextElementSibling) {
      tables.push(...(next.matches("table") ? [next] : next.querySelectorAll("table"))); // wrapped later on
    }
    heading.hidden = tables.length > 0 && tables.every((table) => table.hidden);
  }
  let count = document.querySelector("p.filter-count");
  if (!count) {
    field.insertAdjacentHTML("afterend", '<p class="filter-count" role="status"></p>');
    count = field.nextElementSibling;
  }
  const shown = rows.filter((row) => !row.hidden).length;
  count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows: type a part of a name`;
};
document.addEventListener("input", ({ target }) => target.matches("input.filter") && filter(target));
document.querySelectorAll("input.filter").forEach((field) => {
  field.value = new URLSearchParams(location.search).get("h") ?? ""; // what was typed into the site's search
  filter(field);
});
