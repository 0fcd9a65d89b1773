// Draw the charts from the figures that the page holds, in the colours of its theme.
"use strict";

const CONFIG = { displayModeBar: false, responsive: true };
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8 }, gridcolor: colour("line"), zerolinecolor: colour("strong-line"),
    linecolor: colour("strong-line"), tickcolor: colour("line"), automargin: true, fixedrange: true, ...more,
  };
}

function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("text") },
    margin: { l: 52, r: 12, t: 12, b: 44 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("strong-line"), font: { color: colour("text") } },
    ...more,
  };
}

const DRAW = {
  reliability({ bins, isotonic }) {
    const most = Math.max(...bins.map((bin) => bin.n), 1);
    const dots = (within) => bins.filter((bin) => bin.within === within);
    const trace = (of, name, symbol, tone) => ({
      type: "scatter", mode: "markers", name, x: of.map((bin) => bin.forecast), y: of.map((bin) => bin.observed),
      text: of.map((bin) => `${bin.n} forecasts of ${bin.name}`),
      hovertemplate: "%{text}<br>said %{x:.1%}, won %{y:.1%}<extra></extra>",
      marker: { symbol, color: tone, opacity: 1, size: of.map((bin) => 9 + 11 * Math.sqrt(bin.n / most)), line: { width: 2, color: tone } },
    });
    return {
      traces: [
        { type: "scatter", mode: "lines", name: "perfect", x: [0, 1], y: [0, 1], hoverinfo: "skip",
          line: { dash: "dash", width: 1.5, color: colour("strong-line") } },
        { type: "scatter", mode: "markers", name: "consistent", showlegend: false, x: bins.map((bin) => bin.forecast), hoverinfo: "skip",
          y: bins.map((bin) => bin.forecast), marker: { size: 1, color: colour("strong-line") },
          error_y: { type: "data", symmetric: false, color: colour("strong-line"), thickness: 6, width: 0,
            array: bins.map((bin) => bin.high - bin.forecast), arrayminus: bins.map((bin) => bin.forecast - bin.low) } },
        { type: "scatter", mode: "lines", name: "best rising fit", x: isotonic.map((point) => point.forecast),
          y: isotonic.map((point) => point.observed), line: { width: 2, color: colour("data-2") },
          hovertemplate: "fit: said %{x:.0%}, won %{y:.1%}<extra></extra>" },
        trace(dots(true), "within", "circle", colour("data")),
        trace(dots(false), "outside", "square-open", colour("bad")),
      ],
      layout: {
        xaxis: axis("stated probability", { range: [-0.03, 1.03], tickformat: ".0%" }),
        yaxis: axis("won", { range: [-0.05, 1.05], tickformat: ".0%" }),
      },
    };
  },

  brier({ day, n, brier, base_rate: baseRate, if_calibrated: floor }) {
    const line = (name, y, style, template) => ({
      type: "scatter", mode: day.length > 1 ? "lines" : "markers", name, x: day, y, line: style, customdata: n,
      hovertemplate: template,
    });
    return {
      traces: [
        line("Brier score", brier, { width: 2.5, color: colour("data") }, "%{x}: %{y:.4f} of %{customdata}<extra></extra>"),
        line("always the win rate", baseRate, { width: 1.5, dash: "dash", color: colour("faint") },
          "always the win rate: %{y:.4f}<extra></extra>"),
        line("floor", floor, { width: 2, dash: "dot", color: colour("data-2") }, "floor: %{y:.4f}<extra></extra>"),
      ],
      layout: { xaxis: axis("", { type: "date" }), yaxis: axis("Brier score", { rangemode: "normal" }) },
    };
  },

  effects({ gate, saved, resolved, won }) {
    return {
      traces: [{
        type: "bar", x: gate, y: saved, customdata: gate.map((_, place) => [resolved[place], won[place]]),
        text: saved.map((r) => `${r < 0 ? "cost" : "saved"} ${Math.abs(r).toFixed(2)}`), textposition: "outside", cliponaxis: false,
        marker: { color: saved.map((r) => colour(r < 0 ? "bar-block" : "bar-pass")) },
        hovertemplate: "%{x}: %{text} R, %{customdata[0]} resolved, %{customdata[1]} would have won<extra></extra>",
      }],
      layout: { xaxis: axis("", { type: "category" }), yaxis: axis("R saved", { zerolinewidth: 2 }),
        margin: { l: 52, r: 12, t: 24, b: 60 } },
    };
  },

  latency({ at, n, p50, p95, deadline }) {
    const mode = at.length > 1 ? "lines" : "markers";
    const line = (name, y, style) => ({
      type: "scatter", mode, name, x: at, y, line: style, marker: { size: 9, color: style.color }, customdata: n,
      hovertemplate: `${name} %{y} ms of %{customdata} decisions<extra></extra>`,
    });
    return {
      traces: [
        line("P95", p95, { width: 2.5, color: colour("data") }),
        line("P50", p50, { width: 2, dash: "dot", color: colour("data-2") }),
      ],
      layout: {
        xaxis: axis("", { type: "date" }), yaxis: axis("ms", { rangemode: "tozero" }),
        shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: deadline, y1: deadline,
          line: { dash: "dash", width: 1.5, color: colour("bad") } }],
        showlegend: true,
      },
    };
  },

  price({ bars, plan }) {
    const tones = { Entry: "data", Stop: "bad", Target: "good" };
    return {
      traces: [{
        type: "candlestick", x: bars.t, open: bars.open, high: bars.high, low: bars.low, close: bars.close, name: "bars",
        increasing: { line: { color: colour("bar-pass"), width: 1.5 }, fillcolor: "rgba(0,0,0,0)" },
        decreasing: { line: { color: colour("bar-block"), width: 1.5 }, fillcolor: colour("bar-block") },
      }],
      layout: {
        xaxis: axis("", { type: "date", rangeslider: { visible: false } }), yaxis: axis("$ per share"),
        margin: { l: 52, r: 96, t: 12, b: 44 },
        shapes: plan.map(({ name, price }) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: price, y1: price,
          line: { width: 2, dash: name === "Entry" ? "solid" : "dash", color: colour(tones[name]) } })),
        annotations: plan.map(({ name, price }) => ({ xref: "paper", x: 1.01, xanchor: "left", y: price, showarrow: false,
          text: `${name} ${price}`, font: { color: colour(tones[name]), size: 12 } })),
        showlegend: false,
      },
    };
  },
};

function draw(place) {
  const data = place.figures ??= JSON.parse(place.querySelector("script").textContent);
  const chart = DRAW[place.dataset.chart](data);
  Plotly.react(place, chart.traces, layout(chart.layout), CONFIG).then(() => place.classList.add("drawn"));
}

function drawAll() {
  document.querySelectorAll("[data-chart]").forEach(draw);
}

drawAll();
dark.addEventListener("change", drawAll);
