// What happened at one limit over time: four charts, and since when it is known.
import { html, Component } from "./html.js";
import { api, limitPath } from "./api.js";
import { Chart } from "./chart.js";
import { count, duration, sentence } from "./format.js";
import { live } from "./live.js";
import { Clock } from "./marks.js";

const SPANS = [
  ["10m", "10 min", 5],
  ["1h", "1 h", 15],
  ["24h", "24 h", 60],
];

const number = (value) => (value >= 10 || value === 0 ? count(value) : Number(value.toPrecision(2)).toLocaleString());
const whole = (value, brief) => (brief && value % 1 ? "" : number(value));

export class History extends Component {
  state = { span: "10m", told: null, problem: "" };

  componentDidMount() {
    this.fetch();
    this.timer = setInterval(() => this.due() && this.fetch(), 1000);
  }

  componentWillUnmount() {
    clearInterval(this.timer);
    this.gone = true;
  }

  due() {
    const [, , seconds] = SPANS.find(([span]) => span === this.state.span);
    return !document.hidden && !live.lost && performance.now() - this.asked >= seconds * 1000;
  }

  async fetch(span = this.state.span) {
    this.asked = performance.now();
    try {
      const told = await api.get(limitPath(this.props.name, `/history?span=${span}`));
      if (!this.gone && told.span === this.state.span) this.setState({ told, charts: this.charts(told), problem: "" });
    } catch (problem) {
      if (!this.gone) this.setState({ problem: problem.detail });
    }
  }

  choose(span) {
    this.setState({ span }, () => this.fetch(span));
  }

  // Made once an answer, so that a chart can see that nothing is new.
  charts(told) {
    const limit = live.rows.get(this.props.name)?.limit ?? this.props.limit;
    const most = told.slots_max;
    return [
      { title: "Slots in use", least: Math.max(limit, 1), say: whole, lines: [
        { label: "mean", values: told.slots, colour: "held", fill: true },
        { label: "most", values: most, colour: "spent" },
        { label: "limit", values: told.at.map(() => limit), colour: "border-strong", dash: [4, 4] },
      ] },
      { title: "Line", say: whole, lines: [
        { label: "mean", values: told.line, colour: "held", fill: true },
        { label: "longest", values: told.line_max, colour: "line-2" },
      ] },
      { title: "Wait", least: 0.01, say: (value) => duration(value), lines: [
        { label: "p50", values: told.wait_p50, colour: "held" },
        { label: "p99", values: told.wait_p99, colour: "line-2" },
      ] },
      { title: "Grants a second", least: 0.1, say: number, lines: [{ label: "grants", values: told.grants_per_second, colour: "held", fill: true }] },
    ];
  }

  render(_, { span, told, charts, problem }) {
    return html`<div class="panel history">
      <header>
        <h2>History</h2>
        ${told?.kept && html`<span class="muted small grow">watching since <${Clock} at=${told.watching_since} /></span>`}
        <div class="choice" role="group" aria-label="Time span">
          ${SPANS.map(([value, label]) => html`<button key=${value} type="button" aria-pressed=${value === span ? "true" : "false"} onClick=${() => this.choose(value)}>${label}</button>`)}
        </div>
      </header>
      ${problem && html`<p class="none">${problem}</p>`}
      ${told && !told.kept && html`<p class="none">${sentence(told.why_not)}</p>`}
      ${told?.kept && charts && html`<div class="charts">${charts.map((chart) => html`<${Chart} key=${chart.title} at=${told.at} step=${told.step} ...${chart} />`)}</div>`}
    </div>`;
  }
}
