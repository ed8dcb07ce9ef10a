"""The style sheet of a sweep's report: light and dark, narrow screens, paper. Its blue and orange suit all eyes."""

CSS = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1a1d23; --muted: #5b626e; --line: #dde0e6;
  --accent: #c2410c; --accent-soft: #c2410c22; --edge: #00000026; --soft: #8d97a8; --mid: #1d5fa8; --bar: #2f6fb5;
  --s0: #c3d3e6; --s1: #a3bedd; --s2: #7fa5d0; --s3: #5b8bc1; --s4: #3b71ae; --s5: #215793; --s6: #0c3c74; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #121418; --card: #1a1d23; --ink: #e9ebef; --muted: #a5acb8; --line: #333842; --accent: #ff9d52;
    --accent-soft: #ff9d5230; --edge: #000000aa; --soft: #79839a; --mid: #7db4f5; --bar: #5d9be0; --s0: #33455e;
    --s1: #3d587d; --s2: #4a6f9f; --s3: #5b88c0; --s4: #78a5da; --s5: #9fc3ee; --s6: #d2e5ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
header p { margin: 0; color: var(--muted); }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; }
h2 { font-size: 1.2rem; margin: 0 0 4px; line-height: 1.3; }
h3 { font-size: 1rem; margin: 22px 0 2px; }
p { margin: 6px 0; max-width: 85ch; }
section, .answer { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px;
  margin-top: 18px; }
.answer { border-left: 5px solid var(--accent); }
.answer .lead { font-size: 1.45rem; line-height: 1.35; font-weight: 600; margin: 2px 0 8px; text-wrap: balance;
  max-width: none; }
.open { border-left-color: var(--soft); }
.note, figcaption { color: var(--muted); font-size: .9rem; }
figure { margin: 12px 0 0; }
figcaption { margin-top: 6px; max-width: 85ch; }
pre { background: var(--bg); border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px; margin: 8px 0;
  font: .86rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; margin-top: 10px;
  background: linear-gradient(90deg, var(--card) 40%, transparent) 0 0 / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--card) 40%, transparent) 100% 0 / 40px 100% no-repeat local, linear-gradient(90deg,
  var(--edge), transparent) 0 0 / 14px 100% no-repeat scroll, linear-gradient(270deg, var(--edge),
  transparent) 100% 0 / 14px 100% no-repeat scroll; }
.scroll:focus-visible { outline: 2px solid var(--mid); }
table { border-collapse: separate; border-spacing: 0; font-size: 14px; line-height: 20px; width: 100%; }
th, td { padding: 6px 8px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
th.name { white-space: normal; }
td.words, th.words { text-align: left; }
td.reason { text-align: left; color: var(--muted); }
table.small { width: auto; }
.trials td:nth-child(2), .trials th:nth-child(2) { position: sticky; left: 0; background: var(--card); }
tbody tr.winner, .trials tr.winner td:nth-child(2) { background: linear-gradient(var(--accent-soft) 0 0),
  var(--card); }
.trials tr.winner td:nth-child(2) { font-weight: 600; }
tr.winner td:first-child { box-shadow: inset 3px 0 var(--accent); }
tbody tr:last-child td { border-bottom: 0; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 12px 0 0; }
.facts div { min-width: 110px; }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; font-weight: 600; }
svg { display: block; width: 100%; height: auto; overflow: visible;
  font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
svg text { fill: var(--ink); }
svg .muted { fill: var(--muted); }
svg .small { font-size: 11px; fill: var(--muted); }
svg .axis-name { font-weight: 600; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: var(--line); }
.axis { stroke: var(--muted); }
.rung { stroke: var(--muted); stroke-dasharray: 2 4; }
polyline { fill: none; }
.curve { stroke: var(--soft); stroke-width: 1.5; stroke-linejoin: round; opacity: .75; }
.curve.finalist { stroke: var(--mid); stroke-width: 2; opacity: 1; }
.curve.winner { stroke: var(--accent); stroke-width: 3; opacity: 1; }
polyline.band { fill: var(--accent-soft); stroke: none; }
.end { fill: var(--card); stroke: var(--soft); stroke-width: 1.5; }
.end.whole { fill: var(--soft); }
.end.finalist { stroke: var(--mid); }
.end.finalist.whole { fill: var(--mid); }
.end.winner { stroke: var(--accent); }
.end.winner.whole { fill: var(--accent); }
.cross { stroke: var(--soft); stroke-width: 2; }
.cross.winner { stroke: var(--accent); }
svg .winner-name { fill: var(--accent); font-weight: 600; }
.through { stroke-width: 1.7; opacity: .85; stroke-linejoin: round; }
.through.winner { stroke: var(--accent); stroke-width: 3.2; opacity: 1; }
.of-trial:hover .curve, .through:hover { stroke-width: 4.5; opacity: 1; }
.s0 { stroke: var(--s0); }
.s1 { stroke: var(--s1); }
.s2 { stroke: var(--s2); }
.s3 { stroke: var(--s3); }
.s4 { stroke: var(--s4); }
.s5 { stroke: var(--s5); }
.s6 { stroke: var(--s6); }
.ramp { display: inline-block; width: 110px; height: .7em; border-radius: 2px; margin: 0 6px;
  background: linear-gradient(90deg, var(--s0), var(--s1), var(--s2), var(--s3), var(--s4), var(--s5), var(--s6)); }
.dot { stroke: var(--bar); stroke-width: 1.5; fill: var(--card); }
.dot.near { fill: var(--bar); }
.dot.winner { fill: var(--accent); stroke: var(--card); }
.bar { fill: var(--bar); opacity: .75; }
.whisker { stroke: var(--ink); stroke-width: 1.3; }
.slices { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 14px; margin-top: 12px; }
svg.whisker-cell { width: 90px; height: 18px; display: inline-block; vertical-align: middle; }
.span { fill: var(--bar); opacity: .4; }
.point { stroke: var(--bar); stroke-width: 2; }
.slices svg { max-width: 330px !important; }
.winner .span { fill: var(--accent); }
.winner .point { stroke: var(--accent); }
.key { display: inline-block; width: 22px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin-right: 5px; }
.keys .item { margin-right: 16px; white-space: nowrap; }
.keys .long { display: block; }
.keys svg { display: inline-block; width: 14px; height: 12px; vertical-align: -1px; margin-right: 3px; }
.budget { display: flex; height: 22px; border-radius: 4px; overflow: hidden; margin: 12px 0 6px;
  background: var(--line); }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: 5px; }
.narrow { display: none; }
@media (max-width: 700px) {
  .wide, .spark { display: none; }
  .narrow { display: block; }
  main { padding: 14px 10px 40px; }
  section, .answer { padding: 14px 14px; }
  .answer .lead { font-size: 1.2rem; }
  .slices { grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
}
@page { size: landscape; margin: 12mm; }
@media print {
  .spark { display: none; }
  table { font-size: .7rem; }
  th, td.reason { white-space: normal; }
  th, td { padding: 3px 5px; }
  td.reason { min-width: 14em; }
  body { background: #fff; }
  main { max-width: none; padding: 0; }
  section, .answer { border: 0; padding: 8px 0; break-inside: auto; }
  figure, tr, .slices > * { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  details { display: none; }
  .wide { display: block; }
  .narrow { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
