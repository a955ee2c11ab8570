"use strict";
// Everything the page needs lies in it: charts and trials as JSON, plotly.js before this script.
(function () {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const trials = JSON.parse(document.getElementById("trial-data").textContent);
  const root = document.documentElement;
  // Without the button that would send a chart to its makers' site.
  const OPTIONS = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const LEGEND_MOST = 360; // pixels below a narrow plot; a longer one scrolls

  function paint(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

  function themed(layout, linear, narrow) {
    const full = structuredClone(layout);
    full.paper_bgcolor = "rgba(0,0,0,0)";
    full.plot_bgcolor = "rgba(0,0,0,0)";
    full.font = { color: paint("--ink"), size: 12.5, family: "system-ui, sans-serif" };
    full.hoverlabel = { bgcolor: paint("--panel"), bordercolor: paint("--rule"), font: { color: paint("--ink") } };
    full.autosize = true;
    full.modebar = { bgcolor: "rgba(0,0,0,0)", color: paint("--soft"), activecolor: paint("--ink") };
    for (const name of Object.keys(full).filter((key) => /^[xy]axis/.test(key))) {
      const axis = full[name];
      axis.gridcolor = paint("--grid");
      axis.zerolinecolor = paint("--rule");
      axis.linecolor = paint("--rule");
      if (linear && name === "yaxis" && axis.type === "log") {
        axis.type = "linear";
        delete axis.range;
        axis.rangemode = "tozero";
        axis.tickmode = "auto"; // the ticks given are those of decades
      }
    }
    if (narrow) {
      full.legend = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 10.5 }, maxheight: LEGEND_MOST };
      full.font.size = 11;
      full.margin = { l: 8, r: 8, t: 10, b: 30 };
    }
    return full;
  }

  function draw(section) {
    const chart = charts[section.dataset.chart];
    const select = section.querySelector("select");
    const linear = section.dataset.linear === "yes";
    section.dataset.drawn = "yes";
    for (const plot of section.querySelectorAll(".plot")) {
      const figure = chart.figures[select ? select.value : plot.dataset.at];
      const narrow = plot.clientWidth < 700, names = figure.data.filter((trace) => trace.showlegend !== false);
      const below = Math.min(LEGEND_MOST, 15 * lines(names, plot.clientWidth)), beside = 100 + 19 * names.length;
      plot.style.height = narrow ? `${280 + below}px` : "";
      plot.style.minHeight = narrow || figure.layout.legend.orientation === "h" ? "" : `${Math.min(900, beside)}px`;
      const full = themed(figure.layout, linear, narrow);
      plot.steps = structuredClone({ xaxis: full.xaxis, yaxis: full.yaxis }); // plotly writes into the layout
      Plotly.react(plot, figure.data, full, { ...OPTIONS, displayModeBar: narrow ? false : "hover" });
      if (!plot.dataset.watched) plot.on("plotly_relayout", (change) => number(plot, change));
      plot.dataset.watched = "yes";
    }
  }

  // Of a legend below its plot.
  function lines(names, width) {
    const longest = Math.max(...names.map((trace) => trace.name.length));
    return Math.ceil(names.length / Math.max(1, Math.floor(width / (60 + 6 * longest))));
  }

  // The numbers given are for the whole of an axis: a part of it gets plotly's own, until it is whole again.
  function number(plot, change) {
    const wanted = {};
    for (const name of ["xaxis", "yaxis"]) {
      const steps = plot.steps[name];
      if (!steps.range || steps.tickmode !== "array") continue;
      const moved = Object.keys(change).some((key) => key.startsWith(name) && /range/.test(key));
      const whole = plot.layout[name].range.every((end, at) => Math.abs(end - steps.range[at]) < 1e-6);
      const mode = whole ? "array" : "auto";
      if (moved && plot.layout[name].tickmode !== mode) wanted[`${name}.tickmode`] = mode;
    }
    if (Object.keys(wanted).length) Plotly.relayout(plot, wanted);
  }

  const sections = Array.from(document.querySelectorAll(".chart[data-chart]"));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && entry.target.dataset.drawn !== "yes") draw(entry.target);
    }
  }, { rootMargin: "600px" });
  for (const section of sections) {
    seen.observe(section);
    const select = section.querySelector("select");
    if (select) select.addEventListener("change", () => draw(section));
    const scale = section.querySelector("button.scale");
    if (scale) scale.addEventListener("click", () => {
      section.dataset.linear = section.dataset.linear === "yes" ? "no" : "yes";
      scale.textContent = section.dataset.linear === "yes" ? "logarithmic" : "linear";
      draw(section);
    });
  }
  // What has room on a screen is folded on a phone.
  if (window.matchMedia("(max-width: 720px)").matches) document.querySelectorAll("details.roomy").forEach((each) => { each.open = false; });
  // A link to a folded section opens it.
  function unfold() {
    const found = document.getElementById(location.hash.slice(1));
    if (found && found.tagName === "DETAILS") found.open = true;
  }
  window.addEventListener("hashchange", unfold);
  unfold();
  function redraw() { for (const section of sections) if (section.dataset.drawn === "yes") draw(section); }
  let chosen; // charts have colours of their own, and paper is light
  window.addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((each) => { each.dataset.was = each.open ? "open" : ""; each.open = true; });
    sections.forEach(draw);
    showRows(trials.rows.length);
  });
  window.addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    redraw();
    document.querySelectorAll("details").forEach((each) => { each.open = each.dataset.was === "open"; });
    showRows();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    redraw();
  });

  // The table of trials: sorts by any column, filters by words that must all occur.
  const table = document.getElementById("trials");
  const body = table.querySelector("tbody");
  const count = document.getElementById("trial-count");
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const page = 100;
  for (const row of trials.rows) row.text = row.cells.map((value) => (Array.isArray(value) ? value[1] : value)).join(" ").toLowerCase();
  let shown = page, column = null, down = false, found = trials.rows;

  function cell(row, at) {
    const td = document.createElement("td");
    const value = row.cells[at];
    if (trials.columns[at].number) td.className = "number";
    td.textContent = Array.isArray(value) ? value[1] : value === null ? "–" : value;
    return td;
  }
  function key(row, at) { const value = row.cells[at]; return Array.isArray(value) ? value[0] : value; }
  function showRows(all) {
    const limit = all || shown;
    body.replaceChildren(...found.slice(0, limit).map((row) => {
      const tr = document.createElement("tr");
      if (row.mark) { tr.className = row.mark; tr.title = row.why; }
      tr.append(...trials.columns.map((_, at) => cell(row, at)));
      return tr;
    }));
    count.textContent = `${found.length} of ${trials.rows.length} trials`;
    more.hidden = found.length <= limit;
  }
  function arrange() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = trials.rows.filter((row) => words.every((word) => row.text.includes(word)));
    if (column !== null) {
      found = found.slice().sort((one, other) => {
        const a = key(one, column), b = key(other, column);
        if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return down ? -order : order;
      });
    }
    showRows();
  }
  table.querySelectorAll("th").forEach((head, at) => {
    const sort = () => {
      down = column === at ? !down : false;
      column = at;
      table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      arrange();
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  filter.addEventListener("input", () => { shown = page; arrange(); });
  more.addEventListener("click", () => { shown += 5 * page; showRows(); });
  arrange();
  root.dataset.ready = "yes";
})();
