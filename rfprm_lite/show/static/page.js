"use strict";
// Filters and sorts what stands on the page. The state is the address's fragment, so that a view can be linked to.
(() => {
  const form = document.getElementById("controls");
  const list = document.getElementById("problems");
  const { text, min, weak, sort } = form.elements;
  const lower = (element) => element.textContent.toLowerCase();

  const problems = [...list.children].map((element, order) => {
    const grid = element.querySelector(".rfprm-candidates");
    const heading = lower(element.querySelector("h2"));
    const cards = [...grid.children].map((card, place) => ({
      element: card,
      order: place,
      text: `${heading}\n${lower(card)}`,
      reward: Number(card.dataset.reward),
      steps: Number(card.dataset.steps),
      weak: "weak" in card.dataset,
    }));
    return { element, order, grid, cards };
  });
  const total = problems.reduce((sum, problem) => sum + problem.cards.length, 0);

  const orders = {
    order: (a, b) => a.order - b.order,
    reward: (a, b) => b.reward - a.reward || a.order - b.order,
    lowest: (a, b) => a.reward - b.reward || a.order - b.order,
    steps: (a, b) => b.steps - a.steps || a.order - b.order,
  };

  function show() {
    const words = text.value.toLowerCase();
    const least = min.value === "" ? -Infinity : Number(min.value);
    const compare = orders[sort.value];
    let shown = 0;
    const heads = problems.map(({ element, order, grid, cards }) => {
      const sorted = cards.toSorted(compare);
      const kept = sorted.filter((card) => card.text.includes(words) && card.reward >= least && (card.weak || !weak.checked));
      for (const card of cards) card.element.hidden = !kept.includes(card);
      grid.append(...sorted.map((card) => card.element));
      element.hidden = kept.length === 0;
      shown += kept.length;
      return { element, first: { ...(kept[0] ?? sorted[0]), order } };
    });
    heads.sort((a, b) => compare(a.first, b.first));
    list.append(...heads.map((head) => head.element));
    document.getElementById("count").value = `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} traces shown`;
  }

  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    text.value = state.get("text") ?? "";
    const least = Number.parseFloat(state.get("min"));
    min.value = Number.isNaN(least) ? "" : least;
    weak.checked = state.get("weak") === "1";
    sort.value = Object.hasOwn(orders, state.get("sort") ?? "") ? state.get("sort") : "order";
    show();
  }

  function write() {
    const state = new URLSearchParams();
    if (text.value) state.set("text", text.value);
    if (min.value) state.set("min", min.value);
    if (weak.checked) state.set("weak", "1");
    if (sort.value !== "order") state.set("sort", sort.value);
    history.replaceState(null, "", `#${state}`);
    show();
  }

  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  form.hidden = false;
  read();
  document.documentElement.dataset.ready = "";
})();
