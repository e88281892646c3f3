// The theme names its search dialog nowhere, and what is wide scrolls for the mouse alone.
const WIDE = ".md-typeset__scrollwrap, .md-typeset p:has(> img:only-child), pre > code"
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  for (const wide of document.querySelectorAll(WIDE)) wide.tabIndex = 0
})
