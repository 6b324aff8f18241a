"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const light = ["#0072b2", "#d55e00", "#009e73", "#b0508a", "#9a6b00", "#3d8fc4", "#6f5bd0", "#5f6b7a", "#1b2430"];
  const dark = ["#56b4e9", "#ff8c42", "#2fc795", "#e58bc0", "#f0c04a", "#8ecbf2", "#a898ff", "#a9b4c2", "#e6eaf0"];
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const color = (i) => (scheme.matches ? dark : light)[i % light.length];
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = (t) => {
    const s = Math.max(0, Math.round(t)), two = (n) => String(n).padStart(2, "0");
    const h = Math.floor(s / 3600), rest = two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
    return h ? h + ":" + rest : rest;
  };
  const text = (v) => (v == null ? "–" : String(+v.toPrecision(3)));

  // Steps of a clock, not of a decimal scale.
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

  // The hold, the inconclusive seconds and the limit, behind the lines.
  const background = (chart) => (u) => {
    const { ctx, bbox } = u;
    const x = (t) => u.valToPos(t, "x", true);
    const clip = (from, until) => {
      const a = Math.max(bbox.left, x(from)), b = Math.min(bbox.left + bbox.width, x(until));
      return b > a ? [a, b - a] : null;
    };
    ctx.save();
    const hold = clip(data.hold[0], data.hold[1]);
    if (hold) {
      ctx.fillStyle = variable("--hold");
      ctx.fillRect(hold[0], bbox.top, hold[1], bbox.height);
    }
    ctx.strokeStyle = variable("--stripe");
    ctx.lineWidth = devicePixelRatio;
    for (const [from, until] of data.inconclusive) {
      const span = clip(from, until);
      if (!span) continue;
      ctx.save();
      ctx.beginPath();
      ctx.rect(span[0], bbox.top, span[1], bbox.height);
      ctx.clip();
      ctx.beginPath();
      const step = 6 * devicePixelRatio;
      // Anchored to the plot, so that neighbouring seconds make one pattern.
      const first = bbox.left + Math.floor((span[0] - bbox.left - bbox.height) / step) * step;
      for (let at = first; at < span[0] + span[1]; at += step) {
        ctx.moveTo(at, bbox.top + bbox.height);
        ctx.lineTo(at + bbox.height, bbox.top);
      }
      ctx.stroke();
      ctx.restore();
    }
    if (chart.limit != null && chart.limit <= u.scales.y.max) {
      const y = u.valToPos(chart.limit, "y", true);
      ctx.strokeStyle = ctx.fillStyle = variable("--fail");
      ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.font = 11 * devicePixelRatio + "px system-ui, sans-serif";
      ctx.textAlign = "right";
      ctx.fillText("limit " + text(chart.limit) + " " + chart.unit, bbox.left + bbox.width - 4, y - 4);
    }
    ctx.restore();
  };

  const last = Math.max(1, ...data.charts.map((c) => c.x[c.x.length - 1] || 0)) + 0.001;
  const sync = uPlot.sync("time");

  const draw = (chart) => {
    const at = document.getElementById(chart.id);
    const soft = variable("--soft"), line = variable("--line");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const options = {
      width: at.clientWidth || 480,
      height: 220,
      cursor: { sync: { key: sync.key }, points: { size: 6 } },
      scales: {
        x: { time: false },
        // From zero, with the limit in sight once the values come near it.
        y: {
          range: (u, low, high) => {
            let top = high > 0 ? high * 1.08 : 1;
            if (chart.limit && high > chart.limit / 4) top = Math.max(top, chart.limit * 1.15);
            return [0, top];
          },
        },
      },
      axes: [
        { ...axis, incrs: steps, space: 64, size: 30, values: (u, ticks) => ticks.map(clock) },
        { ...axis, size: 56, values: (u, ticks) => ticks.map((v) => text(v) + (chart.unit && " " + chart.unit)) },
      ],
      series: [
        { label: "at", value: (u, v) => (v == null ? "" : clock(v)) },
        ...chart.series.map((s) => ({
          label: s.label,
          stroke: () => color(s.color),
          width: s.dashed ? 1 : 1.5,
          dash: s.dashed ? [4, 3] : undefined,
          paths: chart.dots ? () => null : undefined,
          points: { show: chart.dots || undefined, size: chart.dots ? 5 : 3, fill: chart.dots ? color(s.color) : undefined },
          value: (u, v) => (v == null ? "–" : text(v)),
        })),
      ],
      legend: { markers: { width: 0, fill: (u, i) => color(chart.series[i - 1].color) } },
      hooks: { drawClear: [background(chart)] },
    };
    at.textContent = "";
    // Every plot spans the whole run, so that one looks straight down from plot to plot.
    const whole = (values, first, end) => [first, ...values, end];
    return new uPlot(options, [whole(chart.x, 0, last), ...chart.series.map((s) => whole(s.y, null, null))], at);
  };

  let plots = data.charts.map(draw);
  scheme.addEventListener("change", () => {
    plots.forEach((p) => p.destroy());
    plots = data.charts.map(draw);
  });
  let width = 0;
  new ResizeObserver(() => {
    const now = document.querySelector(".chart")?.clientWidth;
    if (!now || now === width) return;
    width = now;
    plots.forEach((p) => p.setSize({ width: p.root.parentElement.clientWidth, height: 220 }));
  }).observe(document.querySelector("main"));
})();
