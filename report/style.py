"""The style sheet of the report page: one column that fits a phone, light or dark as the reader's device is."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --paper: #fff; --wash: #f5f7f9;
  --main: #2563a8; --warm: #c2551d; --third: #2e8555; --lost: #f3d3c4; --bad: #a3261b; --bad-wash: #fdeceb;
  --odd: #8a5a00; --odd-wash: #fff5df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #9aa5b1; --line: #343b44; --paper: #15181c;
  --wash: #1e2329; --main: #6ba6e8; --warm: #ee8a52; --third: #62bd8b; --lost: #51352a; --bad: #ff9a90;
  --bad-wash: #3a1d1b; --odd: #f3c568; --odd-wash: #37301d; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 16px 16px 48px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 1.15rem; margin: 36px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 16px 0 4px; }
p { margin: 6px 0 10px; }
.soft, .ci { color: var(--soft); }
.ci { font-size: .75rem; white-space: nowrap; display: block; }
.verdict { font-size: 1.05rem; padding: 12px 14px; background: var(--wash); border-left: 4px solid var(--main); }
.finding { padding: 8px 12px; margin: 8px 0; border-radius: 4px; overflow-wrap: anywhere; }
.error { color: var(--bad); background: var(--bad-wash); }
.warning { color: var(--odd); background: var(--odd-wash); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px 6px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td:first-child { overflow-wrap: anywhere; min-width: 7rem; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.grid2 .chart { max-width: 420px; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 8px 28px; }
.card { background: var(--wash); border-radius: 6px; padding: 10px 14px; min-width: 0; overflow-wrap: anywhere; }
.card ol { margin: 6px 0; padding-left: 1.6rem; }
.card li.hit .soft { font-weight: normal; }
.card li.hit { color: var(--third); font-weight: 600; }
.chart { width: 100%; max-width: 480px; height: auto; display: block; margin: 6px 0; }
.chart text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.chart .small { font-size: 10px; fill: var(--soft); }
.chart .inverse { fill: var(--paper); }
.chart .strong { font-weight: 600; }
.chart .bar, .chart .cell { fill: var(--main); }
.chart .lost { fill: var(--lost); }
.chart .alarm { fill: none; stroke: var(--bad); stroke-width: 1.5; }
.chart .frame { fill: none; stroke: var(--line); }
.chart .grid { stroke: var(--line); }
.chart .ideal { stroke: var(--soft); stroke-dasharray: 4 4; }
.chart .range { stroke: var(--main); stroke-width: 4; stroke-opacity: .4; stroke-linecap: round; }
.chart .thin { stroke-width: 2; }
.chart .line { fill: none; stroke: var(--main); stroke-width: 1.8; }
.chart .dot { fill: var(--main); }
.chart .line.series1 { stroke: var(--warm); } .chart .dot.series1 { fill: var(--warm); }
.chart .line.series2 { stroke: var(--third); } .chart .dot.series2 { fill: var(--third); }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--main); }
pre { background: var(--wash); padding: 12px; border-radius: 6px; overflow-x: auto; font-size: .8rem; }
"""
