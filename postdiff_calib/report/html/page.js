// The report's behaviour: tooltips, walking through a plot by arrow keys, arms on and off, tables sorted by a click.
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

  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      closed.push(details);
      details.open = true;
    }
  });
  window.addEventListener("afterprint", () => closed.splice(0).forEach((details) => { details.open = false; }));
})();
