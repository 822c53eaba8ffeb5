// Pictures follow the palette that the reader chose, not only that of the system.
function followPalette() {
  const dark = document.body.dataset.mdColorScheme === "slate";
  for (const source of document.querySelectorAll("picture source")) {
    source.media = dark ? "all" : "not all";
  }
}
new MutationObserver(followPalette).observe(document.body, {
  attributes: true,
  attributeFilter: ["data-md-color-scheme"],
});
followPalette();
