// Shows only the rows that hold what is typed into the field with the class "filter".
document.addEventListener("input", (event) => {
  if (!event.target.matches("input.filter")) return;
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("article tbody tr:has(code)")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
});
