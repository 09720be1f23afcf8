// One chart: lines over time, drawn by uPlot, which is fetched when the first one is shown.
import { html, Component } from "./html.js";
import { clock } from "./format.js";

const HEIGHT = 148;
let library = null;

function load() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/static/vendor/uplot/uPlot.iife.min.js";
    script.onload = () => resolve(globalThis.uPlot);
    script.onerror = () => reject(new Error("the charts could not be loaded"));
    document.head.append(script);
  });
  return library;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

// props: title, at: [unix seconds], step, lines: [{label, values, colour, fill, dash}], say: value -> text, least: of the scale
export class Chart extends Component {
  componentDidMount() {
    load().then((uPlot) => {
      this.uPlot = uPlot;
      this.draw();
    });
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.box.clientWidth, height: HEIGHT }));
    this.sizes.observe(this.box);
    DARK.addEventListener("change", this.again);
  }

  componentWillUnmount() {
    this.sizes.disconnect();
    DARK.removeEventListener("change", this.again);
    this.plot?.destroy();
    this.plot = null;
    this.uPlot = null;
  }

  // The parent draws 4 times a second; a chart only when it has other numbers.
  shouldComponentUpdate(next) {
    return next.lines !== this.props.lines;
  }

  componentDidUpdate(before) {
    const labels = (props) => props.lines.map((line) => line.label).join();
    if (!this.plot || labels(before) !== labels(this.props)) this.again();
    else this.plot.setData(this.data());
    this.read();
  }

  again = () => {
    this.plot?.destroy();
    this.plot = null;
    if (this.uPlot) this.draw();
  };

  data() {
    return [this.props.at, ...this.props.lines.map((line) => line.values)];
  }

  draw() {
    this.plot = new this.uPlot(this.options(), this.data(), this.box);
    this.read();
  }

  options() {
    const grid = { stroke: colour("border"), width: 1 };
    const axis = { stroke: colour("text-light"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
    const hours = this.props.step > 60;
    const times = (_, marks) => marks.map((at) => new Date(at * 1000).toLocaleTimeString([], hours ? { hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit" }));
    return {
      width: this.box.clientWidth,
      height: HEIGHT,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true, range: () => this.range() }, y: { range: (_, low, high) => [0, Math.max(this.props.least ?? 1, high ?? 0) * 1.08] } },
      axes: [
        { ...axis, space: 70, values: times, size: 26, gap: 4 },
        { ...axis, size: 52, space: 32, gap: 6, values: (_, marks) => marks.map((value) => this.props.say(value, true)) },
      ],
      series: [{}, ...this.props.lines.map((line) => this.series(line))],
      hooks: { setCursor: [() => this.read()] },
    };
  }

  series(line) {
    const stroke = colour(line.colour);
    return { label: line.label, stroke, width: line.dash ? 1 : 1.75, dash: line.dash, fill: line.fill ? `${stroke}26` : undefined, points: { show: line.dash ? false : this.lonely(line), size: 4, fill: stroke }, spanGaps: false };
  }

  // A number between two gaps makes no line: it is shown as a point.
  lonely(line) {
    return (_, index) => line.values.some((value, at) => value !== null && (line.values[at - 1] ?? null) === null && (line.values[at + 1] ?? null) === null) || undefined;
  }

  range() {
    const { at, step } = this.props;
    return [at[0], at.at(-1) + step];
  }

  // The numbers under the cursor, else the latest ones.
  read() {
    const { at, lines, say } = this.props;
    const pointed = this.plot?.cursor.idx;
    const index = pointed ?? lines.reduce((last, line) => Math.max(last, line.dash ? -1 : line.values.findLastIndex((value) => value !== null)), -1);
    lines.forEach((line, number) => {
      const value = line.values[index] ?? null;
      const shown = this.figure?.querySelector(`[data-line="${number}"]`);
      if (shown) shown.textContent = value === null ? "–" : say(value);
    });
    const when = this.figure?.querySelector("[data-when]");
    if (when) when.textContent = pointed === null || pointed === undefined ? "" : clock(at[pointed]);
  }

  render({ title, lines }) {
    return html`<figure class="chart" ref=${(element) => (this.figure = element ?? this.figure)}>
      <figcaption>
        <strong>${title}</strong>
        <span class="muted nowrap" data-when></span>
        <span class="legend">
          ${lines.map((line, number) => html`<span key=${line.label} class="nowrap"><svg viewBox="0 0 12 4" aria-hidden="true"><rect class=${line.colour} width="12" height="4" /></svg> ${line.label} <b data-line=${number}>–</b></span>`)}
        </span>
      </figcaption>
      <div class="plot" aria-hidden="true" ref=${(element) => (this.box = element ?? this.box)}></div>
    </figure>`;
  }
}
