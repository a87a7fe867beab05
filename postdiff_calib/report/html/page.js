// The report's behaviour: tooltips, walking through a plot by arrow keys, arms on and off, tables sorted by a click, one
// budget at a time, profiles copied, prompts filtered.
// It only reads the page; without it everything but these is still there.
(() => {
  "use strict";
  const tip = document.getElementById("tip");
  let shownFor = null;

  const place = (mark) => {
    const box = mark.getBoundingClientRect();
    const margin = 8;
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(margin, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - margin))}px`;
    const above = box.top - tip.offsetHeight - margin;
    tip.style.top = `${above >= margin ? above : box.bottom + margin}px`;
  };
  const show = (mark) => {
    shownFor = mark;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    place(mark);
  };
  const hide = () => {
    shownFor = null;
    tip.hidden = true;
  };
  const markOf = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const mark = markOf(event);
    if (mark) show(mark);
    else if (shownFor && shownFor !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => (markOf(event) ? show(markOf(event)) : hide()));
  document.addEventListener("focusout", hide);
  document.addEventListener("click", (event) => (markOf(event) ? show(markOf(event)) : hide()));
  document.addEventListener("scroll", () => shownFor && place(shownFor), { capture: true, passive: true });

  // One stop of the tab key per plot; the arrow keys walk through its marks from left to right.
  for (const plot of document.querySelectorAll("[data-roving]")) {
    const marks = [...plot.querySelectorAll("[data-tip]")];
    marks.sort((a, b) => a.dataset.x - b.dataset.x);
    const walk = (from, by) => {
      for (let i = from + by; i >= 0 && i < marks.length; i += by) {
        if (!marks[i].classList.contains("off")) return marks[i].focus();
      }
    };
    const start = marks.find((mark) => mark.classList.contains("winner")) ?? marks[0];
    if (start) start.setAttribute("tabindex", "0");
    plot.addEventListener("keydown", (event) => {
      const at = marks.indexOf(document.activeElement);
      if (at < 0) return;
      if (event.key === "Escape") hide();
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      walk(at, by);
    });
  }

  for (const key of document.querySelectorAll("[data-arm]")) {
    key.addEventListener("click", () => {
      const on = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", String(on));
      for (const node of document.querySelectorAll(`#frontier .dot.arm-${key.dataset.arm}, #frontier .frontier.arm-${key.dataset.arm}`)) {
        node.classList.toggle("off", !on);
      }
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.v;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const text = a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true });
        return x !== undefined && y !== undefined ? Number(x) - Number(y) : text;
      };
      // Rows without a number in this column stay last either way.
      const empty = (row) => row.cells[column].textContent === "–";
      const rows = [...body.rows].sort((a, b) => empty(a) - empty(b) || (descending ? -1 : 1) * compare(a, b));
      body.append(...rows);
    }));
  }

  // One plan of the frontier at a time, by the slider; without the script all of them are there.
  const slider = document.getElementById("budget-slider");
  if (slider) {
    const places = [...document.querySelectorAll(".choice")];
    const choose = () => {
      places.forEach((place, i) => { place.hidden = i !== Number(slider.value); });
      document.getElementById("budget-label").value = places[slider.value].dataset.label;
      slider.setAttribute("aria-valuetext", places[slider.value].dataset.label);
    };
    slider.closest(".slider").hidden = false;
    slider.addEventListener("input", choose);
    choose();
  }

  for (const button of document.querySelectorAll(".copy")) {
    const box = button.closest("details");
    const text = box.querySelector(".yaml");
    button.hidden = false;
    button.addEventListener("click", async () => {
      let done = "copied";
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        getSelection().selectAllChildren(text);
        done = "marked: copy it with the keyboard";
      }
      box.querySelector(".copied").textContent = done;
    });
  }

  const filters = document.querySelector(".filters");
  if (filters) {
    const rows = [...document.querySelectorAll("#every-prompt tbody tr")];
    const filter = () => {
      const wanted = Object.fromEntries(["difference", "category"].map((by) => [by, document.getElementById(`by-${by}`)?.value ?? ""]));
      for (const row of rows) row.hidden = Object.entries(wanted).some(([by, value]) => value && row.dataset[by] !== value);
      const shown = rows.filter((row) => !row.hidden).length;
      document.getElementById("prompts-shown").value = `${shown} of ${rows.length} prompts`;
    };
    filters.hidden = false;
    filters.addEventListener("change", filter);
    filter();
  }

  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      closed.push(details);
      details.open = true;
    }
  });
  window.addEventListener("afterprint", () => closed.splice(0).forEach((details) => { details.open = false; }));
})();
